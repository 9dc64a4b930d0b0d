//! Leases for objects that end by themselves, shared by what is written within the same minute
//! (upstream's `etcd3.leaseManager`).

use std::time::{Duration, Instant};

use kinit_etcd_connect::Etcd;
use tokio::sync::Mutex;

use crate::error::Error;

const REUSE: Duration = Duration::from_secs(60);
const MAX_OBJECTS: u32 = 1000;

#[derive(Default)]
pub(crate) struct Leases(Mutex<Option<Current>>);

struct Current {
    id: i64,
    ttl: i64,
    since: Instant,
    objects: u32,
}

impl Leases {
    /// A lease that lasts at least `ttl` seconds.
    pub async fn get(&self, etcd: &Etcd, ttl: i64) -> Result<i64, Error> {
        let mut current = self.0.lock().await;
        if let Some(lease) = current.as_mut()
            && lease.ttl == ttl
            && lease.since.elapsed() < REUSE
            && lease.objects < MAX_OBJECTS
        {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let granted = etcd.client().await?.lease_client().grant(ttl + 60, None).await?;
        *current = Some(Current { id: granted.id(), ttl, since: Instant::now(), objects: 1 });
        Ok(granted.id())
    }
}
