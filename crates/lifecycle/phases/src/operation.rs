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

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kinit_config::{Cluster, HostSpec, Role, Version};
use kinit_manifests::{HostFacts, Phase, desired, retired};
use kinit_planner::{
    Direction, Finding, HostObservation, Leaving, NodeState, Operation, Plan, Scope, Situation, preflight, strangers,
};
use kinit_resource::{Facts, LeafName, Observed, Place, Resource, Shared};
use kinit_workflow::{Lane, Listener, Stage};
use kube::{Api, Client};

use crate::backup::Restoration;
use crate::bundle::{BundleSource, LocalBundle};
use crate::drain::{self, DrainOptions};
use crate::execute::Steps;
use crate::hosts::{ConnectOptions, Hosts};
use crate::keyring::Keyring;
use crate::record::Record;
use crate::request::{Impossible, Request, Wanted};
use crate::reset::Strangers;
use crate::upgrade::Upgrading;
use crate::{PARALLELISM, access, desk_steps, objects, packages, reach, record};

/// An operation that has begun: everything that it works on is connected.
pub struct Run {
    operation: Operation,
    pub(crate) wanted: Wanted,
    pub(crate) hosts: Arc<Hosts>,
    bundle: Arc<LocalBundle>,
    facts: BTreeMap<String, Facts>,
    pub(crate) client: Option<Client>,
    drain: DrainOptions,
    restoration: Option<Restoration>,
    upgrade: Option<Upgrading>,
    keys: Option<Arc<Keyring>>,
}

impl Run {
    /// Connects, and finds out what the request means for the cluster that is there. `known` is the cluster's authority
    /// as the desk knows it.
    pub async fn begin(
        mut file: Cluster,
        request: &Request,
        bundle: BundleSource,
        options: &ConnectOptions,
        drain: DrainOptions,
        known: Option<&str>,
    ) -> Result<Self> {
        let named = request.named();
        let mut hosts = Hosts::connect(&file, file.spec.hosts.iter().chain(named), options).await?;
        if request.is_init() {
            hosts.need_all()?;
        }
        if request.is_restore() {
            let serves = |host: &&HostSpec| !host.is(Role::Worker) || host.is(Role::ControlPlane);
            hosts.need(file.spec.hosts.iter().filter(serves))?;
        }
        // Nothing is asked of another cluster's hosts: its authority would sign, and its API answer.
        let mut facts = hosts.facts(&file).await?;
        let data_dir = file.spec.etcd.data_dir.clone();
        let others = strangers(&file, &facts, known);
        if !others.is_empty() && !request.is_init() {
            return Err(Strangers(others).into());
        }
        // Whatever the API says now is given up by a restore.
        let asks = others.is_empty() && !request.is_restore();
        let client = if asks { access::client_if_up(&hosts, &file).await? } else { None };
        let kept = match &client {
            Some(client) => record::read(client).await?,
            None => Record::default(),
        };
        let bundle = bundle.resolve(&kept)?;
        let previous = kept.cluster;
        let release = bundle.bundle.version.release();
        let recorded = previous.as_ref().map(|previous| previous.spec.kubernetes_version.clone());
        file.spec.kubernetes_version.get_or_insert_with(|| release.clone());
        let mut wanted = request.resolve(file, previous)?;
        if request.is_upgrade() {
            wanted.of_version(release);
        }
        // Others change programs of some hosts, or of none.
        let all = wanted.scope == Scope::All;
        wanted.bundles = if all { kept.bundles.with(&bundle.manifest)? } else { kept.bundles };
        if request.is_restore() && !hosts.unreachable().is_empty() {
            wanted.scope = Scope::Hosts(hosts.names().map(str::to_owned).collect());
        }
        hosts.add(&wanted.cluster, wanted.cluster.spec.hosts.iter().chain(&wanted.leaving), options).await?;
        // Gathering them writes to the hosts' disks: not twice without need.
        let is_new = |name: &str| !facts.contains_key(name);
        if hosts.names().any(is_new) || data_dir != wanted.cluster.spec.etcd.data_dir {
            facts = hosts.facts(&wanted.cluster).await?;
        }
        // Where there is no such program there is nothing that would answer; the file says what is wanted all the same.
        wanted.cluster.spec.metrics_server.enabled &= bundle.bundle.has_metrics_server();
        let operation = request.operation();
        let hosts = Arc::new(hosts);
        let (restoration, upgrade, keys) = (None, None, None);
        let run = Self { operation, wanted, hosts, bundle, facts, client, drain, restoration, upgrade, keys };
        run.versions_fit(request, recorded.flatten())?;
        if let Some(component) = run.bundle.bundle.lacks(&run.wanted.cluster) {
            bail!(
                "spec.loadBalancerPools needs {component}, which the bundle of {} does not have: use another bundle, or take the pools out of the cluster file",
                run.bundle.bundle.version
            );
        }
        Ok(run)
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

    /// Hosts that do not get through to each other, of those that the run works on.
    pub async fn reachability(&self) -> Result<Vec<Finding>> {
        let mut findings = reach::findings(&self.hosts, &self.wanted.cluster).await?;
        let covered = |name: &str| {
            let host = self.wanted.cluster.spec.hosts.iter().find(|host| host.name == name);
            host.is_some_and(|host| self.wanted.scope.covers(host, Phase::PrepareHosts))
        };
        findings.retain(|finding| covered(&finding.host));
        Ok(findings)
    }

    /// What speaks against installing the bundle's packages on the hosts that the run works on.
    pub async fn packages(&self) -> Result<Vec<Finding>> {
        let (cluster, bundle) = (&self.wanted.cluster, &self.bundle.bundle);
        let covered = |host: &&HostSpec| self.wanted.scope.covers(host, Phase::PrepareHosts);
        let checks = cluster.spec.hosts.iter().filter(covered).filter_map(|host| {
            let (facts, agent) = (self.facts.get(&host.name)?, self.hosts.agent(&host.name).ok()?);
            Some(packages::check(agent, cluster, host, facts, bundle))
        });
        let found = stream::iter(checks.collect::<Vec<_>>()).buffered(PARALLELISM).try_collect::<Vec<_>>().await;
        Ok(found.context("look at the hosts' packages")?.concat())
    }

    /// Looks at everything, changes nothing, and plans.
    pub async fn plan(&self) -> Result<Plan> {
        let cluster = &self.wanted.cluster;
        let ca = self.authority().await.unwrap_or_default();
        let wanted = objects::wanted(&self.wanted, &ca)?;
        let mut states =
            objects::observe(self.client.as_ref(), &wanted).await.context("look at the cluster's objects")?;
        let in_the_way = objects::in_the_way(self.client.as_ref(), &self.wanted).await;
        states.extend(in_the_way.context("look for objects that are in the way")?);
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
            keys_on_desk: self.has_keys(),
        };
        let plan = match &self.restoration {
            None => match &self.upgrade {
                None => kinit_planner::plan(self.operation, cluster, &seen)?,
                Some(upgrading) => kinit_planner::upgrade(cluster, &seen, &upgrading.how)?,
            },
            Some(restoration) => {
                kinit_planner::restore(cluster, &seen, &restoration.planned(&self.hosts, cluster).await?)?
            }
        };
        self.placeable(&plan)?;
        self.forecast(&plan).await?;
        Ok(plan)
    }

    /// A bundle that is on the hosts alone must be on all of them.
    fn placeable(&self, plan: &Plan) -> Result<(), Impossible> {
        for step in plan.steps() {
            if let kinit_planner::Action::Apply(Resource::Blob { path, sha256, .. }) = &step.action
                && self.bundle.upload(sha256).is_none()
            {
                let host = step.host.clone().unwrap_or_default();
                return Err(Impossible::NotOnHost { host, path: path.clone() });
            }
        }
        Ok(())
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
    pub(crate) async fn etcd(&self) -> BTreeMap<String, kinit_resource::EtcdStatus> {
        let said = self.hosts.try_each(|agent| async move { agent.etcd_status().await }).await;
        // One that does not answer is a fact too: it is not among them.
        said.into_iter().filter_map(|(host, status)| Some((host, status.ok()?))).collect()
    }

    pub(crate) async fn observe(&self) -> Result<BTreeMap<String, HostObservation>> {
        let mut wanted: BTreeMap<String, Vec<(Phase, Resource)>> = BTreeMap::new();
        for host in &self.wanted.cluster.spec.hosts {
            let Some(facts) = self.facts.get(&host.name) else { continue };
            let facts = host_facts(host, facts, self.no_signer());
            let mut list = desired(&self.wanted.cluster, host, &facts, &self.bundle.bundle)?;
            list.extend(retired(&self.wanted.cluster, host, &facts, &self.bundle.bundle)?);
            let goes_up = self.upgrade.as_ref().is_some_and(|upgrading| upgrading.how.direction == Direction::Up);
            list.retain(|(_, resource)| goes_up || !changes_versions(resource));
            wanted.insert(host.name.clone(), list);
        }
        let mut seen = self.look(&wanted).await?;
        for (_, resource, observed) in seen.values_mut().flatten() {
            if matches!(resource, Resource::Leaf(leaf) if self.renews(leaf.leaf)) && *observed == Observed::AsWanted {
                *observed = Observed::Differs("to be renewed".to_owned());
            }
        }
        Ok(seen)
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

    fn renews(&self, leaf: LeafName) -> bool {
        self.wanted.renew.contains(&leaf)
    }

    /// Whether there is an authority, and its key is on no control plane.
    fn no_signer(&self) -> bool {
        if let Some(brings) = self.restoration.as_ref().and_then(Restoration::brings_signer) {
            return !brings;
        }
        if self.wanted.cluster.signs_on_desk() || self.has_keys() {
            return self.wanted.cluster.signs_on_desk();
        }
        let own = self.wanted.cluster.hosts(Role::ControlPlane);
        let leaving = self.wanted.leaving.iter().filter(|host| host.is(Role::ControlPlane));
        let known = own.chain(leaving).filter_map(|host| self.facts.get(&host.name)?.authority_key);
        let keys: Vec<bool> = known.collect();
        !keys.is_empty() && !keys.contains(&true)
    }

    /// Signs with the keys in this file, where they are kept on the desk.
    #[must_use]
    pub fn with_keys(self, keys: Keyring) -> Self {
        Self { keys: Some(Arc::new(keys)), ..self }
    }

    fn has_keys(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.exists())
    }

    /// Versions are changed by an upgrade, which knows the order, and by nothing else.
    fn versions_fit(&self, request: &Request, recorded: Option<Version>) -> Result<(), Impossible> {
        if request.only_removes() {
            return Ok(());
        }
        let bundle = &self.bundle.bundle;
        let wanted = self.wanted.cluster.spec.kubernetes_version.clone().unwrap_or_else(|| bundle.version.release());
        if wanted != bundle.version.release() {
            let bundle = bundle.version.clone();
            return Err(match recorded {
                Some(recorded) if recorded != wanted => Impossible::Version { recorded, wanted },
                _ => Impossible::Bundle { wanted, bundle },
            });
        }
        if request.keeps_versions() {
            let (installed, _) = kinit_planner::installed(&self.facts);
            let hops = kinit_planner::hops(&self.wanted.cluster, &installed, bundle);
            if !hops.is_empty() {
                return Err(Impossible::Hops { bundle: bundle.version.clone(), hops });
            }
        }
        Ok(())
    }

    /// Goes to other versions, in the order of an upgrade.
    pub(crate) fn upgrades(&mut self, upgrading: Upgrading) {
        self.upgrade = Some(upgrading);
    }

    /// What is on the hosts.
    pub(crate) fn facts(&self) -> &BTreeMap<String, Facts> {
        &self.facts
    }

    /// What is installed.
    pub(crate) fn bundle(&self) -> &kinit_manifests::Bundle {
        &self.bundle.bundle
    }

    /// Whether the run may change a host's resources of a phase.
    pub(crate) fn covers(&self, host: &HostSpec, phase: Phase) -> bool {
        self.wanted.scope.covers(host, phase)
    }

    /// The API, where it answers.
    pub(crate) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
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

    /// The authority of the cluster that is there, by its hash.
    pub fn own_authority(&self) -> Option<String> {
        kinit_planner::authority(&self.wanted.cluster, &self.facts, None).map(|(authority, _)| authority)
    }

    /// The cluster's authority, once there is one.
    async fn authority(&self) -> Result<String> {
        authority(&self.hosts, &self.wanted.cluster).await
    }

    /// Plans for other data than the cluster has.
    pub fn restores(&mut self, restoration: Restoration) {
        self.restoration = Some(restoration);
    }

    /// Whether a run with the same purpose has put the data in place already.
    pub async fn is_under_way(&self) -> Result<bool> {
        let Some(restoration) = &self.restoration else { return Ok(false) };
        let planned = restoration.planned(&self.hosts, &self.wanted.cluster).await?;
        Ok(planned.markers.values().any(|id| *id == planned.id))
    }

    /// Whether there is a cluster whose data would be given up: etcd has a leader, and not because of an interrupted
    /// run with the same purpose.
    pub async fn runs(&self) -> Result<bool> {
        Ok(self.etcd().await.values().any(|status| status.leader != 0) && !self.is_under_way().await?)
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
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
        if let Some(keys) = self.keys.clone().filter(|_| desk_steps::needs_keys(plan)) {
            desk_steps::open(keys, &self.hosts, &self.wanted.cluster).await?;
        }
        let steps = Steps::new(
            self.wanted.clone(),
            self.hosts.clone(),
            self.bundle.clone(),
            self.drain.clone(),
            self.own_authority(),
        )
        .restoring(self.restoration.clone())
        .upgrading(self.upgrade.clone())
        .signing(self.keys.clone());
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

/// What only an upgrade to later versions brings about.
pub(crate) fn changes_versions(resource: &Resource) -> bool {
    matches!(resource, Resource::PackageVersions { .. })
}

/// `no_signer` says that no control plane has the key of the cluster's authority.
pub(crate) fn host_facts(host: &HostSpec, facts: &Facts, no_signer: bool) -> HostFacts {
    let has_resolved = facts.listening.iter().any(|(port, holder)| *port == 53 && holder == "systemd-resolved.service");
    HostFacts {
        can_lower_oom_score: facts.can_lower_oom_score,
        cgroup_v2: facts.cgroup_v2,
        has_resolved,
        interface: facts.interface_of(&host.address).unwrap_or_default().to_owned(),
        no_signer,
        release: facts.release(),
    }
}

/// What the API says of Nodes; nothing while it does not answer.
pub(crate) async fn nodes(client: Option<&Client>) -> Result<BTreeMap<String, NodeState>> {
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
            cordoned: drain::is_cordoned(node),
        }
    };
    Ok(list.items.iter().filter_map(|node| Some((node.metadata.name.clone()?, state(node)))).collect())
}

pub(crate) fn stages(plan: &Plan) -> Vec<Stage<kinit_planner::Step>> {
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
