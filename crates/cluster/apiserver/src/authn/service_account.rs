//! Service account tokens: issuing them, and checking both the signature and what the token is bound to.

mod legacy;

use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::User;
use crate::server::Server;

/// An object a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Issues a token for a service account.
pub fn issue(
    server: &Server,
    account: &Value,
    audiences: &[String],
    seconds: i64,
    bound: Option<&Bound>,
    node: Option<(&str, &str)>,
) -> Result<(String, Timestamp)> {
    let now = Timestamp::now();
    let expires = now.as_second() + seconds;
    let mut kubernetes = json!({
        "namespace": account.namespace(),
        "serviceaccount": {"name": account.name(), "uid": account.uid()},
    });
    if let Some(bound) = bound {
        kubernetes[bound.kind.to_lowercase()] = json!({"name": bound.name, "uid": bound.uid});
    }
    if let Some((name, uid)) = node {
        kubernetes["node"] = json!({"name": name});
        if !uid.is_empty() {
            kubernetes["node"]["uid"] = uid.into();
        }
    }
    let claims = json!({
        "aud": audiences, "exp": expires, "iat": now.as_second(), "nbf": now.as_second(),
        "iss": server.options.issuer(), "jti": uuid::Uuid::new_v4().to_string(),
        "kubernetes.io": kubernetes,
        "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
    });
    let token = server.keys.encode(&claims)?;
    Ok((token, Timestamp::from_second(expires).unwrap_or(Timestamp::MAX)))
}

/// Checks a token: signature, time, issuer, audience, and that everything it is bound to still exists with that UID.
pub async fn verify(server: &Arc<Server>, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
    let claims = server.keys.decode(token)?;
    let issuer = claims.str_at(&["iss"]);
    if issuer == legacy::ISSUER {
        return legacy::verify(server, token, &claims, audiences).await;
    }
    claims.get("exp")?;
    if !server.options.service_account_issuer.iter().any(|i| i == issuer) {
        return None;
    }
    let of_token: Vec<String> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        list => kinit_apimachinery::meta::strings(list),
    };
    let good: Vec<String> = of_token.into_iter().filter(|a| audiences.contains(a)).collect();
    if good.is_empty() {
        return None;
    }
    let private = claims.get("kubernetes.io")?;
    let namespace = private.str_at(&["namespace"]).to_owned();
    let name = private.str_at(&["serviceaccount", "name"]).to_owned();
    let uid = private.str_at(&["serviceaccount", "uid"]).to_owned();
    if claims.str_at(&["sub"]) != format!("system:serviceaccount:{namespace}:{name}") {
        return None;
    }
    exists(server, "serviceaccounts/", &format!("{namespace}/{name}"), &uid).await?;
    let mut user = User {
        name: format!("system:serviceaccount:{namespace}:{name}"),
        uid,
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    };
    for (kind, prefix) in [("pod", "pods/"), ("secret", "secrets/")] {
        if let Some(bound) = private.get(kind) {
            let (name, uid) = (bound.str_at(&["name"]), bound.str_at(&["uid"]));
            exists(server, prefix, &format!("{namespace}/{name}"), uid).await?;
            if kind == "pod" {
                user.extra.insert("authentication.kubernetes.io/pod-name".into(), vec![name.into()]);
                user.extra.insert("authentication.kubernetes.io/pod-uid".into(), vec![uid.into()]);
            }
        }
    }
    if let Some(node) = private.get("node") {
        let (name, uid) = (node.str_at(&["name"]), node.str_at(&["uid"]));
        // A pod's token names its node for information; only a token bound to the node alone ends with it.
        if private.get("pod").is_none() {
            exists(server, "minions/", name, uid).await?;
        }
        user.extra.insert("authentication.kubernetes.io/node-name".into(), vec![name.into()]);
        if !uid.is_empty() {
            user.extra.insert("authentication.kubernetes.io/node-uid".into(), vec![uid.into()]);
        }
    }
    let id = claims.str_at(&["jti"]);
    if !id.is_empty() {
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("JTI={id}")]);
    }
    user.mark_authenticated();
    Some((user, good))
}

/// The object is there with this UID, and not gone for good: the cache says so at once, etcd when the cache does not
/// know.
async fn exists(server: &Arc<Server>, prefix: &str, key: &str, uid: &str) -> Option<Value> {
    let cached = server.store.cache(prefix).and_then(|c| c.get(key).ok().flatten()).map(|e| e.value());
    let object = match cached {
        Some(object) if object.uid() == uid => object,
        _ => server.store.get(prefix, key).await.ok()??.value(),
    };
    (object.uid() == uid).then_some(object)
}
