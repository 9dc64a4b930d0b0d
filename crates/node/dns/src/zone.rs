//! Answers for the cluster's own names. No IO.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;

use crate::data::{Data, Place, cluster_ips};

const TTL: u32 = 30;
const NEGATIVE_TTL: u32 = 5;
const VERSION: &str = "1.1.0";

/// What to say.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The name is not ours: ask others.
    NotOurs,
    /// The records asked for, and others that will be asked for next.
    Records {
        /// The answer.
        answers: Vec<Record>,
        /// Addresses of what the answer names.
        additional: Vec<Record>,
    },
    /// The name is another's; its addresses are to be looked up as well.
    Alias(Record, Name),
    /// The name exists, without such records.
    NoData,
    /// There is no such name.
    NoName,
}

/// The cluster's zone.
pub struct Zone {
    origin: Name,
    data: Data,
}

impl Zone {
    /// Answers below `domain`.
    pub fn new(domain: &str, data: Data) -> Result<Self, hickory_proto::ProtoError> {
        let mut origin = Name::from_str(domain)?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Self { origin, data })
    }

    /// What it knows.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The record that comes with negative answers.
    pub fn soa(&self) -> Record {
        let below = |label: &str| self.name(&[label]);
        let (server, mail) = (self.name(&["ns", "dns"]), below("hostmaster"));
        let soa = SOA::new(server, mail, 1, 7200, 1800, 86400, NEGATIVE_TTL);
        Record::from_rdata(self.origin.clone(), NEGATIVE_TTL, RData::SOA(soa))
    }

    /// The cluster's domain.
    pub fn origin(&self) -> &Name {
        &self.origin
    }

    /// Answers one question; `name` may be of any case.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let name = name.to_lowercase();
        if let Some(address) = reverse_address(&name) {
            return self.reverse(&name, address, kind);
        }
        if !self.origin.zone_of(&name) {
            return Answer::NotOurs;
        }
        let below = usize::from(name.num_labels() - self.origin.num_labels());
        let labels: Vec<String> = name.iter().take(below).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => self.apex(&name, kind),
            ["dns-version"] => match kind {
                RecordType::TXT => records(vec![record(&name, RData::TXT(TXT::new(vec![VERSION.into()])))]),
                _ => Answer::NoData,
            },
            ["svc" | "pod" | "dns"] | ["ns", "dns"] => Answer::NoData,
            [namespace, "svc" | "pod"] => self.exists(self.data.has_namespace(namespace)),
            [address, namespace, "pod"] => self.pod(&name, address, namespace, kind),
            [service, namespace, "svc"] => {
                self.with_service(namespace, service, |s| self.service(&name, s, namespace, service, kind))
            }
            [host, service, namespace, "svc"] => self
                .with_service(namespace, service, |s| self.below_service(&name, s, (host, service, namespace), kind)),
            [port, protocol, service, namespace, "svc"] => self.with_service(namespace, service, |s| {
                self.named_port(&name, s, (port, protocol), (service, namespace), kind)
            }),
            _ => Answer::NoName,
        }
    }

    fn name(&self, labels: &[&str]) -> Name {
        let mut name = self.origin.clone();
        for label in labels.iter().rev() {
            // A label that is too long cannot come from an object's name.
            name = name.prepend_label(*label).unwrap_or(name);
        }
        name
    }

    fn exists(&self, yes: bool) -> Answer {
        if yes { Answer::NoData } else { Answer::NoName }
    }

    fn with_service(&self, namespace: &str, service: &str, f: impl FnOnce(&Service) -> Answer) -> Answer {
        self.data.service(namespace, service).map_or(Answer::NoName, |s| f(&s))
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        match kind {
            RecordType::SOA => records(vec![self.soa()]),
            RecordType::NS => records(vec![record(name, RData::NS(NS(self.name(&["ns", "dns"]))))]),
            _ => Answer::NoData,
        }
    }

    fn pod(&self, name: &Name, label: &str, namespace: &str, kind: RecordType) -> Answer {
        let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
        let address = v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6));
        match address {
            Ok(address) if self.data.has_namespace(namespace) => addresses(name, [address], kind),
            _ => Answer::NoName,
        }
    }

    fn service(&self, name: &Name, service: &Service, namespace: &str, label: &str, kind: RecordType) -> Answer {
        let spec = service.spec.as_ref();
        if let Some(target) = spec.and_then(|s| s.external_name.as_deref()).filter(|_| is_external(service)) {
            let Ok(mut target) = Name::from_str(target) else { return Answer::NoName };
            target.set_fqdn(true);
            return Answer::Alias(record(name, RData::CNAME(CNAME(target.clone()))), target);
        }
        if kind == RecordType::SRV {
            return self.all_ports(name, service, namespace, label);
        }
        if is_headless(service) {
            let places = self.data.places(namespace, label);
            if places.is_empty() {
                // CoreDNS: a headless Service without endpoints has no name.
                return Answer::NoName;
            }
            return addresses(name, places.iter().map(|p| p.address), kind);
        }
        addresses(name, cluster_ips(service), kind)
    }

    fn below_service(&self, name: &Name, service: &Service, at: (&str, &str, &str), kind: RecordType) -> Answer {
        let (host, label, namespace) = at;
        // `_tcp.web...` exists when there is something below it.
        if host.starts_with('_') {
            return self.exists(service.spec.as_ref().is_some_and(|s| s.ports.is_some()));
        }
        let places = self.data.places(namespace, label);
        let here: Vec<IpAddr> = places.iter().filter(|p| p.host == host).map(|p| p.address).collect();
        if here.is_empty() { Answer::NoName } else { addresses(name, here, kind) }
    }

    fn all_ports(&self, name: &Name, service: &Service, namespace: &str, label: &str) -> Answer {
        self.srv(name, service, namespace, label, |_, _| true)
    }

    fn named_port(
        &self,
        name: &Name,
        service: &Service,
        wanted: (&str, &str),
        at: (&str, &str),
        kind: RecordType,
    ) -> Answer {
        let (Some(port), Some(protocol)) = (wanted.0.strip_prefix('_'), wanted.1.strip_prefix('_')) else {
            return Answer::NoName;
        };
        match self.srv(name, service, at.1, at.0, |n, p| n == port && p == protocol) {
            Answer::Records { .. } if kind != RecordType::SRV => Answer::NoData,
            Answer::NoData => Answer::NoName,
            answer => answer,
        }
    }

    fn srv(
        &self,
        name: &Name,
        service: &Service,
        namespace: &str,
        label: &str,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Answer {
        let (mut answers, mut additional) = (Vec::new(), Vec::new());
        if is_headless(service) {
            for Place { host, address, ports } in self.data.places(namespace, label) {
                let target = self.name(&[&host, label, namespace, "svc"]);
                let matching: Vec<_> = ports.iter().filter(|(n, p, _)| wanted(n, p)).collect();
                answers.extend(matching.iter().map(|(_, _, port)| srv_record(name, *port, &target)));
                if !matching.is_empty() {
                    additional.push(address_record(&target, address));
                }
            }
        } else {
            let target = self.name(&[label, namespace, "svc"]);
            for port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
                let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
                if let Ok(number) = u16::try_from(port.port)
                    && wanted(port.name.as_deref().unwrap_or(""), &protocol)
                {
                    answers.push(srv_record(name, number, &target));
                }
            }
            if !answers.is_empty() {
                additional.extend(cluster_ips(service).map(|ip| address_record(&target, ip)));
            }
        }
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additional } }
    }

    fn reverse(&self, name: &Name, address: IpAddr, kind: RecordType) -> Answer {
        let names: Vec<Name> = match self.data.service_at(address) {
            Some((namespace, service)) => vec![self.name(&[&service, &namespace, "svc"])],
            None => {
                let places = self.data.places_at(address);
                places.iter().map(|(host, service, ns)| self.name(&[host, service, ns, "svc"])).collect()
            }
        };
        match names.is_empty() {
            // Perhaps an address of the world outside.
            true => Answer::NotOurs,
            false if kind == RecordType::PTR => {
                records(names.into_iter().map(|target| record(name, RData::PTR(PTR(target)))).collect())
            }
            false => Answer::NoData,
        }
    }
}

fn is_external(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName")
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn records(answers: Vec<Record>) -> Answer {
    Answer::Records { answers, additional: Vec::new() }
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    match address {
        IpAddr::V4(ip) => record(name, RData::A(A(ip))),
        IpAddr::V6(ip) => record(name, RData::AAAA(AAAA(ip))),
    }
}

fn srv_record(name: &Name, port: u16, target: &Name) -> Record {
    record(name, RData::SRV(SRV::new(0, 100, port, target.clone())))
}

fn addresses(name: &Name, all: impl IntoIterator<Item = IpAddr>, kind: RecordType) -> Answer {
    let wanted = |ip: &IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let found: Vec<Record> = all.into_iter().filter(wanted).map(|ip| address_record(name, ip)).collect();
    if found.is_empty() { Answer::NoData } else { records(found) }
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    match labels.as_slice() {
        [d, c, b, a, "in-addr", "arpa"] => format!("{a}.{b}.{c}.{d}").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        [nibbles @ .., "ip6", "arpa"] if nibbles.len() == 32 => {
            let hex: String = nibbles.iter().rev().copied().collect();
            u128::from_str_radix(&hex, 16).ok().map(|n| IpAddr::V6(Ipv6Addr::from(n)))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Namespace;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kinit_client::informer::Store;
    use serde_json::{Value, json};

    pub fn zone() -> Zone {
        let (services, slices, namespaces) =
            (Store::<Service>::new(), Store::<EndpointSlice>::new(), Store::<Namespace>::new());
        let service = |name: &str, spec: Value| {
            services.apply(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}))
                    .unwrap(),
            );
        };
        service(
            "kubernetes",
            json!({"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}),
        );
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}));
        service("none", json!({"clusterIP": "None"}));
        service("out", json!({"type": "ExternalName", "externalName": "example.org"}));
        slices.apply(
            serde_json::from_value(json!({
                "metadata": {"name": "db-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
                "addressType": "IPv4", "ports": [{"name": "sql", "port": 15432, "protocol": "TCP"}],
                "endpoints": [
                    {"addresses": ["10.244.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.6"], "conditions": {"ready": true}},
                    {"addresses": ["10.244.1.7"], "hostname": "db-2", "conditions": {"ready": false}}
                ]
            }))
            .unwrap(),
        );
        service("many", json!({"clusterIP": "None", "ports": [{"name": "x", "port": 1}]}));
        let many: Vec<Value> =
            (0..200).map(|i| json!({"addresses": [format!("10.245.0.{i}")], "conditions": {"ready": true}})).collect();
        slices.apply(
            serde_json::from_value(json!({
                "metadata": {"name": "many-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "many"}},
                "addressType": "IPv4", "ports": [{"name": "x", "port": 1}], "endpoints": many
            }))
            .unwrap(),
        );
        namespaces.apply(serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap());
        services.mark_synced();
        slices.mark_synced();
        namespaces.mark_synced();
        Zone::new("cluster.local", Data::new(services, slices, namespaces)).unwrap()
    }

    fn ask(name: &str, kind: RecordType) -> String {
        let mut full = Name::from_str(name).unwrap();
        full.set_fqdn(true);
        match zone().answer(&full, kind) {
            Answer::Records { answers, .. } => {
                answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(", ")
            }
            Answer::Alias(_, target) => format!("alias {target}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn answers() {
        use RecordType::{A, AAAA, PTR, SOA, SRV, TXT};
        for (name, kind, expected) in [
            ("kubernetes.default.svc.cluster.local", A, "10.96.0.1"),
            ("KUBERNETES.default.svc.Cluster.Local", A, "10.96.0.1"),
            ("kubernetes.default.svc.cluster.local", AAAA, "NoData"),
            ("kubernetes.default.svc.cluster.local", SRV, "0 100 443 kubernetes.default.svc.cluster.local."),
            (
                "_https._tcp.kubernetes.default.svc.cluster.local",
                SRV,
                "0 100 443 kubernetes.default.svc.cluster.local.",
            ),
            ("_http._tcp.kubernetes.default.svc.cluster.local", SRV, "NoName"),
            ("_https._tcp.kubernetes.default.svc.cluster.local", A, "NoData"),
            ("nothing.default.svc.cluster.local", A, "NoName"),
            ("www.google.com.default.svc.cluster.local", A, "NoName"),
            ("www.google.com.cluster.local", A, "NoName"),
            ("www.google.com", A, "NotOurs"),
            ("db.default.svc.cluster.local", A, "10.244.1.5, 10.244.1.6"),
            ("db-0.db.default.svc.cluster.local", A, "10.244.1.5"),
            ("10-244-1-6.db.default.svc.cluster.local", A, "10.244.1.6"),
            ("db-2.db.default.svc.cluster.local", A, "NoName"),
            (
                "_sql._tcp.db.default.svc.cluster.local",
                SRV,
                "0 100 15432 db-0.db.default.svc.cluster.local., 0 100 15432 10-244-1-6.db.default.svc.cluster.local.",
            ),
            ("none.default.svc.cluster.local", A, "NoName"),
            ("out.default.svc.cluster.local", A, "alias example.org."),
            ("10-1-2-3.default.pod.cluster.local", A, "10.1.2.3"),
            ("10-1-2-3.nowhere.pod.cluster.local", A, "NoName"),
            ("default.svc.cluster.local", A, "NoData"),
            ("nowhere.svc.cluster.local", A, "NoName"),
            ("svc.cluster.local", A, "NoData"),
            ("dns-version.cluster.local", TXT, "1.1.0"),
            ("cluster.local", SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"),
            ("1.0.96.10.in-addr.arpa", PTR, "kubernetes.default.svc.cluster.local."),
            ("5.1.244.10.in-addr.arpa", PTR, "db-0.db.default.svc.cluster.local."),
            ("8.8.8.8.in-addr.arpa", PTR, "NotOurs"),
        ] {
            assert_eq!(ask(name, kind), expected, "{name} {kind}");
        }
        assert_eq!(zone().soa().ttl, 5);
    }
}
