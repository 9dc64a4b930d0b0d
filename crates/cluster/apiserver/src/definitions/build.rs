//! What is served of a definition: a descriptor for each version, and how the store reads its objects.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kinit_apimachinery::apply::CustomType;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::structural::Structural;
use kinit_apimachinery::typed::Typed;
use kinit_storage::Reading;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::convert::{Conversion, ToVersion};
use super::kind::CustomKind;
use super::model::{Definition, Names};
use super::rules::Node;
use super::version;
use crate::registry::scale::Paths;
use crate::resources::convert::VersionOf;
use crate::resources::descriptor::api_version;
use crate::resources::{Custom, Descriptor, Sub};
use crate::server::Server;
use crate::tables::PrinterColumn;

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART: &[&str] = &["get", "patch", "update"];

/// What is served of a definition.
pub(super) struct Serving {
    /// The definition's.
    pub fingerprint: u64,
    /// Changes when objects are to be read in another way.
    pub reads_as: u64,
    /// API group.
    pub group: String,
    /// Plural.
    pub plural: String,
    /// Where its objects are stored.
    pub prefix: String,
    /// One for each served version.
    pub resources: Vec<Arc<Descriptor>>,
    /// How its objects are read.
    pub reading: Reading,
}

/// A version of a definition.
pub(super) struct Version {
    /// `example.com/v1`.
    pub api_version: String,
    /// Its schema.
    pub ty: Typed,
    schema: Arc<Structural>,
    /// How its objects are owned; made when the first is written.
    owned: OnceLock<CustomType>,
    scale: Option<Paths>,
}

impl Version {
    /// For those who own fields in this version.
    pub fn of_owners(&self) -> VersionOf<'_> {
        VersionOf {
            ty: self.owned.get_or_init(|| CustomType::of(&self.schema)).ty(),
            replicas: self.scale.as_ref().map(|paths| paths.spec.as_slice()),
        }
    }
}

/// All versions, by `apiVersion`.
pub(super) type Versions = HashMap<String, Version>;

impl Serving {
    /// What a definition is to be served as.
    pub fn of(definition: &Definition, server: &Server) -> Self {
        let versions: Arc<Versions> = Arc::new(
            definition
                .versions()
                .iter()
                .map(|version| {
                    let version = parse(definition, version);
                    (version.api_version.clone(), version)
                })
                .collect(),
        );
        let (group, plural) = (definition.group.clone(), definition.accepted.plural.clone());
        let prefix = format!("{group}/{plural}/");
        let stored = definition.versions().iter().find(|v| v.get("storage") == Some(&Value::Bool(true)));
        let storage = api_version(&group, stored.map_or("", |v| v.str_at(&["name"])));
        let conversion = Arc::new(Conversion::of(definition, versions.clone(), storage, &server.store));
        let resources = definition
            .versions()
            .iter()
            .filter(|v| v.get("served") == Some(&Value::Bool(true)))
            .map(|v| Arc::new(descriptor(definition, v, &prefix, &versions, &conversion)))
            .collect();
        let (reading, reads_as) = reading(definition, versions);
        Self { fingerprint: definition.fingerprint, reads_as, group, plural, prefix, resources, reading }
    }

    /// Says whether the definition is on its way out.
    pub fn set_terminating(&self, terminating: bool) {
        for custom in self.resources.iter().filter_map(|r| r.custom.as_ref()) {
            custom.terminating.store(terminating, Ordering::Relaxed);
        }
    }

    /// It is served no more: watches end.
    pub fn end(&self) {
        self.resources.iter().filter_map(|r| r.custom.as_ref()).for_each(|custom| custom.life.cancel());
    }
}

/// Resources in the order of discovery.
pub(super) fn ordered(mut resources: Vec<Arc<Descriptor>>) -> Vec<Arc<Descriptor>> {
    resources.sort_by(|a, b| {
        (a.group.cmp(&b.group)).then_with(|| version::compare(&a.version, &b.version)).then(a.plural.cmp(&b.plural))
    });
    resources
}

fn parse(definition: &Definition, version: &Value) -> Version {
    let schema = version.at(&["schema", "openAPIV3Schema"]).filter(|s| s.is_object());
    let mut root = Structural::root(schema.unwrap_or(&Value::Null));
    if schema.is_none() || definition.spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        root.preserve = true;
    }
    let schema = Arc::new(root);
    Version {
        api_version: api_version(&definition.group, version.str_at(&["name"])),
        ty: Typed::Custom(schema.clone()),
        schema,
        owned: OnceLock::new(),
        scale: scale(version),
    }
}

fn scale(version: &Value) -> Option<Paths> {
    let scale = version.at(&["subresources", "scale"]).filter(|s| s.is_object())?;
    let text = |key: &str| scale.str_at(&[key]);
    Some(Paths::parse(text("specReplicasPath"), text("statusReplicasPath"), Some(text("labelSelectorPath"))))
}

fn descriptor(
    definition: &Definition,
    version: &Value,
    prefix: &str,
    versions: &Arc<Versions>,
    conversion: &Arc<Conversion>,
) -> Descriptor {
    let name = version.str_at(&["name"]);
    let own = api_version(&definition.group, name);
    let scale = scale(version);
    let status = version.at(&["subresources", "status"]).is_some_and(Value::is_object);
    let (ty, schema) = match versions.get(&own) {
        Some(version) => (version.ty.clone(), version.schema.clone()),
        None => (Typed::Unknown, Arc::default()),
    };
    let rules = version.at(&["schema", "openAPIV3Schema"]).and_then(Node::of_version);
    let Names { plural, singular, short, kind, list_kind, categories } = definition.accepted.clone();
    Descriptor {
        group: definition.group.clone(),
        version: name.to_owned(),
        plural,
        singular,
        namespaced: definition.namespaced,
        short,
        categories,
        verbs: VERBS.to_vec(),
        subresources: subresources(status, scale.is_some()),
        prefix: prefix.to_owned(),
        ty,
        names: NameRule::Subdomain,
        selectable: selectable(version).into_iter().map(Cow::Owned).collect(),
        strategy: Arc::new(CustomKind { schema, rules, status, scale: scale.clone() }),
        converter: Some(Arc::new(ToVersion::new(own, conversion.clone()))),
        custom: Some(Arc::new(Custom {
            list_kind,
            columns: columns(version),
            scale,
            schema: version.at(&["schema", "openAPIV3Schema"]).map(Value::to_string).unwrap_or_default().into(),
            deprecation: deprecation(definition, version, &kind),
            terminating: AtomicBool::new(definition.is_terminating()),
            life: CancellationToken::new(),
        })),
        kind,
    }
}

fn subresources(status: bool, scale: bool) -> Vec<Sub> {
    let gvk = Some(("autoscaling", "v1", "Scale"));
    let all =
        [(status, Sub { name: "status", verbs: PART, gvk: None }), (scale, Sub { name: "scale", verbs: PART, gvk })];
    all.into_iter().filter(|(there, _)| *there).map(|(_, sub)| sub).collect()
}

fn columns(version: &Value) -> Vec<PrinterColumn> {
    let given = version.get("additionalPrinterColumns").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    match given.is_empty() {
        true => vec![PrinterColumn::age()],
        false => given.iter().map(PrinterColumn::of).collect(),
    }
}

/// Selectable fields: `spec.color`.
fn selectable(version: &Value) -> Vec<String> {
    let list = version.get("selectableFields").and_then(Value::as_array).into_iter().flatten();
    list.map(|f| f.str_at(&["jsonPath"]).trim_start_matches('.').to_owned()).collect()
}

/// What clients of a deprecated version are told (`deprecationWarning`, or which version to use instead).
fn deprecation(definition: &Definition, version: &Value, kind: &str) -> Option<String> {
    let is_deprecated = |v: &Value| v.get("deprecated") == Some(&Value::Bool(true));
    if !is_deprecated(version) {
        return None;
    }
    if let Some(text) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(text.to_owned());
    }
    let (group, name) = (&definition.group, version.str_at(&["name"]));
    let text = format!("{group}/{name} {kind} is deprecated");
    let mut better: Vec<&str> = definition
        .versions()
        .iter()
        .filter(|v| v.get("served") == Some(&Value::Bool(true)) && !is_deprecated(v))
        .map(|v| v.str_at(&["name"]))
        .filter(|other| version::is_as_stable(other, name))
        .collect();
    better.sort_by(|a, b| version::compare(a, b));
    Some(match better.first() {
        Some(other) => format!("{text}; use {group}/{other} {kind}"),
        None => text,
    })
}

fn reading(definition: &Definition, versions: Arc<Versions>) -> (Reading, u64) {
    let mut paths: Vec<String> = definition.versions().iter().flat_map(selectable).collect();
    paths.sort();
    paths.dedup();
    let mut hasher = DefaultHasher::new();
    paths.hash(&mut hasher);
    for version in definition.versions() {
        (version.str_at(&["name"]), version.get("schema").map(Value::to_string)).hash(&mut hasher);
    }
    definition.spec.get("preserveUnknownFields").map(Value::to_string).hash(&mut hasher);
    let values =
        move |object: &Value| paths.iter().map(|path| (Cow::Owned(path.clone()), value_at(object, path))).collect();
    let refresh = move |object: &mut Value| {
        let Some(version) = versions.get(object.str_at(&["apiVersion"])) else { return false };
        let before = version.schema.has_defaults().then(|| object.clone());
        match version.ty.refresh(object) {
            Ok(changed) => changed,
            // Whoever made defaults that large sees objects without them.
            Err(_) => {
                before.into_iter().for_each(|before| *object = before);
                false
            }
        }
    };
    (Reading::new(values).refreshed(refresh), hasher.finish())
}

/// A field as selectors compare it; one that is not there is "".
pub(crate) fn value_at(object: &Value, path: &str) -> String {
    match path.split('.').try_fold(object, |value, key| value.get(key)) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => String::new(),
    }
}
