//! What somebody needs who looks for a fault from far away: versions, states, logs, settings and events; no secrets.
//!
//! What cannot be had is noted in its place (`errors.txt`): a cluster that is ill is what this is for.

mod redact;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use kinit_agent::{Agent, LogRequest};
use kinit_config::{Cluster, HostSpec, Role};
use kube::Client;
use serde::Serialize;
use serde_json::Value;

pub use redact::{REDACTED, redact};

use crate::hosts::Hosts;
use crate::status::{self, units};
use crate::{access, history};

/// Files by their paths in the archive, each without secrets.
#[derive(Default)]
pub struct Support {
    files: BTreeMap<String, String>,
    errors: Vec<String>,
}

/// Lists of the API. Secrets are none of them.
const LISTS: &[(&str, &str)] = &[
    ("version", "/version"),
    ("readyz", "/readyz?verbose"),
    ("nodes", "/api/v1/nodes"),
    ("namespaces", "/api/v1/namespaces"),
    ("pods", "/api/v1/pods"),
    ("services", "/api/v1/services"),
    ("events", "/api/v1/events"),
    ("persistentvolumes", "/api/v1/persistentvolumes"),
    ("persistentvolumeclaims", "/api/v1/persistentvolumeclaims"),
    ("kube-system-configmaps", "/api/v1/namespaces/kube-system/configmaps"),
    ("deployments", "/apis/apps/v1/deployments"),
    ("daemonsets", "/apis/apps/v1/daemonsets"),
    ("statefulsets", "/apis/apps/v1/statefulsets"),
    ("jobs", "/apis/batch/v1/jobs"),
    ("poddisruptionbudgets", "/apis/policy/v1/poddisruptionbudgets"),
    ("networkpolicies", "/apis/networking.k8s.io/v1/networkpolicies"),
    ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
    ("leases", "/apis/coordination.k8s.io/v1/leases"),
    ("apiservices", "/apis/apiregistration.k8s.io/v1/apiservices"),
    ("certificatesigningrequests", "/apis/certificates.k8s.io/v1/certificatesigningrequests"),
];
/// As many objects of a list are enough to see what is wrong.
const MOST: usize = 2000;

/// Settings that hosts have in files; secrets are in others.
const FILES: &[&str] = &[
    "/etc/kubernetes/audit-policy.yaml",
    "/etc/kubernetes/authentication.yaml",
    "/etc/kubernetes/etcd.env",
    "/etc/haproxy/haproxy.cfg",
    "/etc/keepalived/keepalived.conf",
    "/etc/containerd/config.toml",
    "/var/lib/kubelet/config.yaml",
];

impl Support {
    /// Adds a text, without its secrets.
    pub fn add(&mut self, path: impl Into<String>, text: &str) {
        self.files.insert(path.into(), redact(text));
    }

    /// Adds a value as JSON.
    pub fn add_value(&mut self, path: impl Into<String>, value: &impl Serialize) {
        let path = path.into();
        match serde_json::to_value(value) {
            Ok(mut value) => {
                redact::redact_value(&mut value);
                self.files.insert(path, format!("{value:#}\n"));
            }
            Err(error) => self.errors.push(format!("{path}: {error}")),
        }
    }

    /// Notes what could not be had.
    pub fn missed(&mut self, what: &str, why: &anyhow::Error) {
        self.errors.push(redact(&format!("{what}: {why:#}")));
    }

    fn put<T>(&mut self, path: &str, found: Result<T>, add: impl FnOnce(&mut Self, T)) {
        match found {
            Ok(found) => add(self, found),
            Err(error) => self.missed(path, &error),
        }
    }

    /// All files, with what could not be had. Refused as a whole should a private key have come through.
    pub fn finish(mut self) -> Result<BTreeMap<String, String>> {
        if !self.errors.is_empty() {
            self.files.insert("errors.txt".to_owned(), self.errors.join("\n") + "\n");
        }
        let leak = self.files.iter().find(|(_, text)| text.contains("PRIVATE KEY-----"));
        ensure!(
            leak.is_none(),
            "{} holds a private key: nothing is written",
            leak.map(|(path, _)| path.as_str()).unwrap_or_default()
        );
        Ok(self.files)
    }
}

/// Gathers what hosts and API say. `lines` is how much of each log.
pub async fn gather(hosts: &Hosts, cluster: &Cluster, lines: u32) -> Support {
    let mut support = Support::default();
    let text = kinit_config::print(cluster).context("print the cluster file");
    support.put("cluster.yaml", text, |support, text| support.add("cluster.yaml", &text));
    for (host, why) in hosts.unreachable() {
        support.errors.push(redact(&format!("{host} cannot be reached: {why}")));
    }
    let seen = status::status(hosts, cluster).await;
    support.put("status.json", seen, |support, seen| support.add_value("status.json", &seen));
    let runs = history::history(hosts).await;
    support.put("history.json", runs, |support, runs| support.add_value("history.json", &runs));
    let of_hosts = hosts.try_each(|agent| {
        let host = cluster.spec.hosts.iter().find(|host| host.name == agent.host()).cloned();
        async move {
            match host {
                Some(host) => Ok(of_host(&agent, cluster, &host, lines).await),
                None => Ok(Support::default()),
            }
        }
    });
    for (host, one) in of_hosts.await {
        let path = format!("hosts/{host}");
        support.put(&path, one, |support, one| {
            support.files.extend(one.files);
            support.errors.extend(one.errors);
        });
    }
    match api(hosts, cluster).await {
        Ok(Some(client)) => of_api(&client, &mut support).await,
        Ok(None) => support.errors.push("api: the API does not answer".to_owned()),
        Err(error) => support.missed("api", &error),
    }
    support
}

async fn of_host(agent: &Agent, cluster: &Cluster, host: &HostSpec, lines: u32) -> Support {
    let mut support = Support::default();
    let below = |name: &str| format!("hosts/{}/{name}", host.name);
    let facts = agent.facts(&cluster.spec.etcd.data_dir).await;
    support.put(&below("facts.json"), facts, |support, facts| support.add_value(below("facts.json"), &facts));
    if host.is(Role::ControlPlane) {
        let etcd = agent.etcd_status().await;
        support.put(&below("etcd.json"), etcd, |support, etcd| support.add_value(below("etcd.json"), &etcd));
    }
    let units = units(cluster, host);
    for unit in &units {
        let path = below(&format!("logs/{unit}.log"));
        let request =
            LogRequest { unit: (*unit).to_owned(), tail: Some(lines), since: None, follow: false, all_boots: true };
        let mut text = Vec::new();
        let read = agent.logs(request, &mut text).await;
        support.put(&path, read, |support, ()| support.add(&path, &String::from_utf8_lossy(&text)));
    }
    let of_units = units.iter().map(|unit| format!("/etc/systemd/system/{unit}"));
    for file in FILES.iter().map(|file| (*file).to_owned()).chain(of_units) {
        // Not every role has every file.
        if let Ok(text) = agent.read_file(&file).await {
            support.add(below(&format!("files{file}")), &text);
        }
    }
    support
}

/// As who may read everything: what is wrong may be anywhere, and an operator of kinit's may read little.
async fn api(hosts: &Hosts, cluster: &Cluster) -> Result<Option<Client>> {
    let way = access::reach(hosts, cluster).await?.filter(|way| way.answers);
    let Some(way) = way else { return Ok(None) };
    access::masters_of(hosts, &way.server).await.map(Some)
}

async fn of_api(client: &Client, support: &mut Support) {
    for (name, path) in LISTS {
        let file = format!("api/{name}.json");
        let answer = text(client, path).await;
        support.put(&file, answer, |support, text| match serde_json::from_str::<Value>(&text) {
            Ok(mut list) => {
                if let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) {
                    items.truncate(MOST);
                }
                support.add_value(file.as_str(), &list);
            }
            Err(_) => support.add(file.as_str(), &text),
        });
    }
}

async fn text(client: &Client, path: &str) -> Result<String> {
    let request = http::Request::get(path).body(Vec::new()).context("make a request")?;
    match client.request_text(request).await {
        Err(kube::Error::Api(status)) => bail!("the API refuses {path}: {} ({})", status.message, status.code),
        other => other.with_context(|| format!("ask the API for {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_added_is_without_secrets() {
        let mut support = Support::default();
        support.add("a.log", "token: abcdef.0123456789abcdef");
        support.add_value("b.json", &serde_json::json!({ "password": "hunter2", "name": "x" }));
        support.missed("c", &anyhow::anyhow!("https://u:hunter2@h refused"));
        let files = support.finish().unwrap();
        assert_eq!(files.keys().map(String::as_str).collect::<Vec<_>>(), ["a.log", "b.json", "errors.txt"]);
        let all = files.values().cloned().collect::<String>();
        assert!(!all.contains("hunter2") && !all.contains("0123456789abcdef") && all.contains("\"x\""), "{all}");
        let mut leaking = Support::default();
        leaking.files.insert("k".into(), "-----BEGIN PRIVATE KEY-----".into());
        assert!(leaking.finish().unwrap_err().to_string().starts_with("k holds a private key"));
    }
}
