//! The objects of priority and fairness: made, restored, and taken into account
//! (`pkg/registry/flowcontrol/ensurer`, `apiserver/pkg/util/flowcontrol/apf_controller.go`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use kinit_storage::{Cache, Updated};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::objects;
use crate::flow::{Fairness, LevelConfig, Schema, defaults};
use crate::registry::ownership::record_own;
use crate::server::Server;

const SCHEMAS: &str = "flowschemas/";
const LEVELS: &str = "prioritylevelconfigurations/";
/// How often seats are lent anew (`borrowingAdjustmentPeriod`).
const LENDING: Duration = Duration::from_secs(10);
/// How often the server's own objects are restored.
const RESTORING: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);

/// Makes what is missing of the server's own objects, and restores what was changed of them.
pub async fn ensure(server: &Arc<Server>) -> Result<()> {
    for (prefix, wanted) in [(LEVELS, defaults::levels()), (SCHEMAS, defaults::schemas())] {
        for object in wanted {
            let (name, spec) = (object.name().to_owned(), object.get("spec").cloned().unwrap_or_default());
            if objects::ensure(server, prefix, object).await? {
                continue;
            }
            let current = server.store.cache(prefix).and_then(|cache| cache.last_known(&name));
            if current.is_some_and(|entry| is_changed(&entry.value(), &spec)) {
                objects::settle(server, prefix, &name, |object| restore(object, &spec)).await?;
            }
        }
    }
    Ok(())
}

/// Whether an object is kept by the servers and not as they want it.
fn is_changed(object: &Value, spec: &Value) -> bool {
    let kept = match object.annotation(defaults::AUTO_UPDATE) {
        _ if defaults::is_mandatory(object.name()) => true,
        Some(value) => value == "true",
        None => object.at(&["metadata", "generation"]).and_then(Value::as_i64) == Some(1),
    };
    kept && object.get("spec") != Some(spec)
}

fn restore(object: &mut Value, spec: &Value) -> bool {
    if !is_changed(object, spec) {
        return false;
    }
    object["spec"] = spec.clone();
    if let Some(meta) = object.object_at(&["metadata"]) {
        let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or_default();
        meta.insert("generation".into(), (generation + 1).into());
    }
    true
}

/// Keeps priority and fairness as the objects say, for as long as the server runs.
pub async fn follow(server: &Arc<Server>) {
    let (Some(fairness), Some(schemas), Some(levels)) =
        (&server.fairness, server.store.cache(SCHEMAS), server.store.cache(LEVELS))
    else {
        return;
    };
    let (mut schemas_changed, mut levels_changed) = (schemas.changes(), levels.changes());
    // The objects were made a moment ago.
    let mut restoring = tokio::time::interval_at(Instant::now() + RESTORING, RESTORING);
    let mut lending = tokio::time::interval(LENDING);
    lending.set_missed_tick_behavior(MissedTickBehavior::Delay);
    restoring.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        schemas_changed.borrow_and_update();
        levels_changed.borrow_and_update();
        fairness.configure(objects_of(&schemas, Schema::of), objects_of(&levels, LevelConfig::of));
        let complete = report(server, fairness, &schemas).await;
        loop {
            tokio::select! {
                () = server.shutdown.cancelled() => return,
                changed = schemas_changed.changed() => if changed.is_err() { return } else { break },
                changed = levels_changed.changed() => if changed.is_err() { return } else { break },
                () = tokio::time::sleep(RETRY), if !complete => break,
                _ = lending.tick() => fairness.lend(),
                _ = restoring.tick() => if let Err(error) = ensure(server).await {
                    tracing::warn!(error = format!("{error:#}"), "restore the objects of priority and fairness");
                },
            }
        }
    }
}

fn objects_of<T>(cache: &Cache, read: impl Fn(&Value) -> T) -> Vec<T> {
    cache.all_last_known("", |_| true).0.iter().map(|entry| read(&entry.value())).collect()
}

/// Writes into each FlowSchema whether its level exists; whether all could be written.
async fn report(server: &Server, fairness: &Fairness, schemas: &Cache) -> bool {
    let levels = fairness.levels();
    let mut complete = true;
    for entry in schemas.all_last_known("", |_| true).0 {
        let old = entry.value();
        let Some(new) = with_condition(&old, &levels) else { continue };
        match server.store.update(SCHEMAS, &entry.key, entry.revision, &new, None).await {
            // Another server may have been faster: what it wrote comes by the cache.
            Ok(Updated::Done(_) | Updated::Changed(_)) => {}
            Err(error) => {
                tracing::warn!(%error, name = %entry.key, "write the status of a FlowSchema; trying again");
                complete = false;
            }
        }
    }
    complete
}

/// The FlowSchema with the condition `Dangling` as it should be; `None` if it is.
fn with_condition(old: &Value, levels: &HashSet<String>) -> Option<Value> {
    let level = old.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let found = levels.contains(level);
    let (status, reason) = if found { ("False", "Found") } else { ("True", "NotFound") };
    let end = if found { "and it exists" } else { "but there is no such object" };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
    let conditions = old.at(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let is_dangling = |c: &Value| c.str_at(&["type"]) == "Dangling";
    let current = conditions.iter().find(|c| is_dangling(c));
    if current.is_some_and(|c| c.str_at(&["status"]) == status && c.str_at(&["message"]) == message) {
        return None;
    }
    let since = match current.filter(|c| c.str_at(&["status"]) == status) {
        Some(same) => same.str_at(&["lastTransitionTime"]).to_owned(),
        None => time::format(Timestamp::now()),
    };
    let mut kept: Vec<Value> = conditions.into_iter().filter(|c| !is_dangling(c)).collect();
    kept.push(json!({"type": "Dangling", "status": status, "lastTransitionTime": since, "reason": reason,
        "message": message}));
    let mut new = old.clone();
    new.object_at(&["status"])?.insert("conditions".into(), kept.into());
    record_own(&mut new, Some(old), "status");
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_of_the_servers_own_is_restored() {
        let wanted = defaults::levels().into_iter().find(|level| level.name() == "system").unwrap();
        let spec = wanted["spec"].clone();
        let mut changed = wanted.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = json!(1);
        assert!(!is_changed(&wanted, &spec) && is_changed(&changed, &spec));
        changed["metadata"]["annotations"][defaults::AUTO_UPDATE] = json!("false");
        assert!(!is_changed(&changed, &spec), "somebody wants it so");
        changed["metadata"]["annotations"] = json!({});
        changed["metadata"]["generation"] = json!(2);
        assert!(!is_changed(&changed, &spec), "changed by a person");
        changed["metadata"]["name"] = json!("catch-all");
        assert!(restore(&mut changed, &spec), "nobody may change that one");
        assert_eq!((&changed["spec"], &changed["metadata"]["generation"]), (&spec, &json!(3)));
    }

    #[test]
    fn a_schema_without_a_level_dangles() {
        let schema = defaults::schemas().remove(0);
        let levels: HashSet<String> = ["exempt".to_owned()].into();
        let found = with_condition(&schema, &levels).unwrap();
        assert_eq!(found["status"]["conditions"][0]["status"], "False");
        assert_eq!(with_condition(&found, &levels), None);
        let dangling = with_condition(&found, &HashSet::new()).unwrap();
        let conditions = dangling["status"]["conditions"].as_array().unwrap();
        assert_eq!((conditions.len(), &conditions[0]["reason"]), (1, &json!("NotFound")));
        assert!(conditions[0]["message"].as_str().unwrap().ends_with("\"exempt\" but there is no such object"));
    }
}
