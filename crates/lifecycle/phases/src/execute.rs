//! What the steps of a plan do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Node, Secret};
use kinit_agent::{ApplyItem, EtcdRequest, Progress, Upload};
use kinit_config::Role;
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, bootstrap_token, kubeconfig_for_token};
use kinit_planner::{Action, ObjectId, Step};
use kinit_resource::{Content, Resource};
use kinit_workflow::{Executor, Lane, StepError};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use rand::Rng;
use tokio::sync::OnceCell;

use crate::bundle::LocalBundle;
use crate::drain::{DrainOptions, drain};
use crate::hosts::Hosts;
use crate::request::Wanted;
use crate::{access, api, nodes, objects, operation, wait};

/// How long the API, the nodes and DNS may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// A bootstrap token serves this run.
const TOKEN_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// How long a learner of etcd's may take to catch up.
const CATCH_UP: u32 = 600;

/// Carries out steps on hosts and cluster; holds what one step makes and a later one needs.
pub(crate) struct Steps {
    wanted: Wanted,
    hosts: Arc<Hosts>,
    bundle: Arc<LocalBundle>,
    drain: DrainOptions,
    /// The authority of the cluster that hosts leave.
    authority: Option<String>,
    client: OnceCell<Client>,
    token: OnceCell<Token>,
}

/// A bootstrap token.
struct Token {
    id: String,
    secret: String,
}

impl Steps {
    pub(crate) fn new(
        wanted: Wanted,
        hosts: Arc<Hosts>,
        bundle: Arc<LocalBundle>,
        drain: DrainOptions,
        authority: Option<String>,
    ) -> Self {
        Self { wanted, hosts, bundle, drain, authority, client: OnceCell::new(), token: OnceCell::new() }
    }

    async fn client(&self) -> Result<&Client> {
        let make = || async {
            let client = access::client(&self.hosts, &self.wanted.cluster).await?;
            client
                .context("no control plane has the cluster's authority, so that nothing proves to the API who kinit is")
        };
        self.client.get_or_try_init(make).await
    }

    async fn authority(&self) -> Result<String> {
        operation::authority(&self.hosts, &self.wanted.cluster).await
    }

    /// Texts of secrets, for files that hold one.
    async fn secret(&self, host: &str, resource: &Resource) -> Result<Option<String>> {
        let Resource::File(file) = resource else { return Ok(None) };
        let Content::Secret(name) = &file.content else { return Ok(None) };
        if name != BOOTSTRAP_KUBECONFIG {
            bail!("nobody makes the secret {name}");
        }
        let token = self.token.get().context("no bootstrap token was made")?;
        let token = format!("{}.{}", token.id, token.secret);
        let cluster = &self.wanted.cluster;
        let host = cluster.spec.hosts.iter().find(|h| h.name == host).context("an unknown host")?;
        let server = if host.is(Role::ControlPlane) {
            format!("https://{}:6443", host.address)
        } else {
            format!("https://{}", cluster.spec.control_plane_endpoint)
        };
        Ok(Some(kubeconfig_for_token(&cluster.metadata.name, &server, &self.authority().await?, &token)))
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
        let host = || step.host.as_deref().context("a step of a host without one");
        match &step.action {
            Action::Apply(_) => bail!("resources are applied in batches"),
            Action::Generate(shared) => {
                let certificates = &self.wanted.cluster.spec.certificates;
                let agent = self.hosts.agent(host()?)?;
                agent.generate(*shared, certificates.encryption_algorithm, certificates.ca_validity_days).await
            }
            Action::Copy { shared, from, place } => {
                let public_only = *place == kinit_resource::Place::Public;
                let source = self.hosts.agent(from)?;
                let pair =
                    if public_only { source.read_public(*shared).await } else { source.read_shared(*shared).await }?;
                self.hosts.agent(host()?)?.write_shared(*shared, pair, public_only).await
            }
            Action::Issue { leaf, by } => {
                let agent = self.hosts.agent(host()?)?;
                let request = agent.request_leaf(leaf).await?;
                let certificate =
                    self.hosts.agent(by)?.sign(leaf.leaf.authority(), request, leaf.subject.clone()).await?;
                agent.install_leaf(leaf, certificate).await
            }
            Action::ResetHost => self.reset(host()?).await,
            Action::EtcdAdd { .. } | Action::EtcdPromote { .. } | Action::EtcdRemove { .. } => {
                self.etcd(&step.action).await
            }
            _ => self.on_cluster(&step.action).await,
        }
    }

    async fn on_cluster(&self, action: &Action) -> Result<()> {
        let client = self.client().await?;
        match action {
            Action::WaitForApi => wait::for_api(client, PATIENCE).await,
            Action::Object(id) => self.object(id).await,
            Action::BootstrapToken => self.make_token().await,
            Action::RevokeBootstrapToken => self.revoke_token().await,
            Action::MarkNode { node, control_plane, worker } => {
                // The Node appears when its kubelet has its certificate.
                wait::for_nodes_to_exist(client, vec![node.clone()], PATIENCE).await?;
                nodes::mark(client, node, *control_plane, *worker).await
            }
            Action::WaitForNodes(names) => wait::for_nodes(client, names.clone(), PATIENCE).await,
            Action::WaitForDns => wait::for_dns(client, PATIENCE).await,
            Action::Drain(node) => drain(client, node, &self.drain).await,
            Action::DeleteNode(node) => {
                let deleted = Api::<Node>::all(client.clone()).delete(node, &DeleteParams::default()).await;
                gone_is_well(deleted.map(drop)).with_context(|| format!("delete node {node}"))
            }
            _ => bail!("a step that is none of the cluster's"),
        }
    }

    /// Changes etcd's membership.
    async fn etcd(&self, action: &Action) -> Result<()> {
        match action {
            Action::EtcdAdd { peer_url, via } => {
                self.hosts.agent(via)?.etcd(EtcdRequest::AddLearner { peer_url: peer_url.clone() }).await
            }
            Action::EtcdPromote { peer_url, via } => {
                let request = EtcdRequest::Promote { peer_url: peer_url.clone(), seconds: CATCH_UP };
                self.hosts.agent(via)?.etcd(request).await
            }
            Action::EtcdRemove { id, peer_url, via } => {
                let asked = self.hosts.agent(via)?;
                let status = asked.etcd_status().await?;
                if status.leader == *id {
                    self.hand_leadership_over(*id, status.id).await?;
                }
                asked.etcd(EtcdRequest::Remove { id: *id, peer_url: peer_url.clone() }).await
            }
            _ => bail!("a step that is none of etcd's"),
        }
    }

    /// Without this the others would have to notice first that their leader is gone.
    async fn hand_leadership_over(&self, from: u64, to: u64) -> Result<()> {
        for host in self.hosts.names() {
            let agent = self.hosts.agent(host)?;
            if agent.etcd_status().await.is_ok_and(|status| status.id == from) {
                return agent.etcd(EtcdRequest::MoveLeader { to }).await;
            }
        }
        Ok(())
    }

    /// Gives a host back that leaves the cluster.
    async fn reset(&self, host: &str) -> Result<()> {
        let left = self.hosts.agent(host)?.reset(self.authority.as_deref()).await?;
        ensure!(left.is_empty(), "the host is not as it was: {}", left.join("; "));
        Ok(())
    }

    async fn object(&self, id: &ObjectId) -> Result<()> {
        let wanted = objects::wanted(&self.wanted.cluster, &self.wanted.record, &self.authority().await?)?;
        let object = wanted.iter().map(|(_, object)| object).find(|object| api::id(object) == *id);
        api::apply(self.client().await?, object.with_context(|| format!("nobody makes {id}"))?).await
    }

    async fn make_token(&self) -> Result<()> {
        let token = Token { id: random_word(6), secret: random_word(16) };
        let expires = jiff::Timestamp::now().checked_add(TOKEN_LIFE).context("compute the token's end")?;
        let expires = expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let object = serde_json::from_value(bootstrap_token(&token.id, &token.secret, &expires));
        let secrets: Api<Secret> = Api::namespaced(self.client().await?.clone(), "kube-system");
        let created = secrets.create(&PostParams::default(), &object.context("make a bootstrap token")?).await;
        created.context("create a bootstrap token")?;
        self.token.set(token).map_err(|_| anyhow::anyhow!("a bootstrap token was made twice"))
    }

    async fn revoke_token(&self) -> Result<()> {
        let Some(token) = self.token.get() else { return Ok(()) };
        let secrets: Api<Secret> = Api::namespaced(self.client().await?.clone(), "kube-system");
        let name = format!("bootstrap-token-{}", token.id);
        let deleted = secrets.delete(&name, &DeleteParams::default()).await;
        gone_is_well(deleted.map(drop)).context("revoke the bootstrap token")
    }
}

/// What is not there needs no deletion.
fn gone_is_well(deleted: kube::Result<()>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
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
