//! What the steps of a plan do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kinit_agent::{Agent, ApplyItem, EtcdRequest, Progress, RotationRequest, Upload};
use kinit_manifests::{BOOTSTRAP_KUBECONFIG, TOKENS, kubeconfig_for_token};
use kinit_planner::{Action, ObjectId, Step};
use kinit_resource::{Content, Resource};
use kinit_workflow::{Executor, Lane, StepError};
use kube::Client;
use kube::api::{Api, DeleteParams};
use tokio::sync::OnceCell;

use crate::backup::Restoration;
use crate::bundle::LocalBundle;
use crate::drain::{self, DrainOptions};
use crate::hosts::Hosts;
use crate::joining_control_plane::Elsewhere;
use crate::keyring::Keyring;
use crate::request::Wanted;
use crate::token::{self, Token, TokenOptions};
use crate::upgrade::{Turn, Upgrading};
use crate::{access, api, nodes, objects, operation, packages, wait};

/// How long the API, the nodes and DNS may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// A bootstrap token serves this run.
const TOKEN_LIFE: Duration = Duration::from_hours(1);

/// How long a learner of etcd's may take to catch up.
const CATCH_UP: u32 = 600;

/// Carries out steps on hosts and cluster; holds what one step makes and a later one needs.
pub(crate) struct Steps {
    pub(crate) wanted: Wanted,
    pub(crate) hosts: Arc<Hosts>,
    bundle: Arc<LocalBundle>,
    drain: DrainOptions,
    /// The authority of the cluster that hosts leave.
    authority: Option<String>,
    /// What a restore puts on hosts.
    restoration: Option<Restoration>,
    /// How versions change, if they do.
    upgrade: Option<Upgrading>,
    /// What a machine that joins by itself has in place of other hosts' agents.
    elsewhere: Option<Elsewhere>,
    /// The authorities' keys, where they are kept on the desk.
    pub(crate) keys: Option<Arc<Keyring>>,
    client: OnceCell<Client>,
    token: OnceCell<Token>,
}

impl Steps {
    pub(crate) fn new(
        wanted: Wanted,
        hosts: Arc<Hosts>,
        bundle: Arc<LocalBundle>,
        drain: DrainOptions,
        authority: Option<String>,
    ) -> Self {
        Self {
            wanted,
            hosts,
            bundle,
            drain,
            authority,
            restoration: None,
            upgrade: None,
            elsewhere: None,
            keys: None,
            client: OnceCell::new(),
            token: OnceCell::new(),
        }
    }

    /// With what a restore puts on hosts.
    pub(crate) fn restoring(self, restoration: Option<Restoration>) -> Self {
        Self { restoration, ..self }
    }

    /// With what an upgrade needs.
    pub(crate) fn upgrading(self, upgrade: Option<Upgrading>) -> Self {
        Self { upgrade, ..self }
    }

    /// With the authorities' keys that are kept on the desk.
    pub(crate) fn signing(self, keys: Option<Arc<Keyring>>) -> Self {
        Self { keys, ..self }
    }

    /// On a machine that reaches no other host.
    pub(crate) fn without_others(self, elsewhere: Elsewhere) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
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
        let token = token.to_string();
        let cluster = &self.wanted.cluster;
        let host = cluster.spec.hosts.iter().find(|h| h.name == host).context("an unknown host")?;
        let server = cluster.api_for(host);
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
        for (i, resource) in resources.into_iter().enumerate() {
            let secret = self.secret(host, resource).await.map_err(|error| StepError { index: offset + i, error })?;
            items.push(ApplyItem { resource: resource.clone(), secret });
        }
        send_batch(agent, &self.bundle, items, offset, report).await
    }

    async fn single(&self, step: &Step) -> Result<()> {
        if let Some(done) = self.with_desks_keys(step).await {
            return done;
        }
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
                let pair = match &self.elsewhere {
                    Some(elsewhere) => elsewhere.secret(*shared, public_only)?,
                    None if public_only => self.hosts.agent(from)?.read_public(*shared).await?,
                    None => self.hosts.agent(from)?.read_shared(*shared).await?,
                };
                self.hosts.agent(host()?)?.write_shared(*shared, pair, public_only).await
            }
            Action::Issue { leaf, by } => {
                let agent = self.hosts.agent(host()?)?;
                let by = self.elsewhere.as_ref().map_or(by.as_str(), Elsewhere::own);
                let request = agent.request_leaf(leaf).await?;
                let certificate =
                    self.hosts.agent(by)?.sign(leaf.leaf.authority(), request, leaf.subject.clone()).await?;
                agent.install_leaf(leaf, certificate).await
            }
            Action::Install(leaf) => self.hosts.agent(host()?)?.install_signed(leaf).await,
            Action::Backup => {
                let upgrading = self.upgrade.as_ref().context("nobody said where backups go")?;
                upgrading.back_up(&self.hosts, &self.wanted.cluster).await
            }
            Action::ResetHost => self.reset(host()?).await,
            Action::RestoreShared(_)
            | Action::RestoreData { .. }
            | Action::PutDataAside { .. }
            | Action::FinishRestore => {
                let restoration = self.restoration.as_ref().context("there is nothing to restore")?;
                restoration.step(&self.hosts, host()?, &step.action).await
            }
            Action::BeginRotation(_)
            | Action::ShareRotation { .. }
            | Action::SetRotation { .. }
            | Action::EndRotation(_) => self.rotate(host()?, &step.action).await,
            Action::EtcdAdd { .. } | Action::EtcdPromote { .. } | Action::EtcdRemove { .. } => {
                self.etcd(&step.action).await
            }
            _ => self.on_cluster(&step.action).await,
        }
    }

    /// A step of a rotation.
    async fn rotate(&self, host: &str, action: &Action) -> Result<()> {
        let agent = self.hosts.agent(host)?;
        let request = match action {
            Action::BeginRotation(shared) => {
                let certificates = &self.wanted.cluster.spec.certificates;
                let (algorithm, days) = (certificates.encryption_algorithm, certificates.ca_validity_days);
                RotationRequest::Begin { shared: *shared, algorithm, days }
            }
            Action::ShareRotation { shared, from } => {
                let record = self.hosts.agent(from)?.rotation(RotationRequest::Read(*shared)).await?;
                RotationRequest::Keep { shared: *shared, record }
            }
            Action::SetRotation { shared, stage } => RotationRequest::Set { shared: *shared, stage: *stage },
            Action::EndRotation(shared) => RotationRequest::End(*shared),
            _ => bail!("a step that is none of a rotation's"),
        };
        agent.rotation(request).await.map(drop)
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
            Action::DeleteOtherNodes { keep } => nodes::delete_others(client, keep).await,
            Action::Drain(node) => drain::drain(client, node, &self.drain).await,
            Action::Uncordon(node) => drain::uncordon(client, node).await,
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
                self.ask_etcd(via, EtcdRequest::AddLearner { peer_url: peer_url.clone() }).await
            }
            Action::EtcdPromote { peer_url, via } => {
                let request = EtcdRequest::Promote { peer_url: peer_url.clone(), seconds: CATCH_UP };
                self.ask_etcd(via, request).await
            }
            Action::EtcdRemove { id, peer_url, via } if self.elsewhere.is_some() => {
                self.ask_etcd(via, EtcdRequest::Remove { id: *id, peer_url: peer_url.clone() }).await
            }
            Action::EtcdRemove { id, peer_url, via } => {
                let asked = self.hosts.agent(via)?;
                let status = asked.etcd_status().await?;
                match self.host_of(*id).await {
                    Some(leader) if status.leader == *id => {
                        leader.etcd(EtcdRequest::MoveLeader { to: status.id }).await?;
                    }
                    Some(_) => {}
                    None => self.disconnect(peer_url).await?,
                }
                asked.etcd(EtcdRequest::Remove { id: *id, peer_url: peer_url.clone() }).await
            }
            _ => bail!("a step that is none of etcd's"),
        }
    }

    /// Asks the member on `via`, or, where nobody reaches that host, whichever member answers.
    async fn ask_etcd(&self, via: &str, request: EtcdRequest) -> Result<()> {
        match &self.elsewhere {
            Some(elsewhere) => self.hosts.agent(elsewhere.own())?.etcd(elsewhere.ask(request)).await,
            None => self.hosts.agent(via)?.etcd(request).await,
        }
    }

    /// The host whose member answers under an ID.
    async fn host_of(&self, member: u64) -> Option<&Agent> {
        for host in self.hosts.names() {
            let Ok(agent) = self.hosts.agent(host) else { continue };
            if agent.etcd_status().await.is_ok_and(|status| status.id == member) {
                return Some(agent);
            }
        }
        None
    }

    /// A member that is removed has connections that nobody has ended. A leader that applies the removal would write
    /// its last words to them, and do nothing else until the kernel gives up.
    async fn disconnect(&self, peer_url: &str) -> Result<()> {
        for host in self.hosts.names() {
            if let Ok(agent) = self.hosts.agent(host) {
                agent.etcd(EtcdRequest::Disconnect { peer_url: peer_url.to_owned() }).await?;
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
        if objects::remove(self.client().await?, &self.wanted, id).await? {
            return Ok(());
        }
        let wanted = objects::wanted(&self.wanted, &self.authority().await?)?;
        let object = wanted.iter().map(|(_, object)| object).find(|object| api::id(object) == *id);
        api::apply(self.client().await?, object.with_context(|| format!("nobody makes {id}"))?).await
    }

    async fn make_token(&self) -> Result<()> {
        let token = Token::generate();
        let options = TokenOptions {
            life: Some(TOKEN_LIFE),
            description: "nodes that this run of kinit brings up".to_owned(),
            usages: ["signing", "authentication"].map(str::to_owned).to_vec(),
            groups: vec![TOKENS.to_owned()],
        };
        token::create_token(self.client().await?, &token, &options).await?;
        self.token.set(token).map_err(|_| anyhow::anyhow!("a bootstrap token was made twice"))
    }

    async fn revoke_token(&self) -> Result<()> {
        let Some(token) = self.token.get() else { return Ok(()) };
        token::delete_token(self.client().await?, &token.id).await.context("revoke the bootstrap token").map(drop)
    }
}

/// Has an agent bring about a run of resources, whose first is the lane's step `offset`; what they need of the bundle
/// is sent before.
pub(crate) async fn send_batch(
    agent: &Agent,
    bundle: &LocalBundle,
    items: Vec<ApplyItem>,
    offset: usize,
    report: &(dyn Fn(usize, Duration) + Sync),
) -> Result<(), StepError> {
    let mut uploads: BTreeMap<String, Upload> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        let needed = needed(agent, bundle, &item.resource).await;
        let needed = needed.map_err(|error| StepError { index: offset + i, error })?;
        uploads.extend(needed.into_iter().map(|upload| (upload.sha256.clone(), upload)));
    }
    if !uploads.is_empty() {
        let uploads: Vec<Upload> = uploads.into_values().collect();
        agent.upload(&uploads).await.map_err(|error| StepError { index: offset, error })?;
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

/// What of the bundle a host needs for a resource.
async fn needed(agent: &Agent, bundle: &LocalBundle, resource: &Resource) -> Result<Vec<Upload>> {
    match resource {
        Resource::Blob { sha256, .. } => {
            let upload = bundle.upload(sha256).with_context(|| format!("the bundle has no file {sha256}"))?;
            Ok(vec![upload.clone()])
        }
        Resource::Packages { names, index: Some(index), .. } => {
            packages::uploads(agent, bundle, names, index, false).await
        }
        Resource::PackageVersions { names, index, .. } => packages::uploads(agent, bundle, names, index, true).await,
        _ => Ok(Vec::new()),
    }
}

/// What is not there needs no deletion.
fn gone_is_well(deleted: kube::Result<()>) -> kube::Result<()> {
    match deleted {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

#[async_trait::async_trait]
impl Executor<Step> for Steps {
    fn describe(&self, step: &Step) -> String {
        step.change.to_string()
    }

    async fn run(&self, lane: &Lane<Step>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError> {
        let turn = match &self.upgrade {
            Some(_) => Turn::begin(&self.hosts, lane).await.map_err(|error| StepError { index: 0, error })?,
            None => None,
        };
        match (self.steps(lane, report).await, turn) {
            (Err(failed), Some(turn)) => {
                let client = self.client.get();
                Err(turn.put_back(failed, client).await)
            }
            (done, _) => done,
        }
    }
}

impl Steps {
    /// A lane's steps, in order.
    async fn steps(&self, lane: &Lane<Step>, report: &(dyn Fn(usize, Duration) + Sync)) -> Result<(), StepError> {
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
