//! From a Service and its pods to the smallest change of its EndpointSlices. No IO.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kinit_component_helpers::pod::node_name;
use kube::ResourceExt;

use super::hints::hints;
use super::pods::{self, Port, is_headless};
use crate::object::owner::controller_ref;

/// Label: who keeps the slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, under upstream's name, so that either can go on with the other's slices.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Label: the slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: the Service has no address.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints in a slice.
const FULL: usize = 100;

/// What to write.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Slices with new content; their resource version is the one that was read.
    pub update: Vec<EndpointSlice>,
    /// Names of slices that are not needed.
    pub delete: Vec<String>,
}

/// The families a Service is reached by: (IPv6?, address type).
fn families(service: &Service) -> Vec<(bool, &'static str)> {
    let listed = service.spec.as_ref().and_then(|s| s.ip_families.as_deref()).unwrap_or_default();
    let mut families: Vec<_> =
        listed.iter().map(|f| if f == "IPv6" { (true, "IPv6") } else { (false, "IPv4") }).collect();
    if families.is_empty() {
        families.push((false, "IPv4"));
    }
    families
}

/// What all slices of one owner have in common.
pub struct Common {
    /// Namespace of owner and slices.
    pub namespace: Option<String>,
    /// Beginning of new slices' names.
    pub prefix: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Who owns them.
    pub owner: OwnerReference,
    /// Whether one slice stays when there is no endpoint, so that the Service is known to have none.
    pub placeholder: bool,
}

impl Common {
    fn of(service: &Service) -> Self {
        Self {
            namespace: service.namespace(),
            prefix: service.name_any(),
            labels: labels(service),
            owner: controller_ref(service),
            placeholder: true,
        }
    }
}

/// The changes that make `existing` say where the Service's pods are. `zone_of` knows nodes' zones.
pub fn reconcile(
    service: &Service,
    pods: &[Arc<Pod>],
    zone_of: &dyn Fn(&str) -> Option<String>,
    existing: &[Arc<EndpointSlice>],
) -> Changes {
    let mut changes = Changes::default();
    let common = Common::of(service);
    let families = families(service);
    for slice in existing {
        if !families.iter().any(|(_, name)| *name == slice.address_type) {
            changes.delete.push(slice.name_any());
        }
    }
    for (v6, address_type) in families {
        let mine: Vec<_> = existing.iter().filter(|s| s.address_type == address_type).cloned().collect();
        let mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
        for pod in pods {
            if let Some(endpoint) = endpoint(pod, service, v6, zone_of) {
                wanted.entry(pods::ports(pod, service)).or_default().push(endpoint);
            }
        }
        one_family(&common, address_type, wanted, &mine, &mut changes);
    }
    changes
}

/// The changes for one address type.
pub fn one_family(
    common: &Common,
    address_type: &str,
    mut wanted: BTreeMap<Vec<Port>, Vec<Endpoint>>,
    existing: &[Arc<EndpointSlice>],
    changes: &mut Changes,
) {
    let empty = wanted.is_empty();
    // The slices stay as they are as far as possible: clients read changes, not lists.
    let mut kept: Vec<(Vec<Port>, EndpointSlice, bool)> = Vec::new();
    for slice in existing {
        let ports = ports_of(slice);
        let Some(group) = wanted.get_mut(&ports) else {
            // With no endpoint at all one slice stays, so that the Service is known to have none.
            if empty && common.placeholder && kept.is_empty() {
                let mut bare = (**slice).clone();
                bare.endpoints = Some(Vec::new());
                bare.ports = Some(Vec::new());
                kept.push((Vec::new(), bare, true));
            } else {
                changes.delete.push(slice.name_any());
            }
            continue;
        };
        let mut index: HashMap<String, usize> = group.iter().enumerate().map(|(i, e)| (identity(e), i)).collect();
        let mut endpoints = Vec::new();
        let mut taken = Vec::new();
        for old in slice.endpoints.iter().flatten() {
            if let Some(i) = index.remove(&identity(old))
                && let Some(new) = group.get(i)
            {
                endpoints.push(new.clone());
                taken.push(i);
            }
        }
        taken.sort_unstable();
        taken.into_iter().rev().for_each(|i| drop(group.remove(i)));
        let mut slice = (**slice).clone();
        slice.endpoints = Some(endpoints);
        kept.push((ports, slice, false));
    }
    for (ports, group) in wanted {
        place(common, address_type, &ports, group, &mut kept, changes);
    }
    if empty && common.placeholder && existing.is_empty() {
        changes.create.push(new_slice(common, address_type, &[], Vec::new()));
    }
    for (_, mut slice, placeholder) in kept {
        if len(&slice) == 0 && !placeholder {
            changes.delete.push(slice.name_any());
            continue;
        }
        slice.metadata.labels = Some(common.labels.clone());
        let before = existing.iter().find(|s| s.metadata.name == slice.metadata.name);
        if before.is_none_or(|b| !same(b, &slice)) {
            changes.update.push(slice);
        }
    }
}

/// Finds room for new endpoints of one set of ports.
fn place(
    common: &Common,
    address_type: &str,
    ports: &[Port],
    mut group: Vec<Endpoint>,
    kept: &mut [(Vec<Port>, EndpointSlice, bool)],
    changes: &mut Changes,
) {
    group.sort_by_key(identity);
    // New endpoints fill the fullest slice that has room for some.
    let mut rooms: Vec<&mut EndpointSlice> =
        kept.iter_mut().filter(|(p, _, _)| p.as_slice() == ports).map(|(_, s, _)| s).collect();
    rooms.sort_by_key(|s| std::cmp::Reverse(len(s)));
    for slice in rooms {
        let take = FULL.saturating_sub(len(slice)).min(group.len());
        slice.endpoints.get_or_insert_default().extend(group.drain(..take));
    }
    while !group.is_empty() {
        let rest = group.split_off(group.len().min(FULL));
        changes.create.push(new_slice(common, address_type, ports, std::mem::replace(&mut group, rest)));
    }
}

fn len(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// Equal in what this controller writes; absent and empty are the same.
fn same(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    let endpoints = |s: &EndpointSlice| s.endpoints.clone().unwrap_or_default();
    a.metadata.labels == b.metadata.labels && ports_of(a) == ports_of(b) && endpoints(a) == endpoints(b)
}

fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.clone()).unwrap_or_default();
    format!("{}/{uid}", endpoint.addresses.first().map(String::as_str).unwrap_or_default())
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| Port {
            name: p.name.clone().unwrap_or_default(),
            port: p.port.unwrap_or(0),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn endpoint(pod: &Pod, service: &Service, v6: bool, zone_of: &dyn Fn(&str) -> Option<String>) -> Option<Endpoint> {
    let address = pods::address(pod, v6)?;
    let conditions = pods::conditions(pod, service);
    let node = node_name(pod).map(str::to_owned);
    let zone = node.as_deref().and_then(zone_of);
    Some(Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(conditions.ready),
            serving: Some(conditions.serving),
            terminating: Some(conditions.terminating),
        }),
        hostname: pods::hostname(pod, service),
        hints: if conditions.ready { hints(service, zone.as_deref(), node.as_deref()) } else { None },
        zone,
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        deprecated_topology: None,
    })
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> =
        service.labels().iter().filter(|(k, _)| *k != HEADLESS).map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), service.name_any());
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn new_slice(common: &Common, address_type: &str, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice =
        EndpointSlice { address_type: address_type.to_owned(), endpoints: Some(endpoints), ..Default::default() };
    let mut prefix = common.prefix.clone();
    prefix.truncate(57);
    slice.metadata.generate_name = Some(format!("{prefix}-"));
    slice.metadata.namespace = common.namespace.clone();
    slice.metadata.labels = Some(common.labels.clone());
    slice.metadata.owner_references = Some(vec![common.owner.clone()]);
    let ports = ports.iter().map(|p| EndpointPort {
        name: Some(p.name.clone()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
    });
    slice.ports = Some(ports.collect());
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(target: serde_json::Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "namespace": "n", "uid": "su", "labels": {"team": "a"}},
            "spec": {"clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "selector": {"a": "b"},
                     "ports": [{"name": "http", "port": 80, "targetPort": target}]}
        }))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool, named_port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "n", "uid": name},
                "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": named_port}]}]},
                "status": {"podIP": ip, "phase": "Running",
                           "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
            }))
            .unwrap(),
        )
    }

    fn run(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Changes {
        reconcile(service, pods, &|n| (n == "node1").then(|| "z1".to_owned()), existing)
    }

    fn stored(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.into());
        Arc::new(slice)
    }

    #[test]
    fn a_pod_becomes_an_endpoint() {
        let changes = run(&service(json!("web")), &[pod("p", "10.0.0.1", true, 8080)], &[]);
        let slice = &changes.create[0];
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        let endpoint = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!((endpoint.node_name.as_deref(), endpoint.zone.as_deref()), (Some("node1"), Some("z1")));
        assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
        assert_eq!(slice.metadata.labels.as_ref().unwrap()["team"], "a");
        let again = run(&service(json!("web")), &[pod("p", "10.0.0.1", true, 8080)], &[stored(slice.clone(), "s-1")]);
        assert_eq!(again, Changes::default(), "nothing to do the second time");
    }

    #[test]
    fn ready_endpoints_carry_hints_and_lose_them() {
        let mut near = service(json!(80));
        near.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameZone".into());
        let pods = [pod("p", "10.0.0.1", true, 1), pod("q", "10.0.0.2", false, 1)];
        let slice = run(&near, &pods, &[]).create.remove(0);
        let hinted: Vec<_> = slice.endpoints.as_ref().unwrap().iter().map(|e| e.hints.is_some()).collect();
        assert_eq!(hinted, [true, false]);
        let slice = stored(slice, "s-1");
        assert_eq!(run(&near, &pods, std::slice::from_ref(&slice)), Changes::default());
        let far = run(&service(json!(80)), &pods, &[slice]);
        assert!(far.update[0].endpoints.as_ref().unwrap().iter().all(|e| e.hints.is_none()));
    }

    #[test]
    fn no_pods_leave_one_empty_slice() {
        let s = service(json!(80));
        let changes = run(&s, &[], &[]);
        assert_eq!((changes.create.len(), len(&changes.create[0])), (1, 0));
        let empty = stored(changes.create[0].clone(), "s-0");
        assert_eq!(run(&s, &[], std::slice::from_ref(&empty)), Changes::default());
        let filled = run(&s, &[pod("p", "10.0.0.1", true, 1)], &[empty]);
        assert_eq!((filled.create.len(), filled.delete.len()), (1, 1));
        let back = run(&s, &[], &[stored(filled.create[0].clone(), "s-1")]);
        assert_eq!((back.update.len(), len(&back.update[0]), back.delete.len()), (1, 0, 0));
    }

    #[test]
    fn slices_hold_a_hundred_and_change_little() {
        let s = service(json!(80));
        let pods: Vec<_> =
            (0..250).map(|i| pod(&format!("p{i}"), &format!("10.0.{}.{}", i / 200, i % 200), true, 1)).collect();
        let first = run(&s, &pods, &[]);
        assert_eq!(first.create.iter().map(len).collect::<Vec<_>>(), [100, 100, 50]);
        let existing: Vec<_> =
            first.create.into_iter().enumerate().map(|(i, e)| stored(e, &format!("s-{i}"))).collect();
        let gone = &existing[0].endpoints.as_ref().unwrap()[3].target_ref.as_ref().unwrap().name.clone().unwrap();
        let fewer: Vec<_> = pods.iter().filter(|p| p.name_any() != *gone).cloned().collect();
        let change = run(&s, &fewer, &existing);
        assert_eq!((change.update.len(), change.create.len(), change.delete.len()), (1, 0, 0));
        assert_eq!((change.update[0].name_any().as_str(), len(&change.update[0])), ("s-0", 99));
    }

    #[test]
    fn ending_pods_serve_but_are_not_ready() {
        let s = service(json!(80));
        let mut ending = (*pod("p", "10.0.0.1", true, 1)).clone();
        ending.metadata.deletion_timestamp = Some(crate::object::now());
        let changes = run(&s, &[Arc::new(ending), pod("q", "10.0.0.2", false, 1)], &[]);
        let all: Vec<_> =
            changes.create[0].endpoints.as_ref().unwrap().iter().map(|e| e.conditions.clone().unwrap()).collect();
        let flags = |c: &EndpointConditions| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap());
        assert_eq!(all.iter().map(flags).collect::<Vec<_>>(), [(false, true, true), (false, false, false)]);
    }
}
