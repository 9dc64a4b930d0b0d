//! Which address a Service gets. No IO, no clock.

use std::net::Ipv4Addr;

use crate::pools::Pool;
use crate::request::Request;

/// When an object was made, and its uid for those made in the same second: the older of two Services has the smaller.
pub type Born = (String, String);

/// What another Service has to do with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `NAMESPACE/NAME` of the other Service.
    pub service: String,
    /// Its age.
    pub born: Born,
    /// It has the address; otherwise it asks for it in vain so far.
    pub holds: bool,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asking<'a> {
    /// Its age.
    pub born: Born,
    /// What its status has.
    pub held: &'a [Ipv4Addr],
    /// What it asks for.
    pub request: &'a Request,
}

/// An address of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: Ipv4Addr,
    /// The pool's name.
    pub pool: String,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Somebody has it, or is first in the line.
    #[error("{address} {} Service {service}", if *.holds { "belongs to" } else { "was asked for earlier by" })]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        service: String,
        /// It has it.
        holds: bool,
    },
    /// The operator gives away other addresses.
    #[error("{0} lies in no pool; pools are {1}")]
    Outside(Ipv4Addr, String),
    /// Address and pool do not go together.
    #[error("{0} lies in pool {1}, and not in {2}, which is asked for")]
    OtherPool(Ipv4Addr, String, String),
    /// No such pool.
    #[error("there is no pool {0:?}; pools are {1}")]
    NoPool(String, String),
    /// All are for those that name them.
    #[error("no pool gives addresses to who does not name it; pools are {0}")]
    NoDefault(String),
    /// Everything is given away.
    #[error("no address is left in {0}")]
    Exhausted(String),
}

/// The address that a Service is to have. `others` tells of an address what other Services have to do with it.
///
/// Who holds an address keeps it while it is what is asked for. When two hold one (two leaders, somebody's own edit),
/// the older keeps it; when two ask for one that is free, the older gets it.
pub fn allocate(
    pools: &[Pool],
    asking: &Asking<'_>,
    others: impl Fn(Ipv4Addr) -> Vec<Claim>,
) -> Result<Grant, Refusal> {
    let names = || list(pools.iter());
    let pool_of = |address: Ipv4Addr| pools.iter().find(|pool| pool.contains(address));
    if let Some(name) = &asking.request.pool
        && !pools.iter().any(|pool| pool.name == *name)
    {
        return Err(Refusal::NoPool(name.clone(), names()));
    }
    if let Some(address) = asking.request.address {
        let pool = pool_of(address).ok_or_else(|| Refusal::Outside(address, names()))?;
        if let Some(name) = asking.request.pool.as_ref().filter(|name| **name != pool.name) {
            return Err(Refusal::OtherPool(address, pool.name.clone(), name.clone()));
        }
        return match before(asking, address, &others(address)) {
            Some(claim) => Err(Refusal::Taken { address, service: claim.service.clone(), holds: claim.holds }),
            None => Ok(Grant { address, pool: pool.name.clone() }),
        };
    }
    // A pool that is no more for everybody does not take back what it gave.
    let asked = |pool: &&Pool| asking.request.pool.as_ref().is_none_or(|name| *name == pool.name);
    if let [address] = asking.held
        && let Some(pool) = pool_of(*address).filter(asked)
        && before(asking, *address, &others(*address)).is_none()
    {
        return Ok(Grant { address: *address, pool: pool.name.clone() });
    }
    let open = |pool: &&Pool| asked(pool) && (pool.auto_assign || asking.request.pool.is_some());
    for pool in pools.iter().filter(open) {
        if let Some(address) = pool.candidates().find(|address| others(*address).is_empty()) {
            return Ok(Grant { address, pool: pool.name.clone() });
        }
    }
    let open: Vec<&Pool> = pools.iter().filter(open).collect();
    Err(if open.is_empty() { Refusal::NoDefault(names()) } else { Refusal::Exhausted(list(open.into_iter())) })
}

/// The first of those that come before who asks.
fn before<'a>(asking: &Asking<'_>, address: Ipv4Addr, others: &'a [Claim]) -> Option<&'a Claim> {
    let holds = asking.held.contains(&address);
    // Having comes before asking, and age decides among equals.
    let own = (!holds, &asking.born);
    others.iter().filter(|claim| (!claim.holds, &claim.born) < own).min_by_key(|claim| (!claim.holds, &claim.born))
}

fn list<'a>(pools: impl Iterator<Item = &'a Pool>) -> String {
    let text = |pool: &Pool| {
        let ranges: Vec<String> = pool.ranges.iter().map(ToString::to_string).collect();
        format!("{} ({})", pool.name, ranges.join(", "))
    };
    let all: Vec<String> = pools.map(text).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pools::tests::pools;

    fn born(age: u32) -> Born {
        (format!("2026-01-01T00:00:{age:02}Z"), "u".to_owned())
    }

    fn claim(service: &str, age: u32, holds: bool) -> Claim {
        Claim { service: service.to_owned(), born: born(age), holds }
    }

    /// (held, address, pool) of who asks, at the age of 5; what others have; the outcome.
    #[test]
    fn who_gets_what() {
        let pools = pools(
            "- {name: small, addresses: [192.0.2.1-192.0.2.3]}\n- {name: gold, addresses: [198.51.100.1], autoAssign: false}",
        );
        let full = [("192.0.2.1", "a", 1, true), ("192.0.2.2", "b", 1, true), ("192.0.2.3", "c", 9, true)];
        type Others<'a> = &'a [(&'a str, &'a str, u32, bool)];
        let table: [(&[&str], &str, &str, Others<'_>, &str); 22] = [
            (&[], "", "", &[], "192.0.2.1 small"),
            (&[], "", "", &full[..1], "192.0.2.2 small"),
            // An address that somebody asks for is left to it, whoever is older.
            (&[], "", "", &[("192.0.2.1", "x", 9, false)], "192.0.2.2 small"),
            (&[], "", "", &full, "no address is left in small (192.0.2.1-192.0.2.3)"),
            (&[], "", "gold", &full, "198.51.100.1 gold"),
            (&[], "", "gold", &[("198.51.100.1", "x", 1, true)], "no address is left in gold"),
            (&[], "", "lead", &[], "there is no pool \"lead\"; pools are small"),
            (&[], "192.0.2.2", "", &[], "192.0.2.2 small"),
            (&[], "192.0.2.2", "", &full, "192.0.2.2 belongs to Service b"),
            // Younger, but it has it.
            (&[], "192.0.2.3", "", &full, "192.0.2.3 belongs to Service c"),
            (&[], "198.51.100.1", "", &[], "198.51.100.1 gold"),
            (&[], "198.51.100.1", "small", &[], "lies in pool gold, and not in small"),
            (&[], "203.0.113.1", "", &[], "203.0.113.1 lies in no pool; pools are small"),
            (&[], "192.0.2.2", "", &[("192.0.2.2", "x", 1, false)], "was asked for earlier by Service x"),
            (&[], "192.0.2.2", "", &[("192.0.2.2", "x", 9, false)], "192.0.2.2 small"),
            // What it has it keeps.
            (&["192.0.2.3"], "", "", &[], "192.0.2.3 small"),
            (&["198.51.100.1"], "", "", &[], "198.51.100.1 gold"),
            (&["192.0.2.3"], "192.0.2.2", "", &[], "192.0.2.2 small"),
            (&["192.0.2.3"], "", "gold", &[], "198.51.100.1 gold"),
            (&["203.0.113.1"], "", "", &[], "192.0.2.1 small"),
            // Two have one: the older keeps it.
            (&["192.0.2.3"], "", "", &[("192.0.2.3", "x", 9, true)], "192.0.2.3 small"),
            (&["192.0.2.3"], "192.0.2.3", "", &[("192.0.2.3", "x", 1, true)], "192.0.2.3 belongs to Service x"),
        ];
        for (held, address, pool, others, expected) in table {
            let held: Vec<Ipv4Addr> = held.iter().map(|a| a.parse().unwrap()).collect();
            let request = Request { address: address.parse().ok(), pool: (!pool.is_empty()).then(|| pool.to_owned()) };
            let mut all: BTreeMap<Ipv4Addr, Vec<Claim>> = BTreeMap::new();
            for (address, service, age, holds) in others {
                all.entry(address.parse().unwrap()).or_default().push(claim(service, *age, *holds));
            }
            let asking = Asking { born: born(5), held: &held, request: &request };
            let found = match allocate(&pools, &asking, |a| all.get(&a).cloned().unwrap_or_default()) {
                Ok(grant) => format!("{} {}", grant.address, grant.pool),
                Err(refusal) => refusal.to_string(),
            };
            assert!(found.contains(expected), "{held:?} {request:?} {others:?}: {found}, not {expected}");
        }
    }

    #[test]
    fn a_younger_double_gets_another() {
        let pools = pools("- {name: small, addresses: [192.0.2.1-192.0.2.3]}");
        let (held, request) = ([Ipv4Addr::new(192, 0, 2, 3)], Request::default());
        let asking = Asking { born: born(5), held: &held, request: &request };
        let others = |a: Ipv4Addr| if a == held[0] { vec![claim("x", 1, true)] } else { Vec::new() };
        assert_eq!(allocate(&pools, &asking, others).unwrap().address, Ipv4Addr::new(192, 0, 2, 1));
    }

    #[test]
    fn without_a_default_pool() {
        let pools = pools("- {name: gold, addresses: [198.51.100.1], autoAssign: false}");
        let asking = Asking { born: born(5), held: &[], request: &Request::default() };
        let refusal = allocate(&pools, &asking, |_| Vec::new()).unwrap_err();
        assert_eq!(refusal, Refusal::NoDefault("gold (198.51.100.1)".to_owned()));
    }
}
