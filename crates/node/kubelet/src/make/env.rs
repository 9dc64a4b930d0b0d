//! A container's environment (`kubelet_pods.go: makeEnvironmentVariables`).

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret};

use super::env_file;
use crate::downward::{self, Place};
use crate::expand::expand;
use crate::objects::Objects;
use crate::volumes::Volumes;

const PATIENCE: Duration = Duration::from_secs(10);

/// Resolves `envFrom`, `env` and Service variables, in that order of precedence from low to high except that Services
/// never override.
pub async fn resolve(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    place: &Place,
    services: &[(String, String)],
    volumes: &Volumes,
) -> Result<IndexMap<String, String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut out: IndexMap<String, String> = IndexMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(source) = &from.config_map_ref {
            let found = config_map(objects, namespace, &source.name, source.optional == Some(true)).await?;
            for (key, value) in found.iter().flat_map(|c| c.data.iter().flatten()) {
                out.insert(format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(source) = &from.secret_ref {
            let found = secret(objects, namespace, &source.name, source.optional == Some(true)).await?;
            for (key, value) in found.iter().flat_map(|s| s.data.iter().flatten()) {
                out.insert(format!("{prefix}{key}"), text(&value.0, key)?);
            }
        }
    }
    let known: IndexMap<String, String> = services.iter().cloned().collect();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| out.get(name).or_else(|| known.get(name)).cloned()))
            }
            (_, Some(from)) => from_source(pod, container, from, objects, place, volumes).await?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            out.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in known {
        out.entry(name).or_insert(value);
    }
    Ok(out)
}

/// `None` for an optional key that is not there: the variable is not set at all.
async fn from_source(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    objects: &Objects,
    place: &Place,
    volumes: &Volumes,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(field) = &from.field_ref {
        return downward::field(pod, &field.field_path, place).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return downward::resource(pod, selector, &container.name, place).map(Some);
    }
    if let Some(key) = &from.config_map_key_ref {
        let optional = key.optional == Some(true);
        let found = config_map(objects, namespace, &key.name, optional).await?;
        let Some(found) = found else { return Ok(None) };
        return match found.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let optional = key.optional == Some(true);
        let found = secret(objects, namespace, &key.name, optional).await?;
        let Some(found) = found else { return Ok(None) };
        return match found.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => text(&value.0, &key.key).map(Some),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
        };
    }
    if let Some(key) = &from.file_key_ref {
        return env_file::value(key, volumes);
    }
    Ok(Some(String::new()))
}

/// A ConfigMap, `None` when it is optional and absent.
pub async fn config_map(
    objects: &Objects,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<Arc<ConfigMap>>, String> {
    let found = objects.config_map(namespace, name)?.get(PATIENCE).await?;
    match found {
        None if !optional => Err(format!("configmap \"{name}\" not found")),
        found => Ok(found),
    }
}

/// A Secret, `None` when it is optional and absent.
pub async fn secret(
    objects: &Objects,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<Arc<Secret>>, String> {
    let found = objects.secret(namespace, name)?.get(PATIENCE).await?;
    match found {
        None if !optional => Err(format!("secret \"{name}\" not found")),
        found => Ok(found),
    }
}

fn text(bytes: &[u8], key: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| format!("the value of key {key} is not text and cannot be a variable"))
}
