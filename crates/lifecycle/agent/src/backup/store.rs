//! Where scheduled backups go: folders, and storage that speaks S3.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use jiff::Timestamp;
use kinit_backup::{Card, Retention, is_backup_name, outdated};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

/// S3's smallest part of a multipart upload.
const PART: usize = 5 << 20;
/// Parts on their way at once: this much memory, and no more.
const PARTS: usize = 4;
/// One part over a slow line.
const REQUEST: Duration = Duration::from_secs(120);
/// How long a storage that fails is tried again.
const TRIES: Duration = Duration::from_secs(60);

/// A target, as the host's file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// A folder.
    Directory(String),
    /// A bucket.
    #[serde(rename_all = "camelCase")]
    S3 {
        /// Its name.
        bucket: String,
        /// Its service, if it is not AWS's.
        endpoint: Option<String>,
        /// Its region.
        region: Option<String>,
        /// What names begin with.
        prefix: Option<String>,
        /// File with `access_key_id=` and `secret_access_key=`.
        credentials_file: String,
    },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => f.write_str(path),
            Self::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{}", prefix.as_deref().unwrap_or_default()),
        }
    }
}

/// A target that can be written to.
pub(super) struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
}

impl Store {
    /// Opens it; nothing is asked of it yet.
    pub(super) fn open(target: &Target) -> Result<Self> {
        match target {
            Target::Directory(path) => {
                std::fs::create_dir_all(path).with_context(|| format!("make {path}"))?;
                let store = LocalFileSystem::new_with_prefix(path).with_context(|| format!("open {path}"))?;
                Ok(Self { store: Arc::new(store.with_fsync(true)), prefix: Key::default() })
            }
            Target::S3 { bucket, endpoint, region, prefix, credentials_file } => {
                let (id, secret) = credentials(Path::new(credentials_file))?;
                let retry = RetryConfig { max_retries: 5, retry_timeout: TRIES, ..RetryConfig::default() };
                let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(Duration::from_secs(10));
                let mut builder = AmazonS3Builder::new()
                    .with_bucket_name(bucket)
                    .with_region(region.as_deref().unwrap_or("us-east-1"))
                    .with_access_key_id(id)
                    .with_secret_access_key(secret)
                    .with_retry(retry)
                    .with_client_options(client);
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
                }
                let store = builder.build().with_context(|| format!("use the bucket {bucket}"))?;
                let prefix = Key::parse(prefix.as_deref().unwrap_or_default()).context("use the prefix")?;
                Ok(Self { store: Arc::new(store), prefix })
            }
        }
    }

    fn key(&self, name: &str) -> Key {
        self.prefix.clone().join(name)
    }

    /// Puts a file there, and its card when all of it is; no faster than `rate`, in KiB a second, on average.
    pub(super) async fn put(&self, file: &Path, card: &Card, rate: Option<u32>) -> Result<()> {
        let upload = self.store.put_multipart(&self.key(&card.file)).await.context("begin the upload")?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let sent = async {
            let mut from = tokio::fs::File::open(file).await.with_context(|| format!("read {}", file.display()))?;
            let mut buffer = vec![0; 1 << 20];
            let (begun, mut total) = (Instant::now(), 0);
            loop {
                let count = from.read(&mut buffer).await.with_context(|| format!("read {}", file.display()))?;
                if count == 0 {
                    return anyhow::Ok(());
                }
                upload.wait_for_capacity(PARTS).await.context("upload")?;
                upload.write(buffer.get(..count).unwrap_or_default());
                total += count as u64;
                tokio::time::sleep(pause(total, begun.elapsed(), rate)).await;
            }
        };
        match sent.await {
            Ok(()) => drop(upload.finish().await.context("finish the upload")?),
            Err(error) => {
                // Parts of it would be stored, and paid for, for ever.
                upload.abort().await.ok();
                return Err(error);
            }
        }
        let stored = self.store.head(&self.key(&card.file)).await.context("look at what was stored")?;
        if stored.size != card.bytes {
            bail!("{} bytes were stored of {}", stored.size, card.bytes);
        }
        let text = PutPayload::from(card.text().into_bytes());
        self.store.put(&self.key(&card.name()), text).await.context("store the card").map(drop)
    }

    /// Deletes what is not kept of this cluster's, backups without a card excepted: nobody knows whose they are.
    pub(super) async fn prune(&self, authority: &str, rule: Retention) -> Result<Vec<String>> {
        let mut backups = Vec::new();
        let prefix = Some(&self.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        let listed: Vec<_> = self.store.list(prefix).try_collect().await.context("list the backups")?;
        for object in listed {
            let Some(name) = object.location.filename().and_then(|name| name.strip_suffix(".json")) else { continue };
            if !is_backup_name(name) || object.location != self.key(&format!("{name}.json")) {
                continue;
            }
            let text = self.store.get(&object.location).await.context("read a card")?;
            let Some(card) = Card::parse(&text.bytes().await.context("read a card")?) else { continue };
            let Ok(time) = card.manifest.created.parse::<Timestamp>() else { continue };
            if card.manifest.cluster.authority == authority && card.file == name {
                backups.push((card.file, time, card.manifest.proof.is_some()));
            }
        }
        let gone = outdated(&backups, rule);
        for name in &gone {
            self.store.delete(&self.key(name)).await.with_context(|| format!("delete {name}"))?;
            self.store
                .delete(&self.key(&format!("{name}.json")))
                .await
                .with_context(|| format!("delete {name}.json"))?;
        }
        Ok(gone)
    }
}

/// The two lines of a credentials file.
fn credentials(file: &Path) -> Result<(String, String)> {
    use std::os::unix::fs::PermissionsExt;
    let shown = file.display();
    let mode = std::fs::metadata(file).with_context(|| format!("look at {shown}"))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{shown} is open to others (mode {mode:04o}); `chmod 600` it");
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("read {shown}"))?;
    let value = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        lines.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name).map(|(_, v)| v.to_owned())
    };
    let missing = |name: &str| format!("{shown} has no line {name}=...");
    let id = value("access_key_id").with_context(|| missing("access_key_id"))?;
    Ok((id, value("secret_access_key").with_context(|| missing("secret_access_key"))?))
}

/// How long to wait after so many bytes, so that they are no more than the rate allows (KiB a second).
fn pause(sent: u64, elapsed: Duration, rate: Option<u32>) -> Duration {
    let Some(rate) = rate.filter(|rate| *rate > 0) else { return Duration::ZERO };
    let due = Duration::from_secs_f64(sent as f64 / (f64::from(rate) * 1024.0));
    due.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kinit_backup::{Anchor, ClusterId, EtcdState, Manifest, Proof};

    use super::*;

    fn card(day: u32, bytes: u64, authority: &str) -> Card {
        let created = format!("2026-11-{day:02}T00:00:00Z");
        let manifest = Manifest {
            format: 1,
            cluster: ClusterId { name: "c".into(), authority: authority.into() },
            created: created.clone(),
            host: "cp1".into(),
            kinit: "0".into(),
            kubernetes: "v1.36.0".into(),
            etcd: EtcdState::default(),
            proof: Some(Proof::default()),
            signer: String::new(),
            signed_by: Anchor::Authority,
            files: vec![],
        };
        let name = kinit_backup::file_name(authority, created.parse().unwrap());
        Card::new(&name, bytes, String::new(), "daily", &manifest)
    }

    #[tokio::test]
    async fn a_folder_keeps_what_its_rule_says_and_nothing_of_others_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Directory(dir.path().join("new").display().to_string())).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, vec![7; PART + 3]).unwrap();
        for day in 1..=4 {
            store.put(&file, &card(day, PART as u64 + 3, "a"), None).await.unwrap();
        }
        store.put(&file, &card(1, PART as u64 + 3, "b"), None).await.unwrap();
        let stored = std::fs::read(dir.path().join("new").join(card(2, 0, "a").file)).unwrap();
        assert_eq!(stored, vec![7; PART + 3]);
        let wrong = store.put(&file, &card(9, 1, "a"), None).await.unwrap_err();
        assert!(wrong.to_string().contains("were stored of 1"), "{wrong}");
        let gone = store.prune("a", Retention { last: 2, ..Retention::default() }).await.unwrap();
        assert_eq!(gone, [card(2, 0, "a").file, card(1, 0, "a").file]);
        assert!(dir.path().join("new").join(card(1, 0, "b").file).exists());
    }

    #[tokio::test]
    async fn uploads_are_no_faster_than_they_may_be() {
        for (sent, elapsed, rate, expected) in [
            (1 << 20, 0, None, 0),
            (1 << 20, 0, Some(256), 4000),
            (1 << 20, 3000, Some(256), 1000),
            (1 << 20, 9000, Some(256), 0),
            (0, 0, Some(256), 0),
        ] {
            let pause = pause(sent, Duration::from_millis(elapsed), rate);
            assert_eq!(pause, Duration::from_millis(expected), "{sent} {elapsed} {rate:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Directory(dir.path().join("new").display().to_string())).unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, vec![7; 2 << 20]).unwrap();
        let begun = Instant::now();
        store.put(&file, &card(1, 2 << 20, "a"), Some(4096)).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    }

    #[test]
    fn credentials_are_two_lines_of_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3");
        std::fs::write(&path, "access_key_id = AK\nsecret_access_key=s/e=c\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(credentials(&path).unwrap_err().to_string().contains("open to others"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(credentials(&path).unwrap(), ("AK".to_owned(), "s/e=c".to_owned()));
        std::fs::write(&path, "access_key_id=AK\n").unwrap();
        assert!(credentials(&path).unwrap_err().to_string().contains("no line secret_access_key"));
    }
}
