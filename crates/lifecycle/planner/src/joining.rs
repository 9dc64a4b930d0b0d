//! The plan of a machine that joins by itself, with nothing but a bootstrap token: it knows itself and the API, and
//! nobody else's host.

use kinit_manifests::Phase;
use kinit_resource::{Change, Observed, Resource};

use crate::lanes;
use crate::operation::Operation;
use crate::plan::{Action, Plan, Step};
use crate::situation::HostObservation;

/// Who signs and where the authority's certificate comes from, in the plan's words.
const API: &str = "the API";

/// What the machine `host` has to do to become the node that was observed as `seen`; `authority` is the fingerprint of
/// the cluster's authority as discovery found it.
pub fn join_plan(host: &str, seen: &HostObservation, authority: &str) -> Plan {
    let mut plan = Plan::default();
    for phase in Operation::JoinItself.phases() {
        let own = || seen.iter().filter(|(p, _, _)| *p == phase);
        let copied = own().filter_map(|(_, resource, observed)| shared(host, resource, observed, authority));
        plan.push(phase, false, copied.collect());
        let others = own().filter(|(_, resource, _)| !matches!(resource, Resource::Shared { .. }));
        let written = lanes::written_before(&plan, host);
        plan.push(phase, false, lanes::lane(host, API, others, written));
        if phase == Phase::Verify {
            let wait = Change::wait(format!("node {host} to be Ready"));
            plan.push(phase, false, vec![Step::on(host, Action::WaitForNodes(vec![host.to_owned()]), wait)]);
        }
    }
    plan
}

/// The authority's certificate, which discovery has proved.
fn shared(host: &str, resource: &Resource, observed: &Observed, authority: &str) -> Option<Step> {
    let Resource::Shared { shared, place } = resource else { return None };
    let verb = match observed {
        Observed::Fingerprint(fingerprint) if fingerprint == authority => return None,
        Observed::Missing => "copy",
        _ => "replace",
    };
    let action = Action::Copy { shared: *shared, from: API.to_owned(), place: *place };
    Some(Step::on(host, action, Change::new(verb, format!("{}.crt from {API}", shared.name()))))
}

#[cfg(test)]
mod tests {
    use kinit_config::{Balancing, Role};
    use kinit_manifests::{Bundle, HostFacts, desired};

    use super::*;

    /// In every form of balancer, a node's own among them.
    #[test]
    fn nothing_that_a_worker_has_is_left_out() {
        for form in [Balancing::None, Balancing::NodeLocal] {
            let mut cluster = kinit_config::load(kinit_config::example()).unwrap();
            cluster.spec.hosts.retain(|host| !host.is(Role::LoadBalancer));
            cluster.spec.load_balancer.balancing = Some(form);
            let worker = cluster.spec.hosts.iter().find(|host| host.name == "w1").unwrap();
            let list = desired(&cluster, worker, &HostFacts::default(), &Bundle::sample()).unwrap();
            let seen: HostObservation =
                list.iter().map(|(phase, resource)| (*phase, resource.clone(), Observed::Missing)).collect();
            let plan = join_plan("w1", &seen, "f");
            assert!(Operation::JoinItself.has_order_of(&plan));
            // Every resource, and the wait for the node.
            assert_eq!(plan.steps().count(), list.len() + 1, "{plan}");
        }
    }

    #[test]
    fn a_fresh_machine_does_everything_and_a_node_nothing() {
        let cluster = kinit_config::load(kinit_config::example()).unwrap();
        let bundle = Bundle::sample();
        let list = desired(&cluster, &cluster.spec.hosts[4], &HostFacts::default(), &bundle).unwrap();
        let observed = |what: Observed| -> HostObservation {
            list.iter().map(|(phase, resource)| (*phase, resource.clone(), what.clone())).collect()
        };
        let fresh = join_plan("w1", &observed(Observed::Missing), "f");
        let text = fresh.to_string();
        for line in [
            "w1         copy ca.crt from the API",
            "w1         issue /etc/kubernetes/kube-proxy.conf",
            "bootstrap-kubelet.conf",
            "start kubelet.service",
            "wait for node w1 to be Ready",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let node = |fingerprint: &str| -> HostObservation {
            let seen = |resource: &Resource| match resource {
                Resource::Shared { .. } => Observed::Fingerprint(fingerprint.to_owned()),
                _ => Observed::AsWanted,
            };
            list.iter().map(|(phase, resource)| (*phase, resource.clone(), seen(resource))).collect()
        };
        assert_eq!(join_plan("w1", &node("f"), "f").changes(), 0);
        let text = join_plan("w1", &node("g"), "f").to_string();
        assert!(text.contains("replace ca.crt from the API") && text.contains("restart kubelet.service"), "{text}");
    }
}
