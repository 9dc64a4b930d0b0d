//! The CIS Kubernetes Benchmark, held against what hosts show: numbers, titles and values are those of version 1.12 (as
//! kube-bench numbers them). Where the benchmark looks at manifests of static pods, units are looked at: components of
//! kinit are systemd units.

mod controls;
mod rules;

use std::collections::BTreeMap;

use kinit_config::{Cluster, HostSpec, Role};
use kinit_resource::Evidence;

pub use controls::PROGRAMS;
use controls::{COMMANDS, ETCD, FILES, KUBELET, MANUAL, PATHS};
use rules::{command, file, kubelet};

/// What became of a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is as the benchmark wants it.
    Pass,
    /// It is not.
    Fail,
    /// Nobody but a person can tell.
    Manual,
}

impl Verdict {
    /// The word of reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Manual => "manual",
        }
    }
}

/// A control on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessed {
    /// Its number.
    pub id: &'static str,
    /// What it asks for.
    pub title: &'static str,
    /// The host; empty for those of the cluster.
    pub host: String,
    /// What became of it.
    pub verdict: Verdict,
    /// What was seen; of manual ones why nobody but a person can tell, and what to look at.
    pub evidence: String,
}

/// Which hosts a control is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    ControlPlane,
    Node,
}

impl On {
    fn covers(self, host: &HostSpec) -> bool {
        match self {
            Self::ControlPlane => host.is(Role::ControlPlane),
            Self::Node => host.is_node(),
        }
    }
}

/// Paths that hosts look at; etcd's data are where the cluster file has them.
pub fn cis_paths(cluster: &Cluster) -> Vec<String> {
    PATHS.iter().map(|path| path.replacen(ETCD, &cluster.spec.etcd.data_dir, 1)).collect()
}

/// Holds all controls against what was seen of the hosts, by number and host.
pub fn cis(cluster: &Cluster, seen: &BTreeMap<String, Evidence>) -> Vec<Assessed> {
    let mut out: Vec<Assessed> = Vec::new();
    let hosts = cluster.spec.hosts.iter().filter_map(|host| Some((host, seen.get(&host.name)?)));
    for (host, evidence) in hosts {
        let mut add = |id, title, (passed, evidence): (bool, String)| {
            let verdict = if passed { Verdict::Pass } else { Verdict::Fail };
            out.push(Assessed { id, title, host: host.name.clone(), verdict, evidence });
        };
        let own = cluster.spec.etcd.data_dir.as_str();
        let mut files = evidence.files.clone();
        files.iter_mut().for_each(|file| file.path = moved(&file.path, own, ETCD));
        for control in FILES.iter().filter(|control| control.on.covers(host)) {
            let (passed, evidence) = file(control, &files);
            let evidence = if control.paths.contains(&ETCD) { evidence.replace(ETCD, own) } else { evidence };
            add(control.id, control.title, (passed, evidence));
        }
        for control in COMMANDS.iter().filter(|control| control.on.covers(host)) {
            add(control.id, control.title, command(control, evidence));
        }
        for control in KUBELET.iter().filter(|_| host.is_node()) {
            add(control.id, control.title, kubelet(control, &evidence.kubelet));
        }
    }
    for (id, title, why) in MANUAL {
        let (host, evidence) = (String::new(), (*why).to_owned());
        out.push(Assessed { id, title, host, verdict: Verdict::Manual, evidence });
    }
    let number = |id: &str| id.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    out.sort_by(|a, b| (number(a.id), &a.host).cmp(&(number(b.id), &b.host)));
    out
}

/// A path below one folder as it would be below another.
fn moved(path: &str, from: &str, to: &str) -> String {
    match path.strip_prefix(from) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{to}{rest}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kinit_resource::FileEvidence;
    use serde_json::json;

    use super::*;

    fn node() -> Evidence {
        let args = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Evidence {
            files: vec![FileEvidence {
                path: "/var/lib/kubelet/config.yaml".into(),
                mode: 0o600,
                owner: "root:root".into(),
                folder: false,
            }],
            commands: [("kubelet".to_owned(), args(&["--config=/var/lib/kubelet/config.yaml"]))].into(),
            kubelet: json!({"authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": "/ca"}},
                "authorization": {"mode": "Webhook"}, "readOnlyPort": 0, "serverTLSBootstrap": true,
                "seccompDefault": true, "podPidsLimit": 4096, "tlsCipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}),
        }
    }

    fn of<'a>(assessed: &'a [Assessed], id: &str, host: &str) -> &'a Assessed {
        assessed.iter().find(|a| a.id == id && a.host == host).unwrap_or_else(|| panic!("no {id} on {host}"))
    }

    #[test]
    fn a_worker_is_assessed_by_what_it_shows() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let seen = |evidence: Evidence| cis(&cluster, &[("w1".to_owned(), evidence)].into());
        let good = seen(node());
        for id in
            ["4.1.9", "4.1.10", "4.2.1", "4.2.2", "4.2.3", "4.2.4", "4.2.5", "4.2.9", "4.2.10", "4.2.12", "4.2.14"]
        {
            assert_eq!(of(&good, id, "w1").verdict, Verdict::Pass, "{:?}", of(&good, id, "w1"));
        }
        assert!(
            good.iter().all(|a| !a.id.starts_with("1.2.") || a.verdict == Verdict::Manual),
            "a worker has no API server"
        );
        let mut bad = node();
        bad.files[0].mode = 0o644;
        bad.kubelet["authentication"]["anonymous"]["enabled"] = json!(true);
        bad.kubelet["readOnlyPort"] = json!(10255);
        bad.kubelet["tlsCipherSuites"] = json!(["TLS_RSA_WITH_AES_128_CBC_SHA"]);
        bad.kubelet["seccompDefault"] = json!(false);
        let bad = seen(bad);
        for (id, evidence) in [
            ("4.1.9", "/var/lib/kubelet/config.yaml 644"),
            ("4.2.1", "authentication.anonymous.enabled: true"),
            ("4.2.4", "readOnlyPort: 10255"),
            ("4.2.12", "TLS_RSA_WITH_AES_128_CBC_SHA"),
            ("4.2.14", "seccompDefault: false"),
        ] {
            let found = of(&bad, id, "w1");
            assert!(found.verdict == Verdict::Fail && found.evidence.contains(evidence), "{found:?}");
        }
    }

    #[test]
    fn etcds_data_are_where_the_file_has_them() {
        let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
        cluster.spec.etcd.data_dir = "/srv/etcd".into();
        let paths = cis_paths(&cluster);
        assert!(paths.iter().any(|p| p == "/srv/etcd/member") && paths.iter().all(|p| !p.starts_with("/var/lib/etcd")));
        let folder = FileEvidence { path: "/srv/etcd".into(), mode: 0o755, owner: "etcd:etcd".into(), folder: true };
        let seen = Evidence { files: vec![folder], ..Evidence::default() };
        let all = cis(&cluster, &[("cp1".to_owned(), seen)].into());
        let data = of(&all, "1.1.11", "cp1");
        assert_eq!((data.verdict, data.evidence.as_str()), (Verdict::Fail, "/srv/etcd 755 etcd:etcd"));
        assert_eq!(of(&all, "1.1.12", "cp1").verdict, Verdict::Pass);
        assert_eq!(of(&all, "1.1.1", "cp1").verdict, Verdict::Fail, "a unit that nobody has seen");
    }

    #[test]
    fn numbers_are_in_order_and_manual_ones_say_why() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let all = cis(&cluster, &BTreeMap::new());
        assert!(all.iter().all(|a| a.verdict == Verdict::Manual && !a.evidence.is_empty()));
        let place = |id: &str| all.iter().position(|a| a.id == id).unwrap();
        assert!(place("1.2.9") < place("1.2.11"), "9 comes before 11");
    }
}
