//! A scheduled backup, begun by a systemd timer on every control plane at the same time. One of them does it: who has a
//! lock in etcd; the others wait for it to end and see that it is done, or do it when it failed or its host died.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kinit_backup::{Card, Protection, Retention, file_name};
use kinit_etcd_connect::etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp, WatchOptions};
use serde::{Deserialize, Serialize};

use super::Create;
use super::create::make;
use super::store::{Store, Target};
use crate::journal::Journal;
use crate::ledger::{HOME, Ledger};
use crate::opening::{Caller, unix_time};
use crate::{etcd, files};

const LOCK: &str = "/kinit/backup/lock";
const LAST: &str = "/kinit/backup/last";
/// Where metrics are, for node_exporter's textfile collector.
const METRICS: &str = "/var/lib/kinit/metrics/backup.prom";
/// A lock whose holder is dead is free after so many seconds.
const LEASE: i64 = 30;
/// Timers of hosts go off together, but for what their clocks differ: what was begun so short before is the same one.
const SAME: i64 = 60;
/// How long another host may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// The leader lets others begin: it has the most to do.
const COURTESY: Duration = Duration::from_secs(3);

/// What the host's file says (`/etc/kubernetes/backup.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// Name of the cluster.
    pub cluster: String,
    /// This host's name in it.
    pub host: String,
    /// Version of Kubernetes.
    pub kubernetes: String,
    /// When, for the backups' cards.
    pub schedule: String,
    /// Who can open the backups.
    pub recipients: Vec<String>,
    /// How many stay.
    #[serde(default)]
    pub retention: Retention,
    /// Where they go.
    pub targets: Vec<Target>,
    /// How fast they are sent to each, in KiB a second.
    #[serde(default)]
    pub upload_kib_per_second: Option<u32>,
}

/// The last backup that was made on schedule, as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBackup {
    /// When the timer went off, in seconds since 1970.
    pub triggered: i64,
    /// The host that made it.
    pub host: String,
    /// Its file.
    pub file: String,
    /// When it was begun, RFC 3339.
    pub created: String,
    /// Its length.
    pub bytes: u64,
    /// Its revision.
    pub revision: i64,
    /// Targets that did not take it, with the reason of each.
    pub failed: Vec<String>,
}

/// Makes the backup of this moment, or sees another host make it.
pub async fn run_scheduled(config: &Path) -> Result<()> {
    let text = std::fs::read_to_string(config).with_context(|| format!("read {}", config.display()))?;
    let wanted: Scheduled = serde_json::from_str(&text).with_context(|| format!("parse {}", config.display()))?;
    let triggered = triggered();
    let done = take_turns(&wanted, triggered).await;
    let (last, error) = match &done {
        Ok(last) => (Some(last), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    measure(last, error.is_none())?;
    let last = done?;
    if last.failed.is_empty() {
        tracing::info!(host = last.host, file = last.file, "the backup is made and proven");
        return Ok(());
    }
    bail!("the backup {} was made on {}, but: {}", last.file, last.host, last.failed.join("; "))
}

/// When the timer went off (systemd.exec(5), `$TRIGGER_TIMER_REALTIME_USEC`), or now.
fn triggered() -> i64 {
    let told = std::env::var("TRIGGER_TIMER_REALTIME_USEC").ok().and_then(|text| text.parse::<i64>().ok());
    told.map_or_else(unix_time, |micros| micros / 1_000_000)
}

async fn take_turns(wanted: &Scheduled, triggered: i64) -> Result<LastBackup> {
    let status = etcd::status().await?;
    if status.leader == status.id {
        tokio::time::sleep(COURTESY).await;
    }
    let mut client = etcd::client().await?;
    let begun = Instant::now();
    loop {
        if let Some(last) = last(&mut client).await?.filter(|last| last.triggered >= triggered - SAME) {
            return Ok(last);
        }
        match Lock::take(&mut client, &wanted.host).await? {
            Taken::Ours(lock) => {
                let made = work(wanted, triggered, &mut client).await;
                lock.release(&mut client).await;
                return made;
            }
            Taken::Others(revision) => {
                let left =
                    PATIENCE.checked_sub(begun.elapsed()).context("another host makes this backup for too long")?;
                free_again(&mut client, revision, left).await?;
            }
        }
    }
}

/// What etcd knows of the last one.
async fn last(client: &mut Client) -> Result<Option<LastBackup>> {
    let found = etcd::in_time("ask for the last backup", client.get(LAST, None)).await?;
    Ok(found.kvs().first().and_then(|kv| serde_json::from_slice(kv.value()).ok()))
}

/// The last scheduled backup, for `kinit status`.
pub(crate) async fn last_backup() -> Result<Option<LastBackup>> {
    last(&mut etcd::client().await?).await
}

struct Lock {
    lease: i64,
    alive: tokio::task::JoinHandle<()>,
}

enum Taken {
    Ours(Lock),
    /// Held since that revision of etcd's.
    Others(i64),
}

impl Lock {
    async fn take(client: &mut Client, host: &str) -> Result<Taken> {
        let lease = etcd::in_time("get a lease", client.lease_grant(LEASE, None)).await?.id();
        let free = Compare::create_revision(LOCK, CompareOp::Equal, 0);
        let put = TxnOp::put(LOCK, host, Some(PutOptions::new().with_lease(lease)));
        let taken = etcd::in_time("take the lock", client.txn(Txn::new().when([free]).and_then([put]))).await?;
        if !taken.succeeded() {
            let revision = taken.header().map(|h| h.revision()).context("etcd told no revision")?;
            etcd::in_time("give the lease back", client.lease_revoke(lease)).await?;
            return Ok(Taken::Others(revision));
        }
        let (mut keeper, mut answers) = etcd::in_time("keep the lease", client.lease_keep_alive(lease)).await?;
        let alive = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(LEASE.unsigned_abs() / 3));
            loop {
                ticks.tick().await;
                if keeper.keep_alive().await.is_err() || answers.message().await.is_err() {
                    // Another host takes over when the lease ends; both backups would be whole.
                    return;
                }
            }
        });
        Ok(Taken::Ours(Self { lease, alive }))
    }

    async fn release(self, client: &mut Client) {
        self.alive.abort();
        etcd::in_time("give the lock back", client.lease_revoke(self.lease)).await.ok();
    }
}

/// Waits until the lock is free.
async fn free_again(client: &mut Client, revision: i64, within: Duration) -> Result<()> {
    let options = WatchOptions::new().with_start_revision(revision);
    let mut watch = etcd::in_time("watch the lock", client.watch(LOCK, Some(options))).await?;
    let freed = async {
        loop {
            let Some(answer) = watch.message().await.context("watch the lock")? else { bail!("the watch ended") };
            let is_delete = |e: &kinit_etcd_connect::etcd_client::Event| {
                e.event_type() == kinit_etcd_connect::etcd_client::EventType::Delete
            };
            if answer.events().iter().any(is_delete) {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(within, freed).await.map_err(|_| anyhow!("another host makes this backup for too long"))?
}

/// Makes it, hands it to all targets, and notes it.
async fn work(wanted: &Scheduled, triggered: i64, client: &mut Client) -> Result<LastBackup> {
    let caller =
        Caller { by: format!("systemd@{}", wanted.host), pid: std::process::id(), operation: "backup".to_owned() };
    let mut journal = Journal::host(caller);
    journal.begin();
    let begun = Instant::now();
    let made = to_targets(wanted, triggered).await;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (what, error) = match &made {
        Ok(last) => {
            let failed = (!last.failed.is_empty()).then(|| last.failed.join("; "));
            (format!("backup {}, restored and compared", last.file), failed)
        }
        Err(error) => ("backup".to_owned(), Some(format!("{error:#}"))),
    };
    journal.step(what, milliseconds, error.as_deref());
    journal.end(error.as_deref());
    let last = made?;
    let text = serde_json::to_vec(&last).context("encode the backup's note")?;
    etcd::in_time("note the backup", client.put(LAST, text, None)).await?;
    Ok(last)
}

async fn to_targets(wanted: &Scheduled, triggered: i64) -> Result<LastBackup> {
    Ledger::note_path(HOME)?;
    let folder = Path::new(HOME).join("backup");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let file = folder.join("new.part");
    let made = encrypted(wanted, &file).await;
    let handed = match made {
        Ok(card) => hand_out(wanted, &file, &card).await.map(|failed| (card, failed)),
        Err(error) => Err(error),
    };
    files::remove(&file.display().to_string())?;
    let (card, failed) = handed?;
    Ok(LastBackup {
        triggered,
        host: wanted.host.clone(),
        created: card.manifest.created.clone(),
        bytes: card.bytes,
        revision: card.manifest.etcd.revision,
        file: card.file,
        failed,
    })
}

/// Makes the encrypted file on this host.
async fn encrypted(wanted: &Scheduled, file: &Path) -> Result<Card> {
    let create = Create {
        cluster: wanted.cluster.clone(),
        host: wanted.host.clone(),
        kubernetes: wanted.kubernetes.clone(),
        protection: Protection::Recipients(wanted.recipients.clone()),
        prove: true,
    };
    let out = Measured::create(file)?;
    let manifest = make(create, out).await?;
    let (bytes, sha256) = measure_file(file.to_owned()).await?;
    let created = manifest.created.parse().context("read the backup's time")?;
    let name = file_name(&wanted.cluster, created);
    Ok(Card::new(&name, bytes, sha256, &wanted.schedule, &manifest))
}

/// A file that only root may read, on the disk when it is flushed.
struct Measured(std::fs::File);

impl Measured {
    fn create(path: &Path) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let open = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        open.map(Self).with_context(|| format!("write {}", path.display()))
    }
}

impl std::io::Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.sync_all()
    }
}

async fn measure_file(path: PathBuf) -> Result<(u64, String)> {
    let measuring = tokio::task::spawn_blocking(move || kinit_backup::measure(&path));
    Ok(measuring.await.context("read the backup back")??)
}

/// Every target gets it; those that fail are told together, and none hides another. It counts when one has it.
async fn hand_out(wanted: &Scheduled, file: &Path, card: &Card) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for target in &wanted.targets {
        let put = async {
            let store = Store::open(target)?;
            store.put(file, card, wanted.upload_kib_per_second).await?;
            store.prune(&card.manifest.cluster.authority, wanted.retention).await.context("delete outdated backups")
        };
        if let Err(error) = put.await {
            failed.push(format!("{target}: {error:#}"));
        }
    }
    if failed.len() == wanted.targets.len() {
        bail!("no target took the backup: {}", failed.join("; "));
    }
    Ok(failed)
}

/// Writes this host's metrics. What was before stays where nothing new is known.
fn measure(last: Option<&LastBackup>, succeeded: bool) -> Result<()> {
    let proven =
        |line: &str| line.starts_with("kinit_backup_last_proven") || line.starts_with("kinit_backup_last_bytes");
    let before = files::read_optional(METRICS)?.unwrap_or_default();
    let kept: String = before.lines().filter(|line| proven(line)).map(|line| format!("{line}\n")).collect();
    let known = last.map_or(kept, |last| {
        let time = last.created.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).unwrap_or_default();
        format!("kinit_backup_last_proven_timestamp_seconds {time}\nkinit_backup_last_bytes {}\n", last.bytes)
    });
    let text = format!(
        "# HELP kinit_backup_last_proven_timestamp_seconds When the last backup was made that could be restored.\n\
         # TYPE kinit_backup_last_proven_timestamp_seconds gauge\n\
         # HELP kinit_backup_last_bytes Length of that backup.\n# TYPE kinit_backup_last_bytes gauge\n{known}\
         # HELP kinit_backup_last_attempt_timestamp_seconds When this host last tried, or waited for another one.\n\
         # TYPE kinit_backup_last_attempt_timestamp_seconds gauge\n\
         kinit_backup_last_attempt_timestamp_seconds {}\n\
         # HELP kinit_backup_last_attempt_succeeded Whether that went well.\n\
         # TYPE kinit_backup_last_attempt_succeeded gauge\nkinit_backup_last_attempt_succeeded {}\n",
        unix_time(),
        u8::from(succeeded && last.is_some_and(|last| last.failed.is_empty()))
    );
    std::fs::create_dir_all(Path::new(METRICS).parent().unwrap_or(Path::new("/")))
        .context("make the folder for metrics")?;
    files::write(METRICS, text.as_bytes(), 0o644, "root:root")
}
