//! An API server in this process.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use kinit_apiserver::{Options, Server};
use kinit_component_base::Shutdown;

use crate::etcd::TestEtcd;
use crate::free_port;
use crate::pki::TestPki;

/// Identities that get a kubeconfig: file, user, groups.
pub const IDENTITIES: &[(&str, &str, &[&str])] = &[
    ("admin.conf", "kubernetes-admin", &["system:masters"]),
    ("controller-manager.conf", "system:kube-controller-manager", &[]),
    ("scheduler.conf", "system:kube-scheduler", &[]),
    ("kube-proxy.conf", "system:kube-proxy", &["system:node-proxier"]),
    ("node1.conf", "system:node:node1", &["system:nodes"]),
];

/// Where a control plane lives and how it is set up.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// PKI, kubeconfigs, etcd's data.
    pub dir: PathBuf,
    /// The API's port.
    pub port: u16,
    /// The API's address.
    pub address: IpAddr,
    /// More flags for kube-apiserver.
    pub flags: Vec<String>,
}

impl ControlPlane {
    /// On loopback.
    pub fn on(dir: &Path, port: u16) -> Self {
        Self { dir: dir.to_owned(), port, address: IpAddr::from([127, 0, 0, 1]), flags: Vec::new() }
    }

    /// `https://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// Makes the PKI and the kubeconfigs.
    pub fn prepare(&self) -> Result<TestPki> {
        let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 96, 0, 1])];
        if !addresses.contains(&self.address) {
            addresses.push(self.address);
        }
        let pki = TestPki::create(&self.dir.join("pki"), &addresses)?;
        for (file, user, groups) in IDENTITIES {
            pki.write_kubeconfig(&self.dir.join(file), &self.url(), user, groups)?;
        }
        Ok(pki)
    }

    /// The server's command line.
    pub fn args(&self, pki: &TestPki, etcd: &str) -> Vec<OsString> {
        let file = |name: &str| pki.file(name).display().to_string();
        let mut args = vec![
            "kube-apiserver".to_owned(),
            format!("--advertise-address={}", self.address),
            format!("--bind-address={}", self.address),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers={etcd}"),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--kubelet-client-certificate={}", file("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", file("apiserver-kubelet-client.key")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", file("sa.pub")),
            format!("--service-account-signing-key-file={}", file("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/12".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth=true".into(),
            "--allow-privileged=true".into(),
            format!("--requestheader-client-ca-file={}", file("front-proxy-ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--proxy-client-cert-file={}", file("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", file("front-proxy-client.key")),
        ];
        args.extend(self.flags.iter().cloned());
        args.into_iter().map(OsString::from).collect()
    }
}

/// A running API server with its own etcd; both end with this value.
pub struct TestApiServer {
    /// Where its files are.
    pub plane: ControlPlane,
    /// The server itself.
    pub server: Arc<Server>,
    /// Its certificates.
    pub pki: TestPki,
    shutdown: Shutdown,
    etcd: TestEtcd,
    _dir: Option<tempfile::TempDir>,
}

impl TestApiServer {
    /// Starts both on free ports.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts both with more flags for the server.
    pub async fn start_with(flags: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for the control plane")?;
        let mut plane = ControlPlane::on(dir.path(), free_port()?);
        plane.flags = flags.iter().map(|f| (*f).to_owned()).collect();
        let mut out = Self::start_at(plane, free_port()?).await?;
        out._dir = Some(dir);
        Ok(out)
    }

    /// Starts both where `plane` says.
    pub async fn start_at(plane: ControlPlane, etcd_port: u16) -> Result<Self> {
        kinit_component_base::runtime::install_tls_provider();
        let etcd = TestEtcd::start_in(&plane.dir.join("etcd"), etcd_port)?;
        let pki = plane.prepare()?;
        let options = Options::try_parse_from(plane.args(&pki, &etcd.endpoint)).context("the server's flags")?;
        let shutdown = Shutdown::new();
        let server = Server::build(options, shutdown.clone()).await?;
        let running = server.clone();
        let task = tokio::spawn(running.run());
        let out = Self { plane, server, pki, shutdown, etcd, _dir: None };
        tokio::select! {
            ready = out.wait_ready(Duration::from_secs(20)) => ready?,
            ended = task => ended.context("run the API server")?.context("the API server ended")?,
        }
        Ok(out)
    }

    /// Waits until `/readyz` would say ok.
    pub async fn wait_ready(&self, patience: Duration) -> Result<()> {
        wait_ready(&self.server, patience).await
    }

    /// Another server on the same etcd, with the same certificates.
    pub async fn peer(&self) -> Result<Peer> {
        let plane = ControlPlane { port: free_port()?, ..self.plane.clone() };
        let options =
            Options::try_parse_from(plane.args(&self.pki, &self.etcd.endpoint)).context("the peer's flags")?;
        let shutdown = Shutdown::new();
        let server = Server::build(options, shutdown.clone()).await?;
        tokio::spawn(server.clone().run());
        let peer = Peer { plane, server: server.clone(), shutdown };
        wait_ready(&server, Duration::from_secs(20)).await?;
        Ok(peer)
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> PathBuf {
        self.plane.dir.join("admin.conf")
    }

    /// A kubeconfig's text for any identity.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<String> {
        self.pki.kubeconfig(&self.plane.url(), user, groups)
    }

    /// etcd's endpoint.
    pub fn etcd_endpoint(&self) -> &str {
        &self.etcd.endpoint
    }
}

/// One more API server; it ends with this value.
pub struct Peer {
    /// Where it serves.
    pub plane: ControlPlane,
    /// The server itself.
    pub server: Arc<Server>,
    shutdown: Shutdown,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn wait_ready(server: &Server, patience: Duration) -> Result<()> {
    let mut seen = server.bootstrapped.subscribe();
    let ready = async { seen.wait_for(|done| *done).await.map(|_| ()) };
    tokio::time::timeout(patience, ready)
        .await
        .context("the API server is not ready")?
        .context("the API server is gone")
}

impl Drop for TestApiServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
