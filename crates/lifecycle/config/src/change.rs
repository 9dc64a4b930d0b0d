//! What differs between two cluster files, and what of it a live cluster cannot change.

use serde_json::Value;

use crate::types::{Cluster, Role};
use crate::validate::FieldError;

/// Every difference, a line each with its path. How hosts are reached is the desk's affair and no difference.
pub fn differences(old: &Cluster, new: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    let (old, new) = (document(old), document(new));
    compare("", &old, &new, &mut lines);
    lines
}

/// A cluster as its file has it, but for `ssh`; hosts by name.
fn document(cluster: &Cluster) -> Value {
    let mut cluster = cluster.clone();
    cluster.spec.ssh = crate::ssh::Ssh::default();
    cluster.spec.hosts.iter_mut().for_each(|host| host.ssh = None);
    let hosts =
        cluster.spec.hosts.iter().map(|host| (host.name.clone(), serde_json::to_value(host).unwrap_or_default()));
    let hosts: serde_json::Map<String, Value> = hosts.collect();
    let mut value = serde_json::to_value(&cluster).unwrap_or_default();
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("hosts".to_owned(), Value::Object(hosts));
    }
    value
}

fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if old != new {
            lines.push(format!("{path}: {old} becomes {new}"));
        }
        return;
    };
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) => compare(&inner, old, new, lines),
            (Some(_), None) if path == "spec.hosts" => lines.push(format!("{path}: {name} is not there any more")),
            (None, Some(_)) if path == "spec.hosts" => lines.push(format!("{path}: {name} is new")),
            (Some(old), None) => lines.push(format!("{inner}: {old} is not there any more")),
            (None, Some(new)) => lines.push(format!("{inner}: {new} is new")),
            (None, None) => {}
        }
    }
}

/// Differences that a live cluster cannot follow, with the reason of each.
pub fn fixed(old: &Cluster, new: &Cluster) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut add = |path: &str, was: &str, is: &str, why: &str| {
        if was != is {
            errors.push(FieldError { path: path.to_owned(), message: format!("{was:?} cannot become {is:?}: {why}") });
        }
    };
    let (a, b) = (&old.spec, &new.spec);
    add("metadata.name", &old.metadata.name, &new.metadata.name, "kubeconfigs and etcd know the cluster by it");
    let addresses = "Services have addresses of it";
    add("spec.networking.serviceSubnet", &a.networking.service_subnet, &b.networking.service_subnet, addresses);
    let nodes = "nodes and pods have addresses of it";
    add("spec.networking.podSubnet", &a.networking.pod_subnet, &b.networking.pod_subnet, nodes);
    let tokens = "pods and the issuer of service-account tokens are named by it";
    add("spec.networking.dnsDomain", &a.networking.dns_domain, &b.networking.dns_domain, tokens);
    add("spec.etcd.dataDir", &a.etcd.data_dir, &b.etcd.data_dir, "the data is there");
    for (i, host) in b.hosts.iter().enumerate() {
        let Some(was) = a.hosts.iter().find(|was| was.name == host.name) else { continue };
        let why = format!("etcd and certificates know {} by it; remove the host, then join it again", host.name);
        add(&format!("spec.hosts[{i}].address"), &was.address, &host.address, &why);
        if was.is(Role::LoadBalancer) && host.is(Role::ControlPlane) {
            let why = format!(
                "HAProxy of {} has the API server's port; take that role away and `kinit apply` first",
                host.name
            );
            add(&format!("spec.hosts[{i}].roles"), "loadbalancer", "control-plane", &why);
        }
        if was.is_node() && !host.is_node() {
            let message = format!("{} cannot stop being a node; remove the host, then join it again", host.name);
            errors.push(FieldError { path: format!("spec.hosts[{i}].roles"), message });
            break;
        }
    }
    errors
}
