//! Names and conditions that follow from all definitions together (`pkg/controller/status`, `establish`,
//! `nonstructuralschema` and `apiapproval`). Pure but for the time of a transition.

use std::collections::{HashMap, HashSet};

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::quoted;
use kinit_apimachinery::time;
use serde_json::{Value, json};

use super::model::{Definition, Names};

/// Names that are taken in a group.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn add(&mut self, names: &Names) {
        self.resources.extend([&names.plural, &names.singular].into_iter().chain(&names.short).cloned());
        self.kinds.extend([&names.kind, &names.list_kind].into_iter().cloned());
    }
}

/// What of a definition's names it gets, and why not the rest: (reason, message).
fn accept(wanted: &Names, has: &Names, taken: &Taken) -> (Names, Option<(&'static str, String)>) {
    let (mut out, mut conflict) = (has.clone(), None);
    let in_use = |name: &str| format!("{} is already in use", quoted(name));
    let mut one = |wanted: &str, has: &str, taken: &HashSet<String>, reason: &'static str| {
        if wanted == has || !taken.contains(wanted) {
            return Some(wanted.to_owned());
        }
        conflict = Some((reason, in_use(wanted)));
        None
    };
    let (resources, kinds) = (&taken.resources, &taken.kinds);
    out.plural = one(&wanted.plural, &has.plural, resources, "PluralConflict").unwrap_or(out.plural);
    out.singular = one(&wanted.singular, &has.singular, resources, "SingularConflict").unwrap_or(out.singular);
    let strangers: Vec<String> = wanted
        .short
        .iter()
        .filter(|name| !has.short.contains(name) && resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    if strangers.is_empty() {
        out.short.clone_from(&wanted.short);
    }
    out.kind = one(&wanted.kind, &has.kind, kinds, "KindConflict").unwrap_or(out.kind);
    out.list_kind = one(&wanted.list_kind, &has.list_kind, kinds, "ListKindConflict").unwrap_or(out.list_kind);
    out.categories.clone_from(&wanted.categories);
    if !strangers.is_empty() {
        let text = if strangers.len() == 1 { strangers.concat() } else { format!("[{}]", strangers.join(", ")) };
        conflict.get_or_insert(("ShortNamesConflict", text));
    }
    (out, conflict)
}

/// The statuses that are to be written, by the definition's name. Who was first gets a name; of two of the same second
/// the one whose own name comes first.
pub(super) fn statuses<'a>(all: &[&'a Definition]) -> Vec<(&'a str, Value)> {
    let mut taken: HashMap<&str, Taken> = HashMap::new();
    for definition in all {
        taken.entry(&definition.group).or_default().add(&definition.accepted);
    }
    let mut order: Vec<&Definition> = all.to_vec();
    order.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
    let mut out = Vec::new();
    for definition in order {
        let taken = taken.entry(&definition.group).or_default();
        let (names, conflict) = accept(&definition.wanted, &definition.accepted, taken);
        taken.add(&names);
        let status = status(definition, &names, conflict);
        if status != definition.status {
            out.push((definition.name.as_str(), status));
        }
    }
    out
}

fn status(definition: &Definition, names: &Names, conflict: Option<(&'static str, String)>) -> Value {
    let mut status = definition.status.clone();
    if !status.is_object() {
        status = json!({});
    }
    let good = conflict.is_none();
    let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".into()));
    set(&mut status, definition, "NamesAccepted", good, reason, &message);
    if !definition.is("Established") {
        match good {
            true => set(
                &mut status,
                definition,
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
            false => {
                set(&mut status, definition, "Established", false, "NotAccepted", "not all names are accepted");
            }
        }
    }
    match &definition.violations {
        Some(text) => set(&mut status, definition, "NonStructuralSchema", true, "Violations", text),
        None => unset(&mut status, "NonStructuralSchema"),
    }
    if let Some((approved, reason, text)) = approval(definition) {
        set(&mut status, definition, "KubernetesAPIApprovalPolicyConformant", approved, reason, &text);
    }
    if Names::of(status.get("acceptedNames").unwrap_or(&Value::Null)) != *names {
        status["acceptedNames"] = names.to_value();
    }
    status
}

/// Sets a condition; its time is that of its last change of status.
pub(super) fn set(status: &mut Value, definition: &Definition, kind: &str, on: bool, reason: &str, message: &str) {
    let word = if on { "True" } else { "False" };
    let before = definition.condition(kind);
    let unchanged = before.filter(|c| c.str_at(&["status"]) == word);
    if unchanged.is_some_and(|c| c.str_at(&["reason"]) == reason && c.str_at(&["message"]) == message) {
        return;
    }
    let since = unchanged.map(|c| c.str_at(&["lastTransitionTime"])).filter(|t| !t.is_empty()).map(str::to_owned);
    let since = since.unwrap_or_else(|| time::format(jiff::Timestamp::now()));
    let condition =
        json!({"lastTransitionTime": since, "message": message, "reason": reason, "status": word, "type": kind});
    let Some(map) = status.as_object_mut() else { return };
    let list = map.entry("conditions").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    match list.iter_mut().find(|c| c.str_at(&["type"]) == kind) {
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}

fn unset(status: &mut Value, kind: &str) {
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|c| c.str_at(&["type"]) != kind);
    }
}

/// Whether a definition in a group of the community was approved; nothing for other groups.
fn approval(definition: &Definition) -> Option<(bool, &'static str, String)> {
    if !is_protected(&definition.group) {
        return None;
    }
    let text = definition.approval.as_deref().unwrap_or_default();
    Some(match approval_problem(&definition.group, Some(text)) {
        Some(problem) if text.is_empty() => (false, "MissingAnnotation", problem.into()),
        Some(problem) => (false, "InvalidAnnotation", problem.into()),
        None if text.starts_with("unapproved") => {
            (false, "UnapprovedAnnotation", format!("not approved: {}", quoted(text)))
        }
        None => (true, "ApprovedAnnotation", format!("approved in {text}")),
    })
}

/// What is wrong with the approval of a definition, in upstream's words (`GetAPIApprovalState`).
pub(crate) fn approval_problem(group: &str, given: Option<&str>) -> Option<&'static str> {
    const MISSING: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
    const INVALID: &str = "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111";
    match given.unwrap_or_default() {
        _ if !is_protected(group) => None,
        "" => Some(MISSING),
        text if text.starts_with("unapproved") => None,
        text if reqwest::Url::parse(text).is_ok_and(|url| url.has_host()) => None,
        _ => Some(INVALID),
    }
}

/// Groups that the Kubernetes community keeps for itself (`IsProtectedCommunityGroup`).
fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|own| group == *own || group.ends_with(&format!(".{own}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, created: &str, names: Value, accepted: Value) -> Definition {
        let object = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"group": "example.com", "names": names, "versions": []},
            "status": {"acceptedNames": accepted, "storedVersions": ["v1"]}});
        Definition::of(&object, 1)
    }

    fn reported(status: &Value, kind: &str) -> (String, String) {
        let list = status["conditions"].as_array().unwrap();
        let condition = list.iter().find(|c| c["type"] == kind).unwrap();
        (condition["status"].as_str().unwrap().into(), condition["reason"].as_str().unwrap().into())
    }

    #[test]
    fn the_first_gets_the_name() {
        let names = |plural: &str, kind: &str| {
            json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
                "shortNames": ["x"]})
        };
        let late = definition("as", "2026-01-02T00:00:00Z", names("as", "A"), json!({}));
        let early = definition("bs", "2026-01-01T00:00:00Z", names("bs", "A"), json!({}));
        let statuses: HashMap<&str, Value> = statuses(&[&late, &early]).into_iter().collect();
        let (a, b) = (&statuses["as"], &statuses["bs"]);
        assert_eq!(reported(b, "NamesAccepted"), ("True".into(), "NoConflicts".into()));
        assert_eq!(reported(b, "Established"), ("True".into(), "InitialNamesAccepted".into()));
        assert_eq!(reported(a, "NamesAccepted").0, "False");
        assert_eq!(reported(a, "Established"), ("False".into(), "NotAccepted".into()));
        assert_eq!((&a["acceptedNames"]["plural"], &a["acceptedNames"]["kind"]), (&json!("as"), &json!("")));
        assert_eq!(a["storedVersions"], json!(["v1"]), "what is not ours stays");
    }

    #[test]
    fn what_is_settled_is_written_no_more() {
        let names = json!({"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"});
        let mut one = definition("as", "", names, json!({}));
        one.status = statuses(&[&one]).remove(0).1;
        one.accepted = Names::of(&one.status["acceptedNames"]);
        assert_eq!(statuses(&[&one]).len(), 0);
        assert_eq!(one.accepted, one.wanted);
    }
}
