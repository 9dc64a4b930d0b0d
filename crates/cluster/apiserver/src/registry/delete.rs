//! DELETE of an object or of a collection: grace, finalizers, preconditions.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::{ApiError, status, time};
use kinit_storage::{Entry, Updated};
use serde_json::{Value, json};

use super::list::{Filter, selected};
use super::options::{DeleteOptions, delete_options};
use super::{Request, present};
use crate::admission::{Attributes, Operation};
use crate::http::{ApiResponse, respond};
use crate::resources::Descriptor;
use crate::strategy::Dependents;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 8;

/// What became of the object.
pub enum Outcome {
    /// It is gone; its last state.
    Gone(Value),
    /// It is marked, and somebody else will finish.
    Marked(Value),
}

/// Handles DELETE of an object.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let options = delete_options(request, &body)?;
    warn_of_orphans(request, &options);
    let desc = &request.desc;
    Ok(match one(request, &options, &request.info.namespace, &request.info.name).await? {
        Outcome::Marked(object) => present::object(request, 200, object),
        Outcome::Gone(object) if desc.strategy.traits().return_deleted => present::object(request, 200, object),
        Outcome::Gone(object) => {
            respond::json(200, &status::deleted(&desc.group, &desc.plural, object.name(), object.uid()))
        }
    })
}

/// Handles DELETE of a collection.
pub async fn collection(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let options = delete_options(request, &body)?;
    warn_of_orphans(request, &options);
    let filter = Filter::of(request)?;
    request.server.store.catch_up().await.map_err(|e| request.storage_error(e))?;
    let within = if request.info.namespace.is_empty() { String::new() } else { format!("{}/", request.info.namespace) };
    let (entries, revision) = selected(request, &filter, &within)?;
    let mut items = Vec::with_capacity(entries.len());
    for entry in entries {
        if !filter.passes(&request.desc, &entry).await? {
            continue;
        }
        match one(request, &options, entry.namespace(), entry.name()).await {
            Ok(Outcome::Gone(object) | Outcome::Marked(object)) => items.push(object),
            // Somebody else deleted it first: what was wanted.
            Err(error) if error.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({"kind": request.desc.list_kind(), "apiVersion": request.desc.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items});
    Ok(respond::document(200, &list, request.accepted.is_yaml()))
}

/// Deletes one object, or marks it.
pub async fn one(request: &Request, options: &DeleteOptions, namespace: &str, name: &str) -> Result<Outcome, ApiError> {
    let desc = &request.desc;
    let store = &request.server.store;
    let key = desc.key(namespace, name);
    let missing = || ApiError::not_found(&desc.group, &desc.plural, name);
    let read = async || store.get(&desc.prefix, &key).await.map_err(|e| super::storage_error(e, desc, name));
    let mut current = cached(request, options, &key, name).await;
    let mut from_cache = current.is_some();
    if !from_cache {
        current = read().await?;
    }
    for _ in 0..ATTEMPTS {
        let entry = current.ok_or_else(missing)?;
        let old = desc.shown(entry.value()).await?;
        preconditions(request, options, &old, name)?;
        // Each time: what was let go may have become what is not (`conditionalDelete` of upstream's storage).
        let attributes = Attributes {
            request,
            operation: Operation::Delete,
            old: Some(&old),
            dry_run: options.dry_run,
            subresource: "",
        };
        match attributes.validate(&old).await {
            Ok(()) => {}
            Err(_) if from_cache => {
                (current, from_cache) = (read().await?, false);
                continue;
            }
            Err(error) => return Err(error),
        }
        let policy = policy(options, &old, desc.strategy.traits().dependents);
        let plan = plan(desc, &old, options, policy, name)?;
        if options.dry_run {
            return Ok(plan.tried(old));
        }
        let result = match &plan {
            Plan::Keep => return Ok(Outcome::Marked(old)),
            Plan::Remove => store.delete(&desc.prefix, &key, entry.revision).await,
            Plan::Mark(new) => {
                let stored = desc.stored(new.clone()).await?;
                store.update(&desc.prefix, &key, entry.revision, &stored, None).await
            }
        };
        match (result.map_err(|e| super::storage_error(e, desc, name))?, plan) {
            (Updated::Done(revision), Plan::Mark(new)) => {
                return Ok(Outcome::Marked(super::create::with_version(new, revision)));
            }
            (Updated::Done(revision), _) => {
                crate::services::release(request, &old).await;
                return Ok(Outcome::Gone(super::create::with_version(old, revision)));
            }
            (Updated::Changed(now), _) => (current, from_cache) = (now, false),
        }
    }
    Err(ApiError::modified(&desc.group, &desc.plural, name))
}

/// The object as the cache has it, when a delete of that is a write: etcd refuses the write should the object have
/// changed, so no read has to come before it. What is answered without a write is answered from etcd.
async fn cached(request: &Request, options: &DeleteOptions, key: &str, name: &str) -> Option<Entry> {
    if options.dry_run {
        return None;
    }
    let desc = &request.desc;
    let entry = request.server.store.cache(&desc.prefix)?.get(key).ok()??;
    let old = desc.shown(entry.value()).await.ok()?;
    preconditions(request, options, &old, name).ok()?;
    let policy = policy(options, &old, desc.strategy.traits().dependents);
    let writes = matches!(plan(desc, &old, options, policy, name), Ok(Plan::Remove | Plan::Mark(_)));
    writes.then(|| (*entry).clone())
}

/// What the kinds of old do by default surprises; upstream says so for Jobs.
fn warn_of_orphans(request: &Request, options: &DeleteOptions) {
    if (request.desc.group.as_str(), request.desc.kind.as_str()) == ("batch", "Job") && options.propagation.is_none() {
        request.warn(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or \
             set propagationPolicy=Orphan to suppress this warning",
        );
    }
}

/// The propagation policy: what the delete says, else what a finalizer says, else the kind's default
/// (`shouldOrphanDependents`).
fn policy<'a>(options: &'a DeleteOptions, old: &Value, dependents: Dependents) -> Option<&'a str> {
    let marked = || old.finalizers().iter().any(|f| f == ORPHAN || f == FOREGROUND);
    match options.propagation.as_deref() {
        None if dependents == Dependents::Orphan && !marked() => Some("Orphan"),
        given => given,
    }
}

/// Whether the object is the one that the delete means.
pub fn preconditions(request: &Request, options: &DeleteOptions, old: &Value, name: &str) -> Result<(), ApiError> {
    let desc = &request.desc;
    // `rest.BeforeDelete`, which names the kind where others name the resource.
    let conflict = |what: &str, given: &str, is: &str| {
        let became = if what == "UID" { "deleted and then recreated" } else { "modified" };
        let cause = format!(
            "the {what} in the precondition ({given}) does not match the {what} in record ({is}). The object might have been {became}"
        );
        Err(ApiError::conflict(&desc.group, &desc.kind, name, &cause))
    };
    if let Some(uid) = options.uid.as_deref().filter(|u| *u != old.uid()) {
        return conflict("UID", uid, old.uid());
    }
    if let Some(version) = options.resource_version.as_deref().filter(|v| *v != old.resource_version()) {
        return conflict("ResourceVersion", version, old.resource_version());
    }
    Ok(())
}

enum Plan {
    Remove,
    Mark(Value),
    Keep,
}

impl Plan {
    /// What would become of an object.
    fn tried(self, old: Value) -> Outcome {
        match self {
            Self::Remove => Outcome::Gone(old),
            Self::Keep => Outcome::Marked(old),
            Self::Mark(new) => Outcome::Marked(new),
        }
    }
}

fn plan(
    desc: &Descriptor,
    old: &Value,
    options: &DeleteOptions,
    policy: Option<&str>,
    name: &str,
) -> Result<Plan, ApiError> {
    if old.is_deleting() {
        return planned(desc.core_kind(), old, old, options, policy, name);
    }
    let mut prepared = old.clone();
    desc.strategy.prepare_delete(&mut prepared);
    planned(desc.core_kind(), old, &prepared, options, policy, name)
}

/// What a delete means for an object of this kind of the core group; `prepared` is what it is before it is marked.
fn planned(
    kind: &str,
    old: &Value,
    prepared: &Value,
    options: &DeleteOptions,
    policy: Option<&str>,
    name: &str,
) -> Result<Plan, ApiError> {
    let mut new = prepared.clone();
    let finalizers = finalizers_after(prepared, policy);
    let finalizers_changed = finalizers != old.finalizers();
    set_finalizers(&mut new, &finalizers);
    if kind == "Namespace" {
        return namespace_plan(new, old, &finalizers, name);
    }
    let grace = if kind == "Pod" { pod_grace(old, options.grace) } else { 0 };
    if old.is_deleting() {
        let before = old.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
        if grace >= before || kind != "Pod" {
            // Already on its way; only an object nobody holds any more can go now.
            if finalizers.is_empty() && before == 0 {
                return Ok(Plan::Remove);
            }
            return Ok(if finalizers_changed { Plan::Mark(new) } else { Plan::Keep });
        }
        if grace == 0 && finalizers.is_empty() {
            return Ok(Plan::Remove);
        }
        shorten(&mut new, old, before, grace);
        return Ok(Plan::Mark(new));
    }
    if grace == 0 && finalizers.is_empty() {
        return Ok(Plan::Remove);
    }
    mark(&mut new, grace);
    Ok(Plan::Mark(new))
}

fn mark(new: &mut Value, grace: i64) {
    let when = Timestamp::now().saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    new["metadata"]["deletionTimestamp"] = time::format(when).into();
    new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    if let Some(generation) = new.at(&["metadata", "generation"]).and_then(Value::as_i64) {
        new["metadata"]["generation"] = (generation + 1).into();
    }
}

/// The time of deletion is when the delete came plus the grace: a shorter grace moves it.
fn shorten(new: &mut Value, old: &Value, before: i64, grace: i64) {
    let at = time::parse(old.str_at(&["metadata", "deletionTimestamp"])).unwrap_or_else(Timestamp::now);
    let when = at.saturating_sub(SignedDuration::from_secs(before - grace)).unwrap_or(at);
    new["metadata"]["deletionTimestamp"] = time::format(when).into();
    new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
}

fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let grace =
        asked.or_else(|| pod.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64)).unwrap_or(30);
    // Nobody runs an unscheduled or finished pod: there is nobody to wait for.
    let finished = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    match grace {
        _ if pod.str_at(&["spec", "nodeName"]).is_empty() || finished => 0,
        // `podStrategy.CheckGracefulDelete`
        ..0 => 1,
        grace => grace,
    }
}

fn finalizers_after(old: &Value, propagation: Option<&str>) -> Vec<String> {
    let mut list = old.finalizers();
    let Some(policy) = propagation else { return list };
    list.retain(|f| f != ORPHAN && f != FOREGROUND);
    match policy {
        "Orphan" => list.push(ORPHAN.into()),
        "Foreground" => list.push(FOREGROUND.into()),
        _ => {}
    }
    list
}

fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let Some(meta) = object.object_at(&["metadata"]) else { return };
    if finalizers.is_empty() {
        meta.shift_remove("finalizers");
    } else {
        meta.insert("finalizers".into(), finalizers.iter().cloned().collect());
    }
}

/// A namespace goes when the namespace controller has emptied it and taken its name off `spec.finalizers`.
fn namespace_plan(mut new: Value, old: &Value, finalizers: &[String], name: &str) -> Result<Plan, ApiError> {
    let held = old.at(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if !old.is_deleting() {
        mark(&mut new, 0);
        if let Some(status) = new.object_at(&["status"]) {
            status.insert("phase".into(), "Terminating".into());
        }
        return Ok(if held || !finalizers.is_empty() { Plan::Mark(new) } else { Plan::Remove });
    }
    if held {
        let cause = "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace will automatically be purged by the system.";
        return Err(ApiError::conflict("", "namespaces", name, cause));
    }
    Ok(if finalizers.is_empty() { Plan::Remove } else { Plan::Keep })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        kind: &str,
        old: &Value,
        options: &DeleteOptions,
        policy: Option<&str>,
        name: &str,
    ) -> Result<Plan, ApiError> {
        planned(kind, old, old, options, policy, name)
    }

    fn options(grace: Option<i64>) -> DeleteOptions {
        DeleteOptions { grace, ..DeleteOptions::default() }
    }

    #[test]
    fn pods_wait_for_their_kubelet() {
        let running = json!({"metadata":{"name":"p"},"spec":{"nodeName":"n","terminationGracePeriodSeconds":5}});
        let Ok(Plan::Mark(marked)) = plan("Pod", &running, &options(None), None, "p") else { panic!("not marked") };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 5);
        assert!(matches!(plan("Pod", &marked, &options(None), None, "p"), Ok(Plan::Keep)));
        assert!(matches!(plan("Pod", &marked, &options(Some(0)), None, "p"), Ok(Plan::Remove)));
        let Ok(Plan::Mark(shorter)) = plan("Pod", &marked, &options(Some(1)), None, "p") else {
            panic!("not shortened")
        };
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 1);
        let unscheduled = json!({"metadata":{"name":"p"},"spec":{}});
        assert!(matches!(plan("Pod", &unscheduled, &options(None), None, "p"), Ok(Plan::Remove)));
    }

    #[test]
    fn finalizers_keep_an_object() {
        let held = json!({"metadata":{"name":"c","finalizers":["example.com/x"]}});
        let Ok(Plan::Mark(marked)) = plan("ConfigMap", &held, &options(None), None, "c") else { panic!("not marked") };
        assert!(marked.is_deleting());
        assert!(matches!(plan("ConfigMap", &marked, &options(None), None, "c"), Ok(Plan::Keep)));
        let free = json!({"metadata":{"name":"c"}});
        let foreground = plan("Deployment", &free, &options(None), Some("Foreground"), "c");
        let Ok(Plan::Mark(marked)) = foreground else { panic!("not marked") };
        assert_eq!(marked.finalizers(), [FOREGROUND]);
    }

    #[test]
    fn what_becomes_of_dependents() {
        let given = |policy: Option<&str>| DeleteOptions { propagation: policy.map(str::to_owned), ..options(None) };
        let object = |finalizers: &[&str]| json!({"metadata": {"name": "c", "finalizers": finalizers}});
        for (policy_given, finalizers, dependents, expected) in [
            (None, &[][..], Dependents::Delete, None),
            (None, &[], Dependents::Orphan, Some("Orphan")),
            (None, &["example.com/x"], Dependents::Orphan, Some("Orphan")),
            (None, &[FOREGROUND], Dependents::Orphan, None),
            (None, &[ORPHAN], Dependents::Orphan, None),
            (Some("Background"), &[], Dependents::Orphan, Some("Background")),
            (Some("Foreground"), &[ORPHAN], Dependents::Delete, Some("Foreground")),
        ] {
            let options = given(policy_given);
            assert_eq!(policy(&options, &object(finalizers), dependents), expected, "{policy_given:?} {finalizers:?}");
        }
    }
}
