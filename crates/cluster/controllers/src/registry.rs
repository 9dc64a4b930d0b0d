//! Names of controllers and which of them run (`--controllers`; upstream's `app.NewControllerDescriptors`).

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use futures::future::BoxFuture;

use crate::context::Context;

/// Starts a controller and ends when it ends.
pub type Start = fn(Context) -> BoxFuture<'static, Result<()>>;

/// One controller.
pub struct Descriptor {
    /// Its name as upstream's `--controllers` has it since v1.28.
    pub name: &'static str,
    /// The older name, which is still accepted.
    pub alias: &'static str,
    /// Off unless it is named.
    pub named_only: bool,
    /// How to run it.
    pub start: Start,
}

macro_rules! descriptors {
    ($($name:literal, $alias:literal, $named_only:literal => $run:path;)*) => {
        /// All controllers of this program.
        pub const CONTROLLERS: &[Descriptor] = &[$(
            Descriptor { name: $name, alias: $alias, named_only: $named_only, start: |ctx| Box::pin($run(ctx)) },
        )*];
    };
}

descriptors! {
    "bootstrap-signer-controller", "bootstrapsigner", true => crate::bootstrap::signer::run;
    "token-cleaner-controller", "tokencleaner", true => crate::bootstrap::cleaner::run;
    "certificatesigningrequest-approving-controller", "csrapproving", false => crate::csr::approve::run;
    "certificatesigningrequest-signing-controller", "csrsigning", false => crate::csr::sign::run;
    "certificatesigningrequest-cleaner-controller", "csrcleaner", false => crate::csr::clean::run;
    "root-ca-certificate-publisher-controller", "root-ca-cert-publisher", false => crate::service_accounts::root_ca::run;
    "serviceaccount-controller", "serviceaccount", false => crate::service_accounts::default_account::run;
    "node-ipam-controller", "nodeipam", false => crate::node::ipam::run;
    "node-lifecycle-controller", "nodelifecycle", false => crate::node::lifecycle::run;
    "taint-eviction-controller", "taint-eviction", false => crate::node::eviction::run;
    "namespace-controller", "namespace", false => crate::namespace::run;
    "garbage-collector-controller", "garbagecollector", false => crate::garbage::run;
    "deployment-controller", "deployment", false => crate::workload::deployment::run;
    "daemonset-controller", "daemonset", false => crate::workload::daemonset::run;
    "job-controller", "job", false => crate::workload::job::run;
    "statefulset-controller", "statefulset", false => crate::workload::statefulset::run;
    "ttl-after-finished-controller", "ttl-after-finished", false => crate::ttl::run;
    "cronjob-controller", "cronjob", false => crate::workload::cronjob::run;
    "serviceaccount-token-controller", "serviceaccount-token", false => crate::service_accounts::tokens::run;
    "replicaset-controller", "replicaset", false => crate::workload::replicaset::run;
    "replicationcontroller-controller", "replicationcontroller", false => crate::workload::replicaset::run_replication;
    "resourcequota-controller", "resourcequota", false => crate::quota::run;
    "persistentvolumeclaim-protection-controller", "pvc-protection", false => crate::claim_protection::run;
    "persistentvolume-protection-controller", "pv-protection", false => crate::volume_protection::run;
    "persistentvolume-binder-controller", "persistentvolume-binder", false => crate::volume::binder::run;
    "ephemeral-volume-controller", "ephemeral-volume", false => crate::volume::ephemeral::run;
    "local-path-provisioner-controller", "local-path-provisioner", false => crate::volume::local_path::run;
    "horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", false => crate::autoscale::run;
    "disruption-controller", "disruption", false => crate::disruption::run;
    "endpoints-controller", "endpoint", false => crate::endpoints::legacy::run;
    "endpointslice-controller", "endpointslice", false => crate::endpoints::slices::run;
    "endpointslice-mirroring-controller", "endpointslicemirroring", false => crate::endpoints::mirror::run;
    "pod-garbage-collector-controller", "podgc", false => crate::pod_gc::run;
}

/// The controllers that `--controllers` asks for. The last mention of a name counts; what is not mentioned follows `*`.
pub fn selected(flags: &[String]) -> Result<Vec<&'static Descriptor>> {
    let known: BTreeSet<&str> = CONTROLLERS.iter().flat_map(|d| [d.name, d.alias]).collect();
    for flag in flags.iter().filter(|f| *f != "*") {
        let name = flag.trim_start_matches('-');
        if !known.contains(name) {
            let names: Vec<&str> = CONTROLLERS.iter().map(|d| d.name).collect();
            bail!("--controllers: {name:?} is not a controller of this program, which has {}", names.join(", "));
        }
    }
    let all = flags.iter().any(|f| f == "*");
    Ok(CONTROLLERS.iter().filter(|d| wanted(d, flags, all)).collect())
}

fn wanted(descriptor: &Descriptor, flags: &[String], all: bool) -> bool {
    let is = |name: &str| name == descriptor.name || name == descriptor.alias;
    for flag in flags {
        match flag.strip_prefix('-') {
            Some(name) if is(name) => return false,
            None if is(flag) => return true,
            _ => {}
        }
    }
    all && !descriptor.named_only
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(flags: &[&str]) -> Vec<&'static str> {
        let flags: Vec<String> = flags.iter().map(|f| (*f).to_owned()).collect();
        selected(&flags).unwrap().iter().map(|d| d.name).collect()
    }

    #[test]
    fn star_names_and_minus() {
        assert!(!names(&["*"]).contains(&"bootstrap-signer-controller"));
        assert!(names(&["*", "bootstrapsigner"]).contains(&"bootstrap-signer-controller"));
        assert!(!names(&["*", "-namespace"]).contains(&"namespace-controller"));
        assert_eq!(names(&["namespace-controller"]), ["namespace-controller"]);
        assert!(names(&["-namespace"]).is_empty());
        assert!(selected(&["*".into(), "clusterrole-dream".into()]).is_err());
    }
}
