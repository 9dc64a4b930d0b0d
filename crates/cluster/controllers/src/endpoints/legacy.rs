//! `endpoint`: the older Endpoints object, one a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kinit_client::informer::{Change, Store, key_of, split_key};
use kinit_client::queue::Queue;
use kinit_component_helpers::pod::node_name;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};

use super::pods::{Port, address, conditions, hostname, is_headless, ports};
use super::reconcile::HEADLESS;
use super::{selected, selector, watch};
use crate::context::Context;
use crate::object::{ignore_gone, is_status};
use crate::workload::pods::is_terminating;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MOST: usize = 1000;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("endpoint-controller").await?;
    let (services, pods, endpoints) = (ctx.store::<Service>(), ctx.store::<Pod>(), ctx.store::<Endpoints>());
    pods.synced().await;
    services.synced().await;
    endpoints.synced().await;
    let queue = Queue::new();
    watch(&services, &pods, &queue);
    let on_endpoints = queue.clone();
    endpoints.on_change(move |change| {
        if !matches!(change, Change::Updated { .. }) {
            on_endpoints.add(key_of(&**change.object()));
        }
    });
    let work = Arc::new(Controller { client, services, pods, endpoints });
    queue.run("endpoint", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    services: Arc<Store<Service>>,
    pods: Arc<Store<Pod>>,
    endpoints: Arc<Store<Endpoints>>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let (namespace, name) = split_key(&key);
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), namespace);
        let current = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            let ours = current.is_some_and(|e| e.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER));
            if ours {
                ignore_gone(api.delete(name, &DeleteParams::default()).await).context("delete endpoints")?;
            }
            return Ok(None);
        };
        if selector(&service).is_none() {
            return Ok(None);
        }
        let wanted = wanted(&service, &selected(&service, &self.pods), current.as_deref());
        if current.as_ref().is_some_and(|c| {
            c.metadata.labels == wanted.metadata.labels
                && c.metadata.annotations == wanted.metadata.annotations
                && c.subsets.clone().unwrap_or_default() == wanted.subsets.clone().unwrap_or_default()
        }) {
            return Ok(None);
        }
        let result = match current {
            Some(_) => api.replace(name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match result {
            Err(error) if is_terminating(&error) || is_status(&error, 404) => Ok(None),
            result => {
                result.with_context(|| format!("write endpoints {key}"))?;
                Ok(None)
            }
        }
    }
}

/// The object as it should be.
fn wanted(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    let v6 = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first()).is_some_and(|f| f == "IPv6");
    let mut groups: BTreeMap<Vec<Port>, BTreeMap<IpAddr, (EndpointAddress, bool)>> = BTreeMap::new();
    for pod in pods {
        let state = conditions(pod, service);
        let publish = state.ready && !state.serving;
        let Some(ip) = address(pod, v6).filter(|_| !state.terminating || publish) else { continue };
        let ports = ports(pod, service);
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        groups.entry(ports).or_default().insert(ip, (endpoint(pod, ip, hostname(pod, service)), state.ready));
    }
    let total: usize = groups.values().map(BTreeMap::len).sum();
    let mut room = MOST;
    let subsets: Vec<EndpointSubset> =
        groups.into_iter().map(|(ports, addresses)| subset(ports, addresses, &mut room)).collect();
    let mut endpoints = current.cloned().unwrap_or_default();
    endpoints.metadata.name = service.metadata.name.clone();
    endpoints.metadata.namespace = service.metadata.namespace.clone();
    let mut labels: BTreeMap<String, String> =
        service.labels().iter().filter(|(k, _)| *k != HEADLESS).map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    endpoints.metadata.labels = Some(labels);
    let mut annotations = endpoints.metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if total > MOST {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    endpoints.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints
}

fn subset(ports: Vec<Port>, addresses: BTreeMap<IpAddr, (EndpointAddress, bool)>, room: &mut usize) -> EndpointSubset {
    let (mut ready, mut not_ready) = (Vec::new(), Vec::new());
    for (address, is_ready) in addresses.into_values() {
        if *room == 0 {
            break;
        }
        *room -= 1;
        if is_ready { ready.push(address) } else { not_ready.push(address) }
    }
    let ports = ports.into_iter().map(|p| EndpointPort {
        name: (!p.name.is_empty()).then_some(p.name),
        port: p.port,
        protocol: Some(p.protocol),
        app_protocol: p.app_protocol,
    });
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let ports: Vec<_> = ports.collect();
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

fn endpoint(pod: &Pod, ip: IpAddr, hostname: Option<String>) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_string(),
        hostname,
        node_name: node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ready_and_unready_share_a_subset() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.9", "selector": {"a": "b"}, "ports": [{"port": 80}]}
        }))
        .unwrap();
        let pod = |name: &str, ip: &str, ready: &str| -> Arc<Pod> {
            Arc::new(
                serde_json::from_value(json!({
                    "metadata": {"name": name, "namespace": "n"}, "spec": {"containers": []},
                    "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
                }))
                .unwrap(),
            )
        };
        let endpoints = wanted(
            &service,
            &[pod("b", "10.0.0.2", "True"), pod("a", "10.0.0.1", "False"), pod("c", "10.0.0.10", "True")],
            None,
        );
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        let ips = |l: &Option<Vec<EndpointAddress>>| l.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(ips(&subset.addresses), ["10.0.0.2", "10.0.0.10"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.1"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 80);
        assert_eq!(wanted(&service, &[], Some(&endpoints)).subsets, None);
    }
}
