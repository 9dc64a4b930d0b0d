//! TLS bootstrap: from a token to a client certificate and a kubeconfig (`cmd/kubelet/app/server.go`,
//! `pkg/kubelet/certificate/bootstrap`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::jiff::Timestamp;
use kinit_pki::{Subject, Usage};
use serde_json::{Value, json};

use super::signing::{SigningRequest, sign};
use super::store::{Store, validity};
use crate::args::Args;
use crate::volumes::files::write_atomically;

const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The client certificate a node asks for.
pub fn client_ask(node: &str) -> SigningRequest {
    SigningRequest {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        usages: &["digital signature", "client auth"],
        subject: Subject {
            common_name: format!("system:node:{node}"),
            organization: Some("system:nodes".into()),
            usages: vec![Usage::Client],
            dns: Vec::new(),
            ips: Vec::new(),
            days: 365,
        },
    }
}

/// Makes sure that `kubeconfig` has credentials that are valid now; asks for them with the bootstrap kubeconfig if it
/// has none.
pub async fn ensure(args: &Args, kubeconfig: &Path, node: &str) -> Result<()> {
    if usable(kubeconfig) {
        return Ok(());
    }
    let Some(bootstrap) = &args.bootstrap_kubeconfig else {
        bail!("{} has no valid credentials and there is no --bootstrap-kubeconfig", kubeconfig.display());
    };
    let store = Store::new(&args.certificates(), "kubelet-client");
    let still_good = store.validity().is_some_and(|v| Timestamp::now() < v.not_after);
    if !still_good {
        let client = kinit_client::from_kubeconfig(bootstrap, "kubelet").await?;
        let mut pause = Duration::from_secs(1);
        let (certificate, key) = loop {
            match sign(&client, &client_ask(node), PATIENCE).await {
                Ok(pair) => break pair,
                // The API server may not be up yet: a node can be started before its cluster.
                Err(error) => tracing::warn!(error = format!("{error:#}"), "ask for a client certificate"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(15));
        };
        store.save(&certificate, &key)?;
    }
    write_kubeconfig(bootstrap, kubeconfig, &store.current())
}

/// Whether a kubeconfig exists whose client certificate, if it is a file, is still valid.
fn usable(kubeconfig: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(kubeconfig) else { return false };
    let Ok(value) = serde_saphyr::from_str::<Value>(&text) else { return false };
    let user = &value["users"][0]["user"];
    match user["client-certificate"].as_str() {
        Some(file) => validity(Path::new(file)).is_ok_and(|v| Timestamp::now() < v.not_after),
        None => user.as_object().is_some_and(|u| !u.is_empty()),
    }
}

fn write_kubeconfig(bootstrap: &Path, kubeconfig: &Path, pair: &Path) -> Result<()> {
    let text = std::fs::read_to_string(bootstrap).with_context(|| format!("read {}", bootstrap.display()))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("parse {}", bootstrap.display()))?;
    let current = value["current-context"].as_str().unwrap_or("");
    let named = |list: &str, name: &str| -> Option<Value> {
        value[list].as_array()?.iter().find(|e| e["name"] == name).cloned()
    };
    let context = named("contexts", current).with_context(|| format!("{}: no current context", bootstrap.display()))?;
    let cluster = context["context"]["cluster"].as_str().unwrap_or("").to_owned();
    let cluster =
        named("clusters", &cluster).with_context(|| format!("{}: no cluster {cluster:?}", bootstrap.display()))?;
    let pair = pair.display().to_string();
    let out = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster["cluster"]}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": pair, "client-key": pair}}],
    });
    let text = serde_saphyr::to_string(&out).context("encode the kubeconfig")?;
    write_atomically(kubeconfig, text.as_bytes(), 0o600).with_context(|| format!("write {}", kubeconfig.display()))
}
