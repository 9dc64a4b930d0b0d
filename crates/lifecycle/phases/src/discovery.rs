//! Which cluster is behind an address, for a machine that has nothing but a bootstrap token: kubeadm's discovery
//! (`cmd/kubeadm/app/discovery/token`).
//!
//! Anybody may read ConfigMap kube-public/cluster-info. The first answer comes over a connection that proves nothing.
//! It is believed when the token signed it (the cluster knows the token) and when its authority's key is the one that
//! was pinned (whoever holds a token is not the cluster); then the same must come over a connection that it proves.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use k8s_openapi::api::core::v1::ConfigMap;
use reqwest::Client;

use crate::kubeconfig::KubeconfigFile;
use crate::token::Token;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
const PATIENCE: Duration = Duration::from_secs(10);
/// A kubeconfig without users is far below.
const LONGEST: usize = 1 << 20;

/// What tells the right cluster from any other.
#[derive(Debug, Clone)]
pub enum Pin {
    /// Hashes of the authorities' public keys, `sha256:HEX`; one has to match.
    Hashes(Vec<String>),
    /// The token's signature alone: whoever has such a token can pretend to be the cluster.
    Unsafe,
}

/// The cluster that was found.
#[derive(Debug, Clone)]
pub struct Discovered {
    /// URL of its API.
    pub server: String,
    /// Its authority, PEM.
    pub authority: String,
}

/// Finds the cluster at `endpoint` (`HOST:PORT`).
pub async fn discover(endpoint: &str, token: &Token, pin: &Pin) -> Result<Discovered> {
    let url = format!("https://{endpoint}{PATH}");
    let anybody = client_with(kinit_component_base::unverified::config())?;
    let first = fetch(&anybody, &url).await?;
    let found = believed(&first, token, pin).with_context(|| format!("check what {endpoint} says of itself"))?;
    let second = fetch(&client_with(trusting(&found.authority)?)?, &url).await;
    let second = second.with_context(|| format!("ask {endpoint} again, with its authority"))?;
    ensure!(kubeconfig_of(&first)? == kubeconfig_of(&second)?, "{endpoint} gave two answers to the same question");
    Ok(found)
}

fn client_with(tls: rustls::ClientConfig) -> Result<Client> {
    let client = Client::builder().tls_backend_preconfigured(tls).timeout(PATIENCE).no_proxy();
    client.redirect(reqwest::redirect::Policy::none()).build().context("make an HTTP client")
}

fn trusting(authority: &str) -> Result<rustls::ClientConfig> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.context("read the cluster's authority")?).context("trust the cluster's authority")?;
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

async fn fetch(client: &Client, url: &str) -> Result<ConfigMap> {
    let mut answer = client.get(url).send().await.with_context(|| format!("read {url}"))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.with_context(|| format!("read {url}"))? {
        body.extend_from_slice(&piece);
        ensure!(body.len() <= LONGEST, "{url} is longer than {LONGEST} bytes");
    }
    if !status.is_success() {
        bail!("{url}: {status}; a cluster shows this object to everybody until its operator forbids that");
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} is no ConfigMap"))
}

fn kubeconfig_of(info: &ConfigMap) -> Result<&str> {
    let text = info.data.as_ref().and_then(|data| data.get("kubeconfig"));
    text.map(String::as_str).context("cluster-info has no kubeconfig")
}

fn believed(info: &ConfigMap, token: &Token, pin: &Pin) -> Result<Discovered> {
    let kubeconfig = kubeconfig_of(info)?;
    let signature = info.data.as_ref().and_then(|data| data.get(&format!("jws-kubeconfig-{}", token.id)));
    let signature = signature.ok_or_else(|| {
        anyhow!("the cluster does not know the token {}: it has expired, or is another cluster's; `kinit token create` makes one", token.id)
    })?;
    verify(signature, kubeconfig, token)?;
    let file = KubeconfigFile::parse(kubeconfig)?;
    let cluster = file.only_cluster().context("cluster-info names no cluster")?;
    let text = |key: &str| cluster.get(key).and_then(serde_json::Value::as_str);
    let server = text("server").context("cluster-info has no server")?.to_owned();
    let pem = text("certificate-authority-data").and_then(|data| STANDARD.decode(data).ok());
    let authority = pem.and_then(|pem| String::from_utf8(pem).ok()).context("cluster-info has no authority")?;
    pinned(&authority, pin)?;
    Ok(Discovered { server, authority })
}

/// A detached compact JWS, HS256 with the token's secret (RFC 7515, appendix F).
fn verify(signature: &str, content: &str, token: &Token) -> Result<()> {
    let parts: Vec<&str> = signature.split('.').collect();
    let [header, "", tag] = parts.as_slice() else { bail!("the signature of cluster-info is no detached JWS") };
    let json = URL_SAFE_NO_PAD.decode(header).context("decode the signature's header")?;
    let json: serde_json::Value = serde_json::from_slice(&json).context("decode the signature's header")?;
    ensure!(json.get("alg").and_then(|a| a.as_str()) == Some("HS256"), "the signature of cluster-info is not HS256");
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, token.secret.as_bytes());
    let tag = URL_SAFE_NO_PAD.decode(tag).context("decode the signature")?;
    aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &tag)
        .map_err(|_| anyhow!("the token's secret did not sign cluster-info: it is another token, or another cluster"))
}

fn pinned(authority: &str, pin: &Pin) -> Result<()> {
    let Pin::Hashes(hashes) = pin else { return Ok(()) };
    // While an authority takes another's place there are two, and either is pinned (kubeadm's
    // `pubkeypin.Set.CheckAny`).
    let own = kinit_pki::public_key_hashes(authority);
    ensure!(!own.is_empty(), "the authority in cluster-info is no certificate");
    ensure!(
        hashes.iter().any(|pinned| own.iter().any(|hash| pinned.eq_ignore_ascii_case(hash))),
        "the cluster's authority is {}, not {}: this is not the cluster that was meant",
        own.join(" and "),
        hashes.join(" or ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token { id: "abcdef".into(), secret: "0123456789abcdef".into() }
    }

    fn authority() -> String {
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        kinit_pki::new_authority("kubernetes", kinit_pki::KeyAlgorithm::EcdsaP256, 10, now).unwrap().cert
    }

    fn sign(content: &str, alg: &str, secret: &str) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","kid":"abcdef"}}"#));
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes())))
    }

    fn info(pem: &str, change: impl Fn(&mut std::collections::BTreeMap<String, String>)) -> ConfigMap {
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://192.0.2.1:6443\n    certificate-authority-data: {}\n",
            STANDARD.encode(pem)
        );
        let signature = sign(&kubeconfig, "HS256", &token().secret);
        let mut data = std::collections::BTreeMap::from([
            ("kubeconfig".to_owned(), kubeconfig),
            ("jws-kubeconfig-abcdef".to_owned(), signature),
        ]);
        change(&mut data);
        ConfigMap { data: Some(data), ..Default::default() }
    }

    #[test]
    fn what_the_token_signed_and_the_pin_names_is_believed() {
        let pem = authority();
        let pin = Pin::Hashes(vec![format!("sha256:{}", "0".repeat(64)), kinit_pki::public_key_hash(&pem).unwrap()]);
        let found = believed(&info(&pem, |_| ()), &token(), &pin).unwrap();
        assert_eq!((found.server.as_str(), found.authority.as_str()), ("https://192.0.2.1:6443", pem.as_str()));
        assert!(believed(&info(&pem, |_| ()), &token(), &Pin::Unsafe).is_ok());
        let two = authority() + &pem;
        assert_eq!(believed(&info(&two, |_| ()), &token(), &pin).unwrap().authority, two, "during a rotation");
    }

    #[test]
    fn everything_else_is_not() {
        let pem = authority();
        let good = Pin::Hashes(vec![kinit_pki::public_key_hash(&pem).unwrap()]);
        type Change = Box<dyn Fn(&mut std::collections::BTreeMap<String, String>)>;
        let key = "jws-kubeconfig-abcdef";
        let table: Vec<(Change, &str)> = vec![
            (Box::new(|d| drop(d.remove(key))), "does not know the token abcdef"),
            (Box::new(|d| drop(d.remove("kubeconfig"))), "has no kubeconfig"),
            (Box::new(|d| d.get_mut("kubeconfig").unwrap().push(' ')), "did not sign"),
            (Box::new(|d| drop(d.insert(key.into(), sign(&d["kubeconfig"], "HS256", "another")))), "did not sign"),
            (Box::new(|d| drop(d.insert(key.into(), sign(&d["kubeconfig"], "none", "0123456789abcdef")))), "not HS256"),
            (Box::new(|d| drop(d.insert(key.into(), "a.b.c".into()))), "no detached JWS"),
            (Box::new(|d| drop(d.insert(key.into(), "é..!".into()))), "decode the signature"),
        ];
        for (change, words) in table {
            let error = format!("{:#}", believed(&info(&pem, change), &token(), &good).unwrap_err());
            assert!(error.contains(words) && !error.contains(&token().secret), "{words}: {error}");
        }
        let wrong = Pin::Hashes(vec![format!("sha256:{}", "0".repeat(64))]);
        let error = believed(&info(&pem, |_| ()), &token(), &wrong).unwrap_err().to_string();
        assert!(error.contains("is not the cluster that was meant"), "{error}");
        let error = believed(&info("rubbish", |_| ()), &token(), &good).unwrap_err().to_string();
        assert!(error.contains("is no certificate"), "{error}");
    }
}
