//! The endpoints of the `kubernetes` Service: every live server holds a lease below `/registry/masterleases/`; whoever
//! looks writes down whose leases are there (upstream's lease endpoint reconciler).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::objects::{ensure, settle};
use crate::server::Server;

const LEASES: &str = "masterleases/";
const RENEW: Duration = Duration::from_secs(5);
const LIFE: i64 = 12;

fn key(server: &Server) -> String {
    format!("{LEASES}{}", server.options.advertised())
}

/// Renews our lease and keeps the endpoints right until shutdown.
pub async fn run(server: &Arc<Server>) {
    loop {
        if let Err(error) = once(server).await {
            tracing::warn!(error = format!("{error:#}"), "reconcile the kubernetes endpoints");
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(RENEW) => {}
        }
    }
}

async fn once(server: &Server) -> Result<()> {
    let lease = json!({"port": server.options.secure_port}).to_string();
    server.store.raw_put_with_ttl(&key(server), lease.into_bytes(), LIFE).await?;
    write(server).await
}

async fn write(server: &Server) -> Result<()> {
    let live: BTreeSet<IpAddr> = server
        .store
        .raw_list(LEASES)
        .await?
        .iter()
        .filter_map(|(key, _)| key.rsplit('/').next()?.parse().ok())
        .collect();
    let port = server.options.secure_port;
    let endpoints = endpoints(&live, port);
    if !ensure(server, "services/endpoints/", endpoints.clone()).await?
        && !same(server, "services/endpoints/", "subsets", &endpoints)
    {
        settle(server, "services/endpoints/", "default/kubernetes", |v| take(v, &endpoints, &["subsets"])).await?;
    }
    let slice = slice(&live, port);
    if !ensure(server, "endpointslices/", slice.clone()).await? && !same(server, "endpointslices/", "endpoints", &slice)
    {
        settle(server, "endpointslices/", "default/kubernetes", |v| {
            take(v, &slice, &["endpoints", "ports", "addressType"])
        })
        .await?;
    }
    Ok(())
}

fn same(server: &Server, prefix: &str, key: &str, wanted: &Value) -> bool {
    let have = server.store.cache(prefix).and_then(|c| c.last_known("default/kubernetes")).map(|e| e.value());
    have.is_some_and(|have| have.get(key) == wanted.get(key))
}

fn take(value: &mut Value, wanted: &Value, keys: &[&str]) -> bool {
    let mut changed = false;
    for key in keys {
        if value.get(*key) != wanted.get(*key) {
            value[*key] = wanted[*key].clone();
            changed = true;
        }
    }
    changed
}

fn endpoints(live: &BTreeSet<IpAddr>, port: u16) -> Value {
    let addresses: Vec<Value> = live.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": addresses, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]})
}

fn slice(live: &BTreeSet<IpAddr>, port: u16) -> Value {
    let endpoints: Vec<Value> =
        live.iter().map(|ip| json!({"addresses": [ip.to_string()], "conditions": {"ready": true}})).collect();
    let family = if live.iter().next().is_some_and(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": endpoints, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]})
}

/// Ends our lease, so that nobody is sent to a server that is going.
pub async fn leave(server: &Server) {
    let result = async {
        server.store.raw_delete(&key(server)).await?;
        write(server).await
    }
    .await;
    if let Err(error) = result {
        tracing::warn!(error = format!("{error:#}"), "leave the kubernetes endpoints");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinit_apimachinery::meta::Meta;

    #[test]
    fn endpoints_are_sorted_and_complete() {
        let live: BTreeSet<IpAddr> = ["10.0.0.3", "10.0.0.1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(endpoints(&live, 6443)["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(slice(&live, 6443).name(), "kubernetes");
    }
}
