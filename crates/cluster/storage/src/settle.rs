//! Writes whose outcome is known even when the answer is lost.
//!
//! A write that a follower has passed on to a leader that died is answered by etcd only after seven seconds
//! (`ReqTimeout`: 5 s and two election timeouts), though a new leader is there after one. All our writes are guarded by
//! the key's revision, so a second one cannot do it twice: whichever commits first makes the other's guard fail, and
//! the value that is then found tells whether it was ours. A key that is gone does not tell who deleted it: two that
//! delete the same revision in such a moment may both hear that they did, which is what both wanted.

use std::time::{Duration, Instant};

use kinit_etcd_connect::etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse, TxnResponse};

use crate::error::Error;
use crate::store::{REQUEST, Store};

/// An answer that takes longer may never come: an election timeout and a half. Most elections have ended by then.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(1500);
const BETWEEN: Duration = Duration::from_millis(50);

/// What is stored at a key: the bytes and their revision.
pub(crate) type Stored = (Vec<u8>, u64);

/// What became of a guarded write.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It was made, at this revision.
    Done(u64),
    /// The key was at another revision; what is there now.
    Other(Option<Stored>),
}

impl Store {
    /// Writes `value` to a key, or deletes it (`None`), if the key is at `expected` (0: absent). `op` is the operation
    /// itself.
    pub(crate) async fn settle(
        &self,
        etcd_key: &str,
        expected: u64,
        op: TxnOp,
        value: Option<&[u8]>,
    ) -> Result<Settled, Error> {
        let txn = Txn::new()
            .when([Compare::mod_revision(etcd_key, CompareOp::Equal, expected.cast_signed())])
            .and_then([op])
            .or_else([TxnOp::get(etcd_key, None)]);
        let deadline = Instant::now() + REQUEST;
        let mut in_doubt = false;
        loop {
            let mut kv = self.kv().await?;
            let error = match tokio::time::timeout(ATTEMPT, kv.txn(txn.clone())).await {
                Ok(Ok(response)) => return Ok(judge(response, value, in_doubt)),
                Ok(Err(error)) => {
                    let error = Error::from(error);
                    if !matches!(error, Error::Unavailable(_)) {
                        return Err(error);
                    }
                    self.0.etcd.failed();
                    error
                }
                Err(_) => {
                    // The first time the endpoint is most likely well, and its leader was not.
                    if in_doubt {
                        self.0.etcd.failed();
                    }
                    Error::timed_out()
                }
            };
            in_doubt |= !error.is_unsent();
            if Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

/// Reads an answer; `in_doubt` when an earlier attempt may have been the one that did it.
fn judge(response: TxnResponse, value: Option<&[u8]>, in_doubt: bool) -> Settled {
    let revision = response.header().map_or(0, |h| h.revision().cast_unsigned());
    if response.succeeded() {
        return Settled::Done(revision);
    }
    let found = match response.op_responses().into_iter().next() {
        Some(TxnOpResponse::Get(got)) => {
            got.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision().cast_unsigned()))
        }
        _ => None,
    };
    doubted(found, value, in_doubt, revision)
}

fn doubted(found: Option<Stored>, value: Option<&[u8]>, in_doubt: bool, revision: u64) -> Settled {
    match (&found, value) {
        (Some((bytes, at)), Some(ours)) if in_doubt && bytes == ours => Settled::Done(*at),
        (None, None) if in_doubt => Settled::Done(revision),
        _ => Settled::Other(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_tells_whose_write_it_was() {
        let stored = |text: &str| Some((text.as_bytes().to_vec(), 7));
        let (ours, in_doubt) = (Some(b"ours".as_slice()), true);
        // (found, written, in doubt, outcome)
        let table = [
            (stored("ours"), ours, in_doubt, Settled::Done(7)),
            (stored("ours"), ours, false, Settled::Other(stored("ours"))),
            (stored("theirs"), ours, in_doubt, Settled::Other(stored("theirs"))),
            (None, ours, in_doubt, Settled::Other(None)),
            (None, None, in_doubt, Settled::Done(9)),
            (None, None, false, Settled::Other(None)),
            (stored("theirs"), None, in_doubt, Settled::Other(stored("theirs"))),
        ];
        for (found, value, in_doubt, outcome) in table {
            assert_eq!(doubted(found.clone(), value, in_doubt, 9), outcome, "{found:?} {value:?} {in_doubt}");
        }
    }
}
