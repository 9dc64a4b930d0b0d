//! A machine that joins by itself (`kinit join ENDPOINT --token`), as with `kubeadm join`: nobody reaches it over SSH.
//! A worker reaches the API alone; a control plane also etcd ([`crate::joining_control_plane`]).
//!
//! ```text
//! discover ─► Cluster (ConfigMap kinit-config) + this machine ─► observe ─► join_plan ─► local agent, and CSRs to the
//! API
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kinit_agent::{Agent, ApplyItem, Held, Opening};
use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, KUBELET_CERTIFICATE, desired, kubeconfig_for_token};
use kinit_pki::Pair;
use kinit_planner::{Action, Finding, HostObservation, Plan, Step, join_plan, preflight};
use kinit_remote::Local;
use kinit_resource::{Content, Facts, LeafSpec, Observed, Resource};
use kinit_workflow::{Executor, Lane, Listener, StepError};
use kube::{Api, Client};

use crate::bundle::LocalBundle;
use crate::discovery::{Discovered, Pin, discover};
use crate::execute::send_batch;
use crate::joining_control_plane::ControlPlane;
use crate::operation::{changes_versions, host_facts, stages};
use crate::token::Token;
use crate::uploaded::CertificateKey;
use crate::{desk_client, packages, record, user, wait};

/// How long the kubelet may take to become Ready.
const PATIENCE: Duration = Duration::from_secs(240);
/// The controller manager approves and signs within a moment.
const SIGNING: Duration = Duration::from_secs(60);

/// What the operator says of the machine.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its name; the host name when absent.
    pub name: Option<String>,
    /// Its address; the one that leads to the API when absent.
    pub address: Option<String>,
}

/// What is needed to begin.
pub struct JoinOptions<'a> {
    /// `HOST:PORT` of the API.
    pub endpoint: &'a str,
    /// The bootstrap token.
    pub token: Token,
    /// What tells the right cluster.
    pub pin: Pin,
    /// What the operator says of the machine.
    pub machine: Machine,
    /// It becomes a control plane: what decrypts the cluster's secrets.
    pub control_plane: Option<CertificateKey>,
    /// What is installed.
    pub bundle: LocalBundle,
    /// kinit itself.
    pub program: &'a [u8],
    /// In whose name.
    pub opening: Opening,
}

/// A machine on its way into a cluster.
pub struct Joining {
    cluster: Cluster,
    host: HostSpec,
    agent: Arc<Agent>,
    facts: Facts,
    bundle: Arc<LocalBundle>,
    control_plane: Option<ControlPlane>,
    found: Discovered,
    token: Token,
    client: Client,
}

impl Joining {
    /// Finds the cluster and learns what a node of it has.
    pub async fn begin(options: JoinOptions<'_>) -> Result<Self> {
        let JoinOptions { endpoint, token, pin, machine, control_plane, bundle, program, opening } = options;
        let found =
            discover(endpoint, &token, &pin).await.with_context(|| format!("find the cluster at {endpoint}"))?;
        let kubeconfig = kubeconfig_for_token("kinit", &found.server, &found.authority, &token.to_string());
        let client = desk_client::client(&kubeconfig).await?;
        let known = record::read(&client).await.context("read how the cluster was made")?;
        let mut cluster =
            known.cluster.context("the cluster has no ConfigMap kube-system/kinit-config: kinit did not make it")?;
        if cluster.signs_on_desk() {
            bail!(
                "the authorities' keys of this cluster are kept on a desk, so that nothing signs certificates for a machine that joins by itself: join it from that desk (`kinit join NAME --address ADDRESS`)"
            );
        }
        let version = cluster.spec.kubernetes_version.clone();
        if let Some(version) = version.filter(|version| *version != bundle.bundle.version.release()) {
            bail!(
                "the cluster is of {version}, and this bundle is {}: take the bundle of that version",
                bundle.bundle.version
            );
        }
        // As on the desk: where there is no such program there is nothing that would answer.
        cluster.spec.metrics_server.enabled &= bundle.bundle.has_metrics_server();
        if let (true, Some(component)) = (control_plane.is_some(), bundle.bundle.lacks(&cluster)) {
            bail!("a control plane of this cluster needs {component}, which this bundle does not have");
        }
        let name = machine.name.map_or_else(hostname, Ok)?.to_lowercase();
        let address = machine.address.map_or_else(|| address_towards(endpoint), Ok)?;
        let role = if control_plane.is_some() { Role::ControlPlane } else { Role::Worker };
        let host = member(&mut cluster, &name, &address, role)?;
        let waiting = |_: &str, held: &Held| tracing::info!(%held, "another kinit works on this machine");
        let agent = Agent::start(&name, Box::new(Local), program, &opening, &waiting).await?;
        let facts = agent.facts(&cluster.spec.etcd.data_dir).await.context("look at this machine")?;
        let ours = kinit_pki::public_key_hash(&found.authority);
        if let Some(theirs) = facts.authority.as_ref().filter(|theirs| Some(*theirs) != ours.as_ref()) {
            bail!(
                "this machine belongs to another cluster already (its authority is {theirs}): `kinit reset` frees it"
            );
        }
        let (agent, bundle) = (Arc::new(agent), Arc::new(bundle));
        let control_plane = match &control_plane {
            Some(key) => {
                let begun = ControlPlane::begin(&client, key, &found.authority, &agent, &cluster, &host);
                Some(begun.await.context("get what a control plane needs")?)
            }
            None => None,
        };
        Ok(Self { cluster, host, agent, facts, bundle, control_plane, found, token, client })
    }

    /// The machine as the cluster file would have it.
    pub fn host(&self) -> &HostSpec {
        &self.host
    }

    /// What the checks say of this machine. `now` is its clock, in seconds since 1970.
    pub fn preflight(&self, now: i64) -> Vec<Finding> {
        let facts = [(self.host.name.clone(), self.facts.clone())].into();
        let found = preflight(&self.cluster, &facts, now, None);
        found.into_iter().filter(|finding| finding.host == self.host.name).collect()
    }

    /// What speaks against installing the bundle's packages.
    pub async fn packages(&self) -> Result<Vec<Finding>> {
        packages::check(&self.agent, &self.cluster, &self.host, &self.facts, &self.bundle.bundle).await
    }

    /// Looks at the machine, changes nothing, and plans.
    pub async fn plan(&self) -> Result<Plan> {
        let bundle = &self.bundle.bundle;
        let facts = host_facts(&self.host, &self.facts, false);
        let mut wanted = desired(&self.cluster, &self.host, &facts, bundle)?;
        wanted.retain(|(_, resource)| !changes_versions(resource));
        let seen = self.agent.observe(wanted.iter().map(|(_, resource)| resource.clone()).collect()).await?;
        let seen: HostObservation = wanted.into_iter().zip(seen).map(|((p, r), seen)| (p, r, seen)).collect();
        self.unclaimed(&seen).await?;
        if let Some(control_plane) = &self.control_plane {
            return control_plane.plan(&self.cluster, &self.host, &self.facts, &self.bundle, &self.agent).await;
        }
        let authority = kinit_resource::sha256(self.found.authority.as_bytes());
        Ok(join_plan(&self.host.name, &seen, &authority))
    }

    /// Nobody else is the node of this name.
    async fn unclaimed(&self, seen: &HostObservation) -> Result<()> {
        let is_new = seen.iter().any(|(_, resource, observed)| {
            matches!(resource, Resource::File(file) if file.unless_exists.as_deref() == Some(KUBELET_CERTIFICATE))
                && *observed != Observed::AsWanted
        });
        let name = &self.host.name;
        let nodes: Api<Node> = Api::all(self.client.clone());
        if is_new && nodes.get_opt(name).await.with_context(|| format!("look for a node {name}"))?.is_some() {
            bail!(
                "there is a node {name} already: give this machine another name (--node-name), or delete that node if its machine is gone"
            );
        }
        Ok(())
    }

    /// Carries the plan out.
    pub async fn execute(&self, plan: &Plan, listener: &dyn Listener) -> Result<()> {
        let hash = format!("sha256:{}", kinit_resource::sha256(plan.to_string().as_bytes()));
        self.agent.begin(&hash).await.context("begin the run")?;
        let done = match &self.control_plane {
            Some(control_plane) => {
                let (bundle, agent) = (self.bundle.clone(), self.agent.clone());
                control_plane.execute(plan, &self.cluster, &self.host, bundle, agent, listener).await
            }
            None => kinit_workflow::run(&stages(plan), self, listener, 1).await.map_err(Into::into),
        };
        let error = done.as_ref().err().map(ToString::to_string);
        self.agent.end(error.as_deref()).await.context("end the run")?;
        done
    }

    fn secret(&self, resource: &Resource) -> Result<Option<String>> {
        let Resource::File(file) = resource else { return Ok(None) };
        let Content::Secret(name) = &file.content else { return Ok(None) };
        ensure!(name == BOOTSTRAP_KUBECONFIG, "nobody makes the secret {name}");
        let (cluster, server) = (&self.cluster.metadata.name, self.cluster.api_for(&self.host));
        Ok(Some(kubeconfig_for_token(cluster, &server, &self.found.authority, &self.token.to_string())))
    }

    async fn single(&self, step: &Step) -> Result<()> {
        match &step.action {
            Action::Copy { shared, .. } => {
                let pair = Pair { cert: self.found.authority.clone(), key: String::new() };
                self.agent.write_shared(*shared, pair, true).await
            }
            Action::Issue { leaf, .. } => self.issue(leaf).await,
            Action::WaitForNodes(_) => {
                let kubeconfig = Path::new("/etc/kubernetes/kubelet.conf");
                let client = kinit_client::from_kubeconfig(kubeconfig, "kinit").await.context("use kubelet.conf")?;
                wait::for_own_node(&client, &self.host.name, PATIENCE).await
            }
            _ => bail!("a step that no machine does for itself"),
        }
    }

    /// The cluster signs what its controller manager's rules allow a new node.
    async fn issue(&self, leaf: &LeafSpec) -> Result<()> {
        let request = self.agent.request_leaf(leaf).await?;
        let name = user::request(&self.client, "kinit-node-", request, None).await?;
        let signed = tokio::time::timeout(SIGNING, user::signed(&self.client, &name)).await;
        let certificate = signed.map_err(|_| {
            anyhow!("CertificateSigningRequest {name} was not signed within {} s: is it approved?", SIGNING.as_secs())
        })??;
        self.agent.install_leaf(leaf, certificate).await
    }
}

#[async_trait::async_trait]
impl Executor<Step> for Joining {
    fn describe(&self, step: &Step) -> String {
        step.change.to_string()
    }

    async fn run(&self, lane: &Lane<Step>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError> {
        let mut index = 0;
        while let Some(step) = lane.steps.get(index) {
            let at = |error| StepError { index, error };
            let Action::Apply(_) = &step.action else {
                let started = std::time::Instant::now();
                self.single(step).await.map_err(at)?;
                report(index, started.elapsed());
                index += 1;
                continue;
            };
            let rest = lane.steps.get(index..).unwrap_or_default();
            let resources = rest.iter().map_while(|s| if let Action::Apply(r) = &s.action { Some(r) } else { None });
            let item = |r: &Resource| Ok(ApplyItem { resource: r.clone(), secret: self.secret(r)? });
            let items = resources.map(item).collect::<Result<Vec<_>>>().map_err(at)?;
            let count = items.len();
            send_batch(&self.agent, &self.bundle, items, index, report).await?;
            index += count;
        }
        Ok(())
    }
}

/// The machine as a host of the cluster: as the file knows it, or a new one.
fn member(cluster: &mut Cluster, name: &str, address: &str, role: Role) -> Result<HostSpec> {
    if let Some(known) = cluster.spec.hosts.iter().find(|host| host.name == name) {
        ensure!(
            known.address == address,
            "the cluster file has a host {name} with the address {}, and this machine's is {address}; give it another name (--node-name)",
            known.address
        );
        ensure!(
            role == Role::ControlPlane || !known.is(Role::ControlPlane),
            "{name} is a control plane in the cluster file: join it as one (--control-plane), or from its desk (`kinit apply`)"
        );
        ensure!(known.is(role), "{name} is no control plane in the cluster file: change it there");
        return Ok(known.clone());
    }
    let host = HostSpec {
        name: name.to_owned(),
        address: address.to_owned(),
        roles: vec![role],
        ssh: None,
        labels: Default::default(),
        taints: Vec::new(),
    };
    cluster.spec.hosts.push(host.clone());
    let wrong = kinit_config::validate(cluster);
    ensure!(
        wrong.is_empty(),
        "this machine does not fit into the cluster: {}",
        wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    );
    Ok(host)
}

fn hostname() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    Ok(text.trim().to_owned())
}

/// The address from which the API is reached: what the kernel's routes choose. Nothing is sent.
fn address_towards(endpoint: &str) -> Result<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.connect(endpoint).with_context(|| format!("find the way to {endpoint}"))?;
    Ok(socket.local_addr().context("read the socket's address")?.ip().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_an_address_that_are_free() {
        let cluster = || kinit_config::load(kinit_config::example()).unwrap();
        for role in [Role::Worker, Role::ControlPlane] {
            let host = member(&mut cluster(), "w9", "192.0.2.99", role).unwrap();
            assert_eq!((host.name.as_str(), host.roles.as_slice()), ("w9", &[role][..]));
        }
        assert_eq!(member(&mut cluster(), "w1", "192.0.2.21", Role::Worker).unwrap().name, "w1");
        assert_eq!(member(&mut cluster(), "cp2", "192.0.2.12", Role::ControlPlane).unwrap().name, "cp2");
        let error = member(&mut cluster(), "w1", "192.0.2.21", Role::ControlPlane).unwrap_err().to_string();
        assert!(error.contains("is no control plane"), "{error}");
        for (name, address, words) in [
            ("w1", "192.0.2.99", "give it another name"),
            ("cp2", "192.0.2.12", "is a control plane"),
            ("w9", "192.0.2.11", "is the address of"),
            ("w_9", "192.0.2.99", "is not a DNS name"),
            ("w9", "fd00::1", "IPv6"),
        ] {
            let error = member(&mut cluster(), name, address, Role::Worker).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
