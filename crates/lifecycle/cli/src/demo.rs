//! `kinit playground demo`: pods on both workers, found by name.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kinit_playground::{Playground, Role};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const IMAGE: &str = "kinit.dev/demo:0.1.0";
const NAME: &str = "demo";
const VISITOR: &str = "visitor";
const PATIENCE: Duration = Duration::from_secs(120);

/// Shows that the cluster works, and what to try next.
pub async fn run(playground: &Playground) -> Result<()> {
    let kubeconfig = playground.dir.join("admin.conf");
    ensure!(
        kubeconfig.exists(),
        "there is no cluster yet: kinit init -f {}",
        playground.dir.join("cluster.yaml").display()
    );
    let client = kinit_client::from_kubeconfig(&kubeconfig, "kinit").await?;
    show_nodes(&client).await?;
    create(&Api::<Deployment>::default_namespaced(client.clone()), deployment(playground)).await?;
    create(&Api::<Service>::default_namespaced(client.clone()), service()).await?;
    let pods = ready_pods(&client).await?;
    say!("\nDeployment {NAME}, {} replicas:", pods.len());
    let hosts: BTreeSet<&str> = pods.iter().map(|(_, node)| node.as_str()).collect();
    pods.iter().for_each(|(pod, node)| say!("  {pod} on {node}"));
    let node = hosts.iter().next_back().context("the pods are on no node")?;
    let answers = visit(&client, node).await?;
    say!("\nService {NAME} by name, from a pod on {node}:\n{answers}");
    say!("kubeconfig: {}", kubeconfig.display());
    say!("\nTry next:\n  export KUBECONFIG={}", kubeconfig.display());
    say!("  kubectl get nodes -o wide && kubectl get pods -A -o wide    # with a kubectl of your own");
    let kinit = std::env::args_os().next().unwrap_or_else(|| "kinit".into());
    let kinit = kinit.display();
    say!("  {kinit} playground power-off cp1    # and see that everything goes on\n  {kinit} playground down");
    Ok(())
}

async fn show_nodes(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    say!("{:<8} {:<10} VERSION", "NODE", "STATUS");
    for node in nodes.list(&ListParams::default()).await.context("list nodes")? {
        let status = node.status.as_ref();
        let ready = status
            .and_then(|s| s.conditions.as_ref())
            .is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let version = status.and_then(|s| s.node_info.as_ref()).map(|i| i.kubelet_version.as_str()).unwrap_or("?");
        say!(
            "{:<8} {:<10} {version}",
            node.metadata.name.as_deref().unwrap_or("?"),
            if ready { "Ready" } else { "NotReady" }
        );
    }
    Ok(())
}

fn deployment(playground: &Playground) -> Value {
    let workers = playground.topology.hosts.iter().filter(|h| h.role == Role::Worker).count();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": NAME },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": NAME } },
            "template": {
                "metadata": { "labels": { "app": NAME } },
                "spec": {
                    // On as many workers as there are.
                    "topologySpreadConstraints": if workers < 2 { json!([]) } else { json!([{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                        "nodeTaintsPolicy": "Honor", "labelSelector": { "matchLabels": { "app": NAME } },
                    }]) },
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "web", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                        "ports": [{ "containerPort": 8080 }],
                        "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1 },
                    }],
                },
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": NAME },
        "spec": { "selector": { "app": NAME }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

fn visitor(node: &str) -> Value {
    // The image's wget cannot resolve names; nc can.
    let get = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {NAME}.default.svc.cluster.local 80");
    let ask = format!("for i in 1 2 3 4 5 6; do {get} | tail -n 1 | grep {NAME} || exit 1; done");
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": VISITOR },
        "spec": {
            "nodeSelector": { "kubernetes.io/hostname": node },
            "restartPolicy": "Never",
            "containers": [{ "name": "ask", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", ask] }],
        },
    })
}

/// Creates an object; one that is there from an earlier demonstration will do.
async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).context("build an object")?;
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create {} {NAME}", K::kind(&()))),
    }
}

/// Waits until all three pods are Ready; (pod, node) of each.
async fn ready_pods(client: &Client) -> Result<Vec<(String, String)>> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let mut ready = std::collections::BTreeMap::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().labels(&format!("app={NAME}"))));
    let follow = async {
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                    let name = pod.metadata.name.clone().unwrap_or_default();
                    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
                    let is_ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
                    match pod.spec.and_then(|s| s.node_name).filter(|_| is_ready) {
                        Some(node) => drop(ready.insert(name, node)),
                        None => drop(ready.remove(&name)),
                    }
                }
                Ok(Event::Delete(pod)) => drop(ready.remove(&pod.metadata.name.unwrap_or_default())),
                _ => {}
            }
            if ready.len() >= 3 {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let waited = tokio::time::timeout(PATIENCE, follow).await;
    waited.map_err(|_| {
        anyhow!(
            "the demonstration's pods did not become Ready within {} s; see `kubectl describe pods -l app={NAME}`",
            PATIENCE.as_secs()
        )
    })??;
    Ok(ready.into_iter().collect())
}

/// Asks the Service by name from a pod on that node, and returns the answers.
async fn visit(client: &Client, node: &str) -> Result<String> {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    api.delete(VISITOR, &DeleteParams::default().grace_period(0)).await.ok();
    let gone = kube::runtime::wait::await_condition(api.clone(), VISITOR, |pod: Option<&Pod>| pod.is_none());
    tokio::time::timeout(PATIENCE, gone)
        .await
        .map_err(|_| anyhow!("pod {VISITOR} of an earlier demonstration does not go"))?
        .ok();
    create(&api, visitor(node)).await?;
    let phase =
        |pod: Option<&Pod>| pod.and_then(|p| p.status.as_ref()).and_then(|s| s.phase.clone()).unwrap_or_default();
    let ended = kube::runtime::wait::await_condition(api.clone(), VISITOR, move |pod: Option<&Pod>| {
        matches!(phase(pod).as_str(), "Succeeded" | "Failed")
    });
    let pod = tokio::time::timeout(PATIENCE, ended)
        .await
        .map_err(|_| anyhow!("pod {VISITOR} did not end; see `kubectl describe pod {VISITOR}`"))?;
    let log = api.logs(VISITOR, &LogParams::default()).await.with_context(|| format!("read the log of {VISITOR}"))?;
    let succeeded = pod.ok().flatten().and_then(|p| p.status).and_then(|s| s.phase).is_some_and(|p| p == "Succeeded");
    ensure!(succeeded, "the Service did not answer by name: {log}");
    Ok(log.lines().map(|line| format!("  {line}\n")).collect())
}
