//! Renewal of this host's certificates without a desk, begun by a systemd timer: what is in the last third of its life
//! is issued anew where the authority's key is on the host, and the programs that read it are started again.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kinit_resource::{LeafSpec, Observed, Place, Resource, Shared, what};
use serde::{Deserialize, Serialize};

use crate::files::read_optional;
use crate::journal::Journal;
use crate::kubeconfig::Kubeconfig;
use crate::lock::{self, Lock};
use crate::opening::Caller;
use crate::shared::Store;
use crate::{apply, files, observe, secrets};

/// Where metrics are, for node_exporter's textfile collector.
const METRICS: &str = "/var/lib/kinit/metrics/certificates.prom";
const KUBELET: [&str; 2] =
    ["/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/kubelet/pki/kubelet-server-current.pem"];

/// What the host's file says (`/etc/kubernetes/renewal.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewing {
    /// This host's name in the cluster.
    pub host: String,
    /// Certificates, then the programs that read them with their health checks, in order.
    pub resources: Vec<Resource>,
}

/// Renews what is due.
pub async fn run_renewal(config: &Path) -> Result<()> {
    let text = std::fs::read_to_string(config).with_context(|| format!("read {}", config.display()))?;
    let wanted: Renewing = serde_json::from_str(&text).with_context(|| format!("parse {}", config.display()))?;
    let lock = Lock::open(Path::new(lock::PATH))?;
    if !lock.try_take()? {
        tracing::info!("a kinit works on this host, and renews what is due; tomorrow again");
        return Ok(());
    }
    let caller =
        Caller { by: format!("systemd@{}", wanted.host), pid: std::process::id(), operation: "renewal".to_owned() };
    let mut journal = Journal::host(caller);
    let mut failures = Vec::new();
    let mut renewed = 0;
    for leaf in wanted.resources.iter().filter_map(leaf) {
        match secrets::observe(leaf)? {
            Observed::AsWanted => continue,
            Observed::Differs(why) => tracing::info!(certificate = leaf.path(), why, "due"),
            // Whatever took it away is a desk's affair.
            _ => continue,
        }
        journal.begin();
        let begun = Instant::now();
        let error = issue(leaf).err().map(|error| format!("{error:#}"));
        journal.step(leaf.path(), milliseconds(begun), error.as_deref());
        match error {
            None => renewed += 1,
            Some(error) => failures.push(format!("{}: {error}", leaf.path())),
        }
    }
    if renewed > 0 {
        failures.extend(restart(&wanted, &mut journal).await);
    }
    measure(&wanted, failures.is_empty())?;
    let failed = (!failures.is_empty()).then(|| failures.join("; "));
    if renewed > 0 || failed.is_some() {
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

fn leaf(resource: &Resource) -> Option<&LeafSpec> {
    if let Resource::Leaf(leaf) = resource { Some(leaf) } else { None }
}

fn issue(leaf: &LeafSpec) -> Result<()> {
    let authority = Shared::Authority(leaf.leaf.authority());
    match Store::host().observe(authority, Place::Whole)? {
        Observed::Fingerprint(_) => secrets::issue_here(leaf),
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

/// When each certificate of the host ends.
fn measure(wanted: &Renewing, succeeded: bool) -> Result<()> {
    let mut lines = String::new();
    let paths = wanted.resources.iter().filter_map(leaf).map(LeafSpec::path);
    for path in paths.chain(KUBELET.map(str::to_owned)) {
        let Some(text) = read_optional(&path)? else { continue };
        let pem = if path.ends_with(".conf") {
            Kubeconfig::parse(&text).ok().and_then(|read| read.credentials()).map(|(certificate, _)| certificate)
        } else {
            Some(text)
        };
        if let Some(end) = pem.as_deref().and_then(kinit_pki::expires_at) {
            lines += &format!("kinit_certificate_end_timestamp_seconds{{path=\"{path}\"}} {}\n", end.unix_timestamp());
        }
    }
    let text = format!(
        "# HELP kinit_certificate_end_timestamp_seconds When a certificate of this host ends.\n\
         # TYPE kinit_certificate_end_timestamp_seconds gauge\n{lines}\
         # HELP kinit_renewal_last_attempt_succeeded Whether everything that was due was renewed.\n\
         # TYPE kinit_renewal_last_attempt_succeeded gauge\nkinit_renewal_last_attempt_succeeded {}\n",
        u8::from(succeeded)
    );
    std::fs::create_dir_all(Path::new(METRICS).parent().unwrap_or(Path::new("/")))
        .context("make the folder for metrics")?;
    files::write(METRICS, text.as_bytes(), 0o644, "root:root")
}
