//! etcd and an API server, each a process of its own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;

use super::Common;
use super::http::Http;
use super::process::{self, Process};
use crate::{ControlPlane, TestEtcd, TestPki, free_port, kube_client};

/// How long anything may take to become ready.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A group that may do all.
const ADMINISTRATORS: &[&str] = &["system:masters"];

/// A control plane; its processes and files end with this value.
pub struct Setup {
    hyperkube: PathBuf,
    plane: ControlPlane,
    pki: TestPki,
    /// The API server.
    pub server: Process,
    /// etcd.
    pub etcd: TestEtcd,
    dir: tempfile::TempDir,
}

impl Setup {
    /// Starts etcd and the API server and waits until it is ready.
    pub async fn start(common: &Common) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for the control plane")?;
        let etcd = TestEtcd::start_in(&dir.path().join("etcd"), free_port()?)?;
        let plane = ControlPlane::on(dir.path(), free_port()?);
        let pki = plane.prepare()?;
        let hyperkube = std::path::absolute(&common.hyperkube)?;
        let server = start_server(&hyperkube, &plane, &pki, &etcd)?;
        let mut setup = Self { hyperkube, plane, pki, server, etcd, dir };
        setup.wait_ready().await?;
        Ok(setup)
    }

    /// Ends the API server and starts another one on the same etcd.
    pub async fn restart(&mut self) -> Result<()> {
        self.plane.port = free_port()?;
        // The old one ends when its value is replaced.
        self.server = start_server(&self.hyperkube, &self.plane, &self.pki, &self.etcd)?;
        self.wait_ready().await
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let http = self.http()?;
        let deadline = Instant::now() + PATIENCE;
        while http.get("/readyz").await.is_err() {
            self.server.check()?;
            if Instant::now() > deadline {
                bail!("kube-apiserver is not ready after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// A user with a connection of its own.
    pub fn user(&self, name: &str, groups: &[&str]) -> Result<Http> {
        let file = name.replace(':', "-");
        self.pki.client(&file, name, groups)?;
        Http::with(&self.plane.url(), &self.pki, &file)
    }

    /// An administrator with a connection of its own.
    pub fn http(&self) -> Result<Http> {
        Http::new(&self.plane.url(), &self.pki)
    }

    /// An administrator's kube-rs client.
    pub async fn client(&self) -> Result<Client> {
        kube_client(&self.pki.kubeconfig(&self.plane.url(), "kubernetes-admin", ADMINISTRATORS)?).await
    }

    /// Starts a component with the kubeconfig `KUBECONFIG` of [`crate::apiserver::IDENTITIES`].
    pub fn component(&self, name: &'static str, kubeconfig: &str, more: &[String]) -> Result<Process> {
        let mut args = vec![
            name.to_owned(),
            format!("--kubeconfig={}", self.plane.dir.join(kubeconfig).display()),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", free_port()?),
            // One of each: an election only delays the start.
            "--leader-elect=false".into(),
        ];
        args.extend_from_slice(more);
        Process::start(&self.hyperkube, name, args, self.dir.path())
    }

    /// A file of the certificate tree.
    pub fn file(&self, name: &str) -> String {
        self.pki.file(name).display().to_string()
    }

    /// Time that the API server and etcd have used.
    pub fn cpu(&self) -> Result<[Duration; 2]> {
        Ok([process::cpu(self.server.id())?, process::cpu(self.etcd.id())?])
    }

    /// Resident memory of the API server and of etcd, in bytes, after it has had a moment to settle.
    pub async fn resident(&self) -> Result<[u64; 2]> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok([process::resident(self.server.id())?, process::resident(self.etcd.id())?])
    }
}

fn start_server(hyperkube: &Path, plane: &ControlPlane, pki: &TestPki, etcd: &TestEtcd) -> Result<Process> {
    Process::start(hyperkube, "kube-apiserver", plane.args(pki, &etcd.endpoint), &plane.dir)
}
