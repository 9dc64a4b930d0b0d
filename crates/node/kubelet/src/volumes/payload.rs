//! Content of the volumes that come from the API: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::PostParams;

use super::atomic::{File, Files};
use crate::downward::{self, Place};
use crate::kubelet::Kubelet;
use crate::make::env::{config_map, secret};
use crate::names::PodKey;

/// A token and when to ask for the next.
#[derive(Clone)]
pub struct Token {
    text: String,
    refresh: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("refresh", &self.refresh).finish_non_exhaustive()
    }
}

/// Tokens of a pod by audience and lifetime.
#[derive(Debug, Clone, Default)]
pub struct Tokens(BTreeMap<(String, i64), Token>);

impl Tokens {
    /// When the first of them is due.
    pub fn due(&self) -> Option<Timestamp> {
        self.0.values().map(|t| t.refresh).min()
    }
}

/// Modes and ownership of files.
struct Style {
    default: u32,
    /// The only user of all containers, if there is one.
    user: Option<u32>,
    has_group: bool,
}

/// Gathers a volume's files.
pub async fn of(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    volume: &Volume,
    place: &Place,
    tokens: &mut Tokens,
) -> Result<Files, String> {
    let mut out = Files::new();
    let ns = &key.namespace;
    if let Some(source) = &volume.config_map {
        let style = style(pod, source.default_mode);
        let found = config_map(&kubelet.objects, ns, &source.name, source.optional == Some(true)).await?;
        let data = found.map(|c| config_map_bytes(&c)).unwrap_or_default();
        keys(&data, source.items.as_deref(), source.optional == Some(true), &style, &mut out)?;
    } else if let Some(source) = &volume.secret {
        let style = style(pod, source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or("");
        let found = secret(&kubelet.objects, ns, name, source.optional == Some(true)).await?;
        let data = found.map(|s| secret_bytes(&s)).unwrap_or_default();
        keys(&data, source.items.as_deref(), source.optional == Some(true), &style, &mut out)?;
    } else if let Some(source) = &volume.downward_api {
        downward_files(
            pod,
            source.items.as_deref().unwrap_or_default(),
            &style(pod, source.default_mode),
            place,
            &mut out,
        )?;
    } else if let Some(source) = &volume.projected {
        let style = style(pod, source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(source) = &part.config_map {
                let optional = source.optional == Some(true);
                let found = config_map(&kubelet.objects, ns, &source.name, optional).await?;
                let data = found.map(|c| config_map_bytes(&c)).unwrap_or_default();
                keys(&data, source.items.as_deref(), optional, &style, &mut out)?;
            } else if let Some(source) = &part.secret {
                let optional = source.optional == Some(true);
                let found = secret(&kubelet.objects, ns, &source.name, optional).await?;
                let data = found.map(|s| secret_bytes(&s)).unwrap_or_default();
                keys(&data, source.items.as_deref(), optional, &style, &mut out)?;
            } else if let Some(source) = &part.downward_api {
                downward_files(pod, source.items.as_deref().unwrap_or_default(), &style, place, &mut out)?;
            } else if let Some(source) = &part.service_account_token {
                let text = token(kubelet, pod, key, source, tokens).await?;
                let mode = if style.user.is_some() || style.has_group { 0o600 } else { style.default };
                out.insert(source.path.clone(), File { bytes: text.into_bytes(), mode, owner: style.user });
            } else {
                return Err("a projected source is not supported by this kubelet".to_owned());
            }
        }
    }
    Ok(out)
}

fn style(pod: &Pod, default: Option<i32>) -> Style {
    let spec = pod.spec.as_ref();
    let over = spec.and_then(|s| s.security_context.as_ref());
    let users: Vec<Option<i64>> = spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
        .map(|c| c.security_context.as_ref().and_then(|c| c.run_as_user).or(over.and_then(|o| o.run_as_user)))
        .collect();
    let same = users.first().copied().flatten().filter(|first| users.iter().all(|u| u == &Some(*first)));
    Style {
        default: default.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644),
        user: same.and_then(|u| u32::try_from(u).ok()),
        has_group: over.and_then(|o| o.fs_group).is_some(),
    }
}

type Data = BTreeMap<String, Vec<u8>>;

fn config_map_bytes(map: &k8s_openapi::api::core::v1::ConfigMap) -> Data {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

fn secret_bytes(secret: &k8s_openapi::api::core::v1::Secret) -> Data {
    secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()
}

fn keys(
    data: &Data,
    items: Option<&[KeyToPath]>,
    optional: bool,
    style: &Style,
    out: &mut Files,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, bytes) in data {
            out.insert(key.clone(), File { bytes: bytes.clone(), mode: style.default, owner: None });
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(style.default);
                out.insert(item.path.clone(), File { bytes: bytes.clone(), mode, owner: None });
            }
            None if optional => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

fn downward_files(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    style: &Style,
    place: &Place,
    out: &mut Files,
) -> Result<(), String> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field(pod, &field.field_path, place)?,
            (None, Some(selector)) => downward::resource(pod, selector, "", place)?,
            (None, None) => return Err(format!("downward API file {:?} names no field", item.path)),
        };
        let mode = item.mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(style.default);
        out.insert(item.path.clone(), File { bytes: text.into_bytes(), mode, owner: None });
    }
    Ok(())
}

/// A token for the pod's service account, from the cache or the API (`pkg/kubelet/token`).
async fn token(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    source: &ServiceAccountTokenProjection,
    tokens: &mut Tokens,
) -> Result<String, String> {
    let audience = source.audience.clone().unwrap_or_default();
    let seconds = source.expiration_seconds.unwrap_or(3600);
    let cache_key = (audience.clone(), seconds);
    let now = Timestamp::now();
    if let Some(token) = tokens.0.get(&cache_key).filter(|t| now < t.refresh) {
        return Ok(token.text.clone());
    }
    match request(kubelet, pod, key, &audience, seconds).await {
        Ok(token) => {
            let text = token.text.clone();
            tokens.0.insert(cache_key, token);
            Ok(text)
        }
        // An old token is better than none; it is refreshed well before it ends.
        Err(error) => match tokens.0.get_mut(&cache_key) {
            Some(old) => {
                tracing::warn!(pod = %key, error, "refresh a service account token");
                old.refresh = now.checked_add(SignedDuration::from_secs(60)).unwrap_or(now);
                Ok(old.text.clone())
            }
            None => Err(error),
        },
    }
}

async fn request(kubelet: &Kubelet, pod: &Pod, key: &PodKey, audience: &str, seconds: i64) -> Result<Token, String> {
    let client = kubelet.client.clone().ok_or("service account tokens need an API server")?;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).filter(|n| !n.is_empty());
    let account = account.unwrap_or_else(|| "default".to_owned());
    let api: Api<ServiceAccount> = Api::namespaced(client, &key.namespace);
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(key.name.clone()),
        uid: Some(key.uid.clone()),
    };
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.to_owned()).filter(|a| !a.is_empty()).map(|a| vec![a]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(bound),
        }),
        ..Default::default()
    };
    let params = PostParams::default();
    let call = api.create_token_request(&account, &params, &request);
    let answer = tokio::time::timeout(Duration::from_secs(20), call)
        .await
        .map_err(|_| format!("request a token for service account {account}: no answer"))?
        .map_err(|e| format!("failed to fetch token for service account {account}: {e}"))?;
    let status = answer.status.ok_or("the API server answered a token request without a token")?;
    let now = Timestamp::now();
    let text =
        status.token.filter(|t| !t.is_empty()).ok_or("the API server answered a token request without a token")?;
    let end = status.expiration_timestamp.ok_or("the API server answered a token request without an expiration")?;
    let life = end.0.duration_since(now);
    // Upstream: at 80 % of its life, and at the latest after a day, a little earlier for some than for others.
    let after = (life.as_secs_f64() * 0.8).min(24.0 * 3600.0) - rand::random::<f64>() * 10.0;
    let refresh = now.checked_add(SignedDuration::from_secs_f64(after.max(1.0))).unwrap_or(now);
    Ok(Token { text, refresh })
}
