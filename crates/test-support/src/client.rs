//! Clients of a test server.

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use reqwest::{Certificate, ClientBuilder, Identity};

use crate::apiserver::TestApiServer;

impl TestApiServer {
    /// An HTTP client that trusts the server and shows it no certificate.
    pub fn stranger(&self) -> Result<ClientBuilder> {
        let ca = Certificate::from_pem(&self.read("ca.crt")?).context("the CA's certificate")?;
        Ok(reqwest::Client::builder().tls_certs_only([ca]))
    }

    /// An HTTP client with an administrator's certificate.
    pub fn admin(&self) -> Result<ClientBuilder> {
        self.bearer_of("apiserver-kubelet-client")
    }

    /// An HTTP client with the certificate `NAME.crt` of the tree.
    pub fn bearer_of(&self, name: &str) -> Result<ClientBuilder> {
        let pem = [self.read(&format!("{name}.crt"))?, self.read(&format!("{name}.key"))?].concat();
        Ok(self.stranger()?.identity(Identity::from_pem(&pem).with_context(|| format!("use the certificate {name}"))?))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.pki.file(name);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }
}

/// A kube-rs client by a kubeconfig's text.
pub async fn kube_client(kubeconfig: &str) -> Result<kube::Client> {
    let config = Kubeconfig::from_yaml(kubeconfig).context("read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    kube::Client::try_from(config).context("make a client")
}
