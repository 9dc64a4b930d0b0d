//! Cluster IPs: one `IPAddress` object each, as upstream's MultiCIDRServiceAllocator keeps them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::{ApiError, time};
use kinit_storage::Error as StoreError;
use rand::Rng;
use serde_json::{Value, json};

use super::{Claim, Taking};
use crate::registry::ownership::record_own;
use crate::registry::{Request, storage_error};
use crate::server::Server;

const PREFIX: &str = "ipaddresses/";
const TRIES: usize = 256;

/// Sets clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy, and claims the addresses.
pub async fn allocate(
    request: &Request,
    service: &mut Value,
    old: Option<&Value>,
    taking: &mut Taking,
) -> Result<(), ApiError> {
    let server = &request.server;
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        if let Some(spec) = service.object_at(&["spec"]) {
            for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.shift_remove(key);
            }
        }
        return Ok(());
    }
    let held = old.map(|o| strings(o.at(&["spec", "clusterIPs"]))).unwrap_or_default();
    let mut wanted = strings(service.at(&["spec", "clusterIPs"]));
    let single = service.str_at(&["spec", "clusterIP"]).to_owned();
    if wanted.is_empty() && !single.is_empty() {
        wanted.push(single.clone());
    }
    // An update that leaves the address out keeps it.
    if wanted.is_empty() && !held.is_empty() && old.is_some_and(|o| o.str_at(&["spec", "type"]) != "ExternalName") {
        wanted.clone_from(&held);
    }
    let families = families(server, service, &wanted)?;
    if wanted.first().map(String::as_str) == Some("None") {
        set(service, &["None".to_owned()], &families);
        return Ok(());
    }
    let mut addresses = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let range = range_of(server, family).ok_or_else(|| no_range(family))?;
        match wanted.get(i) {
            Some(address) if held.contains(address) => addresses.push(address.clone()),
            Some(address) => {
                claim_exact(server, service, address, range, taking).await?;
                addresses.push(address.clone());
            }
            None => {
                addresses.push(claim_any(server, service, range, taking).await?);
            }
        }
    }
    set(service, &addresses, &families);
    Ok(())
}

fn no_range(family: &str) -> ApiError {
    let mut errors = FieldErrors::default();
    errors.invalid("spec.ipFamilies[0]", &family.into(), "not configured on this cluster");
    match errors.into_result("", "Service", "") {
        Err(error) => error,
        Ok(()) => ApiError::internal("no range"),
    }
}

fn set(service: &mut Value, addresses: &[String], families: &[String]) {
    let policy = service.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    if let Some(spec) = service.object_at(&["spec"]) {
        spec.insert("clusterIP".into(), addresses.first().cloned().unwrap_or_default().into());
        spec.insert("clusterIPs".into(), addresses.iter().cloned().collect());
        spec.insert("ipFamilies".into(), families.iter().cloned().collect());
        if policy.is_empty() {
            spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
        }
    }
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn range_of(server: &Server, wanted: &str) -> Option<IpNet> {
    server.options.service_cluster_ip_range.iter().find(|r| family(&r.addr()) == wanted).copied()
}

/// The families a service has: what it says, what its addresses say, else the cluster's first; two when its policy
/// asks.
fn families(server: &Server, service: &Value, wanted: &[String]) -> Result<Vec<String>, ApiError> {
    let ranges: Vec<String> =
        server.options.service_cluster_ip_range.iter().map(|r| family(&r.addr()).to_owned()).collect();
    let mut out = strings(service.at(&["spec", "ipFamilies"]));
    if out.is_empty() {
        for address in wanted.iter().filter(|a| *a != "None") {
            let parsed: IpAddr = address
                .parse()
                .map_err(|_| invalid(address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))?;
            out.push(family(&parsed).to_owned());
        }
    }
    if out.is_empty() {
        out.extend(ranges.first().cloned());
    }
    let policy = service.str_at(&["spec", "ipFamilyPolicy"]);
    if policy == "RequireDualStack" && ranges.len() < 2 {
        let mut errors = FieldErrors::default();
        errors.invalid("spec.ipFamilyPolicy", &policy.into(), "this cluster is not configured for dual-stack services");
        errors.into_result("", "Service", service.name())?;
    }
    if matches!(policy, "RequireDualStack" | "PreferDualStack") && out.len() == 1 {
        out.extend(ranges.into_iter().find(|r| *r != out[0]));
    }
    Ok(out)
}

fn invalid(address: &str, detail: &str) -> ApiError {
    let mut errors = FieldErrors::default();
    errors.invalid("spec.clusterIPs", &json!([address]), detail);
    match errors.into_result("", "Service", "") {
        Err(error) => error,
        Ok(()) => ApiError::internal("no error"),
    }
}

async fn claim_exact(
    server: &Server,
    service: &Value,
    address: &str,
    range: IpNet,
    taking: &mut Taking,
) -> Result<(), ApiError> {
    let parsed: IpAddr = address
        .parse()
        .map_err(|_| invalid(address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))?;
    if !range.contains(&parsed) || parsed == range.network() || (parsed.is_ipv4() && parsed == range.broadcast()) {
        let detail = format!(
            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
        );
        return Err(invalid(address, &detail));
    }
    if claim(server, service, &parsed, taking).await? {
        return Ok(());
    }
    Err(invalid(address, &format!("failed to allocate IP {address}: provided IP is already allocated")))
}

/// A free address: random tries in the upper part of the range first, so that the lower part stays for fixed ones
/// (upstream's `ServiceNodePort`/IP static and dynamic bands), then in order.
async fn claim_any(server: &Server, service: &Value, range: IpNet, taking: &mut Taking) -> Result<String, ApiError> {
    let hosts = host_count(range);
    let band = (hosts / 16).clamp(16, 256).min(hosts.saturating_sub(1));
    for _ in 0..TRIES {
        let offset = if hosts > band {
            rand::rng().random_range(band..hosts)
        } else {
            rand::rng().random_range(0..hosts.max(1))
        };
        let address = nth(range, offset + 1);
        if claim(server, service, &address, taking).await? {
            return Ok(address.to_string());
        }
    }
    for offset in 0..hosts.min(1 << 16) {
        let address = nth(range, offset + 1);
        let known = server.store.cache(PREFIX).is_some_and(|c| !matches!(c.get(&address.to_string()), Ok(None)));
        if !known && claim(server, service, &address, taking).await? {
            return Ok(address.to_string());
        }
    }
    Err(ApiError::internal(format!("failed to allocate a serviceIP: range is full: {range}")))
}

fn host_count(range: IpNet) -> u64 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(32);
    let all = 1u64 << bits;
    if range.addr().is_ipv4() { all.saturating_sub(2) } else { all.saturating_sub(1) }
}

/// The address `n` above the network's.
pub fn nth(range: IpNet, n: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add(u32::try_from(n).unwrap_or(0))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add(u128::from(n))).into(),
    }
}

async fn claim(server: &Server, service: &Value, address: &IpAddr, taking: &mut Taking) -> Result<bool, ApiError> {
    let failed = |error| match server.registry.find("", "v1", "services") {
        Some(desc) => storage_error(error, &desc, service.name()),
        None => ApiError::internal(error),
    };
    if taking.dry_run {
        return Ok(server.store.get(PREFIX, &address.to_string()).await.map_err(failed)?.is_none());
    }
    let mut object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": time::format(Timestamp::now()), "generation": 1,
            "labels": {"ipaddress.kubernetes.io/ip-family": family(address),
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": service.namespace(), "name": service.name()}}});
    record_own(&mut object, None, "");
    match server.store.create(PREFIX, &address.to_string(), &object, None).await {
        Ok(_) => {
            taking.took(Claim::Address(address.to_string()));
            Ok(true)
        }
        Err(StoreError::Exists) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Gives an address back.
pub async fn release(server: &Server, address: &str) {
    let entry = match server.store.get(PREFIX, address).await {
        Ok(Some(entry)) => entry,
        Ok(None) => return,
        Err(error) => return tracing::warn!(%error, address, "read an IPAddress to release"),
    };
    if let Err(error) = server.store.delete(PREFIX, address, entry.revision).await {
        tracing::warn!(%error, address, "release an IPAddress");
    }
}

/// Releases addresses whose service is not there any more, or has another address, when they are older than a minute.
pub async fn sweep(server: &Server) {
    let (Some(cache), Some(services)) = (server.store.cache(PREFIX), server.store.cache("services/specs/")) else {
        return;
    };
    // One that cannot be read is not given back: nobody knows whose it is.
    for entry in cache.all_last_known("", |_| true).0 {
        let object = entry.value();
        if object.label("ipaddress.kubernetes.io/managed-by") != Some("ipallocator.k8s.io") {
            continue;
        }
        let age = time::parse(object.str_at(&["metadata", "creationTimestamp"]))
            .map_or(0, |t| Timestamp::now().as_second() - t.as_second());
        let reference = |k: &str| object.str_at(&["spec", "parentRef", k]).to_owned();
        let key = format!("{}/{}", reference("namespace"), reference("name"));
        let service = match services.get(&key) {
            Ok(service) => service,
            Err(error) => {
                tracing::error!(%error, address = object.name(), "an address is kept: whether it is used nobody can tell");
                continue;
            }
        };
        let used =
            service.is_some_and(|s| strings(s.value().at(&["spec", "clusterIPs"])).contains(&object.name().to_owned()));
        if !used && age > 60 {
            tracing::info!(address = object.name(), "release an address that no service has");
            release(server, object.name()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_hosts() {
        let range: IpNet = "10.96.0.0/12".parse().unwrap();
        assert_eq!(host_count(range), (1 << 20) - 2);
        assert_eq!(nth(range, 1).to_string(), "10.96.0.1");
        assert_eq!(host_count("10.0.0.0/30".parse().unwrap()), 2);
        assert_eq!(nth("fd00::/112".parse().unwrap(), 10).to_string(), "fd00::a");
    }
}
