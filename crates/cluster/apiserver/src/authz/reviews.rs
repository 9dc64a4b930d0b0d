//! The virtual resources of authentication and authorization: asked, answered, never stored.

use bytes::Bytes;
use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::{Meta, strings};
use serde_json::{Value, json};

use super::rbac::Rule;
use super::{Attributes, decide};
use crate::admission::webhook::virtual_create;
use crate::authn::{self, User};
use crate::http::ApiResponse;
use crate::registry::decode::{self, Wanted};
use crate::registry::{Request, options, present};

/// Handles a POST of a review.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode::object(request, &body, &Wanted::of(request))?;
    let dry_run = options::write_options(request)?;
    virtual_create(request, &mut review, dry_run).await?;
    let status = match request.desc.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": request.user.to_info()}),
        "TokenReview" => token_review(request, &review).await?,
        "SelfSubjectRulesReview" => rules_review(request, &review)?,
        "SelfSubjectAccessReview" => access(request, &review, &request.user.clone()).await?,
        kind => {
            let user = subject(&review);
            if user.name.is_empty() && user.groups.is_empty() {
                let mut errors = kinit_apimachinery::status::FieldErrors::default();
                errors.invalid("spec.user", &"".into(), "at least one of user or group must be specified");
                errors.into_result(&request.desc.group, kind, "")?;
            }
            if kind == "LocalSubjectAccessReview"
                && review.str_at(&["spec", "resourceAttributes", "namespace"]) != request.info.namespace
            {
                let mut errors = kinit_apimachinery::status::FieldErrors::default();
                let given = review.at(&["spec", "resourceAttributes", "namespace"]).cloned().unwrap_or_default();
                errors.invalid("spec.resourceAttributes.namespace", &given, "must match metadata.namespace");
                errors.into_result(&request.desc.group, kind, "")?;
            }
            access(request, &review, &user).await?
        }
    };
    if review.get("metadata").is_none() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    review["status"] = status;
    Ok(present::object(request, 201, review))
}

fn subject(review: &Value) -> User {
    let extra = review
        .at(&["spec", "extra"])
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| (k.to_lowercase(), strings(Some(v)))).collect())
        .unwrap_or_default();
    User {
        name: review.str_at(&["spec", "user"]).into(),
        uid: review.str_at(&["spec", "uid"]).into(),
        groups: strings(review.at(&["spec", "groups"])),
        extra,
    }
}

async fn access(request: &Request, review: &Value, user: &User) -> Result<Value, ApiError> {
    let attributes = if let Some(r) = review.at(&["spec", "resourceAttributes"]) {
        let or_any = |key: &str| match r.str_at(&[key]) {
            "" => "*".to_owned(),
            s => s.to_owned(),
        };
        let mut attributes = Attributes::resource(
            r.str_at(&["verb"]),
            r.str_at(&["group"]),
            &or_any("version"),
            r.str_at(&["resource"]),
            r.str_at(&["subresource"]),
            r.str_at(&["namespace"]),
            r.str_at(&["name"]),
        );
        // `pods/log` is taken apart, as kubectl writes it either way.
        if let Some((main, sub)) = attributes.resource.clone().split_once('/') {
            (attributes.resource, attributes.subresource) = (main.into(), sub.into());
        }
        attributes
    } else if let Some(n) = review.at(&["spec", "nonResourceAttributes"]) {
        Attributes { verb: n.str_at(&["verb"]).into(), path: n.str_at(&["path"]).into(), ..Attributes::default() }
    } else {
        let mut errors = kinit_apimachinery::status::FieldErrors::default();
        errors.invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        );
        return errors.into_result(&request.desc.group, &request.desc.kind, "").map(|()| Value::Null);
    };
    let decision = decide(&request.server, user, &attributes).await;
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    Ok(status)
}

async fn token_review(request: &Request, review: &Value) -> Result<Value, ApiError> {
    let token = review.str_at(&["spec", "token"]);
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = strings(review.at(&["spec", "audiences"]));
    let asked = !audiences.is_empty();
    if !asked {
        audiences = request.server.options.api_audiences();
    }
    Ok(match authn::token_user(&request.server, token, &audiences).await {
        Some((user, good)) => json!({"authenticated": true, "user": user.to_info(), "audiences": good}),
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    })
}

fn rules_review(request: &Request, review: &Value) -> Result<Value, ApiError> {
    let namespace = review.str_at(&["spec", "namespace"]);
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let server = &request.server;
    let mut rules = server.rbac.current(&server.store).rules(&request.user, namespace);
    if request.user.in_group(authn::MASTERS) {
        let all = || vec!["*".to_owned()];
        rules.push(Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() });
        rules.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
    }
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    for rule in rules {
        if rule.urls.is_empty() {
            let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                value["resourceNames"] = rule.names.into_iter().collect();
            }
            resources.push(value);
        } else {
            urls.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}));
        }
    }
    Ok(json!({"resourceRules": resources, "nonResourceRules": urls, "incomplete": false}))
}
