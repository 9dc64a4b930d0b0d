//! The etcd member of this host, asked and told through its own client port. Reached from the host itself, so that a
//! firewall between desk and hosts does not matter.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kinit_etcd_connect::etcd_client::{
    AlarmAction, AlarmType, Client, CompactionOptions, Error, GetOptions, Member, MemberAddOptions,
};
use kinit_etcd_connect::{Etcd, Options};
use kinit_pki::{KeyAlgorithm, Pair, Subject, Usage};
use kinit_resource::{EtcdMember, EtcdStatus};
use serde::{Deserialize, Serialize};

use crate::sockets;

const ENDPOINT: &str = "https://127.0.0.1:2379";
const PKI: &str = "/etc/kubernetes/pki/etcd";
/// A call that needs a quorum is answered within an election, or not at all.
const CALL: Duration = Duration::from_secs(10);
/// Defragmenting blocks the member: a second for 100 MiB or so.
const LONG_CALL: Duration = Duration::from_secs(300);
/// etcd refuses changes of its membership until all members have been connected for 5 s (`HealthInterval`).
const SETTLE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// What etcd is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtcdRequest {
    /// Add a member without a vote.
    AddLearner {
        /// `https://IP:2380`.
        peer_url: String,
    },
    /// Give the member with this peer URL its vote, as soon as it has caught up.
    Promote {
        /// `https://IP:2380`.
        peer_url: String,
        /// How long that may take, in seconds.
        seconds: u32,
    },
    /// Remove a member.
    Remove {
        /// Its ID.
        id: u64,
        /// It must have this peer URL: an ID that was mistyped, or that is of another cluster, removes nobody.
        peer_url: String,
    },
    /// End this host's connections to a member whose machine is gone, so that etcd does not wait for them when the
    /// member is removed.
    Disconnect {
        /// `https://IP:2380`.
        peer_url: String,
    },
    /// A change of the membership, asked of the first of these members that answers: this host's own is none yet.
    At {
        /// `https://IP:2379`.
        endpoints: Vec<String>,
        /// What they are asked.
        request: Box<EtcdRequest>,
    },
    /// Hand the leadership over; asked of the leader alone.
    MoveLeader {
        /// To the member with this ID.
        to: u64,
    },
    /// Give free space in the database's file back to the file system. The member does not answer meanwhile.
    Defragment,
    /// Drop the history of all keys up to now.
    Compact,
    /// Clear all alarms; one whose cause is still there comes back.
    DisarmAlarms,
}

impl std::fmt::Display for EtcdRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AddLearner { peer_url } => write!(f, "add etcd learner {peer_url}"),
            Self::Promote { peer_url, .. } => write!(f, "promote etcd learner {peer_url}"),
            Self::Remove { id, peer_url } => write!(f, "remove etcd member {id:x} ({peer_url})"),
            Self::Disconnect { peer_url } => write!(f, "end connections to etcd member {peer_url}"),
            Self::At { request, .. } => request.fmt(f),
            Self::MoveLeader { to } => write!(f, "move etcd leadership to {to:x}"),
            Self::Defragment => write!(f, "defragment etcd"),
            Self::Compact => write!(f, "compact etcd"),
            Self::DisarmAlarms => write!(f, "disarm etcd alarms"),
        }
    }
}

/// A client of this host's member.
pub(crate) async fn client() -> Result<Client> {
    client_at(ENDPOINT).await
}

async fn client_at(endpoint: &str) -> Result<Client> {
    let file = |name: &str| Some(PathBuf::from(format!("{PKI}/{name}")));
    let options = Options {
        endpoints: vec![endpoint.to_owned()],
        ca_file: file("ca.crt"),
        cert_file: file("healthcheck-client.crt"),
        key_file: file("healthcheck-client.key"),
        // A member without a leader is asked too: that it has none is an answer.
        without_leader: true,
    };
    Ok(Etcd::connect(options).await?.client().await?)
}

/// Waits for the answer to a call that is answered within an election, or not at all.
pub(crate) async fn in_time<T>(what: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T> {
    call(what, CALL, answer).await
}

/// Waits for an answer of etcd's.
async fn call<T>(what: &str, within: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T> {
    let answer = tokio::time::timeout(within, answer).await;
    answer
        .map_err(|_| anyhow!("{what}: etcd gave no answer within {} s", within.as_secs()))?
        .with_context(|| what.to_owned())
}

fn member(member: &Member) -> EtcdMember {
    EtcdMember {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        learner: member.is_learner(),
    }
}

async fn members(client: &mut Client) -> Result<Vec<EtcdMember>> {
    let list = call("list etcd's members", CALL, client.member_list()).await?;
    Ok(list.members().iter().map(member).collect())
}

/// What this host's member says.
pub(crate) async fn status() -> Result<EtcdStatus> {
    status_of(&mut client().await?).await
}

/// What the first of these members says that answers and has a leader. The credential is made for the question, with
/// etcd's authority, and is never written down.
pub(crate) async fn status_at(endpoints: &[String], authority: &Pair) -> Result<EtcdStatus> {
    let subject = Subject {
        common_name: "kinit-join".to_owned(),
        organization: None,
        usages: vec![Usage::Client],
        dns: Vec::new(),
        ips: Vec::new(),
        days: 1,
    };
    let key = kinit_pki::new_key(KeyAlgorithm::EcdsaP256).context("make a key for etcd's client port")?;
    let request = kinit_pki::request(&key, &subject).context("request a certificate for etcd's client port")?;
    let certificate = kinit_pki::issue(authority, &request, &subject, time::OffsetDateTime::now_utc())
        .context("sign a certificate for etcd's client port")?;
    let mut why = Vec::new();
    for endpoint in endpoints {
        let asked = async {
            let mut client = kinit_etcd_connect::client_with(endpoint, &authority.cert, &certificate, &key).await?;
            let status = status_of(&mut client).await?;
            ensure!(status.leader != 0, "it has no leader");
            anyhow::Ok(status)
        };
        match asked.await {
            Ok(status) => return Ok(status),
            Err(error) => why.push(format!("{endpoint}: {error:#}")),
        }
    }
    bail!("no member of etcd answers: {}", why.join("; "))
}

async fn status_of(client: &mut Client) -> Result<EtcdStatus> {
    let status = call("ask etcd for its status", CALL, client.status()).await?;
    let members = members(client).await?;
    // Alarms need a quorum; without one there is worse to say.
    let alarms = match status.leader() {
        0 => Vec::new(),
        _ => {
            let answer = client.alarm(AlarmAction::Get, AlarmType::None, None);
            let alarms = call("ask etcd for its alarms", CALL, answer).await;
            let named = |a: &kinit_etcd_connect::etcd_client::AlarmMember| (alarm_name(a.alarm()), a.member_id());
            alarms.map(|list| list.alarms().iter().map(named).collect()).unwrap_or_default()
        }
    };
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    let header = status.header();
    Ok(EtcdStatus {
        id: header.map(|h| h.member_id()).unwrap_or_default(),
        members,
        leader: status.leader(),
        version: status.version().to_owned(),
        db_size: size(status.db_size()),
        db_size_in_use: size(status.raft_used_db_size()),
        raft_term: status.raft_term(),
        raft_index: status.raft_index(),
        raft_applied_index: status.raft_applied_index(),
        revision: header.map(|h| h.revision()).unwrap_or_default(),
        alarms,
        errors: status.errors().to_vec(),
    })
}

fn alarm_name(alarm: AlarmType) -> String {
    match alarm {
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
        AlarmType::None => "NONE",
    }
    .to_owned()
}

/// How many values below a prefix etcd has, by what they are encrypted with: `aesgcm:key1`, or nothing for plain text.
pub(crate) async fn sealed(prefix: &str) -> Result<BTreeMap<String, u64>> {
    const PAGE: i64 = 500;
    let mut client = client().await?;
    let mut found = BTreeMap::new();
    let end = end_of(prefix);
    let mut from = prefix.as_bytes().to_vec();
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
        let page = call("read what etcd has", LONG_CALL, client.get(from.clone(), Some(options))).await?;
        for pair in page.kvs() {
            *found.entry(sealed_with(pair.value())).or_default() += 1;
        }
        let Some(last) = page.kvs().last().filter(|_| page.more()) else { return Ok(found) };
        from = [last.key(), &[0]].concat();
    }
}

/// The first key after all that begin with this prefix.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// `k8s:enc:PROVIDER:v1:KEY:BYTES` (upstream's `storage/value/encrypt`).
fn sealed_with(value: &[u8]) -> String {
    let Some(rest) = value.strip_prefix(b"k8s:enc:") else { return String::new() };
    let mut parts = rest.split(|byte| *byte == b':');
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (provider, _version, key) = (part(), part(), part());
    format!("{provider}:{key}")
}

/// Does it. Each request may be made again: what is done already is success.
pub(crate) async fn perform(request: EtcdRequest) -> Result<()> {
    match request {
        EtcdRequest::AddLearner { .. } | EtcdRequest::Promote { .. } | EtcdRequest::Remove { .. } => {
            change_members(&mut client().await?, request).await
        }
        EtcdRequest::At { endpoints, request } => {
            change_members(&mut first_that_answers(&endpoints).await?, *request).await
        }
        EtcdRequest::Disconnect { peer_url } => disconnect(&peer_url).await,
        EtcdRequest::MoveLeader { to } => {
            call("move etcd's leadership", CALL, client().await?.move_leader(to)).await.map(drop)
        }
        EtcdRequest::Defragment => call("defragment etcd", LONG_CALL, client().await?.defragment()).await.map(drop),
        EtcdRequest::Compact => {
            let mut client = client().await?;
            let status = call("ask etcd for its revision", CALL, client.status()).await?;
            let revision = status.header().map(|h| h.revision()).context("etcd told no revision")?;
            let options = CompactionOptions::new().with_physical();
            match call("compact etcd", LONG_CALL, client.compact(revision, Some(options))).await {
                Err(error) if format!("{error:#}").contains("has been compacted") => Ok(()),
                other => other.map(drop),
            }
        }
        EtcdRequest::DisarmAlarms => disarm(&mut client().await?).await,
    }
}

async fn change_members(client: &mut Client, request: EtcdRequest) -> Result<()> {
    match request {
        EtcdRequest::AddLearner { peer_url } => add_learner(client, &peer_url).await,
        EtcdRequest::Promote { peer_url, seconds } => {
            promote(client, &peer_url, Duration::from_secs(seconds.into())).await
        }
        EtcdRequest::Remove { id, peer_url } => remove(client, id, &peer_url).await,
        other => bail!("{other}: not asked of another host's member"),
    }
}

async fn first_that_answers(endpoints: &[String]) -> Result<Client> {
    let mut why = Vec::new();
    for endpoint in endpoints {
        let mut client = client_at(endpoint).await?;
        match call("ask etcd for its status", CALL, client.status()).await {
            Ok(status) if status.leader() != 0 => return Ok(client),
            Ok(_) => why.push(format!("{endpoint} has no leader")),
            Err(error) => why.push(format!("{endpoint}: {error:#}")),
        }
    }
    bail!("no member of etcd answers: {}", why.join("; "))
}

async fn disconnect(peer_url: &str) -> Result<()> {
    let (address, port) = peer_url
        .strip_prefix("https://")
        .and_then(|rest| rest.rsplit_once(':'))
        .with_context(|| format!("{peer_url} is no peer URL"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']').parse().context("read a peer's address")?;
    let port = port.parse().context("read a peer's port")?;
    match tokio::task::spawn_blocking(move || sockets::end(address, port)).await? {
        Ok(ended) => tracing::debug!(%address, ended, "ended connections to a member that is gone"),
        // The member can be removed all the same: etcd waits longer then.
        Err(error) => {
            tracing::warn!(%address, error = format!("{error:#}"), "end connections to a member that is gone")
        }
    }
    Ok(())
}

async fn disarm(client: &mut Client) -> Result<()> {
    let list = call("ask etcd for its alarms", CALL, client.alarm(AlarmAction::Get, AlarmType::None, None)).await?;
    for alarm in list.alarms() {
        let mut options = kinit_etcd_connect::etcd_client::AlarmOptions::new();
        options.with_member(alarm.member_id());
        let answer = client.alarm(AlarmAction::Deactivate, alarm.alarm(), Some(options));
        call("disarm an alarm of etcd's", CALL, answer).await?;
    }
    Ok(())
}

async fn add_learner(client: &mut Client, peer_url: &str) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        if members(client).await?.iter().any(|m| m.peer_urls.iter().any(|url| url == peer_url)) {
            return Ok(());
        }
        let options = MemberAddOptions::new().with_is_learner();
        match call("add a learner to etcd", CALL, client.member_add([peer_url], Some(options))).await {
            Ok(_) => return Ok(()),
            // Nothing tells when all members have been connected for long enough.
            Err(error) if passes(&error) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// Whether etcd says of a change of its membership that it has to wait.
fn passes(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("unhealthy cluster") || text.contains("re-configuration failed due to not enough started members")
}

async fn promote(client: &mut Client, peer_url: &str, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let list = members(client).await?;
        let found = list.into_iter().find(|m| m.peer_urls.iter().any(|url| url == peer_url));
        let learner = found.with_context(|| format!("etcd has no member with peer URL {peer_url}"))?;
        if !learner.learner {
            return Ok(());
        }
        let answer = call("promote a learner of etcd's", CALL, client.member_promote(learner.id)).await;
        match answer {
            Ok(_) => return Ok(()),
            // etcd knows how far it is and does not tell: it is asked again.
            Err(error) if is_behind(&error) => {
                ensure!(
                    Instant::now() < deadline,
                    "the learner {} has not caught up within {} s; is its disk or network too slow? It has no vote, and the cluster goes on without it",
                    learner.hex(),
                    patience.as_secs()
                );
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_behind(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in sync with leader") || passes(error)
}

async fn remove(client: &mut Client, id: u64, peer_url: &str) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let list = members(client).await?;
        let Some(found) = list.iter().find(|m| m.id == id) else { return Ok(()) };
        if !found.peer_urls.iter().any(|url| url == peer_url) {
            bail!(
                "etcd's member {id:x} has the peer URLs {}, not {peer_url}: it is another one, and stays",
                found.peer_urls.join(", ")
            );
        }
        match call("remove a member of etcd", CALL, client.member_remove(id)).await {
            Ok(_) => return Ok(()),
            Err(error) if passes(&error) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

/// The hash of all keys at a revision (`HashKV`), and the revision up to which history was compacted; `None` where the
/// revision itself was.
pub(crate) async fn hash_at(revision: i64) -> Result<Option<(u32, i64)>> {
    let mut client = client().await?;
    match call("hash all keys", LONG_CALL, client.hash_kv(revision)).await {
        Ok(hashed) => Ok(Some((hashed.hash(), hashed.compact_version()))),
        Err(error) if format!("{error:#}").contains("has been compacted") => Ok(None),
        Err(error) => Err(error),
    }
}

/// The cluster file as it was last applied (ConfigMap `kube-system/kinit-config`), read where it is stored: a backup
/// does not depend on an API server. `None` where there is none, or where another API server stored it in a form of
/// its own.
pub(crate) async fn cluster_file() -> Result<Option<String>> {
    let mut client = client().await?;
    let key = "/registry/configmaps/kube-system/kinit-config";
    let found = call("read the cluster file", CALL, client.get(key, None)).await?;
    let object = found.kvs().first().and_then(|kv| serde_json::from_slice::<serde_json::Value>(kv.value()).ok());
    Ok(object.and_then(|object| object.pointer("/data/Cluster")?.as_str().map(str::to_owned)))
}

/// A snapshot of the key space, piece by piece, with its SHA-256 at the end (`Maintenance.Snapshot`).
pub(crate) struct Snapshot(kinit_etcd_connect::etcd_client::SnapshotStreaming);

impl Snapshot {
    /// Asks for one.
    pub(crate) async fn begin() -> Result<Self> {
        let mut client = client().await?;
        Ok(Self(call("ask etcd for a snapshot", CALL, client.snapshot()).await?))
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let piece = call("read etcd's snapshot", CALL, self.0.message()).await?;
        Ok(piece.map(|piece| piece.blob().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_what_it_is_encrypted_with() {
        for (value, expected) in [
            (&b"k8s:enc:aesgcm:v1:key2:\x00\xff"[..], "aesgcm:key2"),
            (b"k8s:enc:aescbc:v1:a:x:y", "aescbc:a"),
            (b"{}", ""),
            (b"k8s:enc:", ":"),
        ] {
            assert_eq!(sealed_with(value), expected);
        }
        assert_eq!(end_of("/registry/secrets/"), b"/registry/secrets0");
    }
}
