//! Who has which address: what the Services' statuses say, and what was granted a moment ago and is not in them yet.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kinit_client::informer::{Store, key_of};
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::allocate::{Asking, Born, Claim, Grant, Refusal, allocate};
use crate::pools::Pool;
use crate::request::{Request, held, is_wanted, request};

const HOLDS: &str = "balancer address";
const ASKS: &str = "balancer address asked for";
const PENDING: &str = "without balancer address";
/// The one value of the index [`PENDING`].
const YES: &str = "yes";

/// The ledger.
pub struct Ledger {
    services: Arc<Store<Service>>,
    pools: Vec<Pool>,
    /// Grants by Service, with its uid.
    granted: Mutex<HashMap<String, (String, Ipv4Addr)>>,
}

impl Ledger {
    /// Over these Services.
    pub fn new(services: Arc<Store<Service>>, pools: Vec<Pool>) -> Self {
        // What others than this program wrote is taken too.
        services.index(HOLDS, |service| held(service).iter().map(ToString::to_string).collect());
        services.index(ASKS, |service| asked(service).iter().map(ToString::to_string).collect());
        services.index(PENDING, |service| {
            if is_wanted(service) && held(service).is_empty() { vec![YES.to_owned()] } else { Vec::new() }
        });
        Self { services, pools, granted: Mutex::default() }
    }

    /// The pools.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// Finds an address for a Service and notes that it is given away.
    pub fn grant(&self, service: &Service, request: &Request) -> Result<Grant, Refusal> {
        let key = key_of(service);
        let mut granted = self.granted.lock();
        let own = held(service);
        let asking = Asking { born: born(service), held: &own, request };
        let grant = allocate(&self.pools, &asking, |address| self.others(&granted, &key, address))?;
        granted.insert(key, (service.uid().unwrap_or_default(), grant.address));
        Ok(grant)
    }

    /// Forgets a grant that the Service's status shows, or that cannot come to be.
    pub fn settle(&self, key: &str) {
        let service = self.services.get(key);
        let mut granted = self.granted.lock();
        let Some((uid, address)) = granted.get(key) else { return };
        let open =
            service.is_some_and(|s| s.uid().as_ref() == Some(uid) && is_wanted(&s) && !held(&s).contains(address));
        if !open {
            granted.remove(key);
        }
    }

    /// Forgets a grant: the Service is to have no address.
    pub fn withdraw(&self, key: &str) {
        self.granted.lock().remove(key);
    }

    /// Services that wait for an address, the oldest first.
    pub fn pending(&self) -> Vec<String> {
        let mut waiting = self.services.by_index(PENDING, YES);
        waiting.sort_by_key(|service| born(service));
        waiting.iter().map(|service| key_of(&**service)).collect()
    }

    /// How many addresses of a pool are given away.
    pub fn used(&self, pool: &Pool) -> usize {
        self.services.list().iter().filter(|service| held(service).iter().any(|a| pool.contains(*a))).count()
    }

    fn others(&self, granted: &HashMap<String, (String, Ipv4Addr)>, own: &str, address: Ipv4Addr) -> Vec<Claim> {
        let value = address.to_string();
        let claim = |service: &Arc<Service>, holds| Claim { service: key_of(&**service), born: born(service), holds };
        let mut claims: Vec<Claim> = Vec::new();
        claims.extend(self.services.by_index(HOLDS, &value).iter().map(|service| claim(service, true)));
        for (key, (uid, at)) in granted.iter().filter(|(_, (_, at))| *at == address) {
            let known = self.services.get(key).filter(|s| s.uid().as_ref() == Some(uid) && !held(s).contains(at));
            claims.extend(known.iter().map(|service| claim(service, true)));
        }
        claims.extend(self.services.by_index(ASKS, &value).iter().map(|service| claim(service, false)));
        claims.retain(|claim| claim.service != own);
        claims
    }
}

/// The address that a Service asks for and does not have.
fn asked(service: &Service) -> Option<Ipv4Addr> {
    let address = Some(service).filter(|s| is_wanted(s)).and_then(|s| request(s).ok())?.address?;
    (!held(service).contains(&address)).then_some(address)
}

fn born(service: &Service) -> Born {
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (created.unwrap_or_default(), service.uid().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pools::tests::pools;
    use crate::request::tests::service;
    use serde_json::json;

    fn balanced(name: &str, ingress: &[&str]) -> Service {
        service(json!({"name": name, "uid": name}), json!({"type": "LoadBalancer"}), ingress)
    }

    #[test]
    fn what_was_granted_is_given_away_before_it_is_seen() {
        let store = Store::new();
        let ledger = Ledger::new(store.clone(), pools("- {name: a, addresses: [192.0.2.1-192.0.2.2]}"));
        for name in ["s1", "s2", "s3"] {
            store.apply(balanced(name, &[]));
        }
        assert_eq!(ledger.pending(), ["n/s1", "n/s2", "n/s3"]);
        let grant =
            |name: &str| ledger.grant(&store.get(name).unwrap(), &Request::default()).map(|g| g.address.octets()[3]);
        assert_eq!((grant("n/s1"), grant("n/s1"), grant("n/s2")), (Ok(1), Ok(1), Ok(2)));
        assert!(grant("n/s3").is_err());
        // It is seen, and still given away.
        store.apply(balanced("s1", &["192.0.2.1"]));
        ledger.settle("n/s1");
        assert!(grant("n/s3").is_err());
        assert_eq!((ledger.used(&ledger.pools()[0]), ledger.pending().len()), (1, 2));
        // Not written after all, or gone with its Service: free again.
        ledger.withdraw("n/s2");
        assert_eq!(grant("n/s3"), Ok(2));
        store.remove("n/s3");
        assert_eq!(grant("n/s2"), Ok(2));
    }
}
