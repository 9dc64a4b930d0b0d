//! Delegated authentication and authorization (`k8s.io/apiserver/pkg/server/options`:
//! `DelegatingAuthenticationOptions`, `DelegatingAuthorizationOptions`): a server that keeps no users of its own asks
//! the API server.
//!
//! ```text
//! certificate of a front proxy + X-Remote-* ─▶ that user     CAs and names come from flags or from ConfigMap
//! certificate of a client                   ─▶ CN, O         kube-system/extension-apiserver-authentication
//! bearer token                              ─▶ TokenReview         │ (trust)
//!                                                                  └▶ SubjectAccessReview ─▶ yes or no
//! ```
//!
//! Answers of the API server are kept for ten seconds, as upstream does.

mod cache;
mod headers;
mod trust;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::HeaderMap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

pub use self::trust::Trust;

use self::cache::Cache;

/// The group of everybody who proved to be somebody.
const AUTHENTICATED: &str = "system:authenticated";
const KEPT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Uid, or "".
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// More.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn authenticated(mut self) -> Self {
        if !self.groups.iter().any(|g| g == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asked {
    /// A resource of the API.
    Resource {
        /// `get`, `list` and so on.
        verb: &'static str,
        /// API group.
        group: &'static str,
        /// Version.
        version: &'static str,
        /// Plural name.
        resource: String,
        /// "" for all namespaces and for what is in none.
        namespace: String,
        /// "" for all.
        name: String,
    },
    /// A path that is no resource.
    Path {
        /// The method in lower case.
        verb: String,
        /// The path.
        path: String,
    },
}

/// Knows and judges callers.
pub struct Delegated {
    trust: Arc<Trust>,
    authentication: Client,
    authorization: Client,
    /// By the token's digest: the token itself is not kept.
    tokens: Cache<[u8; 32], Option<User>>,
    decisions: Cache<(User, Asked), bool>,
}

impl Delegated {
    /// `authentication` asks TokenReviews, `authorization` SubjectAccessReviews.
    pub fn new(trust: Arc<Trust>, authentication: Client, authorization: Client) -> Self {
        let (tokens, decisions) = (Cache::new(KEPT), Cache::new(KEPT));
        Self { trust, authentication, authorization, tokens, decisions }
    }

    /// Who sent a request with these headers over a connection with these certificates (leaf first); `None` for nobody.
    pub async fn who(&self, headers: &HeaderMap, certificates: &[CertificateDer<'_>]) -> Result<Option<User>> {
        if let Some(user) = self.trust.who(headers, certificates) {
            return Ok(Some(user.authenticated()));
        }
        let bearer = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let Some(token) = bearer.and_then(|v| v.strip_prefix("Bearer ")).map(str::trim).filter(|t| !t.is_empty())
        else {
            return Ok(None);
        };
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&digest) {
            return Ok(known);
        }
        let user = self.review(token).await?;
        self.tokens.put(digest, user.clone());
        Ok(user)
    }

    async fn review(&self, token: &str) -> Result<Option<User>> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..Default::default() },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.authentication.clone());
        let answer = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
        let status = answer.context("no answer to a TokenReview")?.context("ask a TokenReview")?.status;
        let user = status.filter(|s| s.authenticated == Some(true)).map(|s| s.user.unwrap_or_default());
        Ok(user.map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    /// Whether a user may.
    pub async fn may(&self, user: &User, asked: &Asked) -> Result<bool> {
        let key = (user.clone(), asked.clone());
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let (resource_attributes, non_resource_attributes) = attributes(asked);
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
            resource_attributes,
            non_resource_attributes,
        };
        let api: Api<SubjectAccessReview> = Api::all(self.authorization.clone());
        let review = SubjectAccessReview { spec, ..Default::default() };
        let answer = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
        let status = answer.context("no answer to a SubjectAccessReview")?.context("ask a SubjectAccessReview")?.status;
        let allowed = status.is_some_and(|s| s.allowed && s.denied != Some(true));
        self.decisions.put(key, allowed);
        Ok(allowed)
    }
}

fn attributes(asked: &Asked) -> (Option<ResourceAttributes>, Option<NonResourceAttributes>) {
    match asked {
        Asked::Resource { verb, group, version, resource, namespace, name } => {
            let attributes = ResourceAttributes {
                verb: Some((*verb).to_owned()),
                group: Some((*group).to_owned()),
                version: Some((*version).to_owned()),
                resource: Some(resource.clone()),
                namespace: Some(namespace.clone()),
                name: Some(name.clone()),
                ..Default::default()
            };
            (Some(attributes), None)
        }
        Asked::Path { verb, path } => {
            (None, Some(NonResourceAttributes { path: Some(path.clone()), verb: Some(verb.clone()) }))
        }
    }
}
