//! Events, of which the newer kind is checked strictly, the older one hardly (`pkg/apis/core/validation/events.go`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{NameRule, check_qualified_name};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{immutable, one_of};

const REASON: usize = 128;
const ACTION: usize = 128;
const INSTANCE: usize = 128;
const NOTE: usize = 1024;

/// An event in either of its forms, by the names that the fields have in it.
struct Form {
    object: &'static str,
    controller: &'static str,
    note: &'static str,
}

const CORE: Form = Form { object: "involvedObject", controller: "reportingComponent", note: "message" };
const NEW: Form = Form { object: "regarding", controller: "reportingController", note: "note" };

fn is_set(o: &Value, key: &str) -> bool {
    o.get(key).is_some_and(|value| !value.is_null() && *value != "" && *value != 0)
}

/// Checks one of the core group. Without `eventTime` it is of the older kind (`legacyValidateEvent`).
pub fn validate_core(o: &Value, errors: &mut FieldErrors) {
    object(o, &CORE, errors);
    if is_set(o, "eventTime") {
        strict(o, &CORE, errors);
    }
}

/// Checks a new one of `events.k8s.io` (`ValidateEventCreate`).
pub fn validate_create(o: &Value, errors: &mut FieldErrors) {
    object(o, &NEW, errors);
    if !is_set(o, "eventTime") {
        errors.required("eventTime", "");
    }
    let kind = o.get("type").cloned().unwrap_or_default();
    one_of(&kind, "type", &["Normal", "Warning"], errors);
    for (key, what) in [
        ("deprecatedFirstTimestamp", "needs to be unset"),
        ("deprecatedLastTimestamp", "needs to be unset"),
        ("deprecatedCount", "needs to be unset"),
    ] {
        if is_set(o, key) {
            errors.invalid(key, &o[key], what);
        }
    }
    if ["component", "host"].iter().any(|key| !o.str_at(&["deprecatedSource", key]).is_empty()) {
        errors.invalid("deprecatedSource", &o["deprecatedSource"], "needs to be unset");
    }
    strict(o, &NEW, errors);
}

/// Only the series of an event goes on (`ValidateEventUpdate`).
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    // What was written through the core group stays what it was.
    if !is_set(old, "eventTime") {
        return;
    }
    for key in [
        "regarding",
        "reason",
        "reportingController",
        "reportingInstance",
        "action",
        "related",
        "note",
        "type",
        "eventTime",
        "deprecatedSource",
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
    ] {
        immutable(new, old, &[key], errors);
    }
}

/// An event of the older kind is where its object is; those of objects without a namespace are in `default`, newer
/// ones in `kube-system`, too.
fn object(o: &Value, form: &Form, errors: &mut FieldErrors) {
    let (own, about) = (o.namespace(), o.str_at(&[form.object, "namespace"]));
    let field = "involvedObject.namespace";
    let fits = match (about, is_set(o, "eventTime")) {
        ("", true) => matches!(own, "default" | "kube-system"),
        ("", false) => matches!(own, "" | "default"),
        (_, true) => true,
        (about, false) => own == about,
    };
    if !fits {
        errors.invalid(field, &about.into(), "does not match event.namespace");
    }
    if !own.is_empty() {
        for problem in NameRule::Subdomain.check(own) {
            errors.invalid("namespace", &own.into(), &problem);
        }
    }
}

fn strict(o: &Value, form: &Form, errors: &mut FieldErrors) {
    let controller = o.str_at(&[form.controller]);
    if controller.is_empty() {
        errors.required(form.controller, "");
    } else {
        for problem in check_qualified_name(controller) {
            errors.invalid(form.controller, &controller.into(), &problem);
        }
    }
    for (key, most) in [("reportingInstance", INSTANCE), ("action", ACTION), ("reason", REASON)] {
        let text = o.str_at(&[key]);
        if text.is_empty() {
            errors.required(key, "");
        }
        if text.len() > most {
            errors.invalid(key, &"".into(), &format!("can have at most {most} characters"));
        }
    }
    if o.str_at(&[form.note]).len() > NOTE {
        errors.invalid(form.note, &"".into(), &format!("can have at most {NOTE} characters"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    #[test]
    fn the_newer_kind_says_who_and_what() {
        let event = |change: Value| {
            let mut event = json!({"metadata": {"name": "e", "namespace": "ns"}, "eventTime": "2026-01-01T00:00:00.000000Z",
                "regarding": {"kind": "Pod", "namespace": "ns"}, "type": "Normal", "reason": "R", "action": "A",
                "reportingController": "k8s.io/c", "reportingInstance": "i", "note": "n"});
            change.as_object().unwrap().iter().for_each(|(key, value)| event[key] = value.clone());
            event
        };
        for (change, wanted) in [
            (json!({}), &[][..]),
            (json!({"eventTime": null}), &["eventTime: Required value"]),
            (json!({"type": "Odd"}), &["type: Unsupported value"]),
            (json!({"deprecatedCount": 3}), &["deprecatedCount: needs to be unset"]),
            (json!({"action": "", "reason": ""}), &["action: Required value", "reason: Required value"]),
            (json!({"note": "x".repeat(1025)}), &["note: can have at most 1024 characters"]),
            (json!({"reportingController": "a b"}), &["reportingController: name part must consist of"]),
            (json!({"regarding": {}}), &["involvedObject.namespace: does not match event.namespace"]),
        ] {
            let (object, mut errors) = (event(change), FieldErrors::default());
            validate_create(&object, &mut errors);
            assert_told(&errors, wanted, &object);
        }
        let mut errors = FieldErrors::default();
        let changed = event(json!({"series": {"count": 2}, "note": "other"}));
        validate_update(&changed, &event(json!({})), &mut errors);
        assert_told(&errors, &["note: field is immutable"], &changed);
    }

    #[test]
    fn the_older_kind_is_where_its_object_is() {
        let event = |namespace: &str, about: &str| json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": {"namespace": about}});
        for (namespace, about, wrong) in
            [("ns", "ns", 0), ("default", "", 0), ("kube-system", "", 1), ("ns", "", 1), ("ns", "other", 1)]
        {
            let mut errors = FieldErrors::default();
            validate_core(&event(namespace, about), &mut errors);
            assert_eq!(errors.0.len(), wrong, "{namespace} {about}");
        }
        let mut strict = event("ns", "ns");
        strict["eventTime"] = "2026-01-01T00:00:00.000000Z".into();
        let mut errors = FieldErrors::default();
        validate_core(&strict, &mut errors);
        let wanted =
            ["reportingComponent", "reportingInstance", "action", "reason"].map(|f| format!("{f}: Required value"));
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        assert_told(&errors, &wanted, &strict);
    }
}
