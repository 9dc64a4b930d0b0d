//! Where a Service's pods are: EndpointSlices, and the older Endpoints.
//!
//! Upstream: `k8s.io/endpointslice`, `pkg/controller/endpointslice`, `pkg/controller/endpoint`,
//! `pkg/controller/endpointslicemirroring`.

mod hints;
pub mod legacy;
pub mod mirror;
mod pods;
mod reconcile;
pub mod slices;

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use kinit_client::informer::{Change, Store, key_of};
use kinit_client::queue::Queue;
use kube::ResourceExt;

use crate::object::selector::map_matches;

/// A Service's selector; `None` for Services whose endpoints are somebody else's affair.
fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref().filter(|s| s.type_.as_deref() != Some("ExternalName"))?;
    spec.selector.as_ref().filter(|s| !s.is_empty())
}

/// Makes Services due when they, or pods they select or selected, change.
fn watch(services: &Arc<Store<Service>>, pods: &Arc<Store<Pod>>, queue: &Arc<Queue<String>>) {
    let (on_service, on_pod, all) = (queue.clone(), queue.clone(), services.clone());
    services.on_change(move |change: &Change<Service>| on_service.add(key_of(&**change.object())));
    pods.on_change(move |change| {
        let mut due = HashSet::new();
        for pod in change.old().into_iter().chain([change.object()]) {
            for service in all.in_namespace(&pod.namespace().unwrap_or_default()) {
                if selector(&service).is_some_and(|s| map_matches(s, pod.labels())) {
                    due.insert(key_of(&*service));
                }
            }
        }
        due.into_iter().for_each(|key| on_pod.add(key));
    });
}

/// The pods a Service selects.
fn selected(service: &Service, pods: &Store<Pod>) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let all = pods.in_namespace(&service.namespace().unwrap_or_default());
    all.into_iter().filter(|p| map_matches(selector, p.labels())).collect()
}
