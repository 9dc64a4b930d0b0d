//! Looking into a snapshot, by restoring it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kinit_backup::{EtcdState, SecretsTried, StoredKeys};
use kinit_etcd_connect::etcd_client::{Client, Error, GetOptions};

use super::{Look, Looked};
use crate::backup::scratch::{Folder, Scratch};

/// Hashing walks through all keys.
const CALL: Duration = Duration::from_secs(300);
const SECRETS: &str = "/registry/secrets/";
/// Secrets whose decryption is tried.
const SAMPLE: i64 = 100;
/// Objects of one list.
const MOST: i64 = 10_000;

async fn call<T>(what: &str, answer: impl Future<Output = Result<T, Error>>) -> Result<T> {
    let answer = tokio::time::timeout(CALL, answer).await;
    answer.map_err(|_| anyhow!("{what}: no answer within {} s", CALL.as_secs()))?.with_context(|| what.to_owned())
}

/// Restores a snapshot into a scratch etcd below `folder`, and looks into it. That etcd must be found in `PATH`, and so
/// must etcdutl.
pub async fn look_into(snapshot: &Path, folder: &Path, wanted: &Look) -> Result<Looked> {
    let begun = Instant::now();
    let folder = Folder::below(folder)?;
    let length = std::fs::metadata(snapshot).with_context(|| format!("look at {}", snapshot.display()))?.len();
    super::ensure_room(folder.path(), length + (64 << 20))?;
    let mut scratch = Scratch::start(snapshot, folder.path()).await?;
    let looked = look(&mut scratch.client, wanted).await;
    scratch.stop().await;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    looked.map(|looked| Looked { milliseconds, ..looked })
}

async fn look(client: &mut Client, wanted: &Look) -> Result<Looked> {
    let etcd = state(client).await?;
    let keys = match &wanted.encryption {
        Some(text) => StoredKeys::parse(text)?,
        None => StoredKeys::none(),
    };
    let secrets = secrets(client, &keys, wanted.encryption.is_some()).await?;
    let mut values = Vec::new();
    for key in &wanted.get {
        let options = key.ends_with('/').then(|| GetOptions::new().with_prefix().with_limit(MOST));
        let found = call(&format!("read {key}"), client.get(key.as_str(), options)).await?;
        for kv in found.kvs() {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            let value = keys.open(&key, kv.value()).with_context(|| format!("{key} does not decrypt"))?;
            values.push((key, String::from_utf8_lossy(&value).into_owned()));
        }
    }
    Ok(Looked { etcd, secrets, values, milliseconds: 0 })
}

/// What an etcd has now.
pub(super) async fn state(client: &mut Client) -> Result<EtcdState> {
    let status = call("ask etcd for its status", client.status()).await?;
    let revision = status.header().map(|h| h.revision()).context("etcd told no revision")?;
    let hashed = call("hash all keys", client.hash_kv(revision)).await?;
    let options = GetOptions::new().with_all_keys().with_count_only();
    let count = call("count all keys", client.get("", Some(options))).await?.count();
    Ok(EtcdState {
        version: status.version().to_owned(),
        revision,
        compact_revision: hashed.compact_version(),
        hash: hashed.hash(),
        keys: u64::try_from(count).unwrap_or_default(),
    })
}

async fn secrets(client: &mut Client, keys: &StoredKeys, must_open: bool) -> Result<SecretsTried> {
    let options = GetOptions::new().with_prefix().with_limit(SAMPLE);
    let found = call("read a sample of the Secrets", client.get(SECRETS, Some(options))).await?;
    let mut tried = SecretsTried { all: u64::try_from(found.count()).unwrap_or_default(), ..SecretsTried::default() };
    for kv in found.kvs() {
        let key = String::from_utf8_lossy(kv.key());
        tried.tried += 1;
        tried.encrypted += u64::from(StoredKeys::is_encrypted(kv.value()));
        if must_open && keys.open(&key, kv.value()).is_none() {
            bail!("{key} does not decrypt with the encryption.yaml that belongs to the backup");
        }
    }
    Ok(tried)
}
