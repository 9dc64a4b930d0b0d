//! `Impersonate-*` headers: acting as somebody else, where one may (`endpoints/filters/impersonation`).

use std::sync::Arc;

use hyper::HeaderMap;
use kinit_apimachinery::ApiError;

use super::{AUTHENTICATED, UNAUTHENTICATED, User};
use crate::authz::{self, Attributes};
use crate::http::info::percent_decode;
use crate::server::Server;

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect()
}

/// The user to act as, if the headers name one. 403 when the real user may not.
pub async fn user(server: &Arc<Server>, real: &User, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let name = values(headers, "impersonate-user").first().copied().unwrap_or_default().to_owned();
    let groups: Vec<String> = values(headers, "impersonate-group").into_iter().map(str::to_owned).collect();
    let uid = values(headers, "impersonate-uid").first().copied().unwrap_or_default().to_owned();
    let mut extra = std::collections::BTreeMap::<String, Vec<String>>::new();
    for (key, value) in headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            extra.entry(percent_decode(key, false)).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request("requested impersonation without impersonating a user"));
    }
    let service_account = name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'));
    match service_account {
        Some((namespace, account)) => check(server, real, "", "serviceaccounts", "", namespace, account).await?,
        None => check(server, real, "", "users", "", "", &name).await?,
    }
    for group in &groups {
        check(server, real, "", "groups", "", "", group).await?;
    }
    if !uid.is_empty() {
        check(server, real, "authentication.k8s.io", "uids", "", "", &uid).await?;
    }
    for (key, values) in &extra {
        for value in values {
            check(server, real, "authentication.k8s.io", "userextras", key, "", value).await?;
        }
    }
    let mut user = User { name, uid, groups, extra };
    if let Some((namespace, _)) = user.name.strip_prefix("system:serviceaccount:").and_then(|n| n.split_once(':'))
        && user.groups.is_empty()
    {
        user.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if user.name == "system:anonymous" {
        if !user.in_group(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.into());
        }
    } else if !user.in_group(AUTHENTICATED) {
        user.mark_authenticated();
    }
    Ok(Some(user))
}

async fn check(
    server: &Arc<Server>,
    real: &User,
    group: &str,
    resource: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), ApiError> {
    let attributes = Attributes::resource("impersonate", group, "v1", resource, subresource, namespace, name);
    let decision = authz::decide(server, real, &attributes).await;
    if decision.allowed {
        return Ok(());
    }
    Err(authz::forbidden(real, &attributes, &decision.reason))
}
