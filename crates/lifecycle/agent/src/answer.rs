//! Answers to a desk's requests.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinit_resource::{Observed, Resource, what};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::backup::BackupRequest;
use crate::ledger::Ledger;
use crate::notes::noting;
use crate::put_back::{self, Kept};
use crate::serve::{Desk, State};
use crate::wire::{ApplyItem, Frame, Progress, Reply, Request};
use crate::{
    apply, backup, blobs, certificates, etcd, evidence, facts, journal, logs, observe, packages, pod_dns, prune, reach,
    renewal_state, reset, rotation, secrets, shared, signed,
};

/// Does what is asked for. A failure is an answer too.
pub(crate) async fn answer<W: AsyncWrite + Unpin>(
    request: Request,
    frames: &mut mpsc::Receiver<Frame>,
    state: &mut State,
    desk: &mut Desk<W>,
) -> Result<Reply> {
    if desk.lock.is_none() && !request.only_looks() {
        bail!("this kinit only looks: it does not have the lock of the host");
    }
    match request {
        Request::Apply(items) => apply_all(items, state, desk).await,
        Request::Blob { sha256 } => blobs::receive(&sha256, frames).await.map(|()| Reply::Done),
        Request::EtcdSnapshot => snapshot(desk).await,
        Request::Logs(request) => logs::send(&request, desk).await,
        Request::Backup(request) => backup(request, frames, state, desk).await,
        Request::Observe(resources) => {
            if desk.lock.is_some() {
                shared::finish_all()?;
            }
            Ok(Reply::Observed(observe_all(&resources).await))
        }
        request => match request.step().filter(|_| desk.lock.is_some()) {
            None => plain(request, state).await,
            Some(what) => {
                let started = Instant::now();
                if !matches!(request, Request::Reset { .. }) || Ledger::exists() {
                    state.journal.begin();
                }
                let done = plain(request, state).await;
                let error = done.as_ref().err().map(|error| format!("{error:#}"));
                state.journal.step_if_begun(what, milliseconds(started), error.as_deref());
                done
            }
        },
    }
}

impl Request {
    /// Whether it changes nothing on the host.
    fn only_looks(&self) -> bool {
        match self {
            Self::Facts { .. }
            | Self::Addresses
            | Self::Certificates(_)
            | Self::Observe(_)
            | Self::MissingBlobs(_)
            | Self::Packages { .. }
            | Self::InstalledPackages(_)
            | Self::PodDns(_)
            | Self::ReadFile { .. }
            | Self::Reach(_)
            | Self::Evidence { .. }
            | Self::Renewal
            | Self::EtcdStatus
            | Self::EtcdStatusAt { .. }
            | Self::EtcdSnapshot
            | Self::Logs(_)
            | Self::ResetPlan
            | Self::History => true,
            Self::Backup(request) => request.only_looks(),
            Self::Rotation(request) => request.only_looks(),
            Self::Signed(request) => request.only_looks(),
            // The desk's own certificate, with which it asks the API.
            Self::Sign { subject, .. } => subject.usages == [kinit_pki::Usage::Client],
            // Private keys are for those who work on the cluster.
            Self::Read { public_only, .. } => *public_only,
            Self::Apply(_)
            | Self::Blob { .. }
            | Self::Generate { .. }
            | Self::Write { .. }
            | Self::MakeKey(_)
            | Self::Etcd(_)
            | Self::Install { .. }
            | Self::Keep { .. }
            | Self::PutBack { .. }
            | Self::Begin { .. }
            | Self::End { .. }
            | Self::Reset { .. } => false,
        }
    }

    /// How the journal names it, if it is a step.
    fn step(&self) -> Option<String> {
        match self {
            Self::Generate { shared, .. } => Some(format!("make {}", shared.name())),
            Self::Write { shared, public_only: true, .. } => Some(format!("write {} (public)", shared.name())),
            Self::Write { shared, .. } => Some(format!("write {}", shared.name())),
            // The desk's own, for a day: it is in the API's audit log, and changes nothing here.
            Self::Sign { subject, .. } if subject.usages == [kinit_pki::Usage::Client] && subject.days == 1 => None,
            Self::Sign { subject, .. } => Some(format!("sign {}", subject.common_name)),
            Self::Install { leaf, .. } => Some(leaf.path()),
            Self::Etcd(request) => Some(request.to_string()),
            Self::PutBack { .. } => Some("put the previous version back".to_owned()),
            Self::Rotation(request) => request.step(),
            Self::Signed(request) => request.step(),
            Self::Reset { .. } => Some("reset".to_owned()),
            _ => None,
        }
    }
}

fn milliseconds(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Settings of kinit's that are elsewhere; none of them has secrets.
const SETTINGS: &[&str] = &[
    "/etc/haproxy/haproxy.cfg",
    "/etc/keepalived/keepalived.conf",
    "/etc/containerd/config.toml",
    "/var/lib/kubelet/config.yaml",
];

fn read_file(path: &str) -> Result<String> {
    let is_unit = path.starts_with("/etc/systemd/system/") && path.ends_with(".service");
    let is_ours = path.starts_with("/etc/kubernetes/") || is_unit || SETTINGS.contains(&path);
    if !is_ours || path.contains("..") {
        bail!("{path} is not a file of kinit's");
    }
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// What is asked for plans and diagnoses.
async fn look(request: Request) -> Result<Reply> {
    Ok(match request {
        Request::Packages { names, index, upgrade } => Reply::Packages(packages::plan(&names, &index, upgrade).await?),
        Request::InstalledPackages(names) => Reply::InstalledPackages(packages::facts(&names)?),
        Request::PodDns(request) => Reply::PodDns(pod_dns::ask(request).await?),
        _ => bail!("handled elsewhere"),
    })
}

async fn members_elsewhere(endpoints: &[String], authority: &kinit_pki::Pair) -> Result<Reply> {
    Ok(Reply::EtcdStatus(Box::new(etcd::status_at(endpoints, authority).await?)))
}

async fn plain(request: Request, state: &mut State) -> Result<Reply> {
    Ok(match request {
        Request::Facts { etcd_data } => Reply::Facts(Box::new(facts::gather(&etcd_data).await?)),
        Request::Addresses => Reply::Names(facts::addresses()?.into_iter().map(|(address, _)| address).collect()),
        Request::Certificates(paths) => Reply::Certificates(certificates::read(&paths)?),
        Request::MissingBlobs(names) => Reply::Names(names.into_iter().filter(|name| !blobs::has(name)).collect()),
        Request::Packages { .. } | Request::InstalledPackages(_) | Request::PodDns(_) => look(request).await?,
        Request::Generate { shared, algorithm, days } => {
            shared::note(shared, false)?;
            shared::Store::host().generate(shared, algorithm, days)?;
            Reply::Done
        }
        Request::Read { shared, public_only } => Reply::Pair(shared::Store::host().read(shared, public_only)?),
        Request::Write { shared, pair, public_only } => write(shared, &pair, public_only)?,
        Request::MakeKey(leaf) => Reply::Text(secrets::request(&leaf, state)?),
        Request::Sign { authority, request, subject } => Reply::Text(shared::sign(authority, &request, &subject)?),
        Request::Install { leaf, certificate } => {
            secrets::install(&leaf, &certificate, state)?;
            Reply::Done
        }
        Request::ReadFile { path } => Reply::Text(read_file(&path)?),
        Request::Reach(addresses) => Reply::Reached(reach::reach(&addresses).await?),
        Request::Evidence { paths, programs } => Reply::Evidence(Box::new(evidence::gather(&paths, &programs)?)),
        Request::Keep { paths } => {
            state.kept = Kept::of(&paths)?;
            Reply::Done
        }
        Request::PutBack { units, healthy } => {
            put_back::put_back(&state.kept, &units, &healthy).await?;
            Reply::Done
        }
        Request::Renewal => Reply::Text(renewal().await?),
        Request::EtcdStatus => Reply::EtcdStatus(Box::new(etcd::status().await?)),
        Request::EtcdStatusAt { endpoints, authority } => members_elsewhere(&endpoints, &authority).await?,
        Request::Etcd(request) => etcd::perform(request).await.map(|()| Reply::Done)?,
        Request::Signed(request) => Reply::Names(signed::answer(&request)?),
        Request::Rotation(request) => Reply::Text(rotation::answer(request).await?),
        Request::ResetPlan => Reply::Names(Ledger::load()?.describe()),
        Request::Reset { authority } => Reply::Names(reset::run(authority.as_deref()).await?),
        Request::Begin { plan } => {
            state.journal.set_plan(plan);
            Reply::Done
        }
        Request::End { error } => {
            state.journal.end(error.as_deref());
            Reply::Done
        }
        Request::History => Reply::History(journal::history()?),
        Request::Apply(_)
        | Request::Blob { .. }
        | Request::Observe(_)
        | Request::EtcdSnapshot
        | Request::Backup(_)
        | Request::Logs(_) => {
            bail!("handled elsewhere")
        }
    })
}

fn write(shared: kinit_resource::Shared, pair: &kinit_pki::Pair, public_only: bool) -> Result<Reply> {
    shared::note(shared, public_only)?;
    shared::Store::host().write(shared, pair, public_only)?;
    Ok(Reply::Done)
}

async fn renewal() -> Result<String> {
    let state = renewal_state::state().await?;
    serde_json::to_string(&state).context("encode how the renewal stands")
}

async fn backup<W: AsyncWrite + Unpin>(
    request: BackupRequest,
    frames: &mut mpsc::Receiver<Frame>,
    state: &mut State,
    desk: &mut Desk<W>,
) -> Result<Reply> {
    let Some(what) = request.step() else { return backup::answer(request, frames, desk).await };
    let started = Instant::now();
    state.journal.begin();
    let done = backup::answer(request, frames, desk).await;
    let error = done.as_ref().err().map(|error| format!("{error:#}"));
    state.journal.step_if_begun(what, milliseconds(started), error.as_deref());
    done
}

async fn snapshot<W: AsyncWrite + Unpin>(desk: &mut Desk<W>) -> Result<Reply> {
    let mut snapshot = etcd::Snapshot::begin().await?;
    while let Some(piece) = snapshot.next().await? {
        desk.hand(&piece).await?;
    }
    Ok(Reply::Done)
}

async fn observe_all(resources: &[Resource]) -> Vec<Observed> {
    let mut observed = Vec::with_capacity(resources.len());
    for resource in resources {
        observed.push(observe::observe(resource).await);
    }
    observed
}

async fn apply_all<W: AsyncWrite + Unpin>(
    items: Vec<ApplyItem>,
    state: &mut State,
    desk: &mut Desk<W>,
) -> Result<Reply> {
    for (index, item) in items.iter().enumerate() {
        desk.may_go_on()?;
        let started = Instant::now();
        state.journal.begin();
        let (work, mut notes) = noting(apply::apply(&item.resource, item.secret.as_deref()));
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                // A desk that is gone is noticed before the next step; this one goes on to its end.
                Some(text) = notes.recv() => desk.tell(&Reply::Note(text)).await.unwrap_or_default(),
                result = &mut work => break result,
            }
        };
        let milliseconds = milliseconds(started);
        let failed = result.is_err();
        let error = result.err().map(|e| format!("{e:#}"));
        state.journal.step(what(&item.resource), milliseconds, error.as_deref());
        desk.tell(&Reply::Progress(Progress { index, error, milliseconds })).await?;
        if failed {
            return Ok(Reply::Done);
        }
    }
    prune::after(&items);
    Ok(Reply::Done)
}
