//! One etcd watch over everything, from which all caches live.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kinit_etcd_connect::etcd_client::{EventType, GetOptions, WatchOptions, WatchResponse};
use tokio_util::sync::CancellationToken;

use crate::cache::{Picture, bound};
use crate::error::Error;
use crate::store::{ROOT, Store, in_time};

const PAGE: i64 = 1000;
/// Bytes of the events of all resources that are kept at most.
const HISTORIES: usize = 256 << 20;
/// After how many bytes of events it is looked whether they are too many.
const LOOK: usize = 4 << 20;
/// Below the root, where no resource is.
const MARK: &str = "kinit-progress";

impl Store {
    /// Feeds the caches until `shutdown`: a first picture, then every change, resuming after a lost connection.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(self.probe(&shutdown), self.compact(&shutdown), self.feed(&shutdown));
    }

    async fn feed(&self, shutdown: &CancellationToken) {
        let mut wait = Duration::from_millis(50);
        loop {
            let before = self.revision();
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.follow() => result,
            };
            if self.revision() > before {
                wait = Duration::from_millis(50);
            }
            match result {
                Ok(()) => tracing::info!("etcd ended the watch; resuming"),
                Err(Error::Compacted) => {
                    tracing::warn!("the watch fell behind etcd's compaction; reading everything again");
                    self.0.ready.send_replace(false);
                }
                Err(error) => {
                    tracing::warn!(%error, "watch etcd; trying again");
                    self.0.etcd.failed();
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    async fn follow(&self) -> Result<(), Error> {
        if !self.is_ready() {
            let revision = self.read_all().await?;
            self.reached(revision);
            self.0.ready.send_replace(true);
        }
        let from = self.revision() + 1;
        let options = WatchOptions::new().with_prefix().with_start_revision(from.cast_signed()).with_progress_notify();
        let sound = self.progress_is_sound().await?;
        let mut watches = self.client().await?.watch_client().max_decoding_message_size(256 << 20);
        let mut stream = in_time(watches.watch(ROOT, Some(options))).await?;
        loop {
            tokio::select! {
                // A request for progress must not starve the events, nor the other way round.
                message = stream.message() => match message? {
                    Some(message) => self.absorb(&message, sound)?,
                    None => return Ok(()),
                },
                () = self.0.progress.notified() => match sound {
                    true => in_time(stream.request_progress()).await?,
                    false => self.mark().await?,
                },
            }
        }
    }

    /// Reads all keys at one revision and fills the caches; that revision.
    async fn read_all(&self) -> Result<u64, Error> {
        let first_time = self.revision() == 0;
        // One that is added from here on reads its own picture, which is later than this one.
        let resources: Vec<_> = self.0.resources.read().iter().map(|(p, r)| (p.clone(), r.cache.clone())).collect();
        let end = {
            let mut end = ROOT.as_bytes().to_vec();
            if let Some(last) = end.last_mut() {
                *last += 1;
            }
            end
        };
        let mut found: HashMap<String, Picture> = HashMap::new();
        let (mut start, mut revision) = (ROOT.as_bytes().to_vec(), 0u64);
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE);
            if revision > 0 {
                options = options.with_revision(revision.cast_signed());
            }
            let mut kv = self.kv().await?;
            let response = in_time(kv.get(start.clone(), Some(options))).await?;
            if revision == 0 {
                revision = response.header().map_or(0, |h| h.revision().cast_unsigned());
            }
            for kv in response.kvs() {
                let Some((prefix, key)) = self.split(kv.key()) else { continue };
                let decoded = self.decode(&prefix, &key, kv.value(), kv.mod_revision().cast_unsigned());
                let picture = found.entry(prefix).or_default();
                match decoded {
                    Ok(entry) => picture.entries.push(entry),
                    // One unreadable object must not keep the whole server from starting: lists that would hold it
                    // fail.
                    Err(error) => {
                        tracing::error!(%error, "an object cannot be read");
                        picture.unreadable.insert(key.into(), error.reason());
                    }
                }
            }
            match response.kvs().last() {
                Some(last) if response.more() => start = [last.key(), b"\0"].concat(),
                _ => break,
            }
        }
        for (prefix, cache) in resources {
            let picture = found.remove(&prefix).unwrap_or_default();
            if first_time || !cache.is_filled() {
                cache.fill(picture, revision)
            } else {
                cache.refill(picture, revision)
            }
        }
        Ok(revision)
    }

    /// Whether a progress notification of this etcd comes after all events up to its revision. Those of older releases
    /// may overtake events (`storage/feature.RequestWatchProgress` of upstream; fixed in etcd 3.4.25 and 3.5.8).
    async fn progress_is_sound(&self) -> Result<bool, Error> {
        let status = in_time(self.client().await?.maintenance_client().status()).await?;
        let sound = reports_sound_progress(status.version());
        if !sound {
            tracing::warn!(
                version = status.version(),
                "this etcd's progress notifications are not reliable; reads are ordered by writes"
            );
        }
        Ok(sound)
    }

    /// Writes a key whose event follows all that was committed before: what a progress notification should tell.
    async fn mark(&self) -> Result<(), Error> {
        in_time(self.kv().await?.put(format!("{ROOT}{MARK}"), "", None)).await.map(drop)
    }

    fn absorb(&self, message: &WatchResponse, sound: bool) -> Result<(), Error> {
        if message.canceled() {
            if message.compact_revision() > 0 {
                return Err(Error::Compacted);
            }
            return Err(Error::Unavailable(message.cancel_reason().to_owned()));
        }
        let mut absorbed = 0;
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            // A delete brings no bytes, and keeps some.
            absorbed += kv.value().len().max(LOOK / 64);
            let revision = kv.mod_revision().cast_unsigned();
            let Some((prefix, key)) = self.split(kv.key()) else { continue };
            let Some(cache) = self.cache(&prefix) else { continue };
            match event.event_type() {
                EventType::Delete => cache.delete(&key, revision),
                EventType::Put => match self.decode(&prefix, &key, kv.value(), revision) {
                    Ok(entry) => cache.put(entry),
                    Err(error) => {
                        tracing::error!(%error, "an object cannot be read");
                        cache.spoil(&key, revision, error.reason());
                    }
                },
            }
        }
        self.bound_histories(absorbed);
        // A header's revision counts only in a progress message: with events, or in the answer to "created", others up
        // to that revision may still be on their way.
        let last = message.events().iter().filter_map(|e| e.kv()).map(|kv| kv.mod_revision()).max();
        match (last, message.header()) {
            (Some(revision), _) => self.reached(revision.cast_unsigned()),
            (None, Some(header)) if sound && !message.created() => self.reached(header.revision().cast_unsigned()),
            _ => {}
        }
        Ok(())
    }

    /// Looks at the histories whenever some has come to them.
    fn bound_histories(&self, absorbed: usize) {
        if self.0.absorbed.fetch_add(absorbed, Ordering::Relaxed) + absorbed < LOOK {
            return;
        }
        self.0.absorbed.store(0, Ordering::Relaxed);
        let caches: Vec<_> = self.0.resources.read().values().map(|resource| resource.cache.clone()).collect();
        bound(&caches, HISTORIES);
    }

    fn reached(&self, revision: u64) {
        let moved = self.0.revision.send_if_modified(|seen| {
            let moved = revision > *seen;
            *seen = (*seen).max(revision);
            moved
        });
        if moved {
            tracing::trace!(revision, "caches have reached");
        }
    }

    /// The resource's prefix and the key below it.
    fn split(&self, etcd_key: &[u8]) -> Option<(String, String)> {
        let key = std::str::from_utf8(etcd_key).ok()?.strip_prefix(ROOT)?;
        let resources = self.0.resources.read();
        let mut at = 0;
        // A prefix has one part (pods/) or two (services/specs/, example.com/widgets/).
        for _ in 0..2 {
            at += key[at..].find('/')? + 1;
            if resources.contains_key(&key[..at]) {
                return Some((key[..at].to_owned(), key[at..].to_owned()));
            }
        }
        None
    }
}

/// By the version that etcd tells; one that cannot be read is trusted with nothing.
fn reports_sound_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(3), Some(4), Some(patch)) => patch >= 25,
        (Some(3), Some(5), Some(patch)) => patch >= 8,
        (Some(major), Some(minor), _) => (major, minor) > (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn old_releases_are_not_trusted() {
        for (version, sound) in [
            ("3.4.23", false),
            ("3.4.25", true),
            ("3.5.7", false),
            ("3.5.8", true),
            ("3.5.16", true),
            ("3.6.0-rc.1", true),
            ("4.0.0", true),
            ("3.3.27", false),
            ("", false),
            ("main", false),
        ] {
            assert_eq!(super::reports_sound_progress(version), sound, "{version}");
        }
    }
}
