//! `kinit init`: observe and plan; the plan is executed as it was shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kinit_config::{Cluster, Role};
use kinit_manifests::{HostFacts, Phase, desired};
use kinit_planner::{Finding, HostObservation, Plan, preflight};
use kinit_resource::{Facts, Resource};
use kinit_workflow::{Lane, Listener, Stage};
use kube::{Api, Client};

use crate::bundle::LocalBundle;
use crate::execute::Steps;
use crate::hosts::Hosts;
use crate::{PARALLELISM, api, objects};

/// A run of init, connected.
pub struct Init {
    /// The cluster file.
    pub cluster: Arc<Cluster>,
    /// The hosts.
    pub hosts: Arc<Hosts>,
    /// What to install.
    pub bundle: Arc<LocalBundle>,
}

/// What was found and what will be done.
pub struct Prepared {
    /// The plan, ready to be shown.
    pub plan: Plan,
}

impl Init {
    /// Facts about all hosts, and what the checks say of them. `now` is the desk's clock, in seconds since 1970;
    /// `known` the cluster's authority as the desk knows it.
    pub async fn preflight(&self, now: i64, known: Option<&str>) -> Result<(BTreeMap<String, Facts>, Vec<Finding>)> {
        let facts = self.hosts.facts(&self.cluster).await?;
        let findings = preflight(&self.cluster, &facts, now, known);
        Ok((facts, findings))
    }

    /// Looks at everything, changes nothing, and plans.
    pub async fn prepare(&self, facts: &BTreeMap<String, Facts>) -> Result<Prepared> {
        let observed = self.observe_hosts(facts).await?;
        kinit_planner::all_observed(&observed)?;
        let client = self.client_if_up().await;
        let ca = self.authority().await.unwrap_or_default();
        let wanted = objects::wanted(&self.cluster, &ca)?;
        let states = objects::observe(client.as_ref(), &wanted).await.context("look at the cluster's objects")?;
        let marked = marked(client.as_ref()).await;
        let with_data = facts.iter().filter(|(_, facts)| facts.etcd_data).map(|(host, _)| host.clone()).collect();
        let plan = kinit_planner::init(&self.cluster, &observed, &with_data, &states, &marked)?;
        Ok(Prepared { plan })
    }

    async fn observe_hosts(&self, facts: &BTreeMap<String, Facts>) -> Result<BTreeMap<String, HostObservation>> {
        let mut wanted: BTreeMap<String, Vec<(Phase, Resource)>> = BTreeMap::new();
        for host in &self.cluster.spec.hosts {
            let facts = facts.get(&host.name).with_context(|| format!("{}: no facts", host.name))?;
            let has_resolved =
                facts.listening.iter().any(|(port, holder)| *port == 53 && holder == "systemd-resolved.service");
            let facts =
                HostFacts { can_lower_oom_score: facts.can_lower_oom_score, cgroup_v2: facts.cgroup_v2, has_resolved };
            wanted.insert(host.name.clone(), desired(&self.cluster, host, facts, &self.bundle.bundle)?);
        }
        let wanted = &wanted;
        let seen = self.hosts.each(|agent| async move {
            let list = wanted.get(agent.host()).cloned().unwrap_or_default();
            let observed = agent.observe(list.iter().map(|(_, r)| r.clone()).collect()).await?;
            Ok(list
                .into_iter()
                .zip(observed)
                .map(|((phase, resource), seen)| (phase, resource, seen))
                .collect::<HostObservation>())
        });
        seen.await.context("look at the hosts")
    }

    /// A client, when there is a cluster that answers.
    async fn client_if_up(&self) -> Option<Client> {
        let first = self.cluster.first_control_plane()?;
        let client = api::super_admin(self.hosts.agent(&first.name).ok()?).await.ok()?;
        api::answers(&client).await.then_some(client)
    }

    /// The cluster's authority, once there is one.
    async fn authority(&self) -> Result<String> {
        let first = self.cluster.first_control_plane().context("no control plane")?;
        self.hosts.agent(&first.name)?.read_file("/etc/kubernetes/pki/ca.crt").await
    }

    /// Carries the plan out.
    pub async fn execute(&self, plan: &Plan, listener: &dyn Listener) -> Result<()> {
        let steps = Steps::new(self.cluster.clone(), self.hosts.clone(), self.bundle.clone());
        let hash = format!("sha256:{}", kinit_resource::sha256(plan.to_string().as_bytes()));
        let hash = hash.as_str();
        self.hosts.each(|agent| async move { agent.begin(hash).await }).await.context("begin the run")?;
        let done = kinit_workflow::run(&stages(plan), &steps, listener, PARALLELISM).await;
        let error = done.as_ref().err().map(ToString::to_string);
        let error = error.as_deref();
        // A host that cannot be told any more has noted the end by itself.
        self.hosts.each_outcome(|agent| async move { agent.end(error).await }).await;
        Ok(done?)
    }

    /// admin.conf, for the desk.
    pub async fn admin_kubeconfig(&self) -> Result<String> {
        let first = self.cluster.first_control_plane().context("no control plane")?;
        self.hosts.agent(&first.name)?.read_file("/etc/kubernetes/admin.conf").await
    }
}

/// Control planes whose Nodes carry their labels.
async fn marked(client: Option<&Client>) -> BTreeSet<String> {
    let Some(client) = client else { return BTreeSet::new() };
    let api: Api<Node> = Api::all(client.clone());
    let Ok(nodes) = api.list(&kube::api::ListParams::default()).await else { return BTreeSet::new() };
    let labelled = |node: &Node| {
        node.metadata.labels.as_ref().is_some_and(|l| l.contains_key("node-role.kubernetes.io/control-plane"))
    };
    nodes.items.iter().filter(|n| labelled(n)).filter_map(|n| n.metadata.name.clone()).collect()
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

/// Names of the hosts that will have a Node.
pub(crate) fn node_names(cluster: &Cluster) -> Vec<String> {
    let control_planes = cluster.hosts(Role::ControlPlane);
    let workers = cluster.hosts(Role::Worker).filter(|h| !h.is(Role::ControlPlane));
    control_planes.chain(workers).map(|h| h.name.clone()).collect()
}
