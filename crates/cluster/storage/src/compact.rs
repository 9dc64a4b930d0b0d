//! Compaction of etcd's history, as upstream's `etcd3.StartCompactor`: every five minutes what was five minutes ago.
//!
//! Several servers share one key whose version counts the rounds: who advances it first compacts, the others learn.

use std::time::Duration;

use kinit_etcd_connect::etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::store::{Store, in_time};

/// Upstream's `--etcd-compaction-interval`.
const INTERVAL: Duration = Duration::from_secs(300);
/// Upstream's name: a server of theirs and one of ours agree.
const KEY: &str = "compact_rev_key";

/// Where the rounds are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Round {
    number: i64,
    revision: i64,
}

impl Store {
    /// Compacts until `shutdown`.
    pub(crate) async fn compact(&self, shutdown: &CancellationToken) {
        let mut round = Round::default();
        loop {
            self.0.resources.read().values().for_each(|resource| resource.cache.trim());
            match self.compact_once(round).await {
                Ok(next) => round = next,
                Err(error) => tracing::warn!(%error, "compact etcd"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn compact_once(&self, round: Round) -> Result<Round, Error> {
        let txn = Txn::new()
            .when([Compare::version(KEY, CompareOp::Equal, round.number)])
            .and_then([TxnOp::put(KEY, round.revision.to_string(), None)])
            .or_else([TxnOp::get(KEY, None)]);
        let mut kv = self.kv().await?;
        let response = in_time(kv.txn(txn)).await?;
        let now = response.header().map_or(0, |h| h.revision());
        if !response.succeeded() {
            // Somebody else has the round; their count is ours from now on.
            let number = match response.op_responses().into_iter().next() {
                Some(TxnOpResponse::Get(got)) => got.kvs().first().map_or(0, |kv| kv.version()),
                _ => 0,
            };
            return Ok(Round { number, revision: now });
        }
        if round.revision > 0 {
            match in_time(kv.compact(round.revision, None)).await {
                Ok(_) => tracing::debug!(revision = round.revision, "etcd compacted"),
                // Compacted beyond it already: what was wanted.
                Err(Error::Compacted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Round { number: round.number + 1, revision: now })
    }
}
