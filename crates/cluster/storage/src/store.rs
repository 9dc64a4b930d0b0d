//! The store itself: etcd transactions on one key at a time, and the caches.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kinit_etcd_connect::Etcd;
use kinit_etcd_connect::etcd_client::{
    Client, Error as EtcdError, GetOptions, GetResponse, KvClient, PutOptions, Txn, TxnOp, TxnResponse,
};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::crypt::Crypt;
use crate::entry::{Entry, Reading, canonical};
use crate::error::Error;
use crate::leases::Leases;
use crate::settle::{ATTEMPT, Settled};

/// Root of all keys, as upstream's `--etcd-prefix`.
pub const ROOT: &str = "/registry/";
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// An etcd election ends within this (`--election-timeout` of 1 s, up to twice that by chance, and the vote), or not
/// soon.
const ELECTION: Duration = Duration::from_secs(3);
const BETWEEN: Duration = Duration::from_millis(50);
const PROBE: Duration = Duration::from_millis(500);
/// A member answers what it knows by itself within this, election or not, or it hangs.
const ALONE: Duration = Duration::from_secs(1);
const CATCH_UP: Duration = Duration::from_secs(3);

/// A resource the store keeps.
#[derive(Clone)]
pub struct ResourceSpec {
    /// Below the root, with a final slash: `pods/`.
    pub prefix: String,
    /// How it is read.
    pub reading: Reading,
    /// Its encryption.
    pub crypt: Arc<Crypt>,
}

/// Handle on the store. Cheap to clone.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub etcd: Etcd,
    pub resources: RwLock<HashMap<String, Resource>>,
    pub revision: watch::Sender<u64>,
    pub ready: watch::Sender<bool>,
    pub healthy: AtomicBool,
    pub progress: Notify,
    /// Bytes of events since the histories were last looked at.
    pub absorbed: AtomicUsize,
    leases: Leases,
}

#[derive(Clone)]
pub(crate) struct Resource {
    pub cache: Arc<Cache>,
    pub crypt: Arc<Crypt>,
}

/// A page read from etcd at one revision.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub entries: Vec<Entry>,
    /// The revision they are of.
    pub revision: u64,
    /// Whether there are more keys after the last one.
    pub more: bool,
    /// How many keys there are from the start of this page on.
    pub count: u64,
}

/// A page whose objects are decoded each for itself.
pub(crate) struct Read {
    pub objects: Vec<(String, Result<Entry, Error>)>,
    pub revision: u64,
    pub more: bool,
    count: u64,
}

/// Outcome of a write that depends on the object's revision.
#[derive(Debug)]
pub enum Updated {
    /// Written; the new revision.
    Done(u64),
    /// Somebody was faster; what is stored now, if anything.
    Changed(Option<Entry>),
}

impl Store {
    /// A store of these resources. Call [`Store::run`] to feed its caches.
    pub fn new(etcd: Etcd, resources: Vec<ResourceSpec>) -> Self {
        let revision = watch::Sender::new(0);
        let resources = resources
            .into_iter()
            .map(|spec| {
                let cache = Arc::new(Cache::new(&spec.prefix, spec.reading, revision.subscribe()));
                (spec.prefix, Resource { cache, crypt: spec.crypt })
            })
            .collect();
        Self(Arc::new(Inner {
            etcd,
            resources: RwLock::new(resources),
            revision,
            ready: watch::Sender::new(false),
            healthy: AtomicBool::new(false),
            progress: Notify::new(),
            absorbed: AtomicUsize::new(0),
            leases: Leases::default(),
        }))
    }

    /// The cache of a resource by its prefix.
    pub fn cache(&self, prefix: &str) -> Option<Arc<Cache>> {
        self.0.resources.read().get(prefix).map(|r| r.cache.clone())
    }

    /// Whether etcd answered a linearizable read lately.
    pub fn is_healthy(&self) -> bool {
        self.0.healthy.load(Ordering::Relaxed)
    }

    /// Asks etcd twice a second whether it still answers, until `shutdown`: what readiness goes by.
    ///
    /// A silence as long as an election does not count: it is the same for all servers, and were they all to say that
    /// they are not ready, a balancer would have nobody left to send requests to that only have to wait. A member that
    /// does not even tell what it knows by itself does not wait for an election: it hangs, and others do not.
    pub(crate) async fn probe(&self, shutdown: &CancellationToken) {
        loop {
            let healthy = matches!(tokio::time::timeout(ALONE, self.answers_alone()).await, Ok(Ok(())))
                && tokio::time::timeout(ELECTION, self.answered()).await.is_ok();
            if self.0.healthy.swap(healthy, Ordering::Relaxed) && !healthy {
                tracing::warn!("etcd does not answer");
            }
            if !healthy {
                self.0.etcd.failed();
            }
            // Whoever is not ready should be so no longer than needed.
            let pause = if healthy { PROBE } else { BETWEEN };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A read that needs no other member.
    async fn answers_alone(&self) -> Result<(), Error> {
        let options = GetOptions::new().with_count_only().with_serializable();
        let mut kv = self.kv().await?;
        in_time(kv.get(format!("{ROOT}consistent-read"), Some(options))).await.map(drop)
    }

    /// Waits for an answer of etcd's quorum.
    async fn answered(&self) {
        while self.current_revision().await.is_err() {
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Runs a request that may be made twice: a read, or a write without a guard. One that was not answered, because
    /// its endpoint is gone or its leader has changed, is tried again on the next endpoint until an election has had
    /// the time to end.
    async fn run_kv<T>(&self, work: impl Fn(KvClient) -> Answer<T> + Send) -> Result<T, Error> {
        self.attempt_kv(REQUEST, work).await
    }

    /// The same for what is little work: without an answer within an [`ATTEMPT`] the member hangs, or waits for a
    /// leader that is no more, and the next one is asked, with twice the patience.
    async fn run_short<T>(&self, work: impl Fn(KvClient) -> Answer<T> + Send) -> Result<T, Error> {
        self.attempt_kv(ATTEMPT, work).await
    }

    async fn attempt_kv<T>(
        &self,
        mut patience: Duration,
        work: impl Fn(KvClient) -> Answer<T> + Send,
    ) -> Result<T, Error> {
        let (begun, mut until) = (Instant::now(), ELECTION);
        loop {
            let answer = work(self.kv().await?);
            let error = match tokio::time::timeout(patience, answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => match Error::from(error) {
                    error @ Error::Unavailable(_) => error,
                    other => return Err(other),
                },
                Err(_) => {
                    until = REQUEST;
                    Error::timed_out()
                }
            };
            self.0.etcd.failed();
            let left = until.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            patience = (patience * 2).min(REQUEST.saturating_sub(begun.elapsed()));
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Whether the caches have had their first picture.
    pub fn is_ready(&self) -> bool {
        *self.0.ready.borrow()
    }

    /// Waits for the caches' first picture.
    pub async fn wait_ready(&self) {
        let mut ready = self.0.ready.subscribe();
        // The sender is part of the store.
        let _ = ready.wait_for(|r| *r).await;
    }

    /// The revision the caches have reached.
    pub fn revision(&self) -> u64 {
        *self.0.revision.borrow()
    }

    pub(crate) async fn client(&self) -> Result<Client, Error> {
        Ok(self.0.etcd.client().await?)
    }

    pub(crate) async fn kv(&self) -> Result<KvClient, Error> {
        let limit = 64 << 20;
        Ok(self.client().await?.kv_client().max_decoding_message_size(limit).max_encoding_message_size(limit))
    }

    /// etcd's revision now, asked of a quorum.
    pub async fn current_revision(&self) -> Result<u64, Error> {
        let options = GetOptions::new().with_count_only();
        let key = format!("{ROOT}consistent-read");
        let response = self.run_short(get(key, Some(options))).await?;
        Ok(response.header().map_or(0, |h| h.revision().cast_unsigned()))
    }

    /// Waits until the caches have seen everything that was committed before this call.
    pub async fn catch_up(&self) -> Result<(), Error> {
        let revision = self.current_revision().await?;
        self.wait_for(revision).await
    }

    /// Waits until the caches have reached `revision`.
    pub async fn wait_for(&self, revision: u64) -> Result<(), Error> {
        let mut seen = self.0.revision.subscribe();
        let reached = async {
            loop {
                if *seen.borrow_and_update() >= revision {
                    return;
                }
                self.0.progress.notify_one();
                // Events may bring the revision by themselves; otherwise ask for progress again after a moment.
                let _ = tokio::time::timeout(Duration::from_millis(100), seen.changed()).await;
            }
        };
        match tokio::time::timeout(CATCH_UP, reached).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Future { wanted: revision, current: self.revision() }),
        }
    }

    /// Reads one object from etcd (a linearizable read).
    pub async fn get(&self, prefix: &str, key: &str) -> Result<Option<Entry>, Error> {
        let etcd_key = path(prefix, key);
        let response = self.run_short(get(etcd_key, None)).await?;
        match response.kvs().first() {
            Some(kv) => self.decode(prefix, key, kv.value(), kv.mod_revision().cast_unsigned()).map(Some),
            None => Ok(None),
        }
    }

    /// Writes an object that must not exist yet. `ttl` in seconds lets it end by itself.
    pub async fn create(&self, prefix: &str, key: &str, object: &Value, ttl: Option<i64>) -> Result<u64, Error> {
        let etcd_key = path(prefix, key);
        let value = self.encode(prefix, &etcd_key, object)?;
        let options = self.put_options(ttl).await?;
        let op = TxnOp::put(etcd_key.as_str(), value.clone(), options);
        match self.settle(&etcd_key, 0, op, Some(&value)).await? {
            Settled::Done(revision) => Ok(revision),
            Settled::Other(_) => Err(Error::Exists),
        }
    }

    /// Writes an object if it is still at `expected`.
    pub async fn update(
        &self,
        prefix: &str,
        key: &str,
        expected: u64,
        object: &Value,
        ttl: Option<i64>,
    ) -> Result<Updated, Error> {
        let etcd_key = path(prefix, key);
        let value = self.encode(prefix, &etcd_key, object)?;
        let options = self.put_options(ttl).await?;
        let op = TxnOp::put(etcd_key.as_str(), value.clone(), options);
        let settled = self.settle(&etcd_key, expected, op, Some(&value)).await?;
        self.updated(prefix, key, settled)
    }

    /// Deletes an object if it is still at `expected`.
    pub async fn delete(&self, prefix: &str, key: &str, expected: u64) -> Result<Updated, Error> {
        let etcd_key = path(prefix, key);
        let op = TxnOp::delete(etcd_key.as_str(), None);
        let settled = self.settle(&etcd_key, expected, op, None).await?;
        self.updated(prefix, key, settled)
    }

    fn updated(&self, prefix: &str, key: &str, settled: Settled) -> Result<Updated, Error> {
        Ok(match settled {
            Settled::Done(revision) => Updated::Done(revision),
            Settled::Other(None) => Updated::Changed(None),
            Settled::Other(Some((stored, at))) => Updated::Changed(Some(self.decode(prefix, key, &stored, at)?)),
        })
    }

    async fn put_options(&self, ttl: Option<i64>) -> Result<Option<PutOptions>, Error> {
        Ok(match ttl {
            Some(ttl) => Some(PutOptions::new().with_lease(self.0.leases.get(&self.0.etcd, ttl).await?)),
            None => None,
        })
    }

    /// Reads a page from etcd at an exact revision: keys below `within` (`ns/` or ""), from `start` on.
    pub async fn page(
        &self,
        prefix: &str,
        within: &str,
        start: &str,
        limit: i64,
        revision: u64,
    ) -> Result<Page, Error> {
        let from = if start.is_empty() { within } else { start };
        let read = self.range(prefix, within, from, limit, revision).await.map_err(|error| match error {
            Error::Future { .. } => Error::Future { wanted: revision, current: self.revision() },
            other => other,
        })?;
        let entries: Result<Vec<Entry>, Error> = read.objects.into_iter().map(|(_, decoded)| decoded).collect();
        Ok(Page { entries: entries?, revision: read.revision, more: read.more, count: read.count })
    }

    /// The same of a whole resource, with each object that cannot be decoded in its place.
    pub(crate) async fn raw_page(&self, prefix: &str, start: &str, limit: i64, revision: u64) -> Result<Read, Error> {
        self.range(prefix, "", start, limit, revision).await
    }

    async fn range(&self, prefix: &str, within: &str, from: &str, limit: i64, revision: u64) -> Result<Read, Error> {
        let from = format!("{ROOT}{prefix}{from}");
        let end = prefix_end(format!("{ROOT}{prefix}{within}").as_bytes());
        let mut options = GetOptions::new().with_range(end).with_limit(limit);
        if revision > 0 {
            options = options.with_revision(revision.cast_signed());
        }
        let response = self.run_kv(get(from, Some(options))).await?;
        let skip = ROOT.len() + prefix.len();
        let objects = response.kvs().iter().map(|kv| {
            let key = String::from_utf8_lossy(kv.key().get(skip..).unwrap_or_default()).into_owned();
            let decoded = self.decode(prefix, &key, kv.value(), kv.mod_revision().cast_unsigned());
            (key, decoded)
        });
        let now = response.header().map_or(0, |h| h.revision().cast_unsigned());
        Ok(Read {
            objects: objects.collect(),
            revision: if revision > 0 { revision } else { now },
            more: response.more(),
            count: response.count().cast_unsigned(),
        })
    }

    /// Reads raw keys below a prefix of the root, for what is no API object.
    pub async fn raw_list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let key = format!("{ROOT}{prefix}");
        let options = GetOptions::new().with_prefix();
        let response = self.run_kv(get(key, Some(options))).await?;
        Ok(response
            .kvs()
            .iter()
            .map(|kv| (String::from_utf8_lossy(kv.key()).into_owned(), kv.value().to_vec()))
            .collect())
    }

    /// Reads a raw key with its revision (0 when absent).
    pub async fn raw_get(&self, key: &str) -> Result<(Option<Vec<u8>>, u64), Error> {
        let etcd_key = format!("{ROOT}{key}");
        let response = self.run_short(get(etcd_key, None)).await?;
        Ok(match response.kvs().first() {
            Some(kv) => (Some(kv.value().to_vec()), kv.mod_revision().cast_unsigned()),
            None => (None, 0),
        })
    }

    /// Writes a raw key if it is still at `expected` (0: absent); whether it was.
    pub async fn raw_swap(&self, key: &str, expected: u64, value: Vec<u8>) -> Result<bool, Error> {
        let key = format!("{ROOT}{key}");
        let op = TxnOp::put(key.as_str(), value, None);
        // Another server may write the very same bytes, so what is found does not tell whose they are: a write in doubt
        // counts as lost.
        let nobodys = Some([].as_slice());
        Ok(matches!(self.settle(&key, expected, op, nobodys).await?, Settled::Done(_)))
    }

    /// Writes a raw key that ends by itself after `ttl` seconds.
    pub async fn raw_put_with_ttl(&self, key: &str, value: Vec<u8>, ttl: i64) -> Result<(), Error> {
        let lease = in_time(self.client().await?.lease_client().grant(ttl, None)).await?.id();
        let etcd_key = format!("{ROOT}{key}");
        let options = PutOptions::new().with_lease(lease);
        let put = Txn::new().and_then([TxnOp::put(etcd_key, value, Some(options))]);
        self.run_kv(transaction(put)).await?;
        Ok(())
    }

    /// Deletes a raw key.
    pub async fn raw_delete(&self, key: &str) -> Result<(), Error> {
        let etcd_key = format!("{ROOT}{key}");
        self.run_kv(transaction(Txn::new().and_then([TxnOp::delete(etcd_key, None)]))).await?;
        Ok(())
    }

    fn crypt(&self, prefix: &str) -> Arc<Crypt> {
        self.0.resources.read().get(prefix).map(|r| r.crypt.clone()).unwrap_or_default()
    }

    fn encode(&self, prefix: &str, etcd_key: &str, object: &Value) -> Result<Vec<u8>, Error> {
        let text = kinit_apimachinery::encode::to_vec(&canonical(object)).map_err(|e| Error::Encrypt(e.to_string()))?;
        self.crypt(prefix).seal(etcd_key, &text).map_err(Error::Encrypt)
    }

    pub(crate) fn decode(&self, prefix: &str, key: &str, stored: &[u8], revision: u64) -> Result<Entry, Error> {
        let (reading, crypt) = match self.0.resources.read().get(prefix) {
            Some(resource) => (resource.cache.reading.clone(), resource.crypt.clone()),
            None => (Reading::default(), Arc::default()),
        };
        let etcd_key = path(prefix, key);
        let corrupt = |reason| Error::Corrupt { resource: prefix.to_owned(), key: key.to_owned(), reason };
        let plain = crypt.open(&etcd_key, stored).map_err(corrupt)?;
        let mut entry = Entry::from_stored(key, &plain, revision, &reading).map_err(|e| e.of(prefix))?;
        entry.refreshed |= crypt.is_outdated(stored);
        Ok(entry)
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, EtcdError>> + Send>>;

/// A read, as often as it takes.
fn get(key: String, options: Option<GetOptions>) -> impl Fn(KvClient) -> Answer<GetResponse> + Send {
    move |mut kv| {
        let (key, options) = (key.clone(), options.clone());
        Box::pin(async move { kv.get(key, options).await })
    }
}

/// A transaction, as often as it takes.
fn transaction(txn: Txn) -> impl Fn(KvClient) -> Answer<TxnResponse> + Send {
    move |mut kv| {
        let txn = txn.clone();
        Box::pin(async move { kv.txn(txn).await })
    }
}

fn path(prefix: &str, key: &str) -> String {
    format!("{ROOT}{prefix}{key}")
}

fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

pub(crate) async fn in_time<T, E: Into<Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(Error::timed_out()),
    }
}
