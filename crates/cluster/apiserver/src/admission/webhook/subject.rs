//! A request as webhooks see it: which of them it concerns, what they are sent, what becomes of their patches.

use std::sync::Arc;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::selector::LabelSelector;
use kinit_apimachinery::typed::Typed;
use kinit_apimachinery::{ApiError, decode, patch};
use serde_json::{Value, json};

use super::super::{Attributes, Operation};
use super::hooks::Hook;
use super::matching::{self, Match, Target};
use crate::authz::expressions::Rights;
use crate::registry::{cached, metadata, scale};
use crate::resources::Descriptor;

/// A request, and the form of it that webhooks are sent.
pub struct Subject<'a> {
    /// What admission knows of it.
    pub attributes: &'a Attributes<'a>,
    name: String,
    namespace: String,
}

impl<'a> Subject<'a> {
    /// Of a request about `object`.
    pub fn of(attributes: &'a Attributes<'a>, object: &Value) -> Self {
        let request = attributes.request;
        let name = match request.info.name.as_str() {
            "" => object.name(),
            name => name,
        };
        let namespace = match (request.desc.namespaced, is_namespaces(&request.desc)) {
            (true, _) if request.info.namespace.is_empty() => object.namespace(),
            (true, _) => request.info.namespace.as_str(),
            (false, true) => name,
            (false, false) => "",
        };
        Self { attributes, name: name.to_owned(), namespace: namespace.to_owned() }
    }

    /// `CREATE` and so on.
    pub fn operation(&self) -> &'static str {
        match self.attributes.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }

    fn target<'b>(&'b self, desc: &'b Descriptor) -> Target<'b> {
        Target {
            operation: self.operation(),
            group: &desc.group,
            version: &desc.version,
            resource: &desc.plural,
            subresource: self.attributes.subresource,
            namespace: &self.namespace,
        }
    }

    /// The object that exists after the request; none for a delete.
    pub fn after<'b>(&self, object: &'b Value) -> Option<&'b Value> {
        (self.attributes.operation != Operation::Delete).then_some(object)
    }

    /// The resource in whose form a webhook wants the request; `None` when it is not about it
    /// (`generic.ShouldCallHook`).
    pub async fn concerns(&self, hook: &Hook, object: &Value) -> Result<Option<Arc<Descriptor>>, ApiError> {
        let Some(form) = self.form(hook) else { return Ok(None) };
        if !matching::selects_object(&hook.objects, self.after(object), self.attributes.old) {
            return Ok(None);
        }
        let meant =
            self.in_namespaces(&hook.namespaces, object).await? && self.in_conditions(hook, &form, object).await?;
        Ok(meant.then_some(form))
    }

    /// Whether the match conditions hold. One that fails refuses the request, or spares the webhook, as its failure
    /// policy says.
    async fn in_conditions(&self, hook: &Hook, form: &Descriptor, object: &Value) -> Result<bool, ApiError> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let shown = match self.after(object) {
            Some(object) => Some(self.shown(form, object).await?),
            None => None,
        };
        let review = self.review("", form, shown.as_ref()).await?;
        let request = self.attributes.request;
        let rights = Rights { server: &request.server, user: &request.user };
        match hook.conditions.hold(review.get("request").unwrap_or(&Value::Null), &rights) {
            Ok(holds) => Ok(holds),
            Err(_) if hook.ignore_failure => Ok(false),
            Err(problem) => {
                tracing::warn!(webhook = hook.name, problem, "match conditions failed");
                let desc = &self.attributes.request.desc;
                Err(ApiError::forbidden(&desc.group, &desc.plural, &self.name, &problem))
            }
        }
    }

    /// The namespace of the request, "" for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Namespace of a namespaced object.
    pub async fn namespace_object(&self) -> Result<Option<Value>, ApiError> {
        let request = self.attributes.request;
        if !request.desc.namespaced || self.namespace.is_empty() {
            return Ok(None);
        }
        let store = &request.server.store;
        if let Some(entry) = cached::one(&request.server, "namespaces/", &self.namespace)? {
            return Ok(Some(entry.value()));
        }
        let found = store.get("namespaces/", &self.namespace).await.map_err(|e| request.storage_error(e))?;
        Ok(found.map(|entry| entry.value()))
    }

    /// The resource in whose form a policy wants the request; `None` when it is not about it
    /// (`matching.Matcher.Matches`).
    pub async fn within(&self, matching: &Match, object: &Value) -> Result<Option<Arc<Descriptor>>, ApiError> {
        let Some(form) = self.form_within(matching) else { return Ok(None) };
        if !matching::selects_object(&matching.objects, self.after(object), self.attributes.old) {
            return Ok(None);
        }
        Ok(self.in_namespaces(&matching.namespaces, object).await?.then_some(form))
    }

    fn form_within(&self, matching: &Match) -> Option<Arc<Descriptor>> {
        let request = self.attributes.request;
        let of = |rules: &[_], desc: &Descriptor| matching::any_rule(rules, &self.target(desc), &self.name);
        let mut forms = vec![request.desc.clone()];
        if matching.equivalent && !request.desc.prefix.is_empty() {
            let all = request.server.registry.all();
            forms.extend(all.into_iter().filter(|d| d.prefix == request.desc.prefix && !Arc::ptr_eq(d, &request.desc)));
        }
        if forms.iter().any(|desc| of(&matching.excluded, desc)) {
            return None;
        }
        match matching.rules.as_slice() {
            // A binding without rules is about all that its policy is about.
            [] => Some(request.desc.clone()),
            rules => forms.into_iter().find(|desc| of(rules, desc)),
        }
    }

    fn form(&self, hook: &Hook) -> Option<Arc<Descriptor>> {
        let request = self.attributes.request;
        let desc = &request.desc;
        if hook.rules.iter().any(|r| r.matches(&self.target(desc))) {
            return Some(desc.clone());
        }
        // The same objects under other groups or versions are kept at the same place.
        if !hook.equivalent || desc.prefix.is_empty() {
            return None;
        }
        let others: Vec<Arc<Descriptor>> = request.server.registry.all();
        let others: Vec<_> = others.into_iter().filter(|d| d.prefix == desc.prefix && !Arc::ptr_eq(d, desc)).collect();
        hook.rules.iter().find_map(|r| others.iter().find(|d| r.matches(&self.target(d))).cloned())
    }

    /// `namespace.Matcher`: the labels of the object's namespace; of a namespace that is written its own.
    async fn in_namespaces(&self, selector: &LabelSelector, object: &Value) -> Result<bool, ApiError> {
        let Attributes { request, operation, subresource, .. } = self.attributes;
        if selector.is_empty() || self.namespace.is_empty() {
            return Ok(true);
        }
        let written = matches!(operation, Operation::Create | Operation::Update) && subresource.is_empty();
        if is_namespaces(&request.desc) && written {
            return Ok(selector.matches(|key| object.label(key)));
        }
        let store = &request.server.store;
        let entry = match cached::one(&request.server, "namespaces/", &self.namespace)? {
            Some(entry) => entry,
            None => {
                let found = store.get("namespaces/", &self.namespace).await.map_err(|e| request.storage_error(e))?;
                Arc::new(found.ok_or_else(|| ApiError::not_found("", "namespaces", &self.namespace))?)
            }
        };
        Ok(selector.matches(|key| entry.label(key)))
    }

    /// An object in the form of `desc`, as it is sent.
    pub async fn shown(&self, desc: &Descriptor, object: &Value) -> Result<Value, ApiError> {
        let own = &self.attributes.request.desc;
        let mut shown = match self.attributes.subresource {
            "scale" => return Ok(scale::of(own, object)),
            _ if std::ptr::eq(desc, &**own) => object.clone(),
            _ => desc.shown(own.stored(object.clone()).await?).await?,
        };
        // The version an update is of is the stored one's.
        if let (Operation::Update, Some(old), Some(meta)) =
            (self.attributes.operation, self.attributes.old, shown.object_at(&["metadata"]))
        {
            meta.insert("resourceVersion".into(), old.resource_version().into());
        }
        Ok(shown)
    }

    /// `AdmissionReview` about `shown` (`webhook/request.CreateAdmissionObjects`).
    pub async fn review(&self, uid: &str, desc: &Descriptor, shown: Option<&Value>) -> Result<Value, ApiError> {
        let Attributes { request, dry_run, subresource, old, .. } = self.attributes;
        let own = &request.desc;
        let kind = |d: &Descriptor| {
            let (group, version, kind) = gvk(d, subresource);
            json!({"group": group, "version": version, "kind": kind})
        };
        let resource = |d: &Descriptor| json!({"group": d.group, "version": d.version, "resource": d.plural});
        let old = match old {
            Some(old) => Some(self.shown(desc, old).await?),
            None => None,
        };
        let mut ask = json!({
            "uid": uid, "kind": kind(desc), "resource": resource(desc),
            "requestKind": kind(own), "requestResource": resource(own),
            "operation": self.operation(), "userInfo": request.user.to_info(),
            "object": shown, "oldObject": old,
            "dryRun": dry_run, "options": self.options(),
        });
        for (key, text) in [
            ("subResource", *subresource),
            ("requestSubResource", *subresource),
            ("name", self.name.as_str()),
            ("namespace", self.namespace.as_str()),
        ] {
            if !text.is_empty() {
                ask[key] = text.into();
            }
        }
        Ok(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": ask}))
    }

    /// What the client told besides the object.
    fn options(&self) -> Value {
        let Attributes { request, dry_run, operation, .. } = self.attributes;
        let kind = match (operation, request.info.verb) {
            (Operation::Connect, _) => return Value::Null,
            (Operation::Delete, _) => "DeleteOptions",
            (_, "patch") => "PatchOptions",
            (_, "update") => "UpdateOptions",
            _ => "CreateOptions",
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if *dry_run {
            options["dryRun"] = json!(["All"]);
        }
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = request.param(key).filter(|v| !v.is_empty() && kind != "DeleteOptions") {
                options[key] = value.into();
            }
        }
        if kind == "PatchOptions" && request.flag("force") {
            options["force"] = true.into();
        }
        options
    }

    /// Applies a patch to what was sent, and takes the outcome over into `object`; whether it changed.
    pub async fn patched(
        &self,
        desc: &Descriptor,
        mut sent: Value,
        operations: Vec<Value>,
        object: &mut Value,
    ) -> Result<bool, String> {
        patch::json(&mut sent, &operations.into()).map_err(|e| e.to_string())?;
        self.taken(desc, sent, object).await
    }

    /// Takes what was made of what was sent over into `object`; whether it changed.
    pub async fn taken(&self, desc: &Descriptor, mut sent: Value, object: &mut Value) -> Result<bool, String> {
        if decode::depth(&sent) > decode::MAX_DEPTH || !sent.is_object() {
            return Err("the patched object is no object, or nested too deeply".into());
        }
        match desc.sub(self.attributes.subresource).and_then(|s| s.gvk) {
            Some((group, version, kind)) => Typed::of_kind(group, version, kind).conform(&mut sent, &mut Vec::new())?,
            None => desc.ty.conform(&mut sent, &mut Vec::new())?,
        }
        let own = &self.attributes.request.desc;
        let new = match self.attributes.subresource {
            "scale" => {
                let replicas = sent.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
                let mut new = object.clone();
                scale::set(own, &mut new, replicas);
                new
            }
            sub => {
                let mut new = match std::ptr::eq(desc, &**own) {
                    true => sent,
                    false => self.own_form(desc, sent).await.map_err(|e| e.message)?,
                };
                if own.sub(sub).is_none_or(|s| s.gvk.is_none()) {
                    self.keep_own(&mut new, object);
                    own.strategy.default(&mut new);
                }
                new
            }
        };
        let changed = new != *object;
        *object = new;
        Ok(changed)
    }

    /// What was sent in another form as the request's own resource.
    async fn own_form(&self, desc: &Descriptor, sent: Value) -> Result<Value, ApiError> {
        self.attributes.request.desc.shown(desc.stored(sent).await?).await
    }

    /// What the server alone sets stays: identity, kind, and of a new object its status and its author.
    fn keep_own(&self, new: &mut Value, before: &Value) {
        let request = self.attributes.request;
        let create = self.attributes.operation == Operation::Create;
        metadata::before_update(new, before);
        if let Some(meta) = new.object_at(&["metadata"]) {
            meta.shift_remove("resourceVersion");
        }
        let Some(map) = new.as_object_mut() else { return };
        // A kubelet registers its node with its status, which is as open to change as the rest.
        let status = create && request.desc.has_status() && request.desc.core_kind() != "Node";
        for key in ["kind", "apiVersion", "status"].into_iter().filter(|k| *k != "status" || status) {
            match before.get(key) {
                Some(value) => map.insert(key.into(), value.clone()),
                None => map.shift_remove(key),
            };
        }
        if create && request.desc.kind == "CertificateSigningRequest" && request.desc.custom.is_none() {
            crate::strategy::certificates::stamp(new, &request.user);
        }
    }
}

fn is_namespaces(desc: &Descriptor) -> bool {
    desc.group.is_empty() && desc.plural == "namespaces"
}

fn gvk(desc: &Descriptor, subresource: &str) -> (String, String, String) {
    match desc.sub(subresource).and_then(|s| s.gvk) {
        Some((group, version, kind)) => (group.into(), version.into(), kind.into()),
        None => (desc.group.clone(), desc.version.clone(), desc.kind.clone()),
    }
}
