//! One service account a controller, with tokens that are renewed before they expire.
//!
//! Upstream: `k8s.io/controller-manager/pkg/clientbuilder` (`DynamicControllerClientBuilder`).

use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kinit_client::{TokenSource, with_token_source};
use kinit_component_base::Shutdown;
use kinit_component_base::supervise::vital;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Config};

const NAMESPACE: &str = "kube-system";
const LIFE_SECONDS: i64 = 3600;
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Makes clients for controllers.
pub struct Identities {
    root: Client,
    config: Config,
    own_accounts: bool,
    shutdown: Shutdown,
}

impl Identities {
    /// `config` reaches the API server that `root` talks to; without `own_accounts` every controller is `root`.
    pub fn new(root: Client, config: Config, own_accounts: bool, shutdown: Shutdown) -> Self {
        Self { root, config, own_accounts, shutdown }
    }

    /// A client as `kube-system/NAME`, once its first token was issued.
    pub async fn client(&self, name: &str) -> Result<Client> {
        if !self.own_accounts {
            return Ok(self.root.clone());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.root.clone(), NAMESPACE);
        let source = TokenSource::empty();
        let mut delay = FIRST_RETRY;
        let expires = loop {
            match issue(&api, name, &source).await {
                Ok(expires) => break expires,
                Err(error) => {
                    tracing::warn!(name, error = format!("{error:#}"), "get a token for a controller, trying again")
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => anyhow::bail!("stopped before {name} had a token"),
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(Duration::from_secs(10));
        };
        let renewal = keep_fresh(api, name.to_owned(), source.clone(), expires, self.shutdown.clone());
        vital(format!("renewal of the token of {name}"), &self.shutdown, renewal);
        with_token_source(&self.config, &format!("kube-controller-manager/{name}"), source)
    }
}

async fn keep_fresh(api: Api<ServiceAccount>, name: String, source: TokenSource, first: Timestamp, shutdown: Shutdown) {
    let mut expires = first;
    loop {
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(renew_in(Timestamp::now(), expires)) => {} }
        match issue(&api, &name, &source).await {
            Ok(next) => expires = next,
            Err(error) => tracing::warn!(name, error = format!("{error:#}"), "renew a controller's token"),
        }
    }
}

/// Half of what is left, so that several attempts fit in; never less than 10 s.
fn renew_in(now: Timestamp, expires: Timestamp) -> Duration {
    let left = expires.duration_since(now).as_secs().max(0).unsigned_abs();
    Duration::from_secs((left / 2).max(10))
}

async fn issue(api: &Api<ServiceAccount>, name: &str, source: &TokenSource) -> Result<Timestamp> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(LIFE_SECONDS), ..Default::default() }),
        ..Default::default()
    };
    let answer = match api.create_token_request(name, &PostParams::default(), &request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let account = ServiceAccount {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    ..Default::default()
                },
                ..Default::default()
            };
            match api.create(&PostParams::default(), &account).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                created => {
                    created.with_context(|| format!("create service account {NAMESPACE}/{name}"))?;
                }
            }
            api.create_token_request(name, &PostParams::default(), &request).await
        }
        answer => answer,
    };
    let status = answer
        .with_context(|| format!("request a token for {NAMESPACE}/{name}"))?
        .status
        .context("the API server answered a token request without a token")?;
    source.set(&status.token.context("the API server answered a token request with an empty token")?)?;
    Ok(status.expiration_timestamp.context("the API server issued a token without an end")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_half_their_life() {
        let at = |s| Timestamp::from_second(s).unwrap();
        for (expires, wait) in [(3600, 1800), (30, 15), (5, 10), (-100, 10)] {
            assert_eq!(renew_in(at(0), at(expires)), Duration::from_secs(wait), "{expires}");
        }
    }
}
