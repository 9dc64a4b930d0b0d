//! What all operations that change a cluster have in common: observe, plan, execute.
//!
//! ```text
//! Request (init, apply, join, remove) ─ begin ─► Run: hosts, what is wanted, who leaves, which hosts count
//!                                                 ├─ preflight ─► findings
//!                                                 ├─ plan ──────► Plan, or every reason against it
//!                                                 └─ execute
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kinit_config::{Cluster, HostSpec, Role};
use kinit_manifests::{HostFacts, Phase, desired, retired};
use kinit_planner::{Finding, HostObservation, Leaving, NodeState, Plan, Situation, preflight, strangers};
use kinit_resource::{Facts, Place, Resource, Shared};
use kinit_workflow::{Lane, Listener, Stage};
use kube::{Api, Client};

use crate::bundle::LocalBundle;
use crate::drain::{self, DrainOptions};
use crate::execute::Steps;
use crate::hosts::{ConnectOptions, Hosts};
use crate::request::{Request, Wanted};
use crate::reset::Strangers;
use crate::{PARALLELISM, access, objects, record};

/// An operation that has begun: everything that it works on is connected.
pub struct Run {
    wanted: Wanted,
    hosts: Arc<Hosts>,
    bundle: Arc<LocalBundle>,
    facts: BTreeMap<String, Facts>,
    client: Option<Client>,
    drain: DrainOptions,
}

impl Run {
    /// Connects, and finds out what the request means for the cluster that is there. `known` is the cluster's authority
    /// as the desk knows it.
    pub async fn begin(
        file: Cluster,
        request: &Request,
        bundle: Arc<LocalBundle>,
        options: &ConnectOptions,
        drain: DrainOptions,
        known: Option<&str>,
    ) -> Result<Self> {
        let named = request.named();
        let mut hosts = Hosts::connect(&file, file.spec.hosts.iter().chain(named), options).await?;
        if request.is_init() {
            hosts.need_all()?;
        }
        // Nothing is asked of another cluster's hosts: its authority would sign, and its API answer.
        let mut facts = hosts.facts(&file).await?;
        let data_dir = file.spec.etcd.data_dir.clone();
        let others = strangers(&file, &facts, known);
        if !others.is_empty() && !request.is_init() {
            return Err(Strangers(others).into());
        }
        let client = if others.is_empty() { access::client_if_up(&hosts, &file).await? } else { None };
        let previous = match &client {
            Some(client) => record::read(client).await?,
            None => None,
        };
        let wanted = request.resolve(file, previous)?;
        hosts.add(&wanted.cluster, wanted.cluster.spec.hosts.iter().chain(&wanted.leaving), options).await?;
        // Gathering them writes to the hosts' disks: not twice without need.
        let is_new = |name: &str| !facts.contains_key(name);
        if hosts.names().any(is_new) || data_dir != wanted.cluster.spec.etcd.data_dir {
            facts = hosts.facts(&wanted.cluster).await?;
        }
        Ok(Self { wanted, hosts: Arc::new(hosts), bundle, facts, client, drain })
    }

    /// What the checks say. `now` is the desk's clock, in seconds since 1970; `known` the cluster's authority as the
    /// desk knows it.
    pub fn preflight(&self, now: i64, known: Option<&str>) -> Vec<Finding> {
        let checked = |host: &&HostSpec| self.wanted.scope.covers(host, Phase::PrepareHosts);
        let names: BTreeSet<&str> =
            self.wanted.cluster.spec.hosts.iter().filter(checked).map(|h| h.name.as_str()).collect();
        let findings = preflight(&self.wanted.cluster, &self.facts, now, known);
        let counts = |finding: &Finding| finding.host.is_empty() || names.contains(finding.host.as_str());
        // A host of another cluster is an error wherever it is.
        findings.into_iter().filter(|f| counts(f) || f.check == "OtherCluster").collect()
    }

    /// Looks at everything, changes nothing, and plans.
    pub async fn plan(&self) -> Result<Plan> {
        let cluster = &self.wanted.cluster;
        let ca = self.authority().await.unwrap_or_default();
        let wanted = objects::wanted(cluster, &self.wanted.record, &ca)?;
        let mut states =
            objects::observe(self.client.as_ref(), &wanted).await.context("look at the cluster's objects")?;
        if !self.wanted.keeps_record {
            states.retain(|(_, id, _)| id.name != "kinit-config");
        }
        let hosts = self.observe().await?;
        kinit_planner::all_observed(&hosts)?;
        let seen = Situation {
            hosts,
            unreachable: self.hosts.unreachable().clone(),
            with_data: self.facts.iter().filter(|(_, f)| f.etcd_data).map(|(host, _)| host.clone()).collect(),
            etcd: self.etcd().await,
            objects: states,
            nodes: nodes(self.client.as_ref()).await?,
            leaving: self.leaving().await?,
            scope: self.wanted.scope.clone(),
        };
        let plan = kinit_planner::plan(cluster, &seen)?;
        self.forecast(&plan).await?;
        Ok(plan)
    }

    /// What speaks against draining nodes is found before anything is changed.
    async fn forecast(&self, plan: &Plan) -> Result<()> {
        let Some(client) = &self.client else { return Ok(()) };
        let mut obstacles = Vec::new();
        for step in plan.steps() {
            if let kinit_planner::Action::Drain(node) = &step.action {
                obstacles.extend(drain::obstacles(client, node, &self.drain).await?);
            }
        }
        if obstacles.is_empty() { Ok(()) } else { Err(DrainBlocked(obstacles).into()) }
    }

    /// What every member of etcd that answers says.
    async fn etcd(&self) -> BTreeMap<String, kinit_resource::EtcdStatus> {
        let said = self.hosts.try_each(|agent| async move { agent.etcd_status().await }).await;
        // One that does not answer is a fact too: it is not among them.
        said.into_iter().filter_map(|(host, status)| Some((host, status.ok()?))).collect()
    }

    async fn observe(&self) -> Result<BTreeMap<String, HostObservation>> {
        let mut wanted: BTreeMap<String, Vec<(Phase, Resource)>> = BTreeMap::new();
        for host in &self.wanted.cluster.spec.hosts {
            let Some(facts) = self.facts.get(&host.name) else { continue };
            let facts = host_facts(facts);
            let mut list = desired(&self.wanted.cluster, host, facts, &self.bundle.bundle)?;
            list.extend(retired(&self.wanted.cluster, host, facts, &self.bundle.bundle)?);
            wanted.insert(host.name.clone(), list);
        }
        self.look(&wanted).await
    }

    async fn look(
        &self,
        wanted: &BTreeMap<String, Vec<(Phase, Resource)>>,
    ) -> Result<BTreeMap<String, HostObservation>> {
        let seen = self.hosts.each(|agent| async move {
            let list = wanted.get(agent.host()).cloned().unwrap_or_default();
            if list.is_empty() {
                return Ok(None);
            }
            let observed = agent.observe(list.iter().map(|(_, r)| r.clone()).collect()).await?;
            let seen = list.into_iter().zip(observed).map(|((phase, resource), seen)| (phase, resource, seen));
            Ok(Some(seen.collect::<HostObservation>()))
        });
        let seen = seen.await.context("look at the hosts")?;
        Ok(seen.into_iter().filter_map(|(host, seen)| Some((host, seen?))).collect())
    }

    /// Hosts that leave, with what the others may need of them: their shared secrets. A host that belongs to another
    /// cluster by now is not this one's to clean.
    async fn leaving(&self) -> Result<Vec<Leaving>> {
        let ours = self.own_authority();
        let shared =
            |_: &HostSpec| Shared::ALL.map(|shared| (Phase::Certs, Resource::Shared { shared, place: Place::Whole }));
        let reached =
            self.wanted.leaving.iter().filter(|host| {
                self.facts.get(&host.name).is_some_and(|f| f.authority.is_none() || f.authority == ours)
            });
        let wanted = reached.map(|host| (host.name.clone(), shared(host).to_vec())).collect();
        let mut seen = self.look(&wanted).await?;
        let leaving = |host: &HostSpec| Leaving { host: host.clone(), seen: seen.remove(&host.name) };
        Ok(self.wanted.leaving.iter().map(leaving).collect())
    }

    fn own_authority(&self) -> Option<String> {
        kinit_planner::authority(&self.wanted.cluster, &self.facts, None).map(|(authority, _)| authority)
    }

    /// The cluster's authority, once there is one.
    async fn authority(&self) -> Result<String> {
        authority(&self.hosts, &self.wanted.cluster).await
    }

    /// What will be there when the plan is carried out.
    pub fn cluster(&self) -> &Cluster {
        &self.wanted.cluster
    }

    /// Hosts that leave and that could not be reached: whatever of the cluster is on them stays there.
    pub fn not_cleaned(&self) -> Vec<&str> {
        let unreached = |host: &&HostSpec| self.hosts.agent(&host.name).is_err();
        self.wanted.leaving.iter().filter(unreached).map(|host| host.name.as_str()).collect()
    }

    /// Carries the plan out.
    pub async fn execute(&self, plan: &Plan, listener: &dyn Listener) -> Result<()> {
        let steps = Steps::new(
            self.wanted.clone(),
            self.hosts.clone(),
            self.bundle.clone(),
            self.drain.clone(),
            self.own_authority(),
        );
        let hash = format!("sha256:{}", kinit_resource::sha256(plan.to_string().as_bytes()));
        let hash = hash.as_str();
        self.hosts.each(|agent| async move { agent.begin(hash).await }).await.context("begin the run")?;
        let done = kinit_workflow::run(&stages(plan), &steps, listener, PARALLELISM).await;
        let error = done.as_ref().err().map(ToString::to_string);
        let error = error.as_deref();
        // A host that cannot be told any more has noted the end by itself.
        self.hosts.try_each(|agent| async move { agent.end(error).await }).await;
        Ok(done?)
    }

    /// admin.conf, for the desk.
    pub async fn admin_kubeconfig(&self) -> Result<String> {
        for host in self.wanted.cluster.hosts(Role::ControlPlane) {
            if let Ok(agent) = self.hosts.agent(&host.name)
                && let Ok(text) = agent.read_file("/etc/kubernetes/admin.conf").await
            {
                return Ok(text);
            }
        }
        anyhow::bail!("no control plane has an admin.conf")
    }
}

/// Pods that cannot be moved away without a decision.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct DrainBlocked(pub Vec<String>);

/// The certificate of the cluster's authority, from any control plane that has it.
pub(crate) async fn authority(hosts: &Hosts, cluster: &Cluster) -> Result<String> {
    let mut last = None;
    for host in cluster.hosts(Role::ControlPlane) {
        let Ok(agent) = hosts.agent(&host.name) else { continue };
        match agent.read_file("/etc/kubernetes/pki/ca.crt").await {
            Ok(text) => return Ok(text),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("no control plane can be reached")))
}

fn host_facts(facts: &Facts) -> HostFacts {
    let has_resolved = facts.listening.iter().any(|(port, holder)| *port == 53 && holder == "systemd-resolved.service");
    HostFacts { can_lower_oom_score: facts.can_lower_oom_score, cgroup_v2: facts.cgroup_v2, has_resolved }
}

/// What the API says of Nodes; nothing while it does not answer.
async fn nodes(client: Option<&Client>) -> Result<BTreeMap<String, NodeState>> {
    let Some(client) = client else { return Ok(BTreeMap::new()) };
    let api: Api<Node> = Api::all(client.clone());
    let list = api.list(&kube::api::ListParams::default()).await.context("list the nodes")?;
    let state = |node: &Node| {
        let role = "node-role.kubernetes.io/control-plane";
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        NodeState {
            labelled: node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(role)),
            tainted: taints.into_iter().any(|taint| taint.key == role),
            ready: conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        }
    };
    Ok(list.items.iter().filter_map(|node| Some((node.metadata.name.clone()?, state(node)))).collect())
}

fn stages(plan: &Plan) -> Vec<Stage<kinit_planner::Step>> {
    let stage = |stage: &kinit_planner::PlanStage| {
        let mut lanes: Vec<Lane<kinit_planner::Step>> = Vec::new();
        for step in &stage.steps {
            let name = step.host.clone().unwrap_or_default();
            match lanes.iter_mut().find(|l| l.name == name) {
                Some(lane) => lane.steps.push(step.clone()),
                None => lanes.push(Lane { name, steps: vec![step.clone()] }),
            }
        }
        Stage { phase: stage.phase.name(), serial: stage.serial, lanes }
    };
    plan.stages.iter().map(stage).collect()
}
