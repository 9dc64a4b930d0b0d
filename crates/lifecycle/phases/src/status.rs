//! One look at a whole cluster, that changes nothing and goes on without what does not answer.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kinit_agent::{LastBackup, RenewalState};
use kinit_config::{Balancing, Cluster, HostSpec, Role};
use kinit_manifests::host_packages;
use kinit_pki::Leaf;
use kinit_resource::{EtcdStatus, InstalledPackage, Observed, Resource, UnitState};
use kube::Api;
use serde::Serialize;

use crate::access;
use crate::etcd::EtcdOverview;
use crate::hosts::Hosts;

/// What `kinit status` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub cluster: String,
    /// Where clients reach the API.
    pub endpoint: String,
    /// Whether it answers there.
    pub api: bool,
    /// Where the load balancer is.
    pub load_balancer: Balancing,
    /// The file's hosts, in its order.
    pub hosts: Vec<HostStatus>,
    /// The last backup that was made on schedule, and restored before it counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<LastBackup>,
    /// Whether everything is as it should be.
    pub healthy: bool,
    /// What is not, a line each.
    pub problems: Vec<String>,
}

/// One host.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub roles: Vec<Role>,
    /// Why it cannot be reached, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Units that should run, with what is wrong with them; empty for one that is well.
    pub units: BTreeMap<String, String>,
    /// Whether it has the load balancers' virtual address now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub virtual_address: bool,
    /// Its Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeStatus>,
    /// Its member of etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<MemberStatus>,
    /// The distribution's packages that its roles stand on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub packages: BTreeMap<String, InstalledPackage>,
    /// The certificate of this host's that ends first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_expiry: Option<Expiry>,
    /// How the renewal of its certificates stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewal: Option<RenewalState>,
}

/// A Node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// `Ready`, or why not.
    pub condition: String,
    /// No pods are scheduled to it.
    pub unschedulable: bool,
    /// Its kubelet's version.
    pub version: String,
}

/// A member of etcd.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its ID in hexadecimal.
    pub id: String,
    /// Whether it leads.
    pub leader: bool,
    /// Whether it has no vote.
    pub learner: bool,
    /// etcd's version.
    pub version: String,
    /// Bytes of its database.
    pub db_size: u64,
    /// Entries of the log that it is behind the first.
    pub lag: u64,
}

/// When a certificate ends.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// Its file.
    pub certificate: String,
    /// Days until then; negative when it has ended.
    pub days: i64,
}

/// Looks at everything.
pub async fn status(hosts: &Hosts, cluster: &Cluster) -> Result<Status> {
    let etcd = EtcdOverview::of(hosts, cluster).await;
    let way = access::reach(hosts, cluster).await.ok().flatten().filter(|way| way.answers);
    let client = way.as_ref().map(|way| &way.client);
    let mut problems = Vec::new();
    let mut nodes = BTreeMap::new();
    let endpoint = format!("https://{}", cluster.spec.control_plane_endpoint);
    match &way {
        None => problems.push("the API does not answer".to_owned()),
        Some(way) => {
            if way.server != endpoint {
                problems.push(format!("the endpoint {endpoint} does not answer; {} does", way.server));
            }
            let client = &way.client;
            match Api::<Node>::all(client.clone()).list(&kube::api::ListParams::default()).await {
                Ok(list) => nodes.extend(list.items.into_iter().filter_map(|n| Some((n.metadata.name.clone()?, n)))),
                Err(error) => problems.push(format!("list the nodes: {error}")),
            }
        }
    }
    let first = etcd.healthy().map(|(_, s)| s.raft_index).max().unwrap_or_default();
    let mut list = Vec::new();
    for host in &cluster.spec.hosts {
        let mut one = look(hosts, cluster, host).await;
        one.node = nodes.remove(&host.name).map(|node| node_status(&node));
        if let Some(said) = etcd.hosts.get(&host.name) {
            one.etcd = said.as_ref().ok().map(|status| member_status(status, first));
            if let Err(why) = said
                && one.unreachable.is_none()
            {
                problems.push(format!("{}: etcd: {why}", host.name));
            }
        }
        troubles(&one, host, client.is_some(), &mut problems);
        list.push(one);
    }
    problems.extend(shared_address(cluster, &list));
    for status in etcd.hosts.values().flatten().take(1) {
        problems.extend(strangers(status, cluster));
        problems.extend(
            status.alarms.iter().map(|(alarm, id)| {
                format!("etcd member {id:x} raises {alarm}: `kinit etcd alarm list` says what to do")
            }),
        );
    }
    let backup = last_backup(hosts, &etcd).await;
    if let Some(last) = backup.as_ref().filter(|last| !last.failed.is_empty()) {
        problems.push(format!("the last scheduled backup did not reach every target: {}", last.failed.join("; ")));
    }
    problems.extend(nodes.into_keys().map(|name| format!("node {name} is no host of the file")));
    Ok(Status {
        cluster: cluster.metadata.name.clone(),
        endpoint: cluster.spec.control_plane_endpoint.clone(),
        api: way.is_some_and(|way| way.server == endpoint),
        load_balancer: cluster.balancing(),
        hosts: list,
        backup,
        healthy: problems.is_empty(),
        problems,
    })
}

/// The virtual address is on one host, no more and no less.
fn shared_address(cluster: &Cluster, hosts: &[HostStatus]) -> Option<String> {
    let address = cluster.spec.hosts.iter().find_map(|host| cluster.virtual_address(host))?;
    let holders: Vec<&str> = hosts.iter().filter(|host| host.virtual_address).map(|host| host.name.as_str()).collect();
    match holders.as_slice() {
        [_] => None,
        [] => Some(format!("no balancer that can be reached has the virtual address {address}")),
        several => Some(format!(
            "{} have the virtual address {address} at the same time: they do not hear each other (VRRP, IP protocol 112)",
            several.join(" and ")
        )),
    }
}

/// What etcd knows of scheduled backups; nothing while it has no leader.
async fn last_backup(hosts: &Hosts, etcd: &EtcdOverview) -> Option<LastBackup> {
    let (host, _) = etcd.healthy().next()?;
    hosts.agent(host).ok()?.last_backup().await.ok()?
}

/// Members of etcd that belong to no host of the file.
fn strangers(status: &EtcdStatus, cluster: &Cluster) -> Vec<String> {
    let known = |url: &String| cluster.hosts(Role::ControlPlane).any(|host| host.peer_url() == *url);
    let unknown = status.members.iter().filter(|member| !member.peer_urls.iter().any(known));
    unknown.map(|m| format!("etcd member {} ({}) is no host of the file", m.hex(), m.peer_urls.join(", "))).collect()
}

async fn look(hosts: &Hosts, cluster: &Cluster, host: &HostSpec) -> HostStatus {
    let mut status = HostStatus {
        name: host.name.clone(),
        roles: host.roles.clone(),
        unreachable: hosts.unreachable().get(&host.name).cloned(),
        units: BTreeMap::new(),
        virtual_address: false,
        node: None,
        etcd: None,
        packages: BTreeMap::new(),
        next_expiry: None,
        renewal: None,
    };
    let Ok(agent) = hosts.agent(&host.name) else { return status };
    let names = units(cluster, host);
    let state = UnitState::Running { reads: Vec::new(), reloads: false };
    let wanted = names.iter().map(|name| Resource::Unit { name: (*name).to_owned(), state: state.clone() }).collect();
    match agent.observe(wanted).await {
        Ok(seen) => {
            let told = names.iter().zip(seen).map(|(name, seen)| ((*name).to_owned(), trouble(&seen)));
            status.units = told.collect();
        }
        Err(error) => status.unreachable = Some(format!("{error:#}")),
    }
    let packages = host_packages(cluster, host).names;
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    status.packages = agent.installed_packages(&packages).await.unwrap_or_default();
    if let Some(address) = cluster.virtual_address(host) {
        status.virtual_address = agent.addresses().await.is_ok_and(|own| own.iter().any(|own| own == address));
    }
    // One of another version has no answer.
    status.renewal = agent.renewal().await.ok().flatten();
    if host.is(Role::ControlPlane) {
        let now = jiff::Timestamp::now().as_second();
        let measured = cluster.spec.metrics_server.enabled.then_some(Leaf::MetricsServer);
        for leaf in Leaf::FILES.into_iter().chain(measured) {
            let path = format!("/etc/kubernetes/pki/{}.crt", leaf.stem());
            let Ok(text) = agent.read_file(&path).await else { continue };
            let Some(end) = kinit_pki::expires_at(&text) else { continue };
            let days = (end.unix_timestamp() - now) / 86_400;
            if status.next_expiry.as_ref().is_none_or(|first| days < first.days) {
                status.next_expiry = Some(Expiry { certificate: path, days });
            }
        }
    }
    status
}

fn trouble(seen: &Observed) -> String {
    match seen {
        Observed::AsWanted | Observed::Fingerprint(_) | Observed::Public(_) => String::new(),
        Observed::Missing => "does not run".to_owned(),
        Observed::TextDiffers(_) => "content differs".to_owned(),
        Observed::NotHeld(names) => format!("not held: {}", names.join(" ")),
        Observed::Differs(why) | Observed::Signed(why) | Observed::Failed(why) => why.clone(),
    }
}

/// Units of a host's roles.
pub fn units(cluster: &Cluster, host: &HostSpec) -> Vec<&'static str> {
    let mut units = Vec::new();
    if cluster.balances(host) {
        units.push("haproxy.service");
    }
    if cluster.virtual_address(host).is_some() {
        units.push("keepalived.service");
    }
    if host.is(Role::ControlPlane) {
        let control_plane =
            ["etcd.service", "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service"];
        units.extend(control_plane);
        if !cluster.spec.load_balancer_pools.is_empty() {
            units.push("cloud-controller-manager.service");
        }
        if cluster.spec.metrics_server.enabled {
            units.push("metrics-server.service");
        }
    }
    if host.is_node() {
        units.extend(["containerd.service", "kubelet.service", "kube-netd.service", "kube-proxy.service"]);
    }
    units
}

fn node_status(node: &Node) -> NodeStatus {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let condition = match conditions.find(|condition| condition.type_ == "Ready") {
        Some(condition) if condition.status == "True" => "Ready".to_owned(),
        Some(condition) => format!("NotReady ({})", condition.message.as_deref().unwrap_or("no reason given")),
        None => "NotReady (its kubelet has said nothing yet)".to_owned(),
    };
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    NodeStatus {
        condition,
        unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false),
        version: info.map(|info| info.kubelet_version.clone()).unwrap_or_default(),
    }
}

fn member_status(status: &EtcdStatus, first: u64) -> MemberStatus {
    let own = status.members.iter().find(|member| member.id == status.id);
    MemberStatus {
        id: format!("{:x}", status.id),
        leader: status.leader == status.id,
        learner: own.is_some_and(|member| member.learner),
        version: status.version.clone(),
        db_size: status.db_size,
        lag: first.saturating_sub(status.raft_applied_index),
    }
}

fn troubles(status: &HostStatus, host: &HostSpec, api_answers: bool, problems: &mut Vec<String>) {
    let name = &status.name;
    if let Some(why) = &status.unreachable {
        problems.push(format!("{name} cannot be reached: {why}"));
    }
    for (unit, why) in status.units.iter().filter(|(_, why)| !why.is_empty()) {
        problems.push(format!("{name}: {unit} {why}"));
    }
    match &status.node {
        Some(node) if node.condition != "Ready" => problems.push(format!("node {name} is {}", node.condition)),
        None if host.is_node() && api_answers => problems.push(format!("{name} has no Node")),
        _ => {}
    }
    problems.extend(status.renewal.iter().flat_map(renewal_troubles).map(|what| format!("{name}: {what}")));
    if let Some(expiry) = status.next_expiry.as_ref().filter(|expiry| expiry.days < 7) {
        let when = if expiry.days < 0 { "has ended".to_owned() } else { format!("ends in {} days", expiry.days) };
        problems.push(format!("{name}: {} {when}", expiry.certificate));
    }
}

/// What is wrong with the renewal of a host's certificates.
fn renewal_troubles(renewal: &RenewalState) -> Vec<String> {
    let failed = renewal.last.as_ref().and_then(|last| last.failed.as_ref());
    let failed = failed.map(|why| format!("the last renewal of certificates failed: {why}"));
    let stopped =
        renewal.next_run.is_none().then(|| "kinit-renewal.timer does not run: nothing renews certificates".to_owned());
    failed.into_iter().chain(stopped).collect()
}

#[cfg(test)]
mod tests {
    use kinit_agent::LastRenewal;

    use super::*;

    #[test]
    fn a_renewal_that_failed_or_does_not_run_is_a_problem() {
        let last =
            |failed: Option<&str>| Some(LastRenewal { time: 0, renewed: vec![], failed: failed.map(str::to_owned) });
        for (next_run, last, expected) in [
            (Some(1), None, 0),
            (Some(1), last(None), 0),
            (Some(1), last(Some("x")), 1),
            (None, last(None), 1),
            (None, last(Some("x")), 2),
        ] {
            assert_eq!(renewal_troubles(&RenewalState { next_run, due: None, last }).len(), expected);
        }
    }
}
