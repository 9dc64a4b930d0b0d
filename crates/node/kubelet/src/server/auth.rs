//! Who asks, and whether they may (`pkg/kubelet/server/auth.go`): client certificates and TokenReview, then
//! SubjectAccessReview, both cached for as long as the configuration says.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use hyper::{Method, Request};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::config::{Authentication, Authorization};

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub username: String,
    /// Uid, if there is one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Entries beyond this make the oldest go: a cache must not grow with the number of guesses.
const MOST: usize = 4096;

struct Cache<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Cache<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(_, until)| Instant::now() < *until).map(|(v, _)| v.clone())
    }
    fn put(&self, key: K, value: V, ttl: Duration) {
        let mut map = self.0.lock();
        if map.len() >= MOST {
            let now = Instant::now();
            map.retain(|_, (_, until)| now < *until);
            if map.len() >= MOST {
                map.clear();
            }
        }
        map.insert(key, (value, Instant::now() + ttl));
    }
}

/// The gate in front of every route.
pub struct Gate {
    client: Option<Client>,
    node: String,
    authentication: Authentication,
    authorization: Authorization,
    /// By digest of the token: the token itself is not kept.
    tokens: Cache<[u8; 32], Option<User>>,
    decisions: Cache<(User, &'static str, &'static str), bool>,
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Gate {
    /// A gate that asks `client`; without one nobody but certificates' holders is known, and nobody is allowed
    /// anything.
    pub fn new(
        client: Option<Client>,
        node: &str,
        authentication: Authentication,
        authorization: Authorization,
    ) -> Self {
        Self {
            client,
            node: node.to_owned(),
            authentication,
            authorization,
            tokens: Cache::new(),
            decisions: Cache::new(),
        }
    }

    /// Authenticates.
    pub async fn who<B>(&self, request: &Request<B>, certificate: Option<&CertificateDer<'_>>) -> Result<User, String> {
        if let Some(certificate) = certificate {
            return from_certificate(certificate);
        }
        let header = request.headers().get(hyper::header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let token = header.and_then(|h| h.strip_prefix("Bearer ")).map(str::trim).filter(|t| !t.is_empty());
        let token = token.ok_or("no credentials")?;
        if self.authentication.webhook.enabled == Some(false) {
            return Err("tokens are not accepted".to_owned());
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.tokens.get(&digest) {
            return known.ok_or_else(|| "the token is not valid".to_owned());
        }
        let user = self.review(token).await?;
        self.tokens.put(digest, user.clone(), self.authentication.webhook.cache_ttl);
        user.ok_or_else(|| "the token is not valid".to_owned())
    }

    async fn review(&self, token: &str) -> Result<Option<User>, String> {
        let client = self.client.clone().ok_or("there is no API server to ask about tokens")?;
        let review =
            TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..Default::default() };
        let api: Api<TokenReview> = Api::all(client);
        let params = PostParams::default();
        let answer = tokio::time::timeout(PATIENCE, api.create(&params, &review))
            .await
            .map_err(|_| "TokenReview: no answer".to_owned())?
            .map_err(|e| format!("TokenReview: {e}"))?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        Ok(user.map(|u| User {
            username: u.username.unwrap_or_default(),
            uid: u.uid.unwrap_or_default(),
            groups: u.groups.unwrap_or_default(),
            extra: u.extra.unwrap_or_default(),
        }))
    }

    /// Authorizes: any of the path's subresources will do.
    pub async fn may(&self, user: &User, method: &Method, path: &str) -> Result<bool, String> {
        for subresource in subresources(path) {
            if self.allowed(user, verb(method), subresource).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn allowed(&self, user: &User, verb: &'static str, subresource: &'static str) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.decisions.get(&key) {
            return Ok(known);
        }
        let client = self.client.clone().ok_or("there is no API server to ask")?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.username.clone()),
                uid: Some(user.uid.clone()).filter(|u| !u.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(String::new()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                non_resource_attributes: None,
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(client);
        let params = PostParams::default();
        let answer = tokio::time::timeout(PATIENCE, api.create(&params, &review))
            .await
            .map_err(|_| "SubjectAccessReview: no answer".to_owned())?
            .map_err(|e| format!("SubjectAccessReview: {e}"))?;
        let allowed = answer.status.is_some_and(|s| s.allowed && s.denied != Some(true));
        let webhook = &self.authorization.webhook;
        let ttl = if allowed { webhook.cache_authorized_ttl } else { webhook.cache_unauthorized_ttl };
        self.decisions.put(key, allowed, ttl);
        Ok(allowed)
    }
}

/// The API's verb of a method.
pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes` of which one must be allowed, the narrow one first (`NodeRequestAttributesGetter`).
pub fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "statusz" => vec!["statusz", "proxy"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        _ => vec!["proxy"],
    }
}

/// Common name and organizations of a client certificate that the handshake has verified.
fn from_certificate(certificate: &CertificateDer<'_>) -> Result<User, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| format!("client certificate: {e}"))?;
    let subject = parsed.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let username = subject.iter_common_name().find_map(text).filter(|n| !n.is_empty());
    Ok(User {
        username: username.ok_or("the client certificate has no common name")?,
        uid: String::new(),
        groups: subject.iter_organization().filter_map(text).chain(["system:authenticated".to_owned()]).collect(),
        extra: BTreeMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_subresources() {
        for (path, expected) in [
            ("/stats/summary", vec!["stats"]),
            ("/metrics/resource", vec!["metrics"]),
            ("/pods", vec!["pods", "proxy"]),
            ("/exec/n/p/c", vec!["proxy"]),
            ("/containerLogs/n/p/c", vec!["proxy"]),
            ("/", vec!["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
    }
}
