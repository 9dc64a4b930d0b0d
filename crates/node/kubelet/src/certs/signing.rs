//! Asking the API to sign: a CertificateSigningRequest and the wait for its answer.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kinit_pki::{KeyAlgorithm, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};

/// What to ask for.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// `kubernetes.io/kube-apiserver-client-kubelet` or `kubernetes.io/kubelet-serving`.
    pub signer: &'static str,
    /// The API's names of usages.
    pub usages: &'static [&'static str],
    /// Names in the request.
    pub subject: Subject,
}

/// Makes a key, asks, waits at most `patience` for the certificate. Returns certificate and key as PEM.
pub async fn sign(client: &Client, wanted: &SigningRequest, patience: Duration) -> Result<(String, String)> {
    let key = kinit_pki::new_key(KeyAlgorithm::EcdsaP256).context("make a key")?;
    let request = kinit_pki::request(&key, &wanted.subject).context("make a certificate request")?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: wanted.signer.to_owned(),
            usages: Some(wanted.usages.iter().map(|u| (*u).to_owned()).collect()),
            ..Default::default()
        },
        status: None,
    };
    let params = PostParams::default();
    let created = tokio::time::timeout(Duration::from_secs(30), api.create(&params, &object))
        .await
        .map_err(|_| anyhow!("no answer from the API server"))
        .and_then(|r| r.map_err(Into::into))
        .with_context(|| format!("create a CertificateSigningRequest for {}", wanted.signer))?;
    let name = created.metadata.name.context("the API server gave the CertificateSigningRequest no name")?;
    tracing::info!(csr = name, signer = wanted.signer, "waiting for the certificate");
    let certificate = tokio::time::timeout(patience, answer(api, &name)).await.map_err(|_| {
        anyhow!("CertificateSigningRequest {name} was neither signed nor refused within {patience:?}")
    })??;
    Ok((certificate, key))
}

async fn answer(api: Api<CertificateSigningRequest>, name: &str) -> Result<String> {
    let mut stream = pin!(watcher::watch_object(api, name));
    while let Some(event) = stream.next().await {
        let object = match event {
            Ok(Some(object)) => object,
            Ok(None) => bail!("CertificateSigningRequest {name} was deleted"),
            Err(error) => {
                tracing::debug!(%error, "watch a CertificateSigningRequest");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let status = object.status.unwrap_or_default();
        if let Some(no) = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed")) {
            bail!("CertificateSigningRequest {name}: {}: {}", no.type_, no.message.as_deref().unwrap_or("no message"));
        }
        if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
            return String::from_utf8(certificate.0).context("the signed certificate is not PEM");
        }
    }
    bail!("the watch of CertificateSigningRequest {name} ended")
}
