//! The cluster's secrets for control planes that join by themselves: Secret `kube-system/kubeadm-certs`, in kubeadm's
//! form (`cmd/kubeadm/app/phases/copycerts`). Each value is AES-256-GCM with its nonce before it; the key is on a
//! command line and in nobody's cluster. The Secret belongs to a bootstrap token that ends after two hours, and goes
//! with it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kinit_config::{Cluster, Role};
use kinit_manifests::TOKENS;
use kinit_pki::Pair;
use kinit_planner::strangers;
use kinit_resource::Shared;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::hosts::Hosts;
use crate::request::Impossible;
use crate::reset::Strangers;
use crate::token::{Token, TokenOptions, create_token};
use crate::{access, api};

const NAME: &str = "kubeadm-certs";
const SYSTEM: &str = "kube-system";
/// kubeadm's name of the rights to read it.
const ROLE: &str = "kubeadm:kubeadm-certs";
/// As long as kubeadm keeps them.
pub const LIFE: Duration = Duration::from_hours(2);

/// What decrypts the uploaded secrets. `Debug` does not show it.
#[derive(Clone)]
pub struct CertificateKey([u8; 32]);

impl std::fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(certificate key)")
    }
}

impl std::fmt::Display for CertificateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl CertificateKey {
    /// A new one.
    pub fn generate() -> Result<Self> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| anyhow!("the system has no random bytes"))?;
        Ok(Self(key))
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let digits = || text.bytes().map(|digit| char::from(digit).to_digit(16));
        ensure!(
            text.len() == 64 && digits().all(|digit| digit.is_some()),
            // Not the text: it may be nearly a key.
            "a certificate key is 64 hexadecimal digits"
        );
        let digits: Vec<u8> = digits().flatten().filter_map(|digit| u8::try_from(digit).ok()).collect();
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Ok(Self(key))
    }

    fn aead(&self) -> Result<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).map_err(|_| anyhow!("use the certificate key"))
    }

    fn seal(&self, text: &str) -> Result<Vec<u8>> {
        let mut sealed = text.as_bytes().to_vec();
        let nonce = self.aead()?.seal_in_place_append_tag(Aad::empty(), &mut sealed);
        let nonce = nonce.map_err(|_| anyhow!("encrypt a secret of the cluster"))?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Result<String> {
        let wrong = || anyhow!("the certificate key does not decrypt it: it is another upload's");
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut text = text.to_vec();
        let opened = self.aead()?.open_in_place(nonce, Aad::empty(), &mut text).map_err(|_| wrong())?;
        String::from_utf8(opened.to_vec()).map_err(|_| wrong())
    }
}

/// Names of a secret's halves in the Secret: those of their files, without folders.
fn entries(shared: Shared) -> (Option<String>, String) {
    let (public, private) = shared.files();
    let flat = |file: String| file.replace('/', "-");
    (public.map(flat), flat(private))
}

/// Reads the cluster's secrets on a control plane and puts them, encrypted, into the API for two hours. They pass
/// through this process's memory and no disk. `known` is the cluster's authority as the desk knows it; `look` stops
/// before anything is read or changed.
pub async fn upload_certificates(
    hosts: &Hosts,
    cluster: &Cluster,
    known: Option<&str>,
    key: &CertificateKey,
    look: bool,
) -> Result<()> {
    let others = strangers(cluster, &hosts.facts(cluster).await?, known);
    if !others.is_empty() {
        return Err(Strangers(others).into());
    }
    if cluster.signs_on_desk() {
        return Err(Impossible::KeysOnDesk("`kinit certs upload`".to_owned()).into());
    }
    if look {
        return Ok(());
    }
    let client = &access::masters(hosts, cluster).await?;
    let source = cluster.hosts(Role::ControlPlane).find_map(|host| hosts.agent(&host.name).ok());
    let source = source.context("no control plane can be reached")?;
    let mut pairs = BTreeMap::new();
    for shared in Shared::ALL {
        let pair = source.read_shared(shared).await;
        pairs.insert(shared, pair.with_context(|| format!("read {} on {}", shared.name(), source.host()))?);
    }
    let data = encrypted(&pairs, key)?;
    for object in rights() {
        api::apply(client, &object).await.context("let machines with a token read what they need to join")?;
    }
    let token = Token::generate();
    let options = TokenOptions {
        life: Some(LIFE),
        description: format!("Proxy for managing TTL for the {NAME} secret"),
        usages: Vec::new(),
        groups: Vec::new(),
    };
    create_token(client, &token, &options).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM);
    let name = format!("bootstrap-token-{}", token.id);
    let owner = secrets.get(&name).await.with_context(|| format!("read Secret {name}"))?;
    let mut object = Secret { data: Some(data), ..Secret::default() };
    object.metadata.name = Some(NAME.to_owned());
    object.metadata.owner_references = Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        name,
        uid: owner.metadata.uid.unwrap_or_default(),
        ..Default::default()
    }]);
    // An earlier upload has another key and an earlier end.
    match secrets.delete(NAME, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.with_context(|| format!("delete Secret {SYSTEM}/{NAME}"))?),
    }
    secrets.create(&PostParams::default(), &object).await.with_context(|| format!("create Secret {SYSTEM}/{NAME}"))?;
    Ok(())
}

/// Who has a bootstrap token may read it, as in kubeadm's clusters.
fn rights() -> [serde_json::Value; 2] {
    let meta = json!({ "name": ROLE, "namespace": SYSTEM });
    let group = "rbac.authorization.k8s.io";
    [
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": meta,
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": [NAME], "verbs": ["get"] }],
        }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": meta,
            "roleRef": { "apiGroup": group, "kind": "Role", "name": ROLE },
            "subjects": [{ "apiGroup": group, "kind": "Group", "name": TOKENS }],
        }),
    ]
}

fn encrypted(pairs: &BTreeMap<Shared, Pair>, key: &CertificateKey) -> Result<BTreeMap<String, ByteString>> {
    let mut data = BTreeMap::new();
    for (shared, pair) in pairs {
        let (public, private) = entries(*shared);
        if let Some(public) = public {
            data.insert(public, ByteString(key.seal(&pair.cert)?));
        }
        data.insert(private, ByteString(key.seal(&pair.key)?));
    }
    Ok(data)
}

/// Reads the uploaded secrets as whoever has a bootstrap token.
pub(crate) async fn download_certificates(client: &Client, key: &CertificateKey) -> Result<BTreeMap<Shared, Pair>> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM);
    let secret = match secrets.get(NAME).await {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => bail!(
            "the cluster shows no Secret {SYSTEM}/{NAME}: `kinit certs upload` on the desk makes it, and it goes after two hours"
        ),
        other => other.with_context(|| format!("read Secret {SYSTEM}/{NAME}"))?,
    };
    decrypted(&secret.data.unwrap_or_default(), key).with_context(|| format!("read Secret {SYSTEM}/{NAME}"))
}

fn decrypted(data: &BTreeMap<String, ByteString>, key: &CertificateKey) -> Result<BTreeMap<Shared, Pair>> {
    let half = |name: &str| {
        let sealed = data.get(name).with_context(|| format!("{name} is missing; kinit did not make it"))?;
        key.open(&sealed.0).with_context(|| name.to_owned())
    };
    let mut pairs = BTreeMap::new();
    for shared in Shared::ALL {
        let (public, private) = entries(shared);
        let cert = public.as_deref().map(half).transpose()?.unwrap_or_default();
        let pair = Pair { cert, key: half(&private)? };
        if !pair.cert.is_empty() {
            let fits = kinit_pki::is_pair(&pair.cert, &pair.key).unwrap_or(false);
            ensure!(fits, "{private} does not belong to its public half");
        }
        pairs.insert(shared, pair);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> BTreeMap<Shared, Pair> {
        let kind = kinit_pki::KeyAlgorithm::EcdsaP256;
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let pair = |shared: Shared| match shared {
            Shared::Authority(authority) => kinit_pki::new_authority(authority.common_name(), kind, 10, now).unwrap(),
            Shared::ServiceAccountKey => kinit_pki::new_service_account_pair(kind).unwrap(),
            Shared::EncryptionConfig => Pair { cert: String::new(), key: "kind: EncryptionConfiguration\n".into() },
        };
        Shared::ALL.into_iter().map(|shared| (shared, pair(shared))).collect()
    }

    #[test]
    fn what_is_uploaded_comes_back_under_kubeadms_names() {
        let (key, pairs) = (CertificateKey::generate().unwrap(), pairs());
        let data = encrypted(&pairs, &key).unwrap();
        let names: Vec<&str> = data.keys().map(String::as_str).collect();
        let expected = [
            "ca.crt",
            "ca.key",
            "encryption.yaml",
            "etcd-ca.crt",
            "etcd-ca.key",
            "front-proxy-ca.crt",
            "front-proxy-ca.key",
            "sa.key",
            "sa.pub",
        ];
        assert_eq!(names, expected);
        let key = CertificateKey::parse(&key.to_string()).unwrap();
        let back = decrypted(&data, &key).unwrap();
        assert!(back.iter().all(|(shared, pair)| pair.key == pairs[shared].key && pair.cert == pairs[shared].cert));
        assert!(data.values().all(|sealed| !String::from_utf8_lossy(&sealed.0).contains("PRIVATE")));
    }

    #[test]
    fn another_key_a_changed_byte_and_a_mixed_pair_are_refused() {
        let (key, mut pairs) = (CertificateKey::generate().unwrap(), pairs());
        let data = encrypted(&pairs, &key).unwrap();
        let refused = |data: &BTreeMap<String, ByteString>, key: &CertificateKey| {
            format!("{:#}", decrypted(data, key).err().unwrap())
        };
        assert!(refused(&data, &CertificateKey::generate().unwrap()).contains("another upload's"));
        let mut changed = data.clone();
        changed.get_mut("sa.key").unwrap().0[20] ^= 1;
        assert!(refused(&changed, &key).contains("sa.key"));
        let mut short = data.clone();
        short.insert("ca.crt".into(), ByteString(vec![1, 2]));
        assert!(refused(&short, &key).contains("ca.crt"));
        let mut missing = data;
        missing.remove("encryption.yaml");
        assert!(refused(&missing, &key).contains("encryption.yaml is missing"));
        let other = kinit_pki::new_service_account_pair(kinit_pki::KeyAlgorithm::EcdsaP256).unwrap();
        pairs.get_mut(&Shared::ServiceAccountKey).unwrap().key = other.key;
        assert!(refused(&encrypted(&pairs, &key).unwrap(), &key).contains("does not belong"));
    }

    #[test]
    fn keys_have_one_form_and_are_not_shown() {
        let key = "0f".repeat(32);
        assert_eq!(CertificateKey::parse(&key).unwrap().to_string(), key);
        assert!(!format!("{:?}", CertificateKey::parse(&key).unwrap()).contains("0f"));
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(32)] {
            let error = CertificateKey::parse(wrong).unwrap_err().to_string();
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
    }

    /// Go's `Seal(nonce, nonce, plaintext, nil)`: kubeadm reads what kinit uploads, and the reverse.
    #[test]
    fn the_form_is_kubeadms() {
        let key = CertificateKey::parse(&"00".repeat(32)).unwrap();
        // AES-256-GCM with a zero key and nonce, of an empty text: its tag (NIST's test case 13).
        let tag = [0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9, 0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b];
        assert_eq!(key.open(&[&[0; 12][..], &tag].concat()).unwrap(), "");
    }
}
