//! The scale subresource of whatever an autoscaler names: the kind is looked up by discovery, custom resources too
//! (`scaleForResourceMappings`).

use std::time::{Duration, Instant};

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::Client;
use kube::api::{Api, DynamicObject, PostParams};
use parking_lot::Mutex;

use crate::discovery::{ApiResource, discover};
use crate::object::is_status;
use crate::workload::pods::brief;

/// How long what discovery said is believed; a kind that is not there is looked for again sooner.
const KNOWN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(5);

/// Reads and writes scales.
pub struct Scales {
    /// Discovers.
    root: Client,
    /// Acts as the controller.
    client: Client,
    known: Mutex<Option<(Instant, std::sync::Arc<Vec<ApiResource>>)>>,
}

/// A target, found.
pub struct Target {
    api: Api<DynamicObject>,
    name: String,
}

impl Scales {
    /// `root` discovers, `client` acts.
    pub fn new(root: Client, client: Client) -> Self {
        Self { root, client, known: Mutex::default() }
    }

    /// Resources of a kind.
    pub async fn mappings(&self, group: &str, kind: &str) -> Result<Vec<ApiResource>, String> {
        let found = |all: &[ApiResource]| -> Vec<ApiResource> {
            all.iter().filter(|r| r.group == group && r.kind == kind).cloned().collect()
        };
        let known = self.known.lock().clone();
        if let Some((at, all)) = known {
            let found = found(&all);
            let is_fresh = at.elapsed() < if found.is_empty() { AGAIN } else { KNOWN };
            if is_fresh {
                return some(found, group, kind);
            }
        }
        let discovered = discover(&self.root).await.map_err(|error| brief(&error))?;
        let all = std::sync::Arc::new(discovered.resources);
        *self.known.lock() = Some((Instant::now(), all.clone()));
        some(found(&all), group, kind)
    }

    /// The scale of an object of a kind: of the first resource that has one. The error is the first one's.
    pub async fn get(&self, namespace: &str, group: &str, kind: &str, name: &str) -> Result<(Target, Scale), String> {
        let mut first = None;
        for resource in self.mappings(group, kind).await? {
            let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource.kube());
            match api.get_scale(name).await {
                Ok(scale) => return Ok((Target { api, name: name.to_owned() }, scale)),
                Err(error) => first = first.or(Some(brief(&error))),
            }
        }
        Err(first.unwrap_or_else(|| "unrecognized resource".to_owned()))
    }
}

fn some(found: Vec<ApiResource>, group: &str, kind: &str) -> Result<Vec<ApiResource>, String> {
    match found.is_empty() {
        false => Ok(found),
        true => Err(format!("no matches for kind \"{kind}\" in group \"{group}\"")),
    }
}

impl Target {
    /// Asks for so many. Who was faster is respected: the scale is read again and the number written once more.
    pub async fn set(&self, mut scale: Scale, replicas: i32) -> Result<(), String> {
        for attempt in 0..5 {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            match self.api.replace_scale(&self.name, &PostParams::default(), &scale).await {
                Ok(_) => return Ok(()),
                Err(error) if is_status(&error, 409) && attempt < 4 => {
                    scale = self.api.get_scale(&self.name).await.map_err(|error| brief(&error))?;
                }
                Err(error) => return Err(brief(&error)),
            }
        }
        Err("the scale was changed by others again and again".to_owned())
    }
}
