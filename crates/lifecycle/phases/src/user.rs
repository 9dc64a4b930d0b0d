//! Kubeconfigs for people: a key made here, and a certificate that the cluster signs for it.
//!
//! The way is the API's own (Certificate Signing Requests, "Issue a certificate for a Kubernetes API client"): a
//! request for the signer `kubernetes.io/kube-apiserver-client`, approved by whoever holds the administrator's
//! kubeconfig. The authority's key stays where it is, and the audit log knows who approved what.

use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kinit_pki::KeyAlgorithm;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};

const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Signing takes the controller manager a moment; after this long it is not running.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user of the cluster.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The name towards the API.
    pub name: String,
    /// The groups towards the API.
    pub groups: Vec<String>,
    /// How long the certificate is valid; the cluster may give less (`--cluster-signing-duration`).
    pub life: Duration,
}

/// Certificate and key of a user, PEM.
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Has a certificate signed for a user.
pub async fn new_user(client: &Client, user: &NewUser) -> Result<Credentials> {
    let key = kinit_pki::new_key(KeyAlgorithm::EcdsaP256).context("make a key")?;
    let pem = kinit_pki::user_request(&key, &user.name, &user.groups).context("make a certificate signing request")?;
    let name = request(client, "kinit-user-", pem, Some(user.life)).await?;
    approve(client, &name).await?;
    let certificate = tokio::time::timeout(PATIENCE, signed(client, &name)).await.map_err(|_| {
        anyhow!(
            "CertificateSigningRequest {name} was not signed within {} s: does the controller manager run, with the authority's key?",
            PATIENCE.as_secs()
        )
    })??;
    Ok(Credentials { certificate, key })
}

/// Asks the cluster for a client certificate; returns the request's name.
pub(crate) async fn request(client: &Client, prefix: &str, pem: String, life: Option<Duration>) -> Result<String> {
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some(prefix.to_owned()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            usages: Some(vec!["client auth".to_owned()]),
            expiration_seconds: life.map(|life| i32::try_from(life.as_secs()).unwrap_or(i32::MAX)),
            ..Default::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let created = api.create(&PostParams::default(), &object).await.context("request a certificate")?;
    created.metadata.name.context("the request has no name")
}

async fn approve(client: &Client, name: &str) -> Result<()> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut request = api.get(name).await.with_context(|| format!("read CertificateSigningRequest {name}"))?;
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("KinitKubeconfigUser".to_owned()),
        message: Some("approved by kinit kubeconfig user".to_owned()),
        last_update_time: Some(Time(k8s_openapi::jiff::Timestamp::now())),
        last_transition_time: None,
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    let approved = api.replace_subresource("approval", name, &PostParams::default(), &request).await;
    approved.map(drop).with_context(|| format!("approve CertificateSigningRequest {name}"))
}

/// Waits until a request is signed.
pub(crate) async fn signed(client: &Client, name: &str) -> Result<String> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut changes = pin!(watcher::watch_object(api, name));
    while let Some(change) = changes.next().await {
        let Ok(Some(request)) = change else { continue };
        let status = request.status.unwrap_or_default();
        if let Some(no) = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed")) {
            bail!("CertificateSigningRequest {name}: {}: {}", no.type_, no.message.as_deref().unwrap_or("no message"));
        }
        if let Some(certificate) = status.certificate.filter(|certificate| !certificate.0.is_empty()) {
            return String::from_utf8(certificate.0).context("the signed certificate is not PEM");
        }
    }
    bail!("the watch of CertificateSigningRequest {name} ended")
}
