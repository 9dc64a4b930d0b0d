//! Who asks: client certificates, tokens, the front proxy, and anonymous access to what the configuration names.

pub mod anonymous;
pub mod bootstrap_token;
pub mod impersonate;
pub mod keys;
pub mod request_header;
pub mod service_account;
pub mod token_file;
pub mod x509;

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use kinit_apimachinery::ApiError;
use kinit_component_base::serve::Connection;
use serde_json::{Value, json};

use crate::server::Server;

/// Everybody who proved something is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody else is in this one.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do anything (upstream's `user.SystemPrivilegedGroup`).
pub const MASTERS: &str = "system:masters";

/// An identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// UID, "" if there is none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user of these groups, plus `system:authenticated`.
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut user = Self { name: name.into(), groups: groups.into_iter().collect(), ..Self::default() };
        user.mark_authenticated();
        user
    }

    /// Adds `system:authenticated`.
    pub fn mark_authenticated(&mut self) {
        if !self.in_group(AUTHENTICATED) && !self.in_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
    }

    /// The server itself, for what it does on its own behalf.
    pub fn apiserver() -> Self {
        Self::authenticated("system:apiserver", [MASTERS.to_owned()])
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// `authentication.k8s.io/v1 UserInfo`.
    pub fn to_info(&self) -> Value {
        let mut info = json!({"username": self.name});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.groups.is_empty() {
            info["groups"] = self.groups.iter().cloned().collect();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// Finds out who sent a request. 401 when proof is given but not good, or none is given where some is needed.
pub async fn authenticate(
    server: &Arc<Server>,
    connection: &Connection,
    headers: &HeaderMap,
    path: &str,
) -> Result<User, ApiError> {
    if let Some(user) = request_header::user(server, connection, headers) {
        return Ok(user);
    }
    if let Some(user) = x509::user(server, connection) {
        return Ok(user);
    }
    if let Some(token) = bearer(headers) {
        return token_user(server, &token, &server.options.api_audiences())
            .await
            .map(|(user, _)| user)
            .ok_or_else(ApiError::unauthorized);
    }
    // A certificate that no authority of clients vouches for is an attempt that failed, and no request without
    // credentials (`union.NewFailOnError`): a front proxy's without headers, or one under a name that is not allowed.
    if connection.certificates.first().is_some_and(|leaf| !server.trust.is_client(leaf, &connection.certificates)) {
        return Err(ApiError::unauthorized());
    }
    server.anonymous.user(path).ok_or_else(ApiError::unauthorized)
}

/// The user a bearer token stands for, and the audiences it is good for.
pub async fn token_user(server: &Arc<Server>, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
    if let Some(user) = server.token_file.user(token) {
        return Some((user, audiences.to_vec()));
    }
    if token.matches('.').count() == 2 {
        return service_account::verify(server, token, audiences).await;
    }
    if server.options.enable_bootstrap_token_auth {
        let user = bootstrap_token::verify(server, token).await?;
        return Some((user, audiences.to_vec()));
    }
    None
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let text = value.to_str().ok()?.trim();
        let (scheme, token) = text.split_once(' ')?;
        return (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim().to_owned());
    }
    // Browsers cannot set headers on a WebSocket: upstream takes the token as a subprotocol.
    use base64::Engine;
    let protocols = headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let coded = protocols.split(',').find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(coded.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok().filter(|t| !t.is_empty())
}
