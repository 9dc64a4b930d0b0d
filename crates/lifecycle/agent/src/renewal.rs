//! Renewal of this host's certificates without a desk, begun by a systemd timer: what is in the last third of its life
//! is issued anew, and the programs that read it are started again. Where the authority's key is on the host, the host
//! signs; elsewhere the cluster does, asked through its API with the node's own identity ([`Signer`]).

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinit_resource::{LeafSpec, Observed, Place, Resource, Shared, what};
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::lock::{self, Lock};
use crate::opening::Caller;
use crate::shared::Store;
use crate::{apply, observe, renewal_state, secrets, signed};

/// What the host's file says (`/etc/kubernetes/renewal.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewing {
    /// This host's name in the cluster.
    pub host: String,
    /// Whether the cluster signs what a node asks it for.
    #[serde(default)]
    pub cluster_signs: bool,
    /// Certificates, then the programs that read them with their health checks, in order.
    pub resources: Vec<Resource>,
}

/// Who signs what this host cannot sign itself.
#[async_trait::async_trait]
pub trait Signer: Sync {
    /// Has the cluster sign a request (PEM) of this node; returns the certificate.
    async fn sign(&self, leaf: &LeafSpec, request: String) -> Result<String>;
}

/// What the host's file says.
pub(crate) fn config(path: &Path) -> Result<Renewing> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// Renews what is due.
pub async fn run_renewal(path: &Path, signer: &dyn Signer) -> Result<()> {
    let wanted = config(path)?;
    let lock = Lock::open(Path::new(lock::PATH))?;
    if !lock.try_take()? {
        tracing::info!("a kinit works on this host, and renews what is due; tomorrow again");
        return Ok(());
    }
    let caller =
        Caller { by: format!("systemd@{}", wanted.host), pid: std::process::id(), operation: "renewal".to_owned() };
    let mut journal = Journal::host(caller);
    let mut failures = Vec::new();
    let mut renewed = Vec::new();
    for leaf in wanted.resources.iter().filter_map(leaf) {
        match secrets::observe(leaf)? {
            Observed::AsWanted => continue,
            Observed::Differs(why) | Observed::Signed(why) => tracing::info!(certificate = leaf.path(), why, "due"),
            // Whatever took it away is a desk's affair.
            _ => continue,
        }
        journal.begin();
        let begun = Instant::now();
        let error = issue(leaf, wanted.cluster_signs, signer).await.err().map(|error| format!("{error:#}"));
        journal.step(leaf.path(), milliseconds(begun), error.as_deref());
        match error {
            None => renewed.push(leaf.path()),
            Some(error) => failures.push(format!("{}: {error}", leaf.path())),
        }
    }
    if !renewed.is_empty() {
        failures.extend(restart(&wanted, &mut journal).await);
    }
    let failed = (!failures.is_empty()).then(|| failures.join("; "));
    let changed = !renewed.is_empty() || failed.is_some();
    renewal_state::note(&wanted, renewed, failed.clone())?;
    if changed {
        journal.end(failed.as_deref());
    }
    match failed {
        None => Ok(()),
        Some(failed) => bail!("{failed}"),
    }
}

fn milliseconds(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn leaf(resource: &Resource) -> Option<&LeafSpec> {
    if let Resource::Leaf(leaf) = resource { Some(leaf) } else { None }
}

async fn issue(leaf: &LeafSpec, cluster_signs: bool, signer: &dyn Signer) -> Result<()> {
    if signed::waits(leaf)? {
        return signed::install(leaf);
    }
    let authority = Shared::Authority(leaf.leaf.authority());
    match Store::host().observe(authority, Place::Whole)? {
        Observed::Fingerprint(_) => secrets::issue_here(leaf),
        _ if cluster_signs && authority == Shared::CLUSTER => {
            let (key, request) = secrets::new_request(leaf)?;
            let certificate = signer.sign(leaf, request).await.context("have the cluster sign it")?;
            secrets::take(leaf, &certificate, &key)
        }
        _ => bail!("the key of {} is not on this host: it has to be signed where that is", authority.name()),
    }
}

/// Programs that read what was renewed, one after the other, each waited for.
async fn restart(wanted: &Renewing, journal: &mut Journal) -> Vec<String> {
    for resource in wanted.resources.iter().filter(|resource| leaf(resource).is_none()) {
        if observe::observe(resource).await == Observed::AsWanted {
            continue;
        }
        let begun = Instant::now();
        let error = apply::apply(resource, None).await.err().map(|error| format!("{error:#}"));
        journal.step(what(resource), milliseconds(begun), error.as_deref());
        if let Some(error) = error {
            // The others run well; another host's turn comes, and tomorrow.
            return vec![format!("{}: {error}", what(resource))];
        }
    }
    Vec::new()
}
