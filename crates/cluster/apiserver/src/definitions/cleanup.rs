//! A definition goes after its objects (`pkg/controller/finalizer`).

use std::time::Duration;

use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use kinit_storage::{Error, Updated};
use serde_json::Value;

use super::model::{Definition, FINALIZER};
use super::{PREFIX, names};
use crate::server::Server;

/// How long to wait for objects that others hold, or after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// The same after a failure, which may last: an object that cannot be decoded has to be seen to by somebody.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Objects deleted at a time.
const PAGE: i64 = 500;

/// Deletes the objects of a definition, waits for those that others hold, and takes the finalizer off. `prefix` is
/// where they are stored, when they ever could be.
pub(super) async fn run(server: &Server, definition: &Definition, prefix: Option<&str>) {
    loop {
        let pause = match attempt(server, definition, prefix).await {
            Ok(true) => return,
            Ok(false) => RETRY,
            Err(error) => {
                tracing::warn!(%error, name = definition.name, "delete the objects of a definition; trying again");
                AFTER_FAILURE
            }
        };
        let changed = async {
            match prefix.and_then(|prefix| server.store.cache(prefix)) {
                // The sender is part of the cache.
                Some(cache) => drop(cache.changes().changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether it is done.
async fn attempt(server: &Server, definition: &Definition, prefix: Option<&str>) -> Result<bool, Error> {
    let Some(prefix) = prefix else {
        let text = "resource was never established";
        return finish(server, definition, "NeverEstablished", text).await;
    };
    let on = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    if !update(server, definition, |object| set_terminating(object, definition, true, on.0, on.1)).await? {
        return Ok(true);
    }
    match delete_all(server, prefix).await? {
        0 => finish(server, definition, "InstanceDeletionCompleted", "removed all instances").await,
        left => {
            tracing::debug!(left, name = definition.name, "objects of a definition are still there");
            Ok(false)
        }
    }
}

/// Deletes or marks every object; how many are left.
async fn delete_all(server: &Server, prefix: &str) -> Result<usize, Error> {
    let (mut left, mut start) = (0, String::new());
    loop {
        let page = server.store.page(prefix, "", &start, PAGE, 0).await?;
        for entry in &page.entries {
            start = format!("{}\0", entry.key);
            let mut object = entry.value();
            let outcome = if object.finalizers().is_empty() {
                server.store.delete(prefix, &entry.key, entry.revision).await?
            } else if object.is_deleting() {
                left += 1;
                continue;
            } else {
                left += 1;
                mark(&mut object);
                server.store.update(prefix, &entry.key, entry.revision, &object, None).await?
            };
            // Whoever was faster left something to look at again.
            left += usize::from(matches!(outcome, Updated::Changed(Some(_))));
        }
        if !page.more {
            return Ok(left);
        }
    }
}

fn mark(object: &mut Value) {
    let generation = object.at(&["metadata", "generation"]).and_then(Value::as_i64);
    let Some(meta) = object.object_at(&["metadata"]) else { return };
    meta.insert("deletionTimestamp".into(), time::format(Timestamp::now()).into());
    meta.insert("deletionGracePeriodSeconds".into(), 0.into());
    if let Some(generation) = generation {
        meta.insert("generation".into(), (generation + 1).into());
    }
}

fn set_terminating(object: &mut Value, definition: &Definition, on: bool, reason: &str, text: &str) {
    let current = definition.with_status(object.get("status").cloned().unwrap_or_default());
    if let Some(status) = object.get_mut("status") {
        names::set(status, &current, "Terminating", on, reason, text);
    }
}

/// Takes the finalizer off; the definition goes if nobody else holds it.
async fn finish(server: &Server, definition: &Definition, reason: &str, text: &str) -> Result<bool, Error> {
    update(server, definition, |object| {
        set_terminating(object, definition, false, reason, text);
        let left: Vec<String> = object.finalizers().into_iter().filter(|f| f != FINALIZER).collect();
        if let Some(meta) = object.object_at(&["metadata"]) {
            match left.is_empty() {
                true => drop(meta.shift_remove("finalizers")),
                false => drop(meta.insert("finalizers".into(), left.into())),
            }
        }
    })
    .await?;
    Ok(true)
}

/// Changes the definition as it is now; whether it is still there and held by us.
async fn update(server: &Server, definition: &Definition, change: impl Fn(&mut Value)) -> Result<bool, Error> {
    let mut current = server.store.get(PREFIX, &definition.name).await?;
    loop {
        let Some(entry) = current else { return Ok(false) };
        let old = entry.value();
        let ours = old.uid() == definition.uid && old.finalizers().iter().any(|f| f == FINALIZER);
        if !ours {
            return Ok(false);
        }
        let mut new = old.clone();
        change(&mut new);
        if new == old {
            return Ok(true);
        }
        let outcome = match new.finalizers().is_empty() {
            true => server.store.delete(PREFIX, &definition.name, entry.revision).await?,
            false => server.store.update(PREFIX, &definition.name, entry.revision, &new, None).await?,
        };
        match outcome {
            Updated::Done(_) => return Ok(true),
            Updated::Changed(now) => current = now,
        }
    }
}
