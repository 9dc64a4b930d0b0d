//! What the steps of a plan do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kinit_agent::{Agent, ApplyItem, Progress, Upload};
use kinit_config::{Cluster, Role};
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, bootstrap_token, kubeconfig_for_token, node_patch};
use kinit_planner::{Action, Step};
use kinit_resource::{Content, Resource};
use kinit_workflow::{Executor, Lane, StepError};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use rand::Rng;
use tokio::sync::OnceCell;

use crate::bundle::LocalBundle;
use crate::hosts::Hosts;
use crate::init::node_names;
use crate::{api, objects, wait};

/// How long the API, the nodes and DNS may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// A bootstrap token serves this run.
const TOKEN_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Carries out steps on hosts and cluster; holds what one step makes and a later one needs.
pub(crate) struct Steps {
    cluster: Arc<Cluster>,
    hosts: Arc<Hosts>,
    bundle: Arc<LocalBundle>,
    client: OnceCell<Client>,
    token: Mutex<Option<String>>,
}

impl Steps {
    pub(crate) fn new(cluster: Arc<Cluster>, hosts: Arc<Hosts>, bundle: Arc<LocalBundle>) -> Self {
        Self { cluster, hosts, bundle, client: OnceCell::new(), token: Mutex::new(None) }
    }

    fn first(&self) -> Result<&Arc<Agent>> {
        let first = self.cluster.first_control_plane().context("no control plane")?;
        self.hosts.agent(&first.name)
    }

    async fn client(&self) -> Result<&Client> {
        self.client.get_or_try_init(|| async { api::super_admin(self.first()?).await }).await
    }

    async fn authority(&self) -> Result<String> {
        self.first()?.read_file("/etc/kubernetes/pki/ca.crt").await
    }

    /// Texts of secrets, for files that hold one.
    async fn secret(&self, host: &str, resource: &Resource) -> Result<Option<String>> {
        let Resource::File(file) = resource else { return Ok(None) };
        let Content::Secret(name) = &file.content else { return Ok(None) };
        if name != BOOTSTRAP_KUBECONFIG {
            bail!("nobody makes the secret {name}");
        }
        let token = self
            .token
            .lock()
            .map_err(|_| anyhow::anyhow!("a step ended unexpectedly"))?
            .clone()
            .context("no bootstrap token was made")?;
        let host = self.cluster.spec.hosts.iter().find(|h| h.name == host).context("an unknown host")?;
        let server = if host.is(Role::ControlPlane) {
            format!("https://{}:6443", host.address)
        } else {
            format!("https://{}", self.cluster.spec.control_plane_endpoint)
        };
        Ok(Some(kubeconfig_for_token(&self.cluster.metadata.name, &server, &self.authority().await?, &token)))
    }

    /// A run of plain resources, sent to the agent as one batch.
    async fn batch(
        &self,
        host: &str,
        resources: Vec<&Resource>,
        offset: usize,
        report: &(dyn Fn(usize, Duration) + Sync),
    ) -> Result<(), StepError> {
        let at_start = |error| StepError { index: offset, error };
        let agent = self.hosts.agent(host).map_err(at_start)?;
        let mut items = Vec::with_capacity(resources.len());
        let mut uploads: BTreeMap<&str, &Upload> = BTreeMap::new();
        for (i, resource) in resources.into_iter().enumerate() {
            let at = |error| StepError { index: offset + i, error };
            if let Resource::Blob { sha256, .. } = resource {
                let upload = self
                    .bundle
                    .upload(sha256)
                    .with_context(|| format!("the bundle has no file {sha256}"))
                    .map_err(at)?;
                uploads.insert(sha256, upload);
            }
            let secret = self.secret(host, resource).await.map_err(at)?;
            items.push(ApplyItem { resource: resource.clone(), secret });
        }
        if !uploads.is_empty() {
            let uploads: Vec<Upload> = uploads.into_values().cloned().collect();
            agent.upload(&uploads).await.map_err(at_start)?;
        }
        let reached = std::sync::atomic::AtomicUsize::new(offset);
        let progress = |one: Progress| {
            let index = offset + one.index;
            reached.store(index, std::sync::atomic::Ordering::Relaxed);
            if one.error.is_none() {
                report(index, Duration::from_millis(one.milliseconds));
            }
        };
        let done = agent.apply(items, progress).await;
        done.map_err(|error| StepError { index: reached.load(std::sync::atomic::Ordering::Relaxed), error })
    }

    async fn single(&self, step: &Step) -> Result<()> {
        let host = step.host.as_deref();
        match &step.action {
            Action::Apply(_) => bail!("resources are applied in batches"),
            Action::Generate(shared) => {
                let certificates = &self.cluster.spec.certificates;
                let agent = self.hosts.agent(host.context("a secret needs a host")?)?;
                agent.generate(*shared, certificates.encryption_algorithm, certificates.ca_validity_days).await
            }
            Action::Copy { shared, from, place } => {
                let public_only = *place == kinit_resource::Place::Public;
                let source = self.hosts.agent(from)?;
                let pair =
                    if public_only { source.read_public(*shared).await } else { source.read_shared(*shared).await }?;
                self.hosts.agent(host.context("a secret needs a host")?)?.write_shared(*shared, pair, public_only).await
            }
            Action::Issue { leaf, by } => {
                let agent = self.hosts.agent(host.context("a certificate needs a host")?)?;
                let request = agent.request_leaf(leaf).await?;
                let certificate =
                    self.hosts.agent(by)?.sign(leaf.leaf.authority(), request, leaf.subject.clone()).await?;
                agent.install_leaf(leaf, certificate).await
            }
            Action::WaitForApi => wait::for_api(self.client().await?, PATIENCE).await,
            Action::Object(key) => self.object(key).await,
            Action::BootstrapToken => self.make_token().await,
            Action::MarkNode(name) => self.mark(name).await,
            Action::WaitForNodes => wait::for_nodes(self.client().await?, node_names(&self.cluster), PATIENCE).await,
            Action::WaitForDns => wait::for_dns(self.client().await?, PATIENCE).await,
        }
    }

    async fn object(&self, key: &str) -> Result<()> {
        let wanted = objects::wanted(&self.cluster, &self.authority().await?)?;
        let object = wanted.iter().map(|(_, object)| object).find(|object| api::key(object) == key);
        api::apply(self.client().await?, object.with_context(|| format!("nobody makes {key}"))?).await
    }

    async fn make_token(&self) -> Result<()> {
        let (id, secret) = (random_word(6), random_word(16));
        let expires = jiff::Timestamp::now().checked_add(TOKEN_LIFE).context("compute the token's end")?;
        let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        api::apply(self.client().await?, &bootstrap_token(&id, &secret, &expires)).await?;
        *self.token.lock().map_err(|_| anyhow::anyhow!("a step ended unexpectedly"))? = Some(format!("{id}.{secret}"));
        Ok(())
    }

    async fn mark(&self, name: &str) -> Result<()> {
        let client = self.client().await?;
        // The Node appears when its kubelet has its certificate.
        wait::for_nodes_to_exist(client, vec![name.to_owned()], PATIENCE).await?;
        let host = self.cluster.spec.hosts.iter().find(|h| h.name == name).context("an unknown host")?;
        let Some(patch) = node_patch(host) else { return Ok(()) };
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
        nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("label node {name}"))?;
        Ok(())
    }
}

/// Lower-case letters and digits, as bootstrap tokens have.
fn random_word(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len()))).map(|c| char::from(*c)).collect()
}

#[async_trait::async_trait]
impl Executor<Step> for Steps {
    fn describe(&self, step: &Step) -> String {
        step.change.to_string()
    }

    async fn run(&self, lane: &Lane<Step>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError> {
        let mut index = 0;
        while let Some(step) = lane.steps.get(index) {
            let plain = |step: &Step| matches!(step.action, Action::Apply(_));
            if plain(step) {
                let rest = lane.steps.get(index..).unwrap_or_default();
                let resources: Vec<&Resource> =
                    rest.iter().map_while(|s| if let Action::Apply(r) = &s.action { Some(r) } else { None }).collect();
                let count = resources.len();
                self.batch(&lane.name, resources, index, report).await?;
                index += count;
                continue;
            }
            let started = Instant::now();
            self.single(step).await.map_err(|error| StepError { index, error })?;
            report(index, started.elapsed());
            index += 1;
        }
        Ok(())
    }
}
