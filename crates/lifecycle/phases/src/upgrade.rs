//! What an upgrade does besides the steps of every operation: what speaks against it, the backup before it, and the way
//! back for a host on which something does not become healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use kinit_agent::{Agent, LogRequest};
use kinit_config::{Cluster, HostSpec, Version};
use kinit_manifests::Phase;
use kinit_planner::{Action, Direction, Finding, Hop, Step, Upgrade};
use kinit_resource::{Content, Resource, UnitState};
use kinit_workflow::{Lane, StepError};
use kube::Client;
use serde::Serialize;

use crate::backup::{self, CreateOptions};
use crate::drain;
use crate::etcd::EtcdOverview;
use crate::hosts::Hosts;
use crate::operation::Run;
use crate::packages::{self, PackageRow};

/// How to upgrade.
#[derive(Clone)]
pub struct UpgradeOptions {
    /// To later versions, or back.
    pub direction: Direction,
    /// Workers that may be unavailable at once.
    pub max_unavailable: usize,
    /// Whether nodes are drained: `None` where their kubelet goes to another minor.
    pub drain: Option<bool>,
    /// Nodes that are not drained.
    pub not_drained: BTreeSet<String>,
    /// Nodes are left as they are.
    pub only_control_plane: bool,
    /// The folder on the desk for the backup that is made first, and how it is protected.
    pub backup: Option<(PathBuf, CreateOptions)>,
}

/// An upgrade under way.
#[derive(Clone)]
pub(crate) struct Upgrading {
    pub(crate) how: Upgrade,
    backup: Option<(PathBuf, CreateOptions)>,
}

/// What an upgrade comes to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeReport {
    /// The version that it goes to.
    pub target: Version,
    /// Components that change.
    pub hops: Vec<HopRow>,
    /// Nodes that are drained.
    pub drained: BTreeSet<String>,
    /// The distribution's packages on hosts, beside the bundle's.
    pub packages: Vec<PackageRow>,
}

/// A component that changes.
#[derive(Debug, Serialize)]
pub struct HopRow {
    /// Where.
    pub host: String,
    /// Which.
    pub component: String,
    /// What is there.
    pub from: String,
    /// What comes.
    pub to: String,
}

impl From<&Hop> for HopRow {
    fn from(hop: &Hop) -> Self {
        let (host, component) = (hop.host.clone(), hop.component.clone());
        Self { host, component, from: hop.from.to_string(), to: hop.to.to_string() }
    }
}

const NODE_COMPONENTS: [&str; 3] = ["kubelet", "kube-proxy", "kube-netd"];

/// Whether an upgrade changes a component of a host.
pub(crate) fn covers(run: &Run, options: &UpgradeOptions, host: &HostSpec, component: &str) -> bool {
    match NODE_COMPONENTS.contains(&component) {
        true => !options.only_control_plane && run.covers(host, Phase::UpgradeNode),
        false => run.covers(host, Phase::ControlPlane),
    }
}

/// Finds out what changes and what speaks against it, and makes the run an upgrade.
pub fn prepare(run: &mut Run, options: &UpgradeOptions) -> (UpgradeReport, Vec<Finding>) {
    let (installed, unknown) = kinit_planner::installed(run.facts());
    let (cluster, bundle) = (run.cluster(), run.bundle());
    let is_covered = |host: &HostSpec, component: &str| covers(run, options, host, component);
    let host = |name: &str| cluster.spec.hosts.iter().find(|host| host.name == name);
    let mut hops = kinit_planner::hops(cluster, &installed, bundle);
    hops.retain(|hop| host(&hop.host).is_some_and(|host| is_covered(host, &hop.component)));
    let against = kinit_planner::skew(cluster, &installed, bundle, options.direction, &is_covered);
    let rows = packages::rows(cluster, run.facts(), bundle);
    let skipped = match options.direction {
        Direction::Up => packages::etcd_skips(&rows),
        Direction::Down => Vec::new(),
    };
    let skew = against.into_iter().chain(skipped).map(|message| Finding {
        host: String::new(),
        check: "VersionSkew".to_owned(),
        message,
        remedy: "the version-skew policy of Kubernetes; `kinit upgrade plan` shows every version",
        warning: false,
    });
    let unknown = unknown.into_iter().map(|message| Finding {
        host: String::new(),
        check: "ComponentVersion".to_owned(),
        message,
        remedy: "run the program with --version on that host; `kinit apply` with the bundle that it is of repairs it",
        warning: false,
    });
    let findings: Vec<Finding> = skew.chain(unknown).collect();
    let drained = drained(options, &hops);
    let report = UpgradeReport {
        target: bundle.version.clone(),
        hops: hops.iter().map(HopRow::from).collect(),
        drained: drained.clone(),
        packages: rows,
    };
    let how = Upgrade {
        direction: options.direction,
        max_unavailable: options.max_unavailable,
        drain: drained,
        only_control_plane: options.only_control_plane,
        backup: options.backup.is_some(),
    };
    run.upgrades(Upgrading { how, backup: options.backup.clone() });
    (report, findings)
}

/// Budgets that would hold the drain of a node up for longer than anybody waits: found before anything changes.
pub async fn budgets(run: &Run, report: &UpgradeReport) -> Result<Vec<Finding>> {
    let Some(client) = run.client() else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    for node in &report.drained {
        for message in drain::budgets(client, node).await? {
            findings.push(Finding {
                host: node.clone(),
                check: "PodDisruptionBudget".to_owned(),
                message,
                remedy: "add replicas or change the budget; --no-drain NODE leaves the node's pods alone; --disable-eviction deletes them",
                warning: false,
            });
        }
    }
    Ok(findings)
}

/// Members of etcd and nodes that are not well: an upgrade takes another one away for a moment.
pub async fn health(run: &Run) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut add = |host: &str, check: &str, message: String, remedy: &'static str, warning: bool| {
        findings.push(Finding { host: host.to_owned(), check: check.to_owned(), message, remedy, warning });
    };
    let overview = EtcdOverview::of(run.hosts(), run.cluster()).await;
    for (host, said) in &overview.hosts {
        let why = match said {
            Ok(status) if status.leader == 0 => "its member of etcd has no leader".to_owned(),
            Ok(_) => continue,
            Err(why) => format!("its member of etcd does not answer: {why}"),
        };
        add(host, "EtcdHealth", why, "repair or remove that member first (`kinit etcd status`)", false);
    }
    let Some(client) = run.client() else { return Ok(findings) };
    for (name, node) in crate::operation::nodes(Some(client)).await? {
        if !node.ready {
            let remedy = "`kinit status` and `kubectl describe node` show why";
            add(&name, "NodeReady", format!("node {name} is not Ready"), remedy, true);
        }
    }
    Ok(findings)
}

/// A kubelet that goes to another minor needs an empty node (kubernetes.io/releases/version-skew-policy); others need
/// it when they are asked for.
fn drained(options: &UpgradeOptions, hops: &[Hop]) -> BTreeSet<String> {
    let needs = |hop: &&Hop| {
        NODE_COMPONENTS.contains(&hop.component.as_str())
            && options
                .drain
                .unwrap_or_else(|| hop.component == "kubelet" && hop.from.version.minor() != hop.to.version.minor())
    };
    let names = hops.iter().filter(needs).map(|hop| hop.host.clone());
    names.filter(|name| !options.not_drained.contains(name)).collect()
}

impl Upgrading {
    /// Makes the backup that an upgrade begins with.
    pub(crate) async fn back_up(&self, hosts: &Hosts, cluster: &Cluster) -> Result<()> {
        let (folder, options) = self.backup.as_ref().context("nobody said where backups go")?;
        backup::create(hosts, cluster, folder, options).await.map(drop)
    }
}

/// A host's turn in an upgrade: what it needs to be as it was before.
pub(crate) struct Turn {
    agent: std::sync::Arc<Agent>,
    host: String,
    /// Units of the turn, with the index of the step that starts each.
    units: BTreeMap<usize, String>,
    healthy: Vec<Resource>,
    drained: Option<String>,
    lane: Vec<Step>,
}

/// How much of a log says why a program did not start.
const LAST_LINES: u32 = 10;

impl Turn {
    /// Has the host remember what is there; `None` for lanes that switch no program.
    pub(crate) async fn begin(hosts: &Hosts, lane: &Lane<Step>) -> Result<Option<Self>> {
        let resources = lane.steps.iter().enumerate().filter_map(|(index, step)| match &step.action {
            Action::Apply(resource) => Some((index, resource)),
            _ => None,
        });
        let (mut paths, mut units, mut healthy, mut switches) = (Vec::new(), BTreeMap::new(), Vec::new(), false);
        for (index, resource) in resources {
            match resource {
                Resource::Link { path, .. } => {
                    switches = true;
                    paths.push(path.clone());
                }
                Resource::File(file) if matches!(file.content, Content::Text(_)) => paths.push(file.path.clone()),
                Resource::Unit { name, state: UnitState::Running { .. } } => drop(units.insert(index, name.clone())),
                Resource::Healthy { .. } => healthy.push(resource.clone()),
                _ => {}
            }
        }
        if !switches {
            return Ok(None);
        }
        let agent = hosts.agent(&lane.name)?.clone();
        agent.keep(paths).await.context("remember the previous version")?;
        let drained = lane.steps.iter().find_map(|step| match &step.action {
            Action::Drain(node) => Some(node.clone()),
            _ => None,
        });
        Ok(Some(Self { agent, host: lane.name.clone(), units, healthy, drained, lane: lane.steps.clone() }))
    }

    /// Makes the host what it was, and says so beside what failed.
    pub(crate) async fn put_back(self, failed: StepError, client: Option<&Client>) -> StepError {
        let StepError { index, error } = failed;
        let begun: Vec<String> = self.units.range(..=index).map(|(_, unit)| unit.clone()).collect();
        let log = match begun.last() {
            Some(unit) => self.last_lines(unit).await,
            None => String::new(),
        };
        let begun_checks = self.healthy.iter().filter(|check| self.is_before(check, index)).cloned().collect();
        let outcome = match self.agent.put_back(begun, begun_checks).await {
            Ok(()) => self.reopen(client).await,
            Err(error) => Err(error),
        };
        let host = &self.host;
        let outcome = match outcome {
            Ok(()) => format!("{host} is back at its previous version"),
            Err(error) => format!("{host} could not be put back to its previous version: {error:#}"),
        };
        StepError { index, error: anyhow::anyhow!("{error:#}{log}\n{outcome}") }
    }

    /// Whether a check is of a step up to that one.
    fn is_before(&self, check: &Resource, index: usize) -> bool {
        let of = |step: &Step| matches!(&step.action, Action::Apply(resource) if resource == check);
        self.lane.iter().position(of).is_some_and(|position| position <= index)
    }

    /// The node takes pods again.
    async fn reopen(&self, client: Option<&Client>) -> Result<()> {
        match (&self.drained, client) {
            (Some(node), Some(client)) => drain::uncordon(client, node).await,
            _ => Ok(()),
        }
    }

    async fn last_lines(&self, unit: &str) -> String {
        let request =
            LogRequest { unit: unit.to_owned(), tail: Some(LAST_LINES), since: None, follow: false, all_boots: false };
        let mut text = Vec::new();
        match self.agent.logs(request, &mut text).await {
            Ok(()) => format!("\nthe last lines of {unit}:\n{}", String::from_utf8_lossy(&text).trim_end()),
            Err(error) => format!("\nthe log of {unit} could not be read: {error:#}"),
        }
    }
}
