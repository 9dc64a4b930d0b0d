//! `serviceaccount-token`: tokens in Secrets of type `kubernetes.io/service-account-token`
//! (`pkg/controller/serviceaccount/tokens_controller.go`).
//!
//! Such tokens never expire and are made only for Secrets that somebody creates by hand; pods get bound ones from
//! TokenRequests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kinit_client::informer::{Change, Store, key_of, spawn, split_key};
use kinit_client::queue::Queue;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::context::Context;
use crate::object::ignore_gone;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// Runs the controller; without --service-account-private-key-file there is nothing to sign with.
pub async fn run(ctx: Context) -> Result<()> {
    let args = ctx.args().clone();
    let Some(key) = args.service_account_private_key_file else {
        tracing::info!("no --service-account-private-key-file: tokens in Secrets are not made");
        return Ok(());
    };
    let signer = Signer::read(&key)?;
    let ca = args.root_ca_file.as_ref().map(std::fs::read).transpose().context("read --root-ca-file")?;
    let accounts = ctx.store::<ServiceAccount>();
    let watch = watcher::Config::default().fields("type=kubernetes.io/service-account-token");
    let secrets = spawn(Api::<Secret>::all(ctx.root()), watch, &ctx.shutdown());
    accounts.synced().await;
    let queue = Queue::new();
    let (on_secret, on_account, all) = (queue.clone(), queue.clone(), secrets.clone());
    secrets.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            on_secret.add(key_of(&**change.object()));
        }
    });
    accounts.on_change(move |change| {
        if matches!(change, Change::Updated { .. }) {
            return;
        }
        let account = change.object();
        for secret in all.in_namespace(&account.namespace().unwrap_or_default()) {
            if secret.annotations().get(NAME) == account.metadata.name.as_ref() {
                on_account.add(key_of(&*secret));
            }
        }
    });
    // The process's own identity writes: upstream starts this controller before any service account exists.
    let work = Arc::new(Tokens { client: ctx.root(), accounts, secrets, signer, ca });
    queue.run("serviceaccount-token", 2, ctx.shutdown(), move |key| work.clone().sync(key)).await;
    Ok(())
}

struct Tokens {
    client: Client,
    accounts: Arc<Store<ServiceAccount>>,
    secrets: Arc<Store<Secret>>,
    signer: Signer,
    ca: Option<Vec<u8>>,
}

impl Tokens {
    async fn sync(self: Arc<Self>, key: String) -> Result<Option<Duration>> {
        let Some(secret) = self.secrets.get(&key).filter(|s| s.type_.as_deref() == Some(TYPE)) else { return Ok(None) };
        let (namespace, name) = split_key(&key);
        let Some(account_name) = secret.annotations().get(NAME) else { return Ok(None) };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let account = self.accounts.get(&format!("{namespace}/{account_name}"));
        let of_another = secret
            .annotations()
            .get(UID)
            .is_some_and(|uid| account.as_ref().is_none_or(|a| a.metadata.uid.as_ref() != Some(uid)));
        let Some(account) = account.filter(|_| !of_another) else {
            if of_another {
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid: secret.uid(), resource_version: None }),
                    ..Default::default()
                };
                ignore_gone(api.delete(name, &params).await).context("delete a token of a deleted service account")?;
            }
            return Ok(None);
        };
        let Some(wanted) = self.filled(&secret, &account)? else { return Ok(None) };
        ignore_gone(api.replace(name, &PostParams::default(), &wanted).await).context("write a token")?;
        tracing::info!(secret = key, account = account_name, "made a token");
        Ok(None)
    }

    /// The Secret with what it lacks; `None` when it lacks nothing.
    fn filled(&self, secret: &Secret, account: &ServiceAccount) -> Result<Option<Secret>> {
        let mut wanted = secret.clone();
        let uid = account.uid().unwrap_or_default();
        wanted.annotations_mut().insert(UID.into(), uid.clone());
        let namespace = secret.namespace().unwrap_or_default();
        let data = wanted.data.get_or_insert_default();
        if let Some(ca) = &self.ca {
            data.insert("ca.crt".into(), ByteString(ca.clone()));
        }
        data.insert("namespace".into(), ByteString(namespace.clone().into_bytes()));
        if data.get("token").is_none_or(|t| t.0.is_empty()) {
            let token = self.signer.sign(&namespace, &account.name_any(), &uid, &secret.name_any())?;
            data.insert("token".into(), ByteString(token.into_bytes()));
        }
        Ok((wanted != *secret).then_some(wanted))
    }
}

/// Signs legacy tokens (`serviceaccount.LegacyClaims`).
struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    id: String,
}

impl Signer {
    fn read(path: &PathBuf) -> Result<Self> {
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let pair = rcgen::KeyPair::from_pem(&String::from_utf8_lossy(&pem))
            .with_context(|| format!("parse the key in {}", path.display()))?;
        let der =
            PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("parse the key in {}", path.display()))?;
        // The key id of Kubernetes: SHA-256 of the public key as SubjectPublicKeyInfo.
        let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &public).as_ref());
        let (key, algorithm) = if pair.is_compatible(&rcgen::PKCS_RSA_SHA256) {
            let key = EncodingKey::from_rsa_pem(&pem).or_else(|_| match &der {
                PrivateKeyDer::Pkcs1(der) => Ok(EncodingKey::from_rsa_der(der.secret_pkcs1_der())),
                _ => EncodingKey::from_rsa_pem(&pem),
            });
            (key.context("use the RSA key")?, Algorithm::RS256)
        } else if pair.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            (EncodingKey::from_ec_der(&pair.serialize_der()), Algorithm::ES256)
        } else {
            anyhow::bail!("the key in {} is neither RSA nor ECDSA P-256", path.display());
        };
        Ok(Self { key, algorithm, id })
    }

    fn sign(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> Result<String> {
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": uid,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        let mut header = Header::new(self.algorithm);
        header.typ = None;
        header.kid = Some(self.id.clone());
        jsonwebtoken::encode(&header, &claims, &self.key).context("sign a token")
    }
}
