//! `tokencleaner`: deletes bootstrap tokens that are over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kinit_client::informer::{Change, key_of, spawn, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::watcher;

use super::{NAMESPACE, expiration, is_expired, is_token};
use crate::context::Context;
use crate::object::ignore_gone;

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(ctx.client("token-cleaner").await?, NAMESPACE);
    let watch = watcher::Config::default().fields("type=bootstrap.kubernetes.io/token");
    let secrets = spawn(Api::<Secret>::namespaced(ctx.root(), NAMESPACE), watch, &ctx.shutdown());
    let queue = Queue::new();
    let handler = queue.clone();
    secrets.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            handler.add(key_of(&**change.object()));
        }
    });
    let work = move |key: String| {
        let (api, secrets) = (api.clone(), secrets.clone());
        async move {
            let Some(secret) = secrets.get(&key) else { return Ok(None) };
            clean(&api, secret).await
        }
    };
    queue.run("tokencleaner", 1, ctx.shutdown(), work).await;
    Ok(())
}

async fn clean(api: &Api<Secret>, secret: Arc<Secret>) -> Result<Option<Duration>> {
    if !is_token(&secret) {
        return Ok(None);
    }
    let now = Timestamp::now();
    if !is_expired(&secret, now) {
        let left = expiration(&secret).ok().flatten().map(|at| at.duration_since(now));
        return Ok(left.and_then(|left| Duration::try_from(left).ok()).map(|left| left + Duration::from_millis(10)));
    }
    let key = key_of(&*secret);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: secret.metadata.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    ignore_gone(api.delete(split_key(&key).1, &params).await).context("delete an expired bootstrap token")?;
    tracing::info!(secret = key, "deleted an expired bootstrap token");
    Ok(None)
}
