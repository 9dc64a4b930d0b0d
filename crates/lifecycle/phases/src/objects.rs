//! The cluster's API objects, with the phase that makes each.

use anyhow::{Context, Result};
use kinit_manifests::{Phase, cluster_objects, dns_objects, is_managed, storage_objects, unwanted_objects};
use kinit_planner::{ObjectId, ObjectState};
use kube::Client;
use serde_json::Value;

use crate::api::{self, Presence};
use crate::request::Wanted;

/// Every object that kinit makes, in order; the cluster file that is kept with them is `record`'s.
pub fn wanted(wanted: &Wanted, ca_pem: &str) -> Result<Vec<(Phase, Value)>> {
    let file = kinit_config::print(&wanted.record).context("print the cluster file")?;
    let first = cluster_objects(&wanted.cluster, wanted.bundles.data(file), ca_pem)
        .into_iter()
        .map(|o| (Phase::UploadConfig, o));
    let addons = dns_objects(&wanted.cluster).into_iter().chain(storage_objects(&wanted.cluster));
    let addons = addons.map(|o| (Phase::Addon, o));
    Ok(first.chain(addons).collect())
}

/// What the API has of them; without a client (the API does not answer yet) they count as missing.
pub async fn observe(
    client: Option<&Client>,
    wanted: &[(Phase, Value)],
) -> Result<Vec<(Phase, ObjectId, ObjectState)>> {
    let mut states = Vec::with_capacity(wanted.len());
    for (phase, object) in wanted {
        let state = match client {
            None => ObjectState::Missing,
            Some(client) => match api::look(client, object).await? {
                Presence::Same => ObjectState::AsWanted,
                Presence::Differs => ObjectState::Differs,
                Presence::Missing => ObjectState::Missing,
            },
        };
        states.push((*phase, api::id(object), state));
    }
    Ok(states)
}

/// Those of kinit's objects that are in the way of the wanted cluster, and are there.
pub async fn in_the_way(client: Option<&Client>, wanted: &Wanted) -> Result<Vec<(Phase, ObjectId, ObjectState)>> {
    let mut states = Vec::new();
    let Some(client) = client else { return Ok(states) };
    for (phase, object) in unwanted_objects(&wanted.cluster) {
        if api::read(client, &object).await?.is_some_and(|found| is_managed(&found)) {
            states.push((phase, api::id(&object), ObjectState::Unwanted));
        }
    }
    Ok(states)
}

/// Deletes an object that is in the way, if it is one of those; whether it is.
pub async fn remove(client: &Client, wanted: &Wanted, id: &ObjectId) -> Result<bool> {
    let unwanted = unwanted_objects(&wanted.cluster);
    let Some((_, object)) = unwanted.iter().find(|(_, object)| api::id(object) == *id) else { return Ok(false) };
    // Somebody else's may have taken its place since.
    if api::read(client, object).await?.is_some_and(|found| is_managed(&found)) {
        api::delete(client, object).await?;
    }
    Ok(true)
}
