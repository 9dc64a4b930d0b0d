//! Images: policy, credentials, pulling (`pkg/kubelet/images`, `pkg/credentialprovider`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Pod};
use kinit_cri::v1::{AuthConfig, Image, ImageSpec, ImageStatusRequest, PullImageRequest};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::KubeletConfig;
use crate::kubelet::Kubelet;
use crate::make::env;
use crate::names::PodKey;
use crate::pace::Bucket;

/// A failure as the container's waiting state shows it.
#[derive(Debug, Clone)]
pub struct ImageError {
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`.
    pub reason: &'static str,
    /// What happened.
    pub message: String,
}

/// Longest time a pull may take.
const PULL: Duration = Duration::from_secs(1800);

/// How many images are pulled at a time, and how fast one after the other.
#[derive(Debug)]
pub struct Pulls {
    at_a_time: Option<Semaphore>,
    rate: Option<Bucket>,
}

impl Pulls {
    /// From the configuration.
    pub fn new(config: &KubeletConfig) -> Self {
        Self {
            at_a_time: config.parallel_pulls().map(Semaphore::new),
            rate: Bucket::new(config.registry_pull_qps.unwrap_or(5), config.registry_burst),
        }
    }

    /// Waits for its turn; an error when pulls come too fast (`throttledImageService`).
    async fn turn(&self) -> Result<Option<SemaphorePermit<'_>>, String> {
        if self.rate.as_ref().is_some_and(|rate| !rate.take(tokio::time::Instant::now())) {
            return Err("pull QPS exceeded".to_owned());
        }
        match &self.at_a_time {
            // It is never closed.
            Some(turns) => turns.acquire().await.map(Some).map_err(|e| e.to_string()),
            None => Ok(None),
        }
    }
}

/// The pull policy, defaulted as the API does: `Always` for `latest`, `IfNotPresent` otherwise.
pub fn policy(container: &Container) -> &str {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if is_latest(container.image.as_deref().unwrap_or("")) => "Always",
        _ => "IfNotPresent",
    }
}

fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Makes sure the image is there, by the container's policy.
pub async fn ensure(kubelet: &Kubelet, pod: &Pod, key: &PodKey, container: &Container) -> Result<Image, ImageError> {
    let name = container.image.clone().unwrap_or_default();
    let fail = |reason, message: String| ImageError { reason, message };
    if name.is_empty() {
        return Err(fail("InvalidImageName", "the container names no image".to_owned()));
    }
    let policy = policy(container);
    if policy != "Always" {
        if let Some(image) = lookup(kubelet, &name).await? {
            let note = format!("Container image \"{name}\" already present on machine");
            kubelet.events.pod(pod, Some(&container.name), false, "Pulled", note);
            return Ok(image);
        }
        if policy == "Never" {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            kubelet.events.pod(pod, Some(&container.name), true, "ErrImageNeverPull", &message);
            return Err(fail("ErrImageNeverPull", message));
        }
    }
    pull(kubelet, pod, key, container, &name).await
}

async fn pull(
    kubelet: &Kubelet,
    pod: &Pod,
    key: &PodKey,
    container: &Container,
    name: &str,
) -> Result<Image, ImageError> {
    let event =
        |warning, reason: &str, note: String| kubelet.events.pod(pod, Some(&container.name), warning, reason, note);
    event(false, "Pulling", format!("Pulling image \"{name}\""));
    let auths = credentials(kubelet, pod, key, name).await;
    let asked = Instant::now();
    let turn = kubelet.pulls.turn().await.map_err(|message| {
        event(true, "Failed", format!("Failed to pull image \"{name}\": {message}"));
        ImageError { reason: "ErrImagePull", message }
    })?;
    let begun = Instant::now();
    let mut last = String::from("no attempt was made");
    for auth in auths.into_iter().map(Some).chain([None]) {
        let request = PullImageRequest { image: Some(spec(name)), auth, sandbox_config: None };
        match tokio::time::timeout(PULL, kubelet.runtime.pull_image(request)).await {
            Ok(Ok(_)) => {
                let image = lookup(kubelet, name).await?.ok_or_else(|| ImageError {
                    reason: "ErrImagePull",
                    message: format!("image \"{name}\" was pulled but is not there"),
                })?;
                drop(turn);
                let (took, waited) = (begun.elapsed(), asked.elapsed());
                event(
                    false,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{name}\" in {took:.3?} ({waited:.3?} including waiting). Image size: {} bytes.",
                        image.size
                    ),
                );
                return Ok(image);
            }
            Ok(Err(error)) => last = error.message().to_owned(),
            Err(_) => last = format!("timed out after {PULL:?}"),
        }
    }
    let message = format!("failed to pull image \"{name}\": {last}");
    event(true, "Failed", format!("Failed to pull image \"{name}\": {last}"));
    Err(ImageError { reason: "ErrImagePull", message })
}

async fn lookup(kubelet: &Kubelet, name: &str) -> Result<Option<Image>, ImageError> {
    let request = ImageStatusRequest { image: Some(spec(name)), verbose: false };
    match kubelet.runtime.image_status(request).await {
        Ok(answer) => Ok(answer.image),
        Err(error) => Err(ImageError {
            reason: "ImageInspectError",
            message: format!("inspect image \"{name}\": {}", error.message()),
        }),
    }
}

fn spec(name: &str) -> ImageSpec {
    ImageSpec { image: name.to_owned(), ..Default::default() }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// Credentials for the image's registry from the pod's pull secrets; a secret that is not there is passed over, as
/// upstream does.
async fn credentials(kubelet: &Kubelet, pod: &Pod, key: &PodKey, image: &str) -> Vec<AuthConfig> {
    let mut out = Vec::new();
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        let secret = match env::secret(&kubelet.objects, &key.namespace, &reference.name, false).await {
            Ok(Some(secret)) => secret,
            Ok(None) => continue,
            Err(error) => {
                let note = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                tracing::debug!(pod = %key, error, "image pull secret");
                kubelet.events.pod(pod, None, true, "FailedToRetrieveImagePullSecret", note);
                continue;
            }
        };
        let data = secret.data.clone().unwrap_or_default();
        let entries = if let Some(json) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(&json.0).map(|c| c.auths).unwrap_or_default()
        } else if let Some(json) = data.get(".dockercfg") {
            serde_json::from_slice(&json.0).unwrap_or_default()
        } else {
            HashMap::new()
        };
        let mut matching: Vec<_> = entries.into_iter().filter(|(server, _)| serves(server, image)).collect();
        // The most specific first.
        matching.sort_by_key(|(server, _)| std::cmp::Reverse(server.len()));
        out.extend(matching.into_iter().map(|(server, entry)| auth(server, entry)));
    }
    out
}

fn auth(server: String, entry: Entry) -> AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(entry.auth.trim())
        .ok()
        .and_then(|b| String::from_utf8(b).ok());
    let (username, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
        Some((user, password)) => (user.to_owned(), password.to_owned()),
        None => (entry.username, entry.password),
    };
    AuthConfig { username, password, server_address: server, ..Default::default() }
}

/// Whether credentials for `server` are meant for `image`: same host (with `*` for one label), and its path a prefix.
fn serves(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    let path = path.trim_start_matches("v1").trim_start_matches("v2").trim_start_matches('/');
    let (image_host, image_path) = match image.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        _ => ("docker.io", image.to_owned()),
    };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let (labels, image_labels): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), image_host.split('.').collect());
    let same = labels.len() == image_labels.len() && labels.iter().zip(&image_labels).all(|(p, l)| *p == "*" || p == l);
    same && (path.is_empty() || image_path == path || image_path.starts_with(&format!("{path}/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pulls_take_turns_and_are_not_too_many() {
        let pulls = |serialize, parallel, rate| {
            let mut config = KubeletConfig::defaults();
            (config.serialize_image_pulls, config.max_parallel_image_pulls) = (serialize, parallel);
            (config.registry_pull_qps, config.registry_burst) = (Some(rate), 2);
            Pulls::new(&config)
        };
        let waits = async |pulls: &Pulls| tokio::time::timeout(Duration::from_millis(50), pulls.turn()).await.is_err();
        for (serialize, parallel, second_waits) in
            [(None, None, true), (Some(true), None, true), (Some(false), None, false), (Some(false), Some(2), false)]
        {
            let pulls = pulls(serialize, parallel, 0);
            let first = pulls.turn().await.unwrap();
            assert_eq!(waits(&pulls).await, second_waits, "{serialize:?} {parallel:?}");
            drop(first);
        }
        let fast = pulls(Some(false), None, 1);
        assert!(fast.turn().await.is_ok() && fast.turn().await.is_ok());
        assert_eq!(fast.turn().await.err().as_deref(), Some("pull QPS exceeded"));
    }

    #[test]
    fn policies_and_registries() {
        for (image, latest) in
            [("a", true), ("a:latest", true), ("r:5000/a", true), ("a:1", false), ("a@sha256:00", false)]
        {
            assert_eq!(is_latest(image), latest, "{image}");
        }
        for (server, image, yes) in [
            ("https://index.docker.io/v1/", "busybox", true),
            ("r.example.com", "r.example.com/a/b:1", true),
            ("*.example.com", "r.example.com/a", true),
            ("r.example.com/team", "r.example.com/team/a", true),
            ("r.example.com/team", "r.example.com/other/a", false),
            ("example.com", "r.example.com/a", false),
        ] {
            assert_eq!(serves(server, image), yes, "{server} {image}");
        }
    }
}
