//! Tokens in Secrets of type `kubernetes.io/service-account-token`, without an end (`pkg/serviceaccount/legacy.go`).

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::exists;
use crate::authn::User;
use crate::server::Server;

/// Their issuer.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// Set by the cleaner of unused tokens on a Secret whose token is good no more.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// What such a token says.
#[derive(Debug, PartialEq, Eq)]
struct Claims<'a> {
    namespace: &'a str,
    account: &'a str,
    uid: &'a str,
    secret: &'a str,
}

impl<'a> Claims<'a> {
    /// All must be there, and the subject must say the same.
    fn read(claims: &'a Value) -> Option<Self> {
        let text = |key: &str| {
            let key = format!("kubernetes.io/serviceaccount/{key}");
            claims.get(&key).and_then(Value::as_str).filter(|t| !t.is_empty())
        };
        let out = Self {
            namespace: text("namespace")?,
            account: text("service-account.name")?,
            uid: text("service-account.uid")?,
            secret: text("secret.name")?,
        };
        let subject = format!("system:serviceaccount:{}:{}", out.namespace, out.account);
        (claims.str_at(&["sub"]) == subject).then_some(out)
    }
}

/// Checks a token whose signature is good: its Secret must be there, hold this very token and not be on its way out,
/// and so must its account, with the UID the token names. It is good for the API server's own audiences.
pub async fn verify(
    server: &Arc<Server>,
    token: &str,
    claims: &Value,
    audiences: &[String],
) -> Option<(User, Vec<String>)> {
    let own = server.options.api_audiences();
    let good: Vec<String> = audiences.iter().filter(|a| own.contains(a)).cloned().collect();
    if good.is_empty() {
        return None;
    }
    let Claims { namespace, account, uid, secret } = Claims::read(claims)?;
    // Read from etcd: a token must be dead the moment its Secret is.
    let secret = server.store.get("secrets/", &format!("{namespace}/{secret}")).await.ok()??.value();
    if !holds(&secret, token) {
        return None;
    }
    let object = exists(server, "serviceaccounts/", &format!("{namespace}/{account}"), uid).await?;
    if object.is_deleting() {
        return None;
    }
    let mut user = User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: uid.to_owned(),
        groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
        ..User::default()
    };
    user.mark_authenticated();
    Some((user, good))
}

/// Whether a Secret that is there to stay holds this token.
fn holds(secret: &Value, token: &str) -> bool {
    let stored = secret.at(&["data", "token"]).and_then(Value::as_str).and_then(|t| STANDARD.decode(t).ok());
    !secret.is_deleting()
        && secret.at(&["metadata", "labels", INVALID_SINCE]).is_none()
        && stored.is_some_and(|stored| stored == token.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "sub": "system:serviceaccount:ns:sa",
            "kubernetes.io/serviceaccount/namespace": "ns",
            "kubernetes.io/serviceaccount/service-account.name": "sa",
            "kubernetes.io/serviceaccount/service-account.uid": "u",
            "kubernetes.io/serviceaccount/secret.name": "s",
        })
    }

    #[test]
    fn every_claim_counts() {
        let whole = claims();
        let want = Claims { namespace: "ns", account: "sa", uid: "u", secret: "s" };
        assert_eq!(Claims::read(&whole), Some(want));
        for key in whole.as_object().unwrap().keys().filter(|k| *k != "iss") {
            for spoilt in [json!(""), json!("other"), json!(null)] {
                let mut less = claims();
                less[key] = spoilt.clone();
                // Another name of a Secret or a UID is found out later, by looking.
                let looked_up = spoilt == "other" && (key.ends_with("uid") || key.ends_with("secret.name"));
                assert_eq!(Claims::read(&less).is_some(), looked_up, "{key} {spoilt}");
            }
        }
    }

    #[test]
    fn the_secret_must_hold_the_token_and_stay() {
        let secret = |meta: Value| json!({"metadata": meta, "data": {"token": STANDARD.encode("t")}});
        assert!(holds(&secret(json!({})), "t"));
        assert!(!holds(&secret(json!({})), "u"));
        assert!(!holds(&secret(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})), "t"));
        assert!(!holds(&secret(json!({"labels": {INVALID_SINCE: "2026-01-01"}})), "t"));
        assert!(!holds(&json!({"metadata": {}}), ""));
    }
}
