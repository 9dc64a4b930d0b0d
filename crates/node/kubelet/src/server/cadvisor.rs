//! `/metrics/cadvisor`: what containers, pods' networks and the machine use, under cAdvisor's names. The figures are
//! the runtime's: where it has none there is no family.

use hyper::Response;
use k8s_openapi::jiff::Timestamp;
use kinit_cri::v1::{ListPodSandboxStatsRequest, PodSandboxStats, UInt64Value};

use super::exposition::{Text, labels};
use super::usage::{Measured, Pods, Usage, node, pod_of, pods};
use super::{Body, Server};
use crate::node::facts;

/// Answers.
pub async fn serve(server: &Server) -> Response<Body> {
    let (containers, failed) = match pods(server).await {
        Ok(pods) => (pods, false),
        Err(error) => {
            tracing::warn!(error, "read container statistics");
            (Pods::new(), true)
        }
    };
    // Older runtimes do not know the question.
    let sandboxes = server.kubelet.runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await;
    let sandboxes = sandboxes.map(|answer| answer.stats).unwrap_or_default();
    let now = Timestamp::now();
    let mut out = Text::at(now.as_millisecond());
    container_families(&mut out, &containers, &node(), now.as_second());
    network_families(&mut out, &sandboxes);
    machine_families(&mut out);
    out.single("container_scrape_error", "gauge", f64::from(u8::from(failed)));
    out.answer()
}

/// cAdvisor's labels of a container; those of the machine's root have an id alone.
fn named(namespace: &str, pod: &str, container: &str, measured: &Measured, more: &[(&str, &str)]) -> String {
    let mut pairs = vec![
        ("container", container),
        ("id", if namespace.is_empty() { "/" } else { "" }),
        ("image", measured.image.as_str()),
        ("name", measured.id.as_str()),
        ("namespace", namespace),
        ("pod", pod),
    ];
    pairs.extend_from_slice(more);
    pairs.sort_unstable();
    labels(&pairs)
}

type Reading = fn(&Usage) -> f64;

/// Name, kind, labels beside the usual ones, and the value.
type Family = (&'static str, &'static str, &'static [(&'static str, &'static str)], Reading);

const FAMILIES: &[Family] = &[
    ("container_cpu_usage_seconds_total", "counter", &[("cpu", "total")], |u| u.cpu as f64 / 1e9),
    ("container_memory_working_set_bytes", "gauge", &[], |u| u.working_set as f64),
    ("container_memory_usage_bytes", "gauge", &[], |u| u.memory as f64),
    ("container_memory_rss", "gauge", &[], |u| u.rss as f64),
    ("container_fs_usage_bytes", "gauge", &[("device", "")], |u| u.layer.0 as f64),
    ("container_fs_inodes_used", "gauge", &[("device", "")], |u| u.layer.1 as f64),
    ("container_start_time_seconds", "gauge", &[], |u| u.made as f64 / 1e9),
];

fn container_families(out: &mut Text, pods: &Pods, node: &Usage, now: i64) {
    let root = Measured { usage: *node, ..Measured::default() };
    let containers = pods.iter().flat_map(|((namespace, pod, _), list)| {
        list.iter().map(move |(container, measured)| (namespace.as_str(), pod.as_str(), container.as_str(), measured))
    });
    let all: Vec<(&str, &str, &str, &Measured)> = std::iter::once(("", "", "", &root)).chain(containers).collect();
    let mut family = |name: &str, kind: &str, samples: Vec<(String, f64)>| {
        out.family(name, kind, samples.iter().map(|(labels, value)| (labels.as_str(), *value)));
    };
    for (name, kind, more, reading) in FAMILIES {
        // Of the machine as a whole nobody knows when it was made, nor has it a layer of its own.
        let is_known = |namespace: &str| !namespace.is_empty() || reading(node) > 0.0;
        let samples = all.iter().filter(|(namespace, ..)| is_known(namespace));
        let samples = samples.map(|(n, p, c, m)| (named(n, p, c, m, more), reading(&m.usage))).collect();
        family(name, kind, samples);
    }
    let mut faults = Vec::new();
    for (n, p, c, m) in &all {
        for (kind, count) in [("pgfault", m.usage.faults.0), ("pgmajfault", m.usage.faults.1)] {
            let more = [("failure_type", kind), ("scope", "container")];
            faults.push((named(n, p, c, m, &more), count as f64));
        }
    }
    family("container_memory_failures_total", "counter", faults);
    let seen = all.iter().map(|(n, p, c, m)| (named(n, p, c, m, &[]), now as f64)).collect();
    family("container_last_seen", "gauge", seen);
}

fn network_families(out: &mut Text, sandboxes: &[PodSandboxStats]) {
    let number = |value: Option<&UInt64Value>| value.map_or(0.0, |v| v.value as f64);
    let mut samples: [Vec<(String, f64)>; 4] = Default::default();
    for sandbox in sandboxes {
        let Some(attributes) = &sandbox.attributes else { continue };
        let network = sandbox.linux.as_ref().and_then(|linux| linux.network.as_ref());
        let Some(network) = network else { continue };
        let (namespace, pod, _) = pod_of(&attributes.labels);
        let measured = Measured { id: attributes.id.clone(), ..Measured::default() };
        for interface in network.default_interface.iter().chain(&network.interfaces) {
            let labels = named(&namespace, &pod, "", &measured, &[("interface", &interface.name)]);
            let values = [&interface.rx_bytes, &interface.rx_errors, &interface.tx_bytes, &interface.tx_errors];
            for (list, value) in samples.iter_mut().zip(values) {
                // Some runtimes list the default interface among the others, too.
                if !list.iter().any(|(known, _)| *known == labels) {
                    list.push((labels.clone(), number(value.as_ref())));
                }
            }
        }
    }
    let names = ["receive_bytes", "receive_errors", "transmit_bytes", "transmit_errors"];
    for (name, list) in names.iter().zip(samples) {
        let name = format!("container_network_{name}_total");
        out.family(&name, "counter", list.iter().map(|(labels, value)| (labels.as_str(), *value)));
    }
}

fn machine_families(out: &mut Text) {
    let Ok(machine) = facts::machine() else { return };
    let ids =
        [("boot_id", &machine.boot_id), ("machine_id", &machine.machine_id), ("system_uuid", &machine.system_uuid)];
    let labels = labels(&ids.map(|(key, value)| (key, value.as_str())));
    out.family("machine_cpu_cores", "gauge", [(labels.as_str(), machine.cpus as f64)]);
    out.family("machine_memory_bytes", "gauge", [(labels.as_str(), machine.memory as f64)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;
    use kinit_cri::v1::{LinuxPodSandboxStats, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes};

    #[test]
    fn names_and_labels_as_cadvisor() {
        let usage = Usage {
            cpu: 1_500_000_000,
            working_set: 10,
            rss: 3,
            faults: (5, 1),
            made: 2_000_000_000,
            layer: (9, 2),
            ..Usage::default()
        };
        let measured = Measured { usage, id: "abc".to_owned(), image: "i:1".to_owned() };
        let pods: Pods =
            [(("ns".to_owned(), "p".to_owned(), "u".to_owned()), [("c".to_owned(), measured)].into())].into();
        let mut out = Text::at(9);
        container_families(&mut out, &pods, &Usage { cpu: 1_000_000_000, working_set: 4, ..Usage::default() }, 7);
        let value = |value| Some(UInt64Value { value });
        let eth0 = NetworkInterfaceUsage {
            name: "eth0".to_owned(),
            rx_bytes: value(11),
            tx_bytes: value(12),
            ..Default::default()
        };
        let network =
            NetworkUsage { default_interface: Some(eth0.clone()), interfaces: vec![eth0], ..Default::default() };
        let labels = [(names::POD_NAMESPACE, "ns"), (names::POD_NAME, "p")];
        let attributes = PodSandboxAttributes {
            id: "s".to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        };
        let linux = LinuxPodSandboxStats { network: Some(network), ..Default::default() };
        let sandbox = PodSandboxStats { attributes: Some(attributes), linux: Some(linux), ..Default::default() };
        network_families(&mut out, &[sandbox]);
        machine_families(&mut out);
        let text = out.text();
        let of = "container=\"c\",id=\"\",image=\"i:1\",name=\"abc\",namespace=\"ns\",pod=\"p\"";
        let net = "container=\"\",id=\"\",image=\"\",interface=\"eth0\",name=\"s\",namespace=\"ns\",pod=\"p\"";
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"\",image=\"i:1\",name=\"abc\",namespace=\"ns\",pod=\"p\"} 1.5 9".to_owned(),
            "container_memory_working_set_bytes{container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 4 9".to_owned(),
            format!("container_memory_rss{{{of}}} 3 9"),
            format!("container_start_time_seconds{{{of}}} 2 9"),
            format!("container_last_seen{{{of}}} 7 9"),
            format!("container_network_receive_bytes_total{{{net}}} 11 9"),
            format!("container_network_transmit_bytes_total{{{net}}} 12 9"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("container_network_receive_bytes_total{").count(), 1);
        assert!(text.contains("machine_cpu_cores{boot_id=") && text.contains("machine_memory_bytes{"));
    }
}
