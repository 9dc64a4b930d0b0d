//! Single objects that are there from the start.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use kinit_storage::{Error as StoreError, Updated};
use serde_json::{Value, json};

use crate::registry::ownership::record_own;
use crate::server::Server;

/// A cache is behind etcd by milliseconds.
const SEEN: Duration = Duration::from_secs(5);

/// Makes an object if it is not there; whether it was made.
pub async fn ensure(server: &Server, prefix: &str, mut object: Value) -> Result<bool> {
    let key = match object.namespace() {
        "" => object.name().to_owned(),
        namespace => format!("{namespace}/{}", object.name()),
    };
    if server.store.cache(prefix).is_some_and(|c| !matches!(c.get(&key), Ok(None))) {
        return Ok(false);
    }
    if let Some(meta) = object.object_at(&["metadata"]) {
        meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        meta.insert("creationTimestamp".into(), time::format(Timestamp::now()).into());
    }
    record_own(&mut object, None, "");
    let made = match server.store.create(prefix, &key, &object, None).await {
        Ok(_) => true,
        Err(StoreError::Exists) => false,
        Err(error) => return Err(error).with_context(|| format!("create {prefix}{key}")),
    };
    in_cache(server, prefix, &key).await;
    Ok(made)
}

/// Waits until the cache has an object that was made: requests are judged by what the caches have, and a server that
/// says that it is ready knows its own roles.
async fn in_cache(server: &Server, prefix: &str, key: &str) {
    let Some(cache) = server.store.cache(prefix) else { return };
    let mut changes = cache.changes();
    let seen = async { while matches!(cache.get(key), Ok(None)) && changes.changed().await.is_ok() {} };
    // One that somebody has deleted meanwhile does not come.
    tokio::time::timeout(SEEN, seen).await.unwrap_or_default();
}

/// Changes an object until `change` says it is as it should be. One that cannot be read stays as it is, and keeps no
/// server from starting.
pub async fn settle(server: &Server, prefix: &str, key: &str, change: impl Fn(&mut Value) -> bool) -> Result<()> {
    let mut current = match server.store.get(prefix, key).await {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::error!(%error, "an object of the server's own is left as it is");
            return Ok(());
        }
        other => other?,
    };
    for _ in 0..8 {
        let Some(entry) = current else { return Ok(()) };
        let old = entry.value();
        let mut value = old.clone();
        if !change(&mut value) {
            return Ok(());
        }
        record_own(&mut value, Some(&old), "");
        match server.store.update(prefix, key, entry.revision, &value, None).await? {
            Updated::Done(_) => return Ok(()),
            Updated::Changed(now) => current = now,
        }
    }
    anyhow::bail!("{prefix}{key} keeps changing")
}

/// The four namespaces.
pub async fn namespaces(server: &Arc<Server>) -> Result<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        ensure(server, "namespaces/", object).await?;
    }
    Ok(())
}

/// `system-node-critical` and `system-cluster-critical`.
pub async fn priority_classes(server: &Arc<Server>) -> Result<()> {
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let object = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name, "generation": 1}, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority"});
        ensure(server, "priorityclasses/", object).await?;
    }
    Ok(())
}

/// The `kubernetes` Service, on the first address of the range, and the ServiceCIDR of that name.
pub async fn default_service(server: &Arc<Server>) -> Result<()> {
    let range = server.options.service_cluster_ip_range.first().copied().context("no service range")?;
    let ranges: Vec<String> = server.options.service_cluster_ip_range.iter().map(ToString::to_string).collect();
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "generation": 1, "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": ranges},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": time::format(Timestamp::now())}]}});
    ensure(server, "servicecidrs/", cidr).await?;
    let address = crate::services::first_address(range);
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let ip = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": address.to_string(), "generation": 1, "labels": {"ipaddress.kubernetes.io/ip-family": family,
            "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "kubernetes"}}});
    ensure(server, "ipaddresses/", ip).await?;
    let port = i64::from(server.options.secure_port);
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": port}],
            "clusterIP": address.to_string(), "clusterIPs": [address.to_string()], "type": "ClusterIP",
            "sessionAffinity": "None", "ipFamilies": [family], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"},
        "status": {"loadBalancer": {}}});
    ensure(server, "services/specs/", service).await?;
    Ok(())
}

/// `kube-system/extension-apiserver-authentication`: what extension servers need to believe us.
pub async fn authentication_config(server: &Arc<Server>) -> Result<()> {
    let options = &server.options;
    let mut data = serde_json::Map::new();
    let mut file = |key: &str, path: &std::path::Path| -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        data.insert(key.into(), text.into());
        Ok(())
    };
    file("client-ca-file", &options.client_ca_file)?;
    if let Some(path) = &options.requestheader_client_ca_file {
        file("requestheader-client-ca-file", path)?;
        for (key, list) in [
            ("requestheader-allowed-names", &options.requestheader_allowed_names),
            ("requestheader-username-headers", &options.requestheader_username_headers),
            ("requestheader-group-headers", &options.requestheader_group_headers),
            ("requestheader-extra-headers-prefix", &options.requestheader_extra_headers_prefix),
            ("requestheader-uid-headers", &options.requestheader_uid_headers),
        ] {
            // The newest of them: extension servers that do not know it are not shown an empty one.
            if key == "requestheader-uid-headers" && list.is_empty() {
                continue;
            }
            data.insert(key.into(), json!(list).to_string().into());
        }
    }
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data});
    if !ensure(server, "configmaps/", object.clone()).await? {
        settle(server, "configmaps/", "kube-system/extension-apiserver-authentication", |value| {
            let differs = value.get("data") != object.get("data");
            value["data"] = object["data"].clone();
            differs
        })
        .await?;
    }
    Ok(())
}
