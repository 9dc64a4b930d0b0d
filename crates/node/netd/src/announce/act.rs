//! Writes to the Leases. Each is bound to the version that the decision was made by: whoever is faster wins.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kinit_client::informer::{Store, join_key};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use tokio::time::Instant;

use super::heart::{RESPECT, is_status};
use super::lease;

/// An API that takes longer than this for a read was stuck a moment ago, and renewals with it.
const SLOW: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(2);

/// The Leases, as they were seen and where they are written.
#[derive(Clone)]
pub struct Leases {
    /// Writes.
    pub api: Api<Lease>,
    /// Reads.
    pub store: Arc<Store<Lease>>,
    /// This node.
    pub node: String,
}

impl Leases {
    /// What was seen last.
    pub fn get(&self, name: &str) -> Option<Arc<Lease>> {
        self.store.get(&join_key(lease::NAMESPACE, name))
    }

    /// Takes an address's Lease; `None` when somebody was faster, else its version.
    pub async fn take(&self, address: Ipv4Addr) -> Result<Option<u64>> {
        let name = lease::of_address(address);
        let written = match self.get(&name) {
            Some(seen) => self.replace(&lease::renewed(&seen, &self.node)).await,
            None => {
                let fresh = lease::new(&name, &self.node, RESPECT, None);
                within(self.api.create(&PostParams::default(), &fresh)).await
            }
        };
        Ok(self.keep(written).with_context(|| format!("take {address}"))?.as_ref().map(lease::version))
    }

    /// Gives an address's Lease up.
    pub async fn give_up(self, address: Ipv4Addr) -> Result<()> {
        let Some(seen) = self.get(&lease::of_address(address)) else { return Ok(()) };
        if lease::holder(&seen) == Some(self.node.as_str()) {
            let written = self.replace(&lease::emptied(&seen)).await;
            self.keep(written).with_context(|| format!("give up {address}"))?;
        }
        Ok(())
    }

    /// Removes the Lease of an address that no Service has.
    pub async fn forget(self, address: Ipv4Addr) -> Result<()> {
        let name = lease::of_address(address);
        let Some(seen) = self.get(&name) else { return Ok(()) };
        let conditions = Preconditions { resource_version: seen.resource_version(), uid: seen.uid() };
        let params = DeleteParams::default().preconditions(conditions);
        match within(self.api.delete(&name, &params)).await {
            Err(Failure::Api(error)) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
            done => done.map(drop).map_err(anyhow::Error::from).with_context(|| format!("remove Lease {name}")),
        }
    }

    /// Empties the sign of life of a node that has been silent; true when it is dead, false when it lives after all.
    pub async fn declare_dead(&self, node: &str) -> Result<bool> {
        let name = lease::of_node(node);
        let begun = Instant::now();
        let current =
            within(self.api.get_opt(&name)).await.with_context(|| format!("look for {node}'s sign of life"))?;
        let Some(current) = current else { return Ok(true) };
        // A renewal that waited as long as this read did comes through now.
        if begun.elapsed() > SLOW {
            return Ok(false);
        }
        let seen = self.get(&name);
        if seen.and_then(|seen| seen.resource_version()) != current.resource_version() {
            return Ok(false);
        }
        let written = self.replace(&lease::emptied(&current)).await;
        Ok(self.keep(written).with_context(|| format!("count {node} as dead"))?.is_some())
    }

    async fn replace(&self, wanted: &Lease) -> Result<Lease, Failure> {
        within(self.api.replace(&wanted.name_any(), &PostParams::default(), wanted)).await
    }

    /// What was written is known at once, and not only when the watch brings it.
    fn keep(&self, written: Result<Lease, Failure>) -> Result<Option<Lease>> {
        match written {
            Ok(written) => {
                self.store.apply(written.clone());
                Ok(Some(written))
            }
            Err(Failure::Api(error)) if is_status(&error, 409) || is_status(&error, 404) => Ok(None),
            Err(error) => bail!(error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API did not answer within {PATIENCE:?}")]
    Late,
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, request).await.map_err(|_| Failure::Late)?.map_err(Failure::Api)
}
