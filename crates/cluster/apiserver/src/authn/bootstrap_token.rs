//! Bootstrap tokens: `id.secret`, kept as Secrets of kube-system (`plugin/pkg/auth/authenticator/token/bootstrap`).

use std::sync::Arc;

use base64::Engine;
use jiff::Timestamp;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::time;
use serde_json::Value;

use super::User;
use crate::server::Server;

fn well_formed(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (good(id, 6) && good(secret, 16)).then_some((id, secret))
}

fn data(secret: &Value, key: &str) -> String {
    let text = secret.str_at(&["data", key]);
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        .unwrap_or_default()
}

/// The user of a token that exists, has not expired and may authenticate.
pub async fn verify(server: &Arc<Server>, token: &str) -> Option<User> {
    let (id, secret) = well_formed(token)?;
    let stored = server.store.get("secrets/", &format!("kube-system/bootstrap-token-{id}")).await.ok()??.value();
    if stored.str_at(&["type"]) != "bootstrap.kubernetes.io/token" || stored.is_deleting() {
        return None;
    }
    if data(&stored, "token-id") != id || !same(data(&stored, "token-secret").as_bytes(), secret.as_bytes()) {
        return None;
    }
    let expiration = data(&stored, "expiration");
    if !expiration.is_empty() && time::parse(&expiration).is_none_or(|at| at <= Timestamp::now()) {
        return None;
    }
    if data(&stored, "usage-bootstrap-authentication") != "true" {
        return None;
    }
    let mut groups = vec!["system:bootstrappers".to_owned()];
    groups.extend(
        data(&stored, "auth-extra-groups")
            .split(',')
            .map(str::trim)
            .filter(|g| g.starts_with("system:bootstrappers:"))
            .map(str::to_owned),
    );
    Some(User::authenticated(format!("system:bootstrap:{id}"), groups))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form() {
        assert!(well_formed("abcdef.0123456789abcdef").is_some());
        for bad in ["abcde.0123456789abcdef", "abcdef.0123456789ABCDEF", "abcdef0123456789abcdef", ""] {
            assert!(well_formed(bad).is_none(), "{bad}");
        }
    }
}
