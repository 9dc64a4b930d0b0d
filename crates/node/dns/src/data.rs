//! What the zone knows: Services, EndpointSlices and namespaces, found by name and by address.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kinit_client::informer::Store;
use kube::ResourceExt;

const BY_ADDRESS: &str = "address";
const BY_SERVICE: &str = "service";

/// The shared stores.
pub struct Data {
    services: Arc<Store<Service>>,
    slices: Arc<Store<EndpointSlice>>,
    namespaces: Arc<Store<Namespace>>,
}

/// A place in a headless Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name below the Service's.
    pub host: String,
    /// Its address.
    pub address: IpAddr,
    /// (name, protocol in lower case, number)
    pub ports: Vec<(String, String, u16)>,
}

impl Data {
    /// Adds the indexes it needs.
    pub fn new(
        services: Arc<Store<Service>>,
        slices: Arc<Store<EndpointSlice>>,
        namespaces: Arc<Store<Namespace>>,
    ) -> Self {
        services.index(BY_ADDRESS, |s| cluster_ips(s).map(|ip| ip.to_string()).collect());
        slices.index(BY_SERVICE, |s| service_of(s).into_iter().collect());
        slices.index(BY_ADDRESS, |s| {
            let endpoints = s.endpoints.iter().flatten().filter(|e| is_ready(e));
            endpoints.flat_map(|e| e.addresses.clone()).collect()
        });
        Self { services, slices, namespaces }
    }

    /// Whether all is there.
    pub fn is_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.namespaces.is_synced()
    }

    /// A Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&format!("{namespace}/{name}"))
    }

    /// Whether a namespace exists.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.get(name).is_some()
    }

    /// The Service with this address, as (namespace, name).
    pub fn service_at(&self, address: IpAddr) -> Option<(String, String)> {
        let services = self.services.by_index(BY_ADDRESS, &address.to_string());
        services.first().map(|s| (s.namespace().unwrap_or_default(), s.name_any()))
    }

    /// The names below Services that endpoints with this address have: (host, name, namespace).
    pub fn places_at(&self, address: IpAddr) -> Vec<(String, String, String)> {
        let mut names = Vec::new();
        for slice in self.slices.by_index(BY_ADDRESS, &address.to_string()) {
            let Some(key) = service_of(&slice) else { continue };
            let Some((namespace, service)) = key.split_once('/') else { continue };
            for place in places(&slice).filter(|p| p.address == address) {
                names.push((place.host, service.to_owned(), namespace.to_owned()));
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// The ready endpoints of a Service.
    pub fn places(&self, namespace: &str, name: &str) -> Vec<Place> {
        let slices = self.slices.by_index(BY_SERVICE, &format!("{namespace}/{name}"));
        let mut all: Vec<Place> = slices.iter().flat_map(|s| places(s).collect::<Vec<_>>()).collect();
        all.sort_by(|a, b| (a.address, &a.host).cmp(&(b.address, &b.host)));
        all.dedup_by(|a, b| a.address == b.address && a.host == b.host && a.ports == b.ports);
        all
    }
}

/// A Service's own addresses.
pub fn cluster_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.cluster_ips.iter().flatten().chain(&s.cluster_ip));
    let mut ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips.into_iter()
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    let name = slice.labels().get("kubernetes.io/service-name")?;
    Some(format!("{}/{name}", slice.namespace().unwrap_or_default()))
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false)
}

fn places(slice: &EndpointSlice) -> impl Iterator<Item = Place> {
    let ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|p| {
            let protocol = p.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
            Some((p.name.clone().unwrap_or_default(), protocol, u16::try_from(p.port?).ok()?))
        })
        .collect();
    let ready = slice.endpoints.iter().flatten().filter(|e| is_ready(e));
    ready.flat_map(move |e| {
        let ports = ports.clone();
        let addresses = e.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
        addresses.map(move |address| Place {
            host: e.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| dashed(address)),
            address,
            ports: ports.clone(),
        })
    })
}

/// An address as a label: dots and colons become dashes.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
