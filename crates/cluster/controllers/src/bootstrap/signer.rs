//! `bootstrapsigner`: keeps one signature a usable token in `kube-public/cluster-info`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kinit_client::informer::{Store, spawn};
use kinit_client::queue::Queue;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;

use super::{NAMESPACE, field, is_expired, is_token, jws};
use crate::context::Context;

const CONFIG_MAP: &str = "cluster-info";
const PUBLIC: &str = "kube-public";
const PREFIX: &str = "jws-kubeconfig-";

/// Runs the controller.
pub async fn run(ctx: Context) -> Result<()> {
    let client = ctx.client("bootstrap-signer").await?;
    let api: Api<ConfigMap> = Api::namespaced(client, PUBLIC);
    let watch = watcher::Config::default().fields("metadata.name=cluster-info");
    let maps = spawn(Api::<ConfigMap>::namespaced(ctx.root(), PUBLIC), watch, &ctx.shutdown());
    let watch = watcher::Config::default().fields("type=bootstrap.kubernetes.io/token");
    let secrets = spawn(Api::<Secret>::namespaced(ctx.root(), NAMESPACE), watch, &ctx.shutdown());
    secrets.synced().await;
    let queue = Queue::new();
    let (on_map, on_secret) = (queue.clone(), queue.clone());
    maps.on_change(move |_| on_map.add(CONFIG_MAP));
    secrets.on_change(move |_| on_secret.add(CONFIG_MAP));
    let work = Arc::new(Signer { api, maps, secrets });
    queue.run("bootstrapsigner", 1, ctx.shutdown(), move |_| work.clone().sync()).await;
    Ok(())
}

struct Signer {
    api: Api<ConfigMap>,
    maps: Arc<Store<ConfigMap>>,
    secrets: Arc<Store<Secret>>,
}

impl Signer {
    async fn sync(self: Arc<Self>) -> Result<Option<Duration>> {
        let Some(map) = self.maps.get("kube-public/cluster-info") else { return Ok(None) };
        let data = map.data.clone().unwrap_or_default();
        let Some(signed) = signed(&data, &self.secrets.list(), Timestamp::now()) else { return Ok(None) };
        let map = ConfigMap { data: Some(signed), ..(*map).clone() };
        self.api.replace(CONFIG_MAP, &PostParams::default(), &map).await.context("sign cluster-info")?;
        Ok(None)
    }
}

/// The data with the signatures it should have; `None` when it has them.
fn signed(
    data: &BTreeMap<String, String>,
    secrets: &[Arc<Secret>],
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let content = data.get("kubeconfig")?;
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(k, _)| !k.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for secret in secrets {
        if let Some((id, key)) = usable(secret, now) {
            wanted.insert(format!("{PREFIX}{id}"), jws::detached(content, id, key));
        }
    }
    (wanted != *data).then_some(wanted)
}

/// Id and secret of a token that may sign (`usage-bootstrap-signing`), is well formed and not expired.
fn usable(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let well_formed =
        |t: &str, n: usize| t.len() == n && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let id = field(secret, "token-id").filter(|t| well_formed(t, 6))?;
    let key = field(secret, "token-secret").filter(|t| well_formed(t, 16))?;
    let named = secret.metadata.name.as_deref()?.strip_prefix("bootstrap-token-") == Some(id);
    let may = field(secret, "usage-bootstrap-signing") == Some("true");
    (is_token(secret) && named && may && !is_expired(secret, now)).then_some((id, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    fn token(id: &str, expiration: &str, signing: &str) -> Arc<Secret> {
        let mut secret = Secret { type_: Some(super::super::TYPE.into()), ..Default::default() };
        secret.metadata.name = Some(format!("bootstrap-token-{id}"));
        secret.metadata.namespace = Some(NAMESPACE.into());
        let fields = [
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("expiration", expiration),
            ("usage-bootstrap-signing", signing),
        ];
        secret.data = Some(fields.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect());
        Arc::new(secret)
    }

    #[test]
    fn signatures_follow_tokens() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let data =
            BTreeMap::from([("kubeconfig".to_owned(), "k".to_owned()), (format!("{PREFIX}gone00"), "old".to_owned())]);
        let tokens = [
            token("abcdef", "2026-01-02T00:00:00Z", "true"),
            token("bbbbbb", "2025-12-31T00:00:00Z", "true"),
            token("cccccc", "", "false"),
        ];
        let result = signed(&data, &tokens, now).unwrap();
        assert_eq!(result.keys().map(String::as_str).collect::<Vec<_>>(), [&format!("{PREFIX}abcdef"), "kubeconfig"]);
        assert_eq!(signed(&result, &tokens, now), None, "nothing to do the second time");
        assert_eq!(signed(&BTreeMap::new(), &tokens, now), None);
    }
}
