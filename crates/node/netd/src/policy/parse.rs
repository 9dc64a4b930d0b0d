//! NetworkPolicy objects, read strictly. No IO.
//!
//! What is wrong with a policy is told, and taken so that nothing is allowed by it: a peer or port that cannot be
//! understood matches nothing, and the pods stay isolated. API servers refuse such objects
//! (upstream's `ValidateNetworkPolicySpec`); one that was stored before ours did must not stop the others.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WrittenSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinit_apimachinery::selector::LabelSelector;

use super::pods::{TCP, protocol};
use super::ranges::{Range, block};
use super::{Direction, Id, selector};

use super::address::Version;

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its name.
    pub id: Id,
    /// Its uid, for events about it.
    pub uid: Option<String>,
    /// Which pods of its namespace it is about; `None` when that cannot be understood, and then it is about none.
    pub subject: Option<LabelSelector>,
    /// What may come in; `None` when it does not isolate its pods in this direction.
    pub ingress: Option<Vec<Allowance>>,
    /// What may go out.
    pub egress: Option<Vec<Allowance>>,
    /// What is wrong with it: path and reason.
    pub problems: Vec<String>,
}

impl Policy {
    /// What it allows in a direction, when it isolates in it.
    pub fn allowances(&self, direction: Direction) -> Option<&[Allowance]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A rule of a policy: connections with one of the peers on one of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// With whom; `None` with everybody.
    pub peers: Option<Vec<Peer>>,
    /// On which ports; `None` on all, and with any protocol.
    pub ports: Option<Vec<Port>>,
}

/// With whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// With these pods.
    Pods(PodPeer),
    /// With these addresses.
    Block(Version, Vec<Range>),
}

/// Pods of namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodPeer {
    /// Of which namespaces.
    pub namespaces: Scope,
    /// Which pods of these.
    pub pods: LabelSelector,
}

/// Namespaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// This one.
    Only(String),
    /// Those with such labels.
    Selected(LabelSelector),
}

/// A port of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The protocol's number.
    pub protocol: u8,
    /// Which of its ports.
    pub numbers: Numbers,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numbers {
    /// All.
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// Whatever the pod that is connected to calls so.
    Named(String),
}

/// Reads a policy.
pub fn policy(written: &NetworkPolicy) -> Policy {
    let namespace = written.metadata.namespace.clone().unwrap_or_default();
    let name = written.metadata.name.clone().unwrap_or_default();
    let mut reader = Reader { namespace: &namespace, problems: Vec::new() };
    let spec = written.spec.clone().unwrap_or_default();
    let subject = reader.selector("spec.podSelector", &spec.pod_selector.unwrap_or_default());
    let (into, out) = reader.directions(spec.policy_types.as_deref(), spec.egress.as_deref().unwrap_or_default());
    let rules = spec.ingress.unwrap_or_default();
    let ingress = rules
        .iter()
        .enumerate()
        .map(|(i, r)| reader.allowance(&format!("spec.ingress[{i}]"), "from", r.from.as_deref(), r.ports.as_deref()));
    let ingress: Vec<Allowance> = ingress.collect();
    let rules = spec.egress.unwrap_or_default();
    let egress = rules
        .iter()
        .enumerate()
        .map(|(i, r)| reader.allowance(&format!("spec.egress[{i}]"), "to", r.to.as_deref(), r.ports.as_deref()));
    let egress: Vec<Allowance> = egress.collect();
    let problems = reader.problems;
    Policy {
        uid: written.metadata.uid.clone(),
        subject,
        ingress: into.then_some(ingress),
        egress: out.then_some(egress),
        problems,
        id: Id { namespace, name },
    }
}

struct Reader<'a> {
    namespace: &'a str,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, path: &str, what: impl std::fmt::Display) {
        self.problems.push(format!("{path}: {what}"));
    }

    fn selector(&mut self, path: &str, written: &WrittenSelector) -> Option<LabelSelector> {
        selector::parse(written).map_err(|error| self.problem(path, error)).ok()
    }

    /// Without types a policy is about ingress, and about egress when it has rules for it (the field `policyTypes`).
    fn directions<E>(&mut self, types: Option<&[String]>, egress: &[E]) -> (bool, bool) {
        let types = types.unwrap_or_default();
        if types.is_empty() {
            return (true, !egress.is_empty());
        }
        for (i, other) in types.iter().enumerate().filter(|(_, t)| !["Ingress", "Egress"].contains(&t.as_str())) {
            self.problem(&format!("spec.policyTypes[{i}]"), format!("{other:?} is neither Ingress nor Egress"));
        }
        let has = |name: &str| types.iter().any(|t| t == name);
        (has("Ingress"), has("Egress"))
    }

    /// Lists that are empty or missing allow all; one of which nothing can be understood allows nothing.
    fn allowance(
        &mut self,
        path: &str,
        field: &str,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Allowance {
        let listed = |list: &[_]| !list.is_empty();
        let peers = peers.filter(|list| listed(list)).map(|list| {
            let all = list.iter().enumerate().filter_map(|(i, peer)| self.peer(&format!("{path}.{field}[{i}]"), peer));
            all.collect()
        });
        let ports = ports.filter(|list| !list.is_empty()).map(|list| {
            let all = list.iter().enumerate().filter_map(|(i, port)| self.port(&format!("{path}.ports[{i}]"), port));
            all.collect()
        });
        Allowance { peers, ports }
    }

    fn peer(&mut self, path: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
            (Some(block), None, None) => self.block(&format!("{path}.ipBlock"), block),
            (Some(_), ..) => {
                self.problem(path, "may not specify both ipBlock and another peer");
                None
            }
            (None, None, None) => {
                self.problem(path, "must specify a peer");
                None
            }
            (None, namespaces, pods) => {
                let empty = WrittenSelector::default();
                let pods = self.selector(&format!("{path}.podSelector"), pods.as_ref().unwrap_or(&empty));
                let scope = match namespaces {
                    None => Some(Scope::Only(self.namespace.to_owned())),
                    Some(s) => self.selector(&format!("{path}.namespaceSelector"), s).map(Scope::Selected),
                };
                Some(Peer::Pods(PodPeer { namespaces: scope?, pods: pods? }))
            }
        }
    }

    /// `except` must lie within `cidr` (upstream's `ValidateIPBlock`).
    fn block(&mut self, path: &str, written: &IPBlock) -> Option<Peer> {
        let cidr: IpNet = match written.cidr.parse() {
            Ok(cidr) => cidr,
            Err(_) => {
                self.problem(&format!("{path}.cidr"), format!("{:?} is not a CIDR", written.cidr));
                return None;
            }
        };
        let mut except = Vec::new();
        for (i, text) in written.except.iter().flatten().enumerate() {
            match text.parse::<IpNet>() {
                Ok(hole) if cidr.trunc().contains(&hole) && hole.prefix_len() > cidr.prefix_len() => except.push(hole),
                _ => {
                    let what = format!("{text:?} is not a CIDR strictly within {cidr}");
                    self.problem(&format!("{path}.except[{i}]"), what);
                    return None;
                }
            }
        }
        Some(Peer::Block(Version::of(&cidr.addr()), block(&cidr, &except)))
    }

    fn port(&mut self, path: &str, port: &NetworkPolicyPort) -> Option<Port> {
        let protocol = match port.protocol.as_deref().filter(|p| !p.is_empty()) {
            None => TCP,
            Some(name) => match protocol(name) {
                Some(number) => number,
                None => {
                    self.problem(&format!("{path}.protocol"), format!("{name:?} is none of TCP, UDP and SCTP"));
                    return None;
                }
            },
        };
        let numbers = match (&port.port, port.end_port) {
            (None, None) => Numbers::All,
            (None, Some(_)) => {
                self.problem(&format!("{path}.endPort"), "may not be specified when `port` is not specified");
                return None;
            }
            (Some(IntOrString::String(name)), None) => Numbers::Named(name.clone()),
            (Some(IntOrString::String(_)), Some(_)) => {
                self.problem(&format!("{path}.endPort"), "may not be specified when `port` is non-numeric");
                return None;
            }
            (Some(IntOrString::Int(first)), last) => {
                let range = (valid(*first), valid(last.unwrap_or(*first)));
                let (Some(first), Some(last)) = range else {
                    self.problem(path, "ports must be between 1 and 65535");
                    return None;
                };
                if last < first {
                    self.problem(&format!("{path}.endPort"), "must be greater than or equal to `port`");
                    return None;
                }
                Numbers::Range(first, last)
            }
        };
        Some(Port { protocol, numbers })
    }
}

fn valid(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(spec: Value) -> Policy {
        let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
        policy(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn types_have_defaults() {
        for (spec, ingress, egress) in [
            (json!({}), true, false),
            (json!({"egress": []}), true, false),
            (json!({"egress": [{}]}), true, true),
            (json!({"policyTypes": ["Egress"]}), false, true),
            (json!({"policyTypes": ["Egress"], "ingress": [{}]}), false, true),
            (json!({"policyTypes": ["Ingress"], "egress": [{}]}), true, false),
            (json!({"policyTypes": ["Ingress", "Egress"]}), true, true),
        ] {
            let policy = read(spec.clone());
            assert_eq!((policy.ingress.is_some(), policy.egress.is_some()), (ingress, egress), "{spec}");
            assert!(policy.problems.is_empty() && policy.subject.is_some(), "{spec}");
        }
    }

    #[test]
    fn empty_lists_mean_all() {
        for spec in [json!({"ingress": [{}]}), json!({"ingress": [{"from": [], "ports": []}]})] {
            assert_eq!(read(spec).ingress.unwrap(), [Allowance { peers: None, ports: None }]);
        }
        assert!(read(json!({"ingress": []})).ingress.unwrap().is_empty());
    }

    #[test]
    fn peers_are_of_the_policys_namespace_unless_they_say_otherwise() {
        let a = json!({"matchLabels": {"a": "b"}});
        let from = json!([{"podSelector": a}, {"namespaceSelector": {}}, {"namespaceSelector": a, "podSelector": a}]);
        let policy = read(json!({"ingress": [{"from": from}]}));
        let peers = policy.ingress.unwrap().remove(0).peers.unwrap();
        let selector = selector::parse(&serde_json::from_value(a).unwrap()).unwrap();
        let pods = |namespaces, pods: &LabelSelector| Peer::Pods(PodPeer { namespaces, pods: pods.clone() });
        let all = LabelSelector::default();
        let expected = [
            pods(Scope::Only("ns".into()), &selector),
            pods(Scope::Selected(all.clone()), &all),
            pods(Scope::Selected(selector.clone()), &selector),
        ];
        assert_eq!(peers, expected);
    }

    #[test]
    fn ports_are_read() {
        let ports = json!([{}, {"protocol": "UDP"}, {"port": 80}, {"port": "http", "protocol": "SCTP"}, {"port": 1, "endPort": 9}]);
        let policy = read(json!({"ingress": [{"ports": ports}]}));
        let found: Vec<_> =
            policy.ingress.unwrap().remove(0).ports.unwrap().into_iter().map(|p| (p.protocol, p.numbers)).collect();
        let named = Numbers::Named("http".into());
        let range = Numbers::Range;
        let expected = [(6, Numbers::All), (17, Numbers::All), (6, range(80, 80)), (132, named), (6, range(1, 9))];
        assert_eq!(found, expected);
    }

    /// What is wrong is told and allows nothing; what is right beside it stays.
    #[test]
    fn what_is_wrong_allows_nothing() {
        let bad_selector = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        for (peer, expected) in [
            (json!({}), "spec.ingress[0].from[0]: must specify a peer"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), "may not specify both ipBlock"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/33"}}), "ipBlock.cidr: \"10.0.0.0/33\" is not a CIDR"),
            (json!({"ipBlock": {"cidr": ""}}), "is not a CIDR"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}), "except[0]: \"11.0.0.0/8\" is not"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}), "strictly within"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/0"]}}), "strictly within"),
            (json!({"podSelector": bad_selector}), "from[0].podSelector: a: \"Is\" is not a valid"),
            (json!({"namespaceSelector": bad_selector}), "from[0].namespaceSelector: a: \"Is\" is not a valid"),
        ] {
            let policy = read(json!({"ingress": [{"from": [peer, {"podSelector": {}}]}]}));
            assert!(policy.problems.len() == 1 && policy.problems[0].contains(expected), "{:?}", policy.problems);
            assert_eq!(policy.ingress.unwrap()[0].peers.as_ref().unwrap().len(), 1, "{peer}");
            let alone = read(json!({"ingress": [{"from": [peer]}]}));
            assert_eq!(alone.ingress.unwrap()[0].peers, Some(vec![]), "not everybody: {peer}");
        }
        for (port, expected) in [
            (json!({"port": 0}), "spec.ingress[0].ports[0]: ports must be between 1 and 65535"),
            (json!({"port": 65536}), "between"),
            (json!({"port": 1, "endPort": -1}), "between"),
            (json!({"port": 9, "endPort": 8}), "endPort: must be greater than or equal to `port`"),
            (json!({"port": "a", "endPort": 8}), "endPort: may not be specified when `port` is non-numeric"),
            (json!({"endPort": 8}), "endPort: may not be specified when `port` is not specified"),
            (json!({"port": 1, "protocol": "ICMP"}), "protocol: \"ICMP\" is none of TCP, UDP and SCTP"),
        ] {
            let policy = read(json!({"ingress": [{"ports": [port]}]}));
            assert!(policy.problems.len() == 1 && policy.problems[0].contains(expected), "{:?}", policy.problems);
            assert_eq!(policy.ingress.unwrap()[0].ports, Some(vec![]), "not all ports: {port}");
        }
        let nobody = read(json!({"podSelector": bad_selector}));
        assert_eq!((nobody.subject, nobody.problems.len()), (None, 1));
        let odd = read(json!({"policyTypes": ["Ingress", "Sideways"]}));
        assert!(odd.ingress.is_some() && odd.egress.is_none());
        assert_eq!(odd.problems, ["spec.policyTypes[1]: \"Sideways\" is neither Ingress nor Egress"]);
    }
}
