//! An administrator who speaks plain HTTP: answers are bytes, so that reading them costs the client little.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use reqwest::{Certificate, Identity, Method};

use crate::TestPki;

/// A client with one connection of its own; clones share it.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

impl Http {
    /// Of the server at `base` (`https://ADDRESS:PORT`).
    pub fn new(base: &str, pki: &TestPki) -> Result<Self> {
        Self::with(base, pki, "apiserver-kubelet-client")
    }

    /// The same with another client certificate of `pki`, by the name of its files.
    pub fn with(base: &str, pki: &TestPki, identity: &str) -> Result<Self> {
        let read = |name: &str| {
            let path = pki.file(name);
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        let ca = Certificate::from_pem(&read("ca.crt")?).context("the CA's certificate")?;
        let pem = [read(&format!("{identity}.crt"))?, read(&format!("{identity}.key"))?].concat();
        let identity = Identity::from_pem(&pem).with_context(|| format!("the certificate of {identity}"))?;
        let client =
            reqwest::Client::builder().tls_certs_only([ca]).identity(identity).build().context("make a client")?;
        Ok(Self { base: base.to_owned(), client })
    }

    /// The body of a successful answer.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.request(Method::GET, path, None).await
    }

    /// The same, with a header.
    pub async fn get_with(&self, path: &str, (name, value): (&str, &str)) -> Result<Bytes> {
        let request = self.client.get(format!("{}{path}", self.base)).header(name, value);
        let answer = request.send().await.with_context(|| format!("GET {path}"))?;
        let answer = answer.error_for_status().with_context(|| format!("GET {path}"))?;
        answer.bytes().await.with_context(|| format!("read the answer to {path}"))
    }

    /// Sends a request; an answer other than 2xx is an error with its text.
    pub async fn request(&self, method: Method, path: &str, body: Option<String>) -> Result<Bytes> {
        let answer = self.send(method, path, body).await?;
        answer.bytes().await.with_context(|| format!("read the answer to {path}"))
    }

    /// As [`Self::request`], for answers that are read bit by bit.
    pub async fn send(&self, method: Method, path: &str, body: Option<String>) -> Result<reqwest::Response> {
        let mut request = self.client.request(method.clone(), format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = request.send().await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", answer.text().await.unwrap_or_default());
        }
        Ok(answer)
    }
}
