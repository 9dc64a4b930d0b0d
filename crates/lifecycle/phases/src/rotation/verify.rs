//! Seeing that a stage is in force everywhere, beyond what the usual plan looks at.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use kinit_agent::RotationRequest;
use kinit_config::Role;
use kinit_pki::Authority;
use kinit_resource::{RotationSeen, RotationStage, Shared};
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};

use super::{RotationOptions, RotationStopped, pods, values};
use crate::access;
use crate::operation::Run;
use crate::wait;

/// How long controllers and kubelets may take to hand on what has changed.
const PATIENCE: Duration = Duration::from_secs(240);
const ROOT_CA: &str = "kube-root-ca.crt";

/// Checks a stage in every place where the secret has come to.
pub(super) async fn stage(run: &Run, api: &Client, options: &RotationOptions, stage: RotationStage) -> Result<()> {
    match options.shared {
        Shared::Authority(Authority::Kubernetes) => {
            let authorities = public(run, "ca.crt").await?;
            let extension = extension_config(api).await?;
            same(&extension, "client-ca-file", &authorities)?;
            root_authorities(api, &authorities).await?;
            pods::mounted(run, api, &authorities, PATIENCE).await?;
            kubelets(run, api).await
        }
        Shared::Authority(Authority::FrontProxy) => {
            let extension = extension_config(api).await?;
            same(&extension, "requestheader-client-ca-file", &public(run, "front-proxy-ca.crt").await?)
        }
        Shared::Authority(Authority::Etcd) => {
            let said = run.etcd().await;
            for host in run.wanted.cluster.hosts(Role::ControlPlane) {
                let leader = said.get(&host.name).map_or(0, |status| status.leader);
                ensure!(leader != 0, "etcd on {} does not answer, or has no leader", host.name);
            }
            Ok(())
        }
        Shared::ServiceAccountKey => token_keys(run, stage).await,
        Shared::EncryptionConfig if stage == RotationStage::Old || stage == RotationStage::Published => {
            // Taken back: what the new key has written is written with the old one again, before the new one goes.
            if options.goal == RotationStage::Old { values::rewrite(run, api).await } else { Ok(()) }
        }
        // On the way back the old key writes anew at the next stage.
        Shared::EncryptionConfig if options.goal == RotationStage::Old => Ok(()),
        Shared::EncryptionConfig => values::rewrite(run, api).await,
    }
}

/// What speaks against the next stage.
pub(super) async fn may_go_on(run: &Run, api: &Client, options: &RotationOptions, at: RotationStage) -> Result<()> {
    match (options.shared, at) {
        (Shared::CLUSTER, RotationStage::Published) => pods::trust_both(run, api, options.pods, PATIENCE).await,
        (Shared::ServiceAccountKey, RotationStage::Signing) => {
            legacy_tokens(api, options).await?;
            let new = signing_id(run).await?;
            pods::have_new_tokens(run, api, options.pods, &new, PATIENCE).await?;
            tokens_have_ended(run, options).await
        }
        _ => Ok(()),
    }
}

/// What speaks against the next stage of the way back: tokens of the key that goes are worth nothing without it.
pub(super) async fn may_go_back(run: &Run, api: &Client, options: &RotationOptions, at: RotationStage) -> Result<()> {
    match (options.shared, at) {
        (Shared::ServiceAccountKey, RotationStage::Published) => {
            let signing = signing_id(run).await?;
            pods::have_new_tokens(run, api, options.pods, &signing, PATIENCE).await
        }
        _ => Ok(()),
    }
}

/// A file of the control planes, which are alike.
async fn public(run: &Run, file: &str) -> Result<String> {
    let host = run.wanted.cluster.hosts(Role::ControlPlane).next().context("there is no control plane")?;
    run.hosts.agent(&host.name)?.read_file(&format!("/etc/kubernetes/pki/{file}")).await
}

async fn extension_config(api: &Client) -> Result<BTreeMap<String, String>> {
    let maps: Api<ConfigMap> = Api::namespaced(api.clone(), "kube-system");
    let map = maps.get("extension-apiserver-authentication").await;
    let map = map.context("read ConfigMap kube-system/extension-apiserver-authentication")?;
    Ok(map.data.unwrap_or_default())
}

fn same(data: &BTreeMap<String, String>, key: &str, wanted: &str) -> Result<()> {
    let shown = data.get(key).map(String::as_str);
    ensure!(shown == Some(wanted), "{key} of ConfigMap kube-system/extension-apiserver-authentication is outdated");
    Ok(())
}

/// `kube-root-ca.crt` of every namespace, which the controller manager writes.
async fn root_authorities(api: &Client, wanted: &str) -> Result<()> {
    let namespaces = Api::<Namespace>::all(api.clone()).list(&ListParams::default()).await;
    let namespaces = namespaces.context("list the namespaces")?;
    let active = namespaces.items.into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    for name in active.filter_map(|namespace| namespace.metadata.name) {
        let maps: Api<ConfigMap> = Api::namespaced(api.clone(), &name);
        let config = watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}"));
        let missing = |maps: &BTreeMap<String, ConfigMap>| {
            let data = maps.get(ROOT_CA).and_then(|map| map.data.as_ref()?.get("ca.crt"));
            if data.is_some_and(|data| data == wanted) { Vec::new() } else { vec![name.clone()] }
        };
        wait::watch_until(maps, config, PATIENCE, "ConfigMap kube-root-ca.crt to have the new authorities", missing)
            .await?;
    }
    Ok(())
}

/// The API servers reach every kubelet, and accept what it shows.
async fn kubelets(run: &Run, api: &Client) -> Result<()> {
    let nodes = run.wanted.cluster.spec.hosts.iter().filter(|host| host.is_node());
    for node in nodes.map(|host| host.name.as_str()) {
        let asked = async {
            loop {
                let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/healthz")).body(Vec::new());
                match api.request_text(request.context("build a request")?).await {
                    Ok(_) => return anyhow::Ok(()),
                    // Its serving certificate is asked for after its start; nobody tells when it is there.
                    Err(error) => tracing::debug!(node, %error, "the kubelet does not answer"),
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asked).await;
        asked.map_err(|_| anyhow!("the API server does not reach the kubelet of {node}"))??;
    }
    Ok(())
}

/// Every API server accepts what it should, and signs with what it should.
async fn token_keys(run: &Run, stage: RotationStage) -> Result<()> {
    let ids = kinit_pki::key_ids(&public(run, "sa.pub").await?);
    let first = ids.first().context("sa.pub holds no key")?;
    for host in run.wanted.cluster.hosts(Role::ControlPlane) {
        let api = access::masters_of(&run.hosts, &format!("https://{}:6443", host.address)).await?;
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).context("build a request")?;
        let text = api.request_text(request).await.with_context(|| format!("ask {} for its keys", host.name))?;
        let set: serde_json::Value = serde_json::from_str(&text).context("decode the key set")?;
        let known = |id: &String| {
            set["keys"].as_array().is_some_and(|keys| keys.iter().any(|key| key["kid"].as_str() == Some(id.as_str())))
        };
        ensure!(ids.iter().all(known), "the API server on {} does not know all keys of sa.pub", host.name);
        let signs = signing_key(&api).await.with_context(|| format!("ask {} for a token", host.name))?;
        ensure!(signs == *first, "the API server on {} signs with another key at stage {stage:?}", host.name);
    }
    Ok(())
}

/// The key that signs a token now.
async fn signing_key(api: &Client) -> Result<String> {
    use base64::Engine;
    let accounts: Api<ServiceAccount> = Api::namespaced(api.clone(), "default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec { expiration_seconds: Some(600), ..Default::default() }),
        ..Default::default()
    };
    let answer = accounts.create_token_request("default", &PostParams::default(), &request).await?;
    let token = answer.status.and_then(|status| status.token).context("the answer has no token")?;
    let header = token.split('.').next().unwrap_or_default();
    let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).context("decode a token's header")?;
    let header: serde_json::Value = serde_json::from_slice(&header).context("decode a token's header")?;
    Ok(header["kid"].as_str().unwrap_or_default().to_owned())
}

/// The key that signs at this stage: the first.
async fn signing_id(run: &Run) -> Result<String> {
    kinit_pki::key_ids(&public(run, "sa.pub").await?).into_iter().next().context("sa.pub holds no key")
}

/// Tokens in Secrets never end by themselves.
async fn legacy_tokens(api: &Client, options: &RotationOptions) -> Result<()> {
    let config = ListParams::default().fields("type=kubernetes.io/service-account-token");
    let list = Api::<Secret>::all(api.clone()).list_metadata(&config).await;
    let list = list.context("list the Secrets with tokens of service accounts")?;
    if list.items.is_empty() || options.pods == super::Pods::Leave {
        return Ok(());
    }
    let names = list.items.iter().map(|secret| {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", part(&secret.metadata.namespace), part(&secret.metadata.name))
    });
    Err(RotationStopped(format!(
        "these Secrets hold tokens that the old key may have signed, and that never end by themselves: {}. Delete them, or go on without them (--leave-pods)",
        names.collect::<Vec<_>>().join(", ")
    ))
    .into())
}

/// Tokens that were given out to whoever asked for them.
async fn tokens_have_ended(run: &Run, options: &RotationOptions) -> Result<()> {
    let mut since = 0;
    for host in run.wanted.cluster.hosts(Role::ControlPlane) {
        let text = run.hosts.agent(&host.name)?.rotation(RotationRequest::Look(vec![options.shared])).await?;
        let seen: Vec<RotationSeen> = serde_json::from_str(&text).context("decode what was seen")?;
        let record = seen.into_iter().next().and_then(|seen| seen.record);
        since = since.max(record.and_then(|record| record.signing_since).unwrap_or_default());
    }
    let life = i64::try_from(options.token_life.as_secs()).unwrap_or(i64::MAX);
    let end = since.saturating_add(life);
    let now = jiff::Timestamp::now().as_second();
    if end <= now {
        return Ok(());
    }
    let when = jiff::Timestamp::from_second(end).map(|when| when.to_string()).unwrap_or_default();
    Err(RotationStopped(format!(
        "tokens that the old key has signed may be valid until {when}: run the same command again then, or say how long tokens live at most (--token-life)"
    ))
    .into())
}
