//! What a pod's spec refers to: the objects to hold while the pod is here.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod};

/// Names of ConfigMaps and Secrets in the pod's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

/// Collects them from volumes, environments and pull secrets.
pub fn of(pod: &Pod) -> References {
    let mut out = References::default();
    let Some(spec) = &pod.spec else { return out };
    for volume in spec.volumes.iter().flatten() {
        out.config_maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
        out.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            out.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    out.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|s| s.name.clone()));
    spec.init_containers.iter().flatten().chain(&spec.containers).for_each(|c| environment(c, &mut out));
    out
}

fn environment(container: &Container, out: &mut References) {
    for from in container.env_from.iter().flatten() {
        out.config_maps.extend(from.config_map_ref.as_ref().map(|c| c.name.clone()));
        out.secrets.extend(from.secret_ref.as_ref().map(|s| s.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        out.config_maps.extend(from.config_map_key_ref.as_ref().map(|c| c.name.clone()));
        out.secrets.extend(from.secret_key_ref.as_ref().map(|s| s.name.clone()));
    }
}
