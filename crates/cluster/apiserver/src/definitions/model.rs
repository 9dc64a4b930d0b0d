//! A definition as it is used: parsed once a revision.

use std::hash::{DefaultHasher, Hash, Hasher};

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural;
use serde_json::Value;

/// `customresourcecleanup.apiextensions.k8s.io`.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Where a definition in a group of the community says who approved it.
pub const APPROVAL: &str = "api-approved.kubernetes.io";

/// Names of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Names {
    /// `widgets`.
    pub plural: String,
    /// `widget`.
    pub singular: String,
    /// `wd`.
    pub short: Vec<String>,
    /// `Widget`.
    pub kind: String,
    /// `WidgetList`.
    pub list_kind: String,
    /// `all`.
    pub categories: Vec<String>,
}

impl Names {
    /// From `CustomResourceDefinitionNames`.
    pub fn of(names: &Value) -> Self {
        let text = |key: &str| names.str_at(&[key]).to_owned();
        Self {
            plural: text("plural"),
            singular: text("singular"),
            short: strings(names.get("shortNames")),
            kind: text("kind"),
            list_kind: text("listKind"),
            categories: strings(names.get("categories")),
        }
    }

    /// With the names that follow from the kind, where they were not given.
    fn with_defaults(mut self) -> Self {
        if self.singular.is_empty() {
            self.singular = self.kind.to_lowercase();
        }
        if self.list_kind.is_empty() && !self.kind.is_empty() {
            self.list_kind = format!("{}List", self.kind);
        }
        self
    }

    /// As `CustomResourceDefinitionNames`.
    pub fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        let mut text = |key: &str, value: &str, always: bool| {
            if always || !value.is_empty() {
                out.insert(key.to_owned(), value.into());
            }
        };
        text("kind", &self.kind, true);
        text("listKind", &self.list_kind, false);
        text("plural", &self.plural, true);
        text("singular", &self.singular, false);
        for (key, list) in [("shortNames", &self.short), ("categories", &self.categories)] {
            if !list.is_empty() {
                out.insert(key.to_owned(), list.iter().cloned().collect());
            }
        }
        out.into()
    }
}

/// A definition.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// When it was written.
    pub revision: u64,
    /// `metadata.creationTimestamp`.
    pub created: String,
    /// API group.
    pub group: String,
    /// The names it wants.
    pub wanted: Names,
    /// The names it has.
    pub accepted: Names,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// `spec`; null in what is kept of a definition that is served.
    pub spec: Value,
    /// `status`.
    pub status: Value,
    /// `api-approved.kubernetes.io`.
    pub approval: Option<String>,
    /// Changes when what is served changes.
    pub fingerprint: u64,
    /// Why its schemas are not structural, if they are of that time.
    pub violations: Option<String>,
    /// Whether its objects must go before it does.
    pub needs_cleanup: bool,
    deleting: bool,
}

impl Definition {
    /// From the object.
    pub fn of(object: &Value, revision: u64) -> Self {
        let spec = object.get("spec").cloned().unwrap_or_default();
        let status = object.get("status").cloned().unwrap_or_default();
        let accepted = Names::of(status.get("acceptedNames").unwrap_or(&Value::Null));
        let mut hasher = DefaultHasher::new();
        (object.uid(), spec.to_string(), &accepted).hash(&mut hasher);
        Self {
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            revision,
            created: object.str_at(&["metadata", "creationTimestamp"]).to_owned(),
            group: spec.str_at(&["group"]).to_owned(),
            wanted: Names::of(spec.get("names").unwrap_or(&Value::Null)).with_defaults(),
            namespaced: spec.str_at(&["scope"]) == "Namespaced",
            approval: object.annotation(super::APPROVAL).map(str::to_owned),
            fingerprint: hasher.finish(),
            violations: violations(&spec),
            needs_cleanup: object.finalizers().iter().any(|f| f == FINALIZER),
            deleting: object.is_deleting(),
            accepted,
            spec,
            status,
        }
    }

    /// What is to be remembered of it: schemas are large.
    pub fn light(object: &Value, revision: u64) -> Self {
        Self { spec: Value::Null, ..Self::of(object, revision) }
    }

    /// The same with another status.
    pub fn with_status(&self, status: Value) -> Self {
        Self { status, ..self.clone() }
    }

    /// A condition of its status.
    pub fn condition(&self, kind: &str) -> Option<&Value> {
        let list = self.status.get("conditions").and_then(Value::as_array)?;
        list.iter().find(|c| c.str_at(&["type"]) == kind)
    }

    /// Whether a condition is true.
    pub fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|c| c.str_at(&["status"]) == "True")
    }

    /// Whether its resource is to be served.
    pub fn is_established(&self) -> bool {
        self.is("Established") && !self.accepted.plural.is_empty() && !self.accepted.kind.is_empty()
    }

    /// Whether it is on its way out.
    pub fn is_terminating(&self) -> bool {
        self.deleting
    }

    /// Its versions.
    pub fn versions(&self) -> &[Value] {
        versions(&self.spec)
    }
}

fn versions(spec: &Value) -> &[Value] {
    spec.get("versions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Why a definition of old is not structural.
fn violations(spec: &Value) -> Option<String> {
    let mut errors = FieldErrors::default();
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        errors.invalid("spec.preserveUnknownFields", &true.into(), "must be false");
    }
    for (i, version) in versions(spec).iter().enumerate() {
        if let Some(schema) = version.at(&["schema", "openAPIV3Schema"]) {
            structural::violations(schema, &format!("spec.versions[{i}].schema.openAPIV3Schema"), &mut errors);
        }
    }
    let texts: Vec<String> = errors.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    match texts.len() {
        0 => None,
        1 => Some(texts.concat()),
        _ => Some(format!("[{}]", texts.join(", "))),
    }
}
