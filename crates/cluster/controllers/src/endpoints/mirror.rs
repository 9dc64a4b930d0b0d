//! `endpointslicemirroring`: Endpoints that people or programs write for Services without a selector, as
//! EndpointSlices.
//!
//! Upstream: `pkg/controller/endpointslicemirroring`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use kinit_client::informer::{Store, key_of, split_key};
use kinit_client::queue::Queue;
use kube::api::Api;
use kube::{Client, ResourceExt};

use super::pods::Port;
use super::reconcile::{Changes, Common, MANAGED_BY, SERVICE_NAME, one_family};
use super::slices::{owner_key, watch_slices, write};
use crate::context::Context;
use crate::object::owner::controller_ref;
use crate::workload::expectations::Expectations;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On Endpoints that serve as an election's lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const BY_SERVICE: &str = "mirrored-service";
/// Most addresses of a subset that are mirrored (upstream's --mirroring-max-endpoints-per-subset).
const MOST: usize = 1000;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("endpointslicemirroring-controller").await?;
    let (services, endpoints) = (ctx.store::<Service>(), ctx.store::<Endpoints>());
    let slices = ctx.store::<EndpointSlice>();
    slices.index(BY_SERVICE, |s| owner_key(s, MANAGER).into_iter().collect());
    services.synced().await;
    endpoints.synced().await;
    slices.synced().await;
    let (queue, expectations) = (Queue::new(), Arc::new(Expectations::default()));
    let (on_service, on_endpoints) = (queue.clone(), queue.clone());
    services.on_change(move |change| on_service.add(key_of(&**change.object())));
    endpoints.on_change(move |change| on_endpoints.add(key_of(&**change.object())));
    watch_slices(&slices, &queue, &expectations, MANAGER);
    let work = Arc::new(Controller { client, services, endpoints, slices, expectations });
    queue.run("endpointslicemirroring", 5, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Controller {
    client: Client,
    services: Arc<Store<Service>>,
    endpoints: Arc<Store<Endpoints>>,
    slices: Arc<Store<EndpointSlice>>,
    expectations: Arc<Expectations>,
}

impl Controller {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        // Our own creations must be seen first, or there would be two of each. They come as events.
        if !self.expectations.satisfied(&key) {
            return Ok(None);
        }
        let existing = self.slices.by_index(BY_SERVICE, &key);
        let endpoints = self.endpoints.get(&key).filter(|e| is_mirrored(e, self.services.get(&key).as_deref()));
        let changes = match endpoints {
            Some(endpoints) => mirror(&endpoints, &existing),
            None => Changes { delete: existing.iter().map(|s| s.name_any()).collect(), ..Changes::default() },
        };
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), split_key(&key).0);
        write(&api, &changes, &self.expectations, &key).await.with_context(|| format!("mirror endpoints {key}"))?;
        Ok(None)
    }
}

/// Whether Endpoints are somebody's own work for a Service that has no selector.
fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|v| v == "true");
    let lock = endpoints.annotations().contains_key(LEADER);
    let by_hand = service.and_then(|s| s.spec.as_ref()).is_some_and(|s| s.selector.is_none());
    by_hand && !skipped && !lock && endpoints.metadata.deletion_timestamp.is_none()
}

/// The changes that make `existing` say what the Endpoints do.
fn mirror(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Changes {
    let mut labels = endpoints.labels().clone();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    let common = Common {
        namespace: endpoints.namespace(),
        prefix: endpoints.name_any(),
        labels,
        owner: controller_ref(endpoints),
        placeholder: false,
    };
    let mut changes = Changes::default();
    for (v6, address_type) in [(false, "IPv4"), (true, "IPv6")] {
        let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
        for subset in endpoints.subsets.iter().flatten() {
            let all = addresses(subset, v6);
            if !all.is_empty() {
                wanted.entry(ports(subset)).or_default().extend(all);
            }
        }
        let mine: Vec<_> = existing.iter().filter(|s| s.address_type == address_type).cloned().collect();
        one_family(&common, address_type, wanted, &mine, &mut changes);
    }
    changes
}

fn ports(subset: &EndpointSubset) -> Vec<Port> {
    let port = |p: &k8s_openapi::api::core::v1::EndpointPort| Port {
        name: p.name.clone().unwrap_or_default(),
        port: p.port,
        protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
        app_protocol: p.app_protocol.clone(),
    };
    let mut ports: Vec<Port> = subset.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

fn addresses(subset: &EndpointSubset, v6: bool) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)));
    let of_family = |a: &EndpointAddress| a.ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6);
    all.take(MOST).filter(|(a, _)| of_family(a)).map(|(a, ready)| endpoint(a, ready)).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(meta: Value, subsets: Value) -> Endpoints {
        let mut whole = json!({"name": "db", "namespace": "n", "uid": "u", "labels": {"team": "a"}});
        for (key, value) in meta.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": whole, "subsets": subsets})).unwrap()
    }

    #[test]
    fn whose_endpoints_are_mirrored() {
        let by_hand: Service = serde_json::from_value(json!({"spec": {"ports": [{"port": 1}]}})).unwrap();
        let selecting: Service = serde_json::from_value(json!({"spec": {"selector": {"a": "b"}}})).unwrap();
        for (meta, service, expected) in [
            (json!({}), Some(&by_hand), true),
            (json!({}), Some(&selecting), false),
            (json!({}), None, false),
            (json!({"labels": {SKIP: "true"}}), Some(&by_hand), false),
            (json!({"annotations": {LEADER: "x"}}), Some(&by_hand), false),
        ] {
            assert_eq!(is_mirrored(&endpoints(meta.clone(), json!([])), service), expected, "{meta}");
        }
    }

    #[test]
    fn subsets_become_slices() {
        let subsets = json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                              "ports": [{"name": "sql", "port": 5432}]}]);
        let first = mirror(&endpoints(json!({}), subsets.clone()), &[]);
        assert_eq!((first.create.len(), first.update.len(), first.delete.len()), (2, 0, 0));
        let v4 = first.create.iter().find(|s| s.address_type == "IPv4").unwrap();
        let ready = |s: &EndpointSlice| -> Vec<(String, Option<bool>)> {
            let all = s.endpoints.iter().flatten();
            all.map(|e| (e.addresses[0].clone(), e.conditions.as_ref().unwrap().ready)).collect()
        };
        assert_eq!(ready(v4), [("10.0.0.1".to_owned(), Some(true)), ("10.0.0.2".to_owned(), Some(false))]);
        assert_eq!(v4.labels().get(SERVICE_NAME).map(String::as_str), Some("db"));
        let mut written = first.create.clone();
        written.iter_mut().enumerate().for_each(|(i, s)| s.metadata.name = Some(format!("db-{i}")));
        let written: Vec<_> = written.into_iter().map(Arc::new).collect();
        assert_eq!(mirror(&endpoints(json!({}), subsets), &written), Changes::default(), "nothing to do twice");
        let emptied = mirror(&endpoints(json!({}), json!([])), &written);
        assert_eq!((emptied.create.len(), emptied.delete.len()), (0, 2));
    }
}
