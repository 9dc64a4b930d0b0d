//! Node ports: one raw key each below `/registry/ranges/servicenodeports/`.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use rand::Rng;
use serde_json::{Value, json};

use super::{Claim, Taking};
use crate::registry::Request;
use crate::server::Server;

const PREFIX: &str = "ranges/servicenodeports/";

/// The ports a service holds.
pub fn of(service: &Value) -> Vec<i64> {
    let mut out: Vec<i64> = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("nodePort").and_then(Value::as_i64))
        .chain(service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_i64))
        .filter(|p| *p > 0)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn needs(service: &Value) -> bool {
    match service.str_at(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// Gives every port of a NodePort or LoadBalancer service its node port.
pub async fn allocate(
    request: &Request,
    service: &mut Value,
    old: Option<&Value>,
    taking: &mut Taking,
) -> Result<(), ApiError> {
    let server = &request.server;
    let held = old.map(of).unwrap_or_default();
    let owner = json!({"namespace": service.namespace(), "name": service.name()}).to_string();
    let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
    let wants = needs(service);
    let mut given: Vec<(i64, String)> = Vec::new();
    for i in 0..count {
        let port = &service["spec"]["ports"][i];
        let asked = port.get("nodePort").and_then(Value::as_i64).unwrap_or(0);
        let protocol = port.str_at(&["protocol"]).to_owned();
        if asked > 0 {
            let ours = held.contains(&asked) || given.iter().any(|(p, _)| *p == asked);
            if !ours {
                claim_exact(server, asked, i, &owner, service.name(), taking).await?;
            }
            given.push((asked, protocol));
            continue;
        }
        if !wants {
            continue;
        }
        // The same port number for TCP and UDP shares one node port, as upstream does for DNS.
        let number = port.get("port").and_then(Value::as_i64);
        let kept = old.and_then(|o| matching(o, port));
        let twin = service["spec"]["ports"].as_array().into_iter().flatten().take(i).find_map(|p| {
            let same = p.get("port").and_then(Value::as_i64) == number && p.str_at(&["protocol"]) != protocol;
            p.get("nodePort").and_then(Value::as_i64).filter(|_| same)
        });
        let chosen = match kept.or(twin) {
            Some(port) => port,
            None => claim_any(server, &owner, taking).await?,
        };
        given.push((chosen, protocol));
        service["spec"]["ports"][i]["nodePort"] = chosen.into();
    }
    let local = service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
        && service.str_at(&["spec", "type"]) == "LoadBalancer";
    if local && service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_i64).unwrap_or(0) == 0 {
        let kept = old.and_then(|o| o.at(&["spec", "healthCheckNodePort"])).and_then(Value::as_i64);
        let port = match kept {
            Some(port) => port,
            None => claim_any(server, &owner, taking).await?,
        };
        service["spec"]["healthCheckNodePort"] = port.into();
    }
    Ok(())
}

fn matching(old: &Value, port: &Value) -> Option<i64> {
    old["spec"]["ports"].as_array()?.iter().find_map(|p| {
        let same = p.get("port") == port.get("port") && p.str_at(&["protocol"]) == port.str_at(&["protocol"]);
        p.get("nodePort").and_then(Value::as_i64).filter(|_| same)
    })
}

fn refused(index: usize, port: i64, detail: &str, name: &str) -> ApiError {
    let mut errors = FieldErrors::default();
    errors.invalid(&format!("spec.ports[{index}].nodePort"), &port.into(), detail);
    match errors.into_result("", "Service", name) {
        Err(error) => error,
        Ok(()) => ApiError::internal("no error"),
    }
}

async fn claim_exact(
    server: &Server,
    port: i64,
    index: usize,
    owner: &str,
    name: &str,
    taking: &mut Taking,
) -> Result<(), ApiError> {
    let (low, high) = server.options.service_node_port_range;
    if !(i64::from(low)..=i64::from(high)).contains(&port) {
        let detail = format!("provided port is not in the valid range. The range of valid ports is {low}-{high}");
        return Err(refused(index, port, &detail, name));
    }
    if claim(server, port, owner, taking).await? {
        return Ok(());
    }
    Err(refused(index, port, "provided port is already allocated", name))
}

async fn claim(server: &Server, port: i64, owner: &str, taking: &mut Taking) -> Result<bool, ApiError> {
    let failed = |e| ApiError::internal(format!("allocate a node port: {e}"));
    let key = format!("{PREFIX}{port}");
    let claimed = if taking.dry_run {
        // Nothing in etcd tells one port of a dry run from the next.
        !taking.has(&Claim::Port(port)) && server.store.raw_get(&key).await.map_err(failed)?.0.is_none()
    } else {
        server.store.raw_swap(&key, 0, owner.as_bytes().to_vec()).await.map_err(failed)?
    };
    if claimed {
        taking.took(Claim::Port(port));
    }
    Ok(claimed)
}

async fn claim_any(server: &Server, owner: &str, taking: &mut Taking) -> Result<i64, ApiError> {
    let (low, high) = server.options.service_node_port_range;
    let (low, high) = (i64::from(low), i64::from(high));
    // The lowest ports are left for those who ask for one by number, as upstream's static band.
    let band = ((high - low + 1) / 32).clamp(16, 128).min((high - low) / 2);
    for _ in 0..128 {
        let port = rand::rng().random_range(low + band..=high);
        if claim(server, port, owner, taking).await? {
            return Ok(port);
        }
    }
    for port in low..=high {
        if claim(server, port, owner, taking).await? {
            return Ok(port);
        }
    }
    Err(ApiError::internal(format!("failed to allocate a nodePort: range is full: {low}-{high}")))
}

/// Gives a port back.
pub async fn release(server: &Server, port: i64) {
    if let Err(error) = server.store.raw_delete(&format!("{PREFIX}{port}")).await {
        tracing::warn!(%error, port, "release a node port");
    }
}

/// Releases ports whose service is gone or does not have them. Two looks, a minute apart, are the caller's affair.
pub async fn sweep(server: &Server) {
    let Some(services) = server.store.cache("services/specs/") else { return };
    let held = match server.store.raw_list(PREFIX).await {
        Ok(held) => held,
        Err(error) => return tracing::warn!(%error, "list node ports"),
    };
    // A service is written after its port is claimed: what was claimed before this moment is in the cache by now.
    if server.store.catch_up().await.is_err() {
        return;
    }
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    for (key, owner) in held {
        let Some(port) = key.rsplit('/').next().and_then(|p| p.parse::<i64>().ok()) else { continue };
        let Ok(owner) = serde_json::from_slice::<Value>(&owner) else { continue };
        let service = match services.get(&format!("{}/{}", owner.str_at(&["namespace"]), owner.str_at(&["name"]))) {
            Ok(service) => service,
            Err(error) => {
                tracing::error!(%error, port, "a node port is kept: whether it is used nobody can tell");
                continue;
            }
        };
        if service.is_none_or(|s| !of(&s.value()).contains(&port)) {
            tracing::info!(port, "release a node port that no service has");
            release(server, port).await;
        }
    }
}
