//! What kinit brings along: the components' programs and a few images.

use std::collections::BTreeMap;

use kinit_config::{Arg, Cluster, Minor, Version};

/// The pods' parent container; containerd's `sandbox_image` must match it to the letter.
pub const PAUSE_IMAGE: &str = "kinit.dev/pause:0.1.0";
/// The cluster's DNS.
pub const DNS_IMAGE: &str = "kinit.dev/kube-dns:0.1.0";

/// An image archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageArchive {
    /// `kinit.dev/pause:0.1.0`.
    pub name: String,
    /// SHA-256 of the archive, in hexadecimal.
    pub sha256: String,
}

/// A component's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What it says of itself.
    pub version: Version,
    /// Name of its file; several components may be one.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Flags that it does not know, without dashes.
    pub without_flags: Vec<String>,
}

impl Program {
    /// Where it is placed on hosts; a new build is a new path.
    pub fn path(&self) -> String {
        format!("/usr/local/lib/kinit/{}-{}", self.file, self.sha256.get(..12).unwrap_or(&self.sha256))
    }
}

/// What there is to install, known by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The version of a cluster that is made of it.
    pub version: Version,
    /// The minor that the control plane serves, when it is an earlier one than its own.
    pub emulated: Option<Minor>,
    /// Programs, by component.
    pub programs: BTreeMap<String, Program>,
    /// SHA-256 of kinit itself, in hexadecimal: what makes scheduled backups on control planes.
    pub kinit: String,
    /// Images for every node.
    pub images: Vec<ImageArchive>,
    /// Indexes of packages in apt's format, by the hosts' release (`debian-trixie`).
    pub packages: BTreeMap<String, String>,
}

/// Servers that serve an earlier minor than their own when they are told to.
const EMULATING: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// What a cluster with pools for load balancers needs, and others do not.
const CLOUD: &str = "cloud-controller-manager";

/// What serves `metrics.k8s.io`; bundles of upstream's programs are without.
pub(crate) const METRICS: &str = "metrics-server";

impl Bundle {
    /// Whether it has the metrics server.
    pub fn has_metrics_server(&self) -> bool {
        self.programs.contains_key(METRICS)
    }

    /// The component that the cluster needs and the bundle has not, where there is one: a bundle of upstream's
    /// programs has no provider of load balancers for bare metal.
    pub fn lacks(&self, cluster: &Cluster) -> Option<&'static str> {
        (!cluster.spec.load_balancer_pools.is_empty() && !self.programs.contains_key(CLOUD)).then_some(CLOUD)
    }

    /// Where kinit itself is placed, on hosts that run it by themselves.
    pub fn kinit_path(&self) -> String {
        format!("/usr/local/lib/kinit/kinit-{}", self.kinit.get(..12).unwrap_or(&self.kinit))
    }

    /// The flags that a component gets of those that it would have: what its program does not know is left out, and
    /// what the bundle asks of it is added, where the operator does not say otherwise.
    pub fn flags(&self, component: &str, mut flags: Vec<Arg>) -> Vec<Arg> {
        if let Some(emulated) = self.emulated.filter(|_| EMULATING.contains(&component)) {
            let name = "emulated-version";
            if !flags.iter().any(|flag| flag.name == name) {
                flags.push(Arg { name: name.to_owned(), value: emulated.to_string() });
            }
        }
        if let Some(program) = self.programs.get(component) {
            flags.retain(|flag| !program.without_flags.contains(&flag.name));
        }
        flags
    }

    /// One program for every component, for tests.
    #[doc(hidden)]
    pub fn sample() -> Self {
        let version: Version = Version::sample();
        let program = Program {
            version: version.clone(),
            file: "hyperkube".to_owned(),
            sha256: "ab".repeat(32),
            without_flags: Vec::new(),
        };
        let names = [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kube-netd",
            CLOUD,
            METRICS,
        ];
        let programs = names.map(|name| (name.to_owned(), program.clone())).into();
        Self { version, emulated: None, programs, kinit: "cd".repeat(32), images: vec![], packages: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str) -> Arg {
        Arg { name: name.to_owned(), value: "x".to_owned() }
    }

    #[test]
    fn a_bundle_decides_about_flags() {
        let mut bundle = Bundle::sample();
        bundle.emulated = Some("1.35".parse().unwrap());
        if let Some(program) = bundle.programs.get_mut("kube-scheduler") {
            program.without_flags = vec!["profiling".to_owned()];
        }
        let names = |component: &str, flags: &[&str]| {
            let given = bundle.flags(component, flags.iter().map(|name| flag(name)).collect());
            given.into_iter().map(|flag| format!("{}={}", flag.name, flag.value)).collect::<Vec<_>>()
        };
        assert_eq!(names("kube-apiserver", &["a"]), ["a=x", "emulated-version=1.35"]);
        assert_eq!(names("kube-apiserver", &["emulated-version"]), ["emulated-version=x"], "the operator's wins");
        assert_eq!(names("kube-scheduler", &["profiling", "b"]), ["b=x", "emulated-version=1.35"]);
        assert_eq!(names("kubelet", &["a"]), ["a=x"]);
    }
}
