//! `serviceaccounts/token`: TokenRequest.

use bytes::Bytes;
use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::{ApiError, time};
use serde_json::{Value, json};

use crate::admission::webhook::virtual_create;
use crate::authn::service_account::{Bound, issue};
use crate::authz::node::node_of;
use crate::http::ApiResponse;
use crate::registry::decode::{self, Wanted};
use crate::registry::{Request, cached, options, present};

const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
/// What projected volumes of old clients ask for, and what they are really given
/// (`WarnOnlyBoundTokenExpirationPeriod`).
const WARN_AFTER: i64 = 3607;
const EXTENDED: i64 = 31_536_000;

/// Handles the POST.
pub async fn handle(request: &Request, body: Bytes) -> Result<ApiResponse, ApiError> {
    let mut review = decode::object(request, &body, &Wanted::of(request))?;
    let dry_run = options::write_options(request)?;
    virtual_create(request, &mut review, dry_run).await?;
    let server = &request.server;
    let account = server.store.get("serviceaccounts/", &request.key()).await;
    let account = account.map_err(|e| request.storage_error(e))?.ok_or_else(|| request.not_found())?.value();
    let seconds = seconds(request, &review)?;
    let mut audiences = strings(review.at(&["spec", "audiences"]));
    if audiences.is_empty() {
        audiences = server.options.api_audiences();
    }
    let (bound, node) = bound(request, &account, &review).await?;
    let mut life = seconds;
    let extend = server.options.service_account_extend_token_expiration
        && seconds == WARN_AFTER
        && bound.as_ref().is_some_and(|b| b.kind == "Pod")
        && audiences == server.options.api_audiences();
    if extend {
        life = EXTENDED;
    }
    let node = node.as_ref().map(|(n, u)| (n.as_str(), u.as_str()));
    if dry_run {
        return Ok(present::object(request, 201, review));
    }
    let (token, expires) = issue(server, &account, &audiences, life, bound.as_ref(), node)
        .map_err(|e| ApiError::internal(format!("{e:#}")))?;
    let reported = if extend {
        jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(expires)
    } else {
        expires
    };
    if let Some(meta) = review.object_at(&["metadata"]) {
        meta.insert("name".into(), account.name().into());
        meta.insert("namespace".into(), account.namespace().into());
        meta.insert("creationTimestamp".into(), time::format(jiff::Timestamp::now()).into());
    }
    review["spec"]["audiences"] = audiences.into_iter().collect();
    review["spec"]["expirationSeconds"] = seconds.into();
    review["status"] = json!({"token": token, "expirationTimestamp": time::format(reported)});
    Ok(present::object(request, 201, review))
}

fn seconds(request: &Request, review: &Value) -> Result<i64, ApiError> {
    let seconds = review.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(3600);
    let mut errors = FieldErrors::default();
    if seconds < SHORTEST {
        errors.invalid("spec.expirationSeconds", &seconds.into(), "may not specify a duration less than 10 minutes");
    }
    if seconds > LONGEST {
        errors.invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    errors.into_result("authentication.k8s.io", "TokenRequest", "")?;
    let most = i64::try_from(request.server.options.service_account_max_token_expiration.as_secs()).unwrap_or(i64::MAX);
    Ok(if most > 0 { seconds.min(most) } else { seconds })
}

type NodeRef = Option<(String, String)>;

async fn bound(request: &Request, account: &Value, review: &Value) -> Result<(Option<Bound>, NodeRef), ApiError> {
    let reference = review.at(&["spec", "boundObjectRef"]);
    // A kubelet only gets tokens for pods it runs.
    if let Some(node) = node_of(&request.user) {
        let pod = reference.filter(|r| r.str_at(&["kind"]) == "Pod" && !r.str_at(&["name"]).is_empty());
        let Some(pod) = pod else {
            let cause = format!("node requested token not bound to a pod: {node}");
            return Err(ApiError::forbidden("", "serviceaccounts", account.name(), &cause));
        };
        if pod.str_at(&["uid"]).is_empty() {
            let cause = "node requested token with a pod binding without a uid";
            return Err(ApiError::forbidden("", "serviceaccounts", account.name(), cause));
        }
        let key = format!("{}/{}", account.namespace(), pod.str_at(&["name"]));
        let entry = cached::one(&request.server, "pods/", &key)?;
        if entry.is_none_or(|e| e.field("spec.nodeName") != Some(node)) {
            let cause = format!("node requested token bound to a pod scheduled on a different node: {node}");
            return Err(ApiError::forbidden("", "serviceaccounts", account.name(), &cause));
        }
    }
    let Some(reference) = reference else { return Ok((None, None)) };
    let (kind, name, uid) = (reference.str_at(&["kind"]), reference.str_at(&["name"]), reference.str_at(&["uid"]));
    let (prefix, key, plural) = match kind {
        "Pod" => ("pods/", format!("{}/{name}", account.namespace()), "pods"),
        "Secret" => ("secrets/", format!("{}/{name}", account.namespace()), "secrets"),
        "Node" => ("minions/", name.to_owned(), "nodes"),
        other => return Err(ApiError::bad_request(format!("cannot bind token to object of type {other}"))),
    };
    let object = request.server.store.get(prefix, &key).await.map_err(|e| request.storage_error(e))?;
    let object = object.ok_or_else(|| ApiError::not_found("", plural, name))?.value();
    if kind == "Pod" && object.str_at(&["spec", "serviceAccountName"]) != account.name() {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
            account.name()
        )));
    }
    if !uid.is_empty() && uid != object.uid() {
        let cause = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", plural, name, &cause));
    }
    let mut node = None;
    if kind == "Pod" {
        let on = object.str_at(&["spec", "nodeName"]);
        if !on.is_empty() {
            let uid = cached::one(&request.server, "minions/", on)?.map(|e| e.value().uid().to_owned());
            node = Some((on.to_owned(), uid.unwrap_or_default()));
        }
    }
    let bound = Bound { kind: kind.to_owned(), name: name.to_owned(), uid: object.uid().to_owned() };
    Ok((Some(bound), node))
}
