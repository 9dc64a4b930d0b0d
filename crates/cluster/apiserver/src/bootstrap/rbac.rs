//! The default roles and bindings: made if absent, completed if somebody took something away (`reconciliation`), and
//! aggregated roles kept up to date.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;
use tokio::task::JoinSet;

use super::objects::{ensure, settle};
use crate::authz::policy::{aggregated, policy};
use crate::server::Server;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Writes at the same time: a first start makes some 150 objects.
const AT_ONCE: usize = 16;

/// Makes and completes them.
pub async fn reconcile(server: &Arc<Server>) -> Result<()> {
    let all = policy();
    let roles = all.cluster_roles.iter().map(|r| ("clusterroles/", r)).chain(all.roles.iter().map(|r| ("roles/", r)));
    let bindings = all
        .cluster_bindings
        .iter()
        .map(|b| ("clusterrolebindings/", b))
        .chain(all.bindings.iter().map(|b| ("rolebindings/", b)));
    let mut work = Vec::new();
    for (prefix, role) in roles {
        work.push((prefix, role.clone(), complete_role as Complete));
    }
    for (prefix, binding) in bindings {
        work.push((prefix, binding.clone(), complete_binding as Complete));
    }
    let mut running = JoinSet::new();
    for (prefix, wanted, complete) in work {
        if running.len() >= AT_ONCE {
            finished(running.join_next().await)?;
        }
        let server = server.clone();
        running.spawn(async move { one(&server, prefix, &wanted, complete).await });
    }
    while !running.is_empty() {
        finished(running.join_next().await)?;
    }
    Ok(())
}

fn finished(result: Option<Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    result.map_or(Ok(()), |joined| joined?)
}

type Complete = fn(&mut Value, &Value) -> bool;

async fn one(server: &Server, prefix: &str, wanted: &Value, complete: Complete) -> Result<()> {
    if ensure(server, prefix, wanted.clone()).await? {
        return Ok(());
    }
    let key = match wanted.namespace() {
        "" => wanted.name().to_owned(),
        namespace => format!("{namespace}/{}", wanted.name()),
    };
    // The cache answers for the usual case that nothing is to be done.
    if let Some(entry) = server.store.cache(prefix).and_then(|c| c.get(&key).ok().flatten()) {
        let mut value = entry.value();
        if value.annotation(AUTOUPDATE) == Some("false") || !complete(&mut value, wanted) {
            return Ok(());
        }
    }
    settle(server, prefix, &key, |value| value.annotation(AUTOUPDATE) != Some("false") && complete(value, wanted)).await
}

fn add_missing(have: &mut Value, wanted: &Value, key: &str) -> bool {
    let mut list = have.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list.len();
    for item in wanted.get(key).and_then(Value::as_array).into_iter().flatten() {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    if list.len() == before {
        return false;
    }
    have[key] = list.into();
    true
}

fn complete_role(have: &mut Value, wanted: &Value) -> bool {
    // An aggregated role's rules are its parts' affair.
    if let Some(rule) = wanted.get("aggregationRule") {
        if have.get("aggregationRule") == Some(rule) {
            return false;
        }
        have["aggregationRule"] = rule.clone();
        return true;
    }
    add_missing(have, wanted, "rules")
}

fn complete_binding(have: &mut Value, wanted: &Value) -> bool {
    if have.get("roleRef") != wanted.get("roleRef") {
        have["roleRef"] = wanted["roleRef"].clone();
        have["subjects"] = wanted.get("subjects").cloned().unwrap_or_default();
        return true;
    }
    add_missing(have, wanted, "subjects")
}

/// Keeps aggregated cluster roles equal to the sum of their parts, as upstream's controller of that name does; a second
/// writer with the same aim changes nothing.
pub async fn aggregate(server: &Arc<Server>) {
    let Some(cache) = server.store.cache("clusterroles/") else { return };
    let mut changes = cache.changes();
    changes.mark_changed();
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        // A burst of changes is one reason to look.
        tokio::time::sleep(Duration::from_millis(100)).await;
        changes.borrow_and_update();
        // A role that cannot be read may be a part: without it others would lose rights.
        let all: Vec<Value> = match cache.list("", |_| true) {
            Ok((entries, _)) => entries.iter().map(|e| e.value()).collect(),
            Err(error) => {
                tracing::error!(%error, "aggregated cluster roles stay as they are");
                continue;
            }
        };
        for role in &all {
            let Some(rules) = aggregated(role, all.iter()) else { continue };
            let rules = Value::from(rules);
            if role.get("rules") == Some(&rules) {
                continue;
            }
            let result = settle(server, "clusterroles/", role.name(), |value| {
                let differs = value.get("rules") != Some(&rules);
                value["rules"] = rules.clone();
                differs
            })
            .await;
            if let Err(error) = result {
                tracing::warn!(error = format!("{error:#}"), role = role.name(), "aggregate a cluster role");
            }
        }
    }
}
