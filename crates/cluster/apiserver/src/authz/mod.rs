//! What one may do: the Node authorizer, then RBAC; one `yes` suffices.

pub mod escalation;
pub mod expressions;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod reviews;

use std::sync::Arc;

use kinit_apimachinery::ApiError;
use kinit_apimachinery::status::qualified;

use crate::authn::{MASTERS, User};
use crate::http::RequestInfo;
use crate::registry::Request;
use crate::server::Server;

/// A question to the authorizers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Whether it is about a resource, or else a path.
    pub is_resource: bool,
    /// The verb.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Resource.
    pub resource: String,
    /// Subresource, "" for none.
    pub subresource: String,
    /// Namespace, "" for all or none.
    pub namespace: String,
    /// Name, "" for all.
    pub name: String,
    /// The path, when it is no resource.
    pub path: String,
    /// The field selector of a list or watch.
    pub field_selector: String,
    /// The label selector of a list or watch.
    pub label_selector: String,
}

impl Attributes {
    /// About a resource.
    pub fn resource(
        verb: &str,
        group: &str,
        version: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Self {
        Self {
            is_resource: true,
            verb: verb.into(),
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            path: String::new(),
            field_selector: String::new(),
            label_selector: String::new(),
        }
    }

    /// What a request needs.
    pub fn of(info: &RequestInfo) -> Self {
        Self {
            is_resource: info.is_resource,
            verb: info.verb.into(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            field_selector: info.field_selector.clone(),
            label_selector: info.label_selector.clone(),
        }
    }
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub allowed: bool,
    /// Why, as upstream words it.
    pub reason: String,
}

/// Asks the authorizers.
pub async fn decide(server: &Arc<Server>, user: &User, attributes: &Attributes) -> Decision {
    decide_now(server, user, attributes)
}

/// The same, of what is at hand, which is all there is.
pub fn decide_now(server: &Server, user: &User, attributes: &Attributes) -> Decision {
    if user.in_group(MASTERS) {
        return Decision { allowed: true, reason: String::new() };
    }
    let mut reasons = Vec::new();
    if server.options.has_mode("Node") {
        match node::decide(server, user, attributes) {
            node::Verdict::Allow => return Decision { allowed: true, reason: String::new() },
            node::Verdict::NoOpinion(reason) => reasons.extend(reason),
        }
    }
    if server.options.has_mode("RBAC")
        && let Some(reason) = server.rbac.current(&server.store).allows(user, attributes)
    {
        return Decision { allowed: true, reason };
    }
    Decision { allowed: false, reason: reasons.join("; ") }
}

/// 403 in upstream's words (`endpoints/handlers/responsewriters/errors.go`).
pub fn forbidden(user: &User, attributes: &Attributes, reason: &str) -> ApiError {
    let tail = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !attributes.is_resource {
        let message =
            format!("forbidden: User \"{}\" cannot {} path \"{}\"{tail}", user.name, attributes.verb, attributes.path);
        return ApiError::new(403, "Forbidden", message);
    }
    let resource = match attributes.subresource.as_str() {
        "" => attributes.resource.clone(),
        sub => format!("{}/{sub}", attributes.resource),
    };
    let scope = if attributes.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", attributes.namespace)
    };
    let cause = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}{tail}",
        user.name, attributes.verb, attributes.group
    );
    let what = qualified(&attributes.group, &attributes.resource);
    let message = if attributes.name.is_empty() {
        format!("{what} is forbidden: {cause}")
    } else {
        format!("{what} \"{}\" is forbidden: {cause}", attributes.name)
    };
    ApiError::new(403, "Forbidden", message).about(&attributes.group, &attributes.resource, &attributes.name)
}

/// A PUT that creates needs the right to create, too.
pub async fn require_create(request: &Request) -> Result<(), ApiError> {
    let mut attributes = Attributes::of(&request.info);
    attributes.verb = "create".into();
    let decision = decide(&request.server, &request.user, &attributes).await;
    if decision.allowed { Ok(()) } else { Err(forbidden(&request.user, &attributes, &decision.reason)) }
}
