//! Who answers for names that are not the cluster's: `hosts`, the servers of a stub domain, or the resolvers for all
//! others. What is wanted may change at any time; questions on their way end with those who were asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use kinit_component_base::metrics::global;
use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;

use crate::forward::{Forwarder, Said};
use crate::settings::{Hosts, Settings};

/// Seconds that clients may remember what `hosts` says: as long as other answers of the cluster.
const TTL: u32 = 30;

/// Where questions go.
pub struct Router {
    /// The host's resolvers.
    own: Arc<Forwarder>,
    now: RwLock<Arc<Routes>>,
    /// CoreDNS' names: settings that were taken, and that could not be.
    reloads: Counter,
    failures: Counter,
}

struct Routes {
    hosts: Hosts,
    stubs: Vec<(Name, Arc<Forwarder>)>,
    others: Arc<Forwarder>,
}

impl Router {
    /// All questions go to the host's resolvers until settings are taken.
    pub fn new(own: Forwarder) -> Self {
        let own = Arc::new(own);
        let routes = Routes { hosts: Hosts::default(), stubs: Vec::new(), others: own.clone() };
        let (reloads, failures) = (Counter::default(), Counter::default());
        let counters = [("coredns_reload", "Settings that were taken", &reloads)];
        let counters = counters.into_iter().chain([("coredns_reload_failed", "Settings with mistakes", &failures)]);
        counters.for_each(|(name, help, counter)| global().register(name, help, counter.clone()));
        Self { own, now: RwLock::new(Arc::new(routes)), reloads, failures }
    }

    /// Takes the settings in a ConfigMap's data, or none where there is no map. With a mistake everything stays as it
    /// is.
    pub fn take(&self, data: Option<&BTreeMap<String, String>>) -> Result<()> {
        let settings = data.map(Settings::parse).transpose().map_err(anyhow::Error::msg);
        let routes = settings.and_then(|settings| self.routes(settings.unwrap_or_default()));
        match routes {
            Ok(routes) => {
                *self.now.write() = Arc::new(routes);
                self.reloads.inc();
                Ok(())
            }
            Err(error) => {
                self.failures.inc();
                Err(error)
            }
        }
    }

    fn routes(&self, settings: Settings) -> Result<Routes> {
        let stub = |(name, servers): (Name, Vec<SocketAddr>)| {
            let forwarder = to(&servers).with_context(|| format!("prepare the servers of {name}"))?;
            Ok((name, Arc::new(forwarder)))
        };
        let stubs = settings.stubs.into_iter().map(stub).collect::<Result<_>>()?;
        let others = match settings.upstream.as_slice() {
            [] => self.own.clone(),
            servers => Arc::new(to(servers).context("prepare upstreamNameservers")?),
        };
        Ok(Routes { hosts: settings.hosts, stubs, others })
    }

    /// Looks a fully qualified name up.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Said {
        let routes = self.now.read().clone();
        let mut plain = name.to_lowercase();
        plain.set_fqdn(true);
        if let Some(answers) = routes.hosts.answer(&plain, name, kind) {
            return Said { code: ResponseCode::NoError, answers, soa: None };
        }
        let stub = routes.stubs.iter().find(|(domain, _)| domain.zone_of(&plain)).map(|(_, forwarder)| forwarder);
        stub.unwrap_or(&routes.others).ask(name, kind).await
    }
}

/// A forwarder to these servers, over UDP, and over TCP where an answer is large.
fn to(servers: &[SocketAddr]) -> Result<Forwarder> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    Forwarder::new(config, ResolverOpts::default())
}

impl Hosts {
    /// The records of a name that is here; none of another kind, so that nobody else is asked for them.
    fn answer(&self, name: &Name, asked: &Name, kind: RecordType) -> Option<Vec<Record>> {
        let record = |data: RData| Record::from_rdata(asked.clone(), TTL, data);
        if kind == RecordType::PTR {
            let name = self.names.get(&address_of(name)?)?;
            return Some(vec![record(RData::PTR(PTR(name.clone())))]);
        }
        let data = |address: &IpAddr| match (address, kind) {
            (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(*ip))),
            (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(*ip))),
            _ => None,
        };
        self.addresses.get(name).map(|known| known.iter().filter_map(data).map(record).collect())
    }
}

/// The address of a name below `in-addr.arpa` or `ip6.arpa`.
fn address_of(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode};
    use tokio::net::UdpSocket;

    use super::*;

    /// A server that answers every A question with one address.
    async fn server(answer: [u8; 4]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = vec![0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let mut message = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
                let query = question.queries[0].clone();
                message.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A(answer.into()))));
                message.add_query(query);
                socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
            }
        });
        address
    }

    async fn asked(router: &Router, name: &str, kind: RecordType) -> Vec<String> {
        let mut name: Name = name.parse().unwrap();
        name.set_fqdn(true);
        let said = router.ask(&name, kind).await;
        said.answers.iter().map(|record| record.data.to_string()).collect()
    }

    #[tokio::test]
    async fn every_name_goes_to_those_who_know_it() {
        let (own, corp, deep, other) = (
            server([192, 0, 2, 1]).await,
            server([192, 0, 2, 2]).await,
            server([192, 0, 2, 3]).await,
            server([192, 0, 2, 4]).await,
        );
        let router = Router::new(to(&[own]).unwrap());
        assert_eq!(asked(&router, "a.corp.example", RecordType::A).await, ["192.0.2.1"]);
        let mut data = BTreeMap::from([
            ("stubDomains".to_owned(), format!(r#"{{"corp.example": ["{corp}"], "deep.corp.example": ["{deep}"]}}"#)),
            ("hosts".to_owned(), "198.51.100.7 registry.example\n2001:db8::7 registry.example\n".to_owned()),
        ]);
        router.take(Some(&data)).unwrap();
        for (name, kind, want) in [
            ("A.corp.example", RecordType::A, vec!["192.0.2.2"]),
            ("corp.example", RecordType::A, vec!["192.0.2.2"]),
            ("x.deep.corp.example", RecordType::A, vec!["192.0.2.3"]),
            ("notcorp.example", RecordType::A, vec!["192.0.2.1"]),
            ("Registry.example", RecordType::A, vec!["198.51.100.7"]),
            ("registry.example", RecordType::AAAA, vec!["2001:db8::7"]),
            ("registry.example", RecordType::TXT, vec![]),
            ("7.100.51.198.in-addr.arpa", RecordType::PTR, vec!["registry.example."]),
        ] {
            assert_eq!(asked(&router, name, kind).await, want, "{name} {kind}");
        }
        // A mistake changes nothing; no map takes everything back.
        data.insert("upstreamNameservers".to_owned(), "[\"x\"]".to_owned());
        assert!(router.take(Some(&data)).is_err());
        assert_eq!(asked(&router, "b.corp.example", RecordType::A).await, ["192.0.2.2"]);
        data.insert("upstreamNameservers".to_owned(), format!("[\"{other}\"]"));
        router.take(Some(&data)).unwrap();
        assert_eq!(asked(&router, "else.example", RecordType::A).await, ["192.0.2.4"]);
        router.take(None).unwrap();
        assert_eq!(asked(&router, "c.corp.example", RecordType::A).await, ["192.0.2.1"]);
        assert_eq!(asked(&router, "registry.example", RecordType::A).await, ["192.0.2.1"]);
        assert_eq!((router.reloads.get(), router.failures.get()), (3, 1));
    }
}
