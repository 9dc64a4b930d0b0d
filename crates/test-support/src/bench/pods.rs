//! What a ReplicaSet's pods cost the control plane, from their creation to their end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::Common;
use super::etcd::Operations;
use super::nodes::Nodes;
use super::process::{Process, cpu, resident};
use super::setup::{PATIENCE, Setup};
use super::table::mib;

const NAMESPACE: &str = "default";
const NAME: &str = "bench";
/// For all pods together; a slow machine is no failure.
const LONG: Duration = Duration::from_secs(600);
/// The control plane counts as quiet when etcd was not written to for so long.
const QUIET: Duration = Duration::from_secs(1);

/// How much is measured.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Pods of the ReplicaSet
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pods: u32,
    /// Nodes that they are bound to
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    nodes: u32,
}

struct Plane {
    setup: Setup,
    controllers: Process,
    scheduler: Process,
    client: Client,
}

/// A moment: what had been used and asked for until then.
struct Moment {
    cpu: [Duration; 4],
    etcd: Operations,
}

/// Measures and prints.
pub async fn run(args: &Args) -> Result<()> {
    let mut plane = Plane::start(&args.common).await?;
    // Twice the room that is needed: no node is full.
    let _nodes = Nodes::start(&plane.client, args.nodes, args.pods.div_ceil(args.nodes) * 2).await?;
    plane.quiet().await?;
    println!("{} pods on {} hollow nodes; no kubelet, so that pods have no grace", args.pods, args.nodes);
    println!("\n{:<22} {:>9} {:>9} {:>9} {:>9}", "MiB resident", "server", "etcd", "controll.", "scheduler");
    plane.memory("at rest").await?;
    let pods: Api<Pod> = Api::namespaced(plane.client.clone(), NAMESPACE);
    let version = pods.list_metadata(&Default::default()).await?.metadata.resource_version.unwrap_or_default();

    let before = plane.now().await?;
    let started = Instant::now();
    let sets: Api<ReplicaSet> = Api::namespaced(plane.client.clone(), NAMESPACE);
    sets.create(&PostParams::default(), &replica_set(args.pods)?).await.context("create the ReplicaSet")?;
    let version = plane.until(&pods, version, args.pods, is_bound).await.context("wait for bound pods")?;
    let bound = started.elapsed();
    plane.quiet().await?;
    let full = plane.now().await?;
    plane.memory("with the pods").await?;

    let before_delete = plane.now().await?;
    let started = Instant::now();
    sets.delete(NAME, &DeleteParams::background()).await.context("delete the ReplicaSet")?;
    plane.until(&pods, version, args.pods, is_deleted).await.context("wait for deleted pods")?;
    let deleted = started.elapsed();
    plane.quiet().await?;
    let after = plane.now().await?;
    plane.memory("after their end").await?;

    println!("\n{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "wall", "server", "etcd", "controll.", "scheduler");
    println!("{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}", "seconds", "clock", "CPU", "CPU", "CPU", "CPU");
    times("create and bind", bound, &before, &full);
    times("delete (background)", deleted, &before_delete, &after);
    println!("\n{:<22} {:>9} {:>9} {:>9}", "in etcd, per pod", "puts", "deletes", "ranges");
    operations("create and bind", args.pods, full.etcd - before.etcd);
    operations("delete (background)", args.pods, after.etcd - before_delete.etcd);
    Ok(())
}

impl Plane {
    async fn start(common: &Common) -> Result<Self> {
        let setup = Setup::start(common).await?;
        let file = |name: &str| setup.file(name);
        let flags = [
            "--use-service-account-credentials=true".to_owned(),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--cluster-signing-cert-file={}", file("ca.crt")),
            format!("--cluster-signing-key-file={}", file("ca.key")),
            format!("--service-account-private-key-file={}", file("sa.key")),
        ];
        let controllers = setup.component("kube-controller-manager", "controller-manager.conf", &flags)?;
        let scheduler = setup.component("kube-scheduler", "scheduler.conf", &[])?;
        let client = setup.client().await?;
        let mut plane = Self { setup, controllers, scheduler, client };
        plane.wait_account().await?;
        Ok(plane)
    }

    /// Pods need the service account that a controller makes.
    async fn wait_account(&mut self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let deadline = Instant::now() + PATIENCE;
        while accounts.get_opt("default").await?.is_none() {
            self.check()?;
            if Instant::now() > deadline {
                bail!("there is no default service account after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.setup.server.check()?;
        self.controllers.check()?;
        self.scheduler.check()
    }

    fn ids(&self) -> [u32; 4] {
        [self.setup.server.id(), self.setup.etcd.id(), self.controllers.id(), self.scheduler.id()]
    }

    async fn now(&self) -> Result<Moment> {
        let mut times = [Duration::ZERO; 4];
        for (time, id) in times.iter_mut().zip(self.ids()) {
            *time = cpu(id)?;
        }
        Ok(Moment { cpu: times, etcd: Operations::of(&self.setup.etcd.endpoint).await? })
    }

    /// Waits until the work that follows the last event is done too; it counts as CPU, not as time on the clock.
    async fn quiet(&self) -> Result<()> {
        let mut seen = Operations::of(&self.setup.etcd.endpoint).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(QUIET).await;
            let now = Operations::of(&self.setup.etcd.endpoint).await?;
            if (now.puts, now.deletes) == (seen.puts, seen.deletes) || Instant::now() > deadline {
                return Ok(());
            }
            seen = now;
        }
    }

    async fn memory(&self, when: &str) -> Result<()> {
        let mut line = format!("{when:<22}");
        for id in self.ids() {
            line.push_str(&format!(" {:>9.1}", mib(resident(id)?)));
        }
        println!("{line}");
        Ok(())
    }

    /// Watches from `version` on until `count` pods have been `seen`; returns the version of the last event.
    async fn until(
        &mut self,
        pods: &Api<Pod>,
        version: String,
        count: u32,
        seen: fn(&WatchEvent<Pod>) -> Option<String>,
    ) -> Result<String> {
        let deadline = Instant::now() + LONG;
        let (mut version, mut names) = (version, std::collections::HashSet::new());
        while names.len() < count as usize {
            self.check()?;
            if Instant::now() > deadline {
                bail!("{} of {count} pods after {LONG:?}", names.len());
            }
            // A watch that ends is started again where it ended.
            let mut watch = pods.watch(&WatchParams::default().timeout(30), &version).await?.boxed();
            while names.len() < count as usize
                && let Some(event) = watch.try_next().await?
            {
                if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) = &event {
                    version = pod.resource_version().unwrap_or(version);
                }
                if let WatchEvent::Error(status) = &event {
                    bail!("the watch ended: {}", status.message);
                }
                names.extend(seen(&event));
            }
        }
        Ok(version)
    }
}

fn is_bound(event: &WatchEvent<Pod>) -> Option<String> {
    match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
            pod.spec.as_ref()?.node_name.as_ref().map(|_| pod.name_any())
        }
        _ => None,
    }
}

fn is_deleted(event: &WatchEvent<Pod>) -> Option<String> {
    match event {
        WatchEvent::Deleted(pod) => Some(pod.name_any()),
        _ => None,
    }
}

fn replica_set(pods: u32) -> Result<ReplicaSet> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": NAME},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"app": NAME}}, "template": {
            "metadata": {"labels": {"app": NAME}},
            // Without grace the API server deletes a bound pod at once, as upstream's does; else a kubelet would have
            // to confirm.
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "image:1",
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]}}},
    }))?)
}

fn times(what: &str, wall: Duration, from: &Moment, to: &Moment) {
    let mut line = format!("{what:<22} {:>9.2}", wall.as_secs_f64());
    for (before, after) in from.cpu.iter().zip(&to.cpu) {
        line.push_str(&format!(" {:>9.2}", after.saturating_sub(*before).as_secs_f64()));
    }
    println!("{line}");
}

fn operations(what: &str, pods: u32, of: Operations) {
    let each = |sum: f64| sum / f64::from(pods);
    println!("{what:<22} {:>9.2} {:>9.2} {:>9.2}", each(of.puts), each(of.deletes), each(of.ranges));
}
