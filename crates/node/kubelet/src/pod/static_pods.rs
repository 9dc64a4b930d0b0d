//! Pods from files (`pkg/kubelet/config/file.go`, `common.go`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::manager::Manager;
use super::worker::Wanted;
use crate::inotify::Watcher;
use crate::names;

/// Follows a directory for ever; `ready` is cancelled after the first look.
pub async fn run(directory: PathBuf, node: String, manager: Manager, ready: CancellationToken) {
    loop {
        let watcher = Watcher::new().and_then(|w| w.add(&directory).map(|()| w));
        let pods = load(&directory, &node);
        apply(&manager, pods);
        ready.cancel();
        let again = Duration::from_secs(if watcher.is_ok() { 60 } else { 20 });
        tokio::select! {
            _ = async { match &watcher { Ok(w) => w.changed().await, Err(_) => std::future::pending().await } } => {
                // An editor writes in several moves; take them together.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            () = tokio::time::sleep(again) => {}
        }
    }
}

fn apply(manager: &Manager, pods: BTreeMap<String, Pod>) {
    for uid in manager.uids(true) {
        if !pods.contains_key(&uid) {
            manager.removed(&uid);
        }
    }
    for (uid, pod) in pods {
        // The uid is the content's digest: a changed file is another pod, and an unchanged one has nothing to say.
        if !manager.uids(true).contains(&uid) {
            manager.want(
                &uid,
                Wanted { pod: Arc::new(pod), removed: false, api_uid: None, is_static: true, evicted: None },
            );
        }
    }
}

/// All pods of a directory by uid. A file that cannot be read is reported and passed over.
fn load(directory: &Path, node: &str) -> BTreeMap<String, Pod> {
    let mut out = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return out };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let hidden = path.file_name().is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        match read(&path, node) {
            Ok(pod) => {
                out.insert(pod.metadata.uid.clone().unwrap_or_default(), pod);
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "static pod"),
        }
    }
    out
}

fn read(path: &Path, node: &str) -> Result<Pod> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text, &path.display().to_string(), node).with_context(|| format!("static pod {}", path.display()))
}

fn parse(text: &str, source: &str, node: &str) -> Result<Pod> {
    let value: serde_json::Value = serde_saphyr::from_str(text).context("parse YAML")?;
    ensure!(value["kind"] == "Pod" && value["apiVersion"] == "v1", "not a v1 Pod");
    let mut pod: Pod = serde_json::from_value(value).context("decode")?;
    let meta = &mut pod.metadata;
    let name = meta.name.clone().filter(|n| !n.is_empty()).context("metadata.name is missing")?;
    let digest = hex::encode(Sha256::digest(format!("{node}\0{source}\0{text}")));
    let hash = digest[..32].to_owned();
    meta.name = Some(format!("{name}-{node}"));
    meta.namespace.get_or_insert_with(|| "default".to_owned());
    meta.uid = Some(hash.clone());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(names::CONFIG_HASH.into(), hash);
    annotations.insert(names::CONFIG_SOURCE.into(), "file".into());
    annotations.insert(names::CONFIG_SEEN.into(), k8s_openapi::jiff::Timestamp::now().to_string());
    let spec = pod.spec.as_mut().context("spec is missing")?;
    ensure!(!spec.containers.is_empty(), "spec.containers is empty");
    ensure!(
        spec.service_account_name.as_deref().unwrap_or("").is_empty(),
        "a static pod may not refer to a service account"
    );
    spec.node_name = Some(node.to_owned());
    let everything =
        Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Default::default() };
    spec.tolerations.get_or_insert_default().push(everything);
    let refers = crate::references::of(&pod);
    ensure!(
        refers.config_maps.is_empty() && refers.secrets.is_empty(),
        "a static pod may not refer to ConfigMaps or Secrets"
    );
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_pods_of_this_node() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";
        let pod = parse(text, "/x", "n1").unwrap();
        assert_eq!(
            (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref()),
            (Some("web-n1"), Some("default"))
        );
        assert_ne!(pod.metadata.uid, parse(text, "/y", "n1").unwrap().metadata.uid);
        for bad in ["kind: Pod", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}", "- 1"] {
            assert!(parse(bad, "/x", "n1").is_err(), "{bad}");
        }
    }
}
