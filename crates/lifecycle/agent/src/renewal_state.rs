//! What is known of the renewal of this host's certificates: when what is due next, and how the last run ended.

use std::path::Path;

use anyhow::{Context, Result};
use kinit_resource::LeafSpec;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::files::{self, read_optional};
use crate::kubeconfig::Kubeconfig;
use crate::renewal::{self, Renewing, leaf};
use crate::systemd;

const CONFIG: &str = "/etc/kubernetes/renewal.json";
/// How the last run ended.
const LAST: &str = "/var/lib/kinit/last-renewal.json";
/// Where metrics are, for node_exporter's textfile collector.
const METRICS: &str = "/var/lib/kinit/metrics/certificates.prom";
const TIMER: &str = "kinit-renewal.timer";
const KUBELET: [&str; 2] =
    ["/var/lib/kubelet/pki/kubelet-client-current.pem", "/var/lib/kubelet/pki/kubelet-server-current.pem"];

/// How a run of the timer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRenewal {
    /// When, in seconds since 1970.
    pub time: i64,
    /// Files that were renewed.
    pub renewed: Vec<String>,
    /// What did not work.
    pub failed: Option<String>,
}

/// A certificate, and when its renewal is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DueRenewal {
    /// Its file.
    pub path: String,
    /// When, in seconds since 1970.
    pub time: i64,
}

/// The renewal of a host's certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalState {
    /// When the timer starts it next, in seconds since 1970; nothing when the timer does not run.
    pub next_run: Option<i64>,
    /// What is due first.
    pub due: Option<DueRenewal>,
    /// The last run; nothing before the first.
    pub last: Option<LastRenewal>,
}

/// What is known; nothing on a host without a timer.
pub(crate) async fn state() -> Result<Option<RenewalState>> {
    let path = Path::new(CONFIG);
    if !path.exists() {
        return Ok(None);
    }
    let wanted = renewal::config(path)?;
    let next_run = systemd::next_elapse(TIMER).await.with_context(|| format!("look at {TIMER}"))?;
    let last = read_optional(LAST)?.map(|text| serde_json::from_str(&text)).transpose();
    let last = last.with_context(|| format!("parse {LAST}"))?;
    Ok(Some(RenewalState { next_run, due: first_due(wanted.resources.iter().filter_map(leaf))?, last }))
}

fn first_due<'a>(leaves: impl Iterator<Item = &'a LeafSpec>) -> Result<Option<DueRenewal>> {
    let mut first: Option<DueRenewal> = None;
    for path in leaves.map(LeafSpec::path) {
        let Some(pem) = certificate(&path)? else { continue };
        let Some(info) = kinit_pki::inspect(&pem).into_iter().next() else { continue };
        let margin = kinit_pki::renewal_margin(Duration::seconds(info.not_after - info.not_before));
        let time = info.not_after - margin.whole_seconds();
        if first.as_ref().is_none_or(|first| time < first.time) {
            first = Some(DueRenewal { path, time });
        }
    }
    Ok(first)
}

/// The certificate of a file or of a kubeconfig, PEM.
fn certificate(path: &str) -> Result<Option<String>> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    if !path.ends_with(".conf") {
        return Ok(Some(text));
    }
    Ok(Kubeconfig::parse(&text).ok().and_then(|read| read.credentials()).map(|(certificate, _)| certificate))
}

/// Notes how a run ended, for the next kinit and for monitoring.
pub(crate) fn note(wanted: &Renewing, renewed: Vec<String>, failed: Option<String>) -> Result<()> {
    let succeeded = failed.is_none();
    let last = LastRenewal { time: OffsetDateTime::now_utc().unix_timestamp(), renewed, failed };
    let text = serde_json::to_vec(&last).context("encode how the renewal ended")?;
    files::write(LAST, &text, 0o600, "root:root")?;
    measure(wanted, succeeded, last.time)
}

/// When each certificate of the host ends.
fn measure(wanted: &Renewing, succeeded: bool, now: i64) -> Result<()> {
    let mut lines = String::new();
    let paths = wanted.resources.iter().filter_map(leaf).map(LeafSpec::path);
    for path in paths.chain(KUBELET.map(str::to_owned)) {
        if let Some(end) = certificate(&path)?.as_deref().and_then(kinit_pki::expires_at) {
            lines += &format!("kinit_certificate_end_timestamp_seconds{{path=\"{path}\"}} {}\n", end.unix_timestamp());
        }
    }
    let text = format!(
        "# HELP kinit_certificate_end_timestamp_seconds When a certificate of this host ends.\n\
         # TYPE kinit_certificate_end_timestamp_seconds gauge\n{lines}\
         # HELP kinit_renewal_last_attempt_timestamp_seconds When the timer looked at the certificates last.\n\
         # TYPE kinit_renewal_last_attempt_timestamp_seconds gauge\nkinit_renewal_last_attempt_timestamp_seconds {now}\n\
         # HELP kinit_renewal_last_attempt_succeeded Whether everything that was due was renewed.\n\
         # TYPE kinit_renewal_last_attempt_succeeded gauge\nkinit_renewal_last_attempt_succeeded {}\n",
        u8::from(succeeded)
    );
    std::fs::create_dir_all(Path::new(METRICS).parent().unwrap_or(Path::new("/")))
        .context("make the folder for metrics")?;
    files::write(METRICS, text.as_bytes(), 0o644, "root:root")
}

#[cfg(test)]
mod tests {
    use kinit_pki::{KeyAlgorithm, Leaf, Subject, Usage};
    use kinit_resource::LeafForm;

    use super::*;

    #[test]
    fn what_is_due_first_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let ca = kinit_pki::new_authority("ca", KeyAlgorithm::EcdsaP256, 400, now).unwrap();
        let leaf = |name: &str, days: u32| {
            let subject = Subject {
                common_name: "x".into(),
                organization: None,
                usages: vec![Usage::Client],
                dns: vec![],
                ips: vec![],
                days,
            };
            let key = kinit_pki::new_key(KeyAlgorithm::EcdsaP256).unwrap();
            let request = kinit_pki::request(&key, &subject).unwrap();
            let path = dir.path().join(name).display().to_string();
            let certificate = kinit_pki::issue(&ca, &request, &subject, now).unwrap();
            std::fs::write(format!("{path}.crt"), certificate).unwrap();
            let form = LeafForm::Files { path, owner: "root:root".into() };
            let (leaf, authority_file) = (Leaf::Admin.into(), String::new());
            LeafSpec { leaf, subject, algorithm: KeyAlgorithm::EcdsaP256, form, authority_file }
        };
        let (year, month, mut missing) = (leaf("year", 365), leaf("month", 30), leaf("missing", 1));
        missing.form = LeafForm::Files { path: "/nowhere".into(), owner: String::new() };
        let due = first_due([&year, &month, &missing].into_iter()).unwrap().unwrap();
        assert!(due.path.ends_with("month.crt"));
        let day = (due.time - now.unix_timestamp()) / 86_400;
        assert!((19..=20).contains(&day), "two thirds of 30 days: {day}");
        assert_eq!(first_due([&missing].into_iter()).unwrap(), None);
    }
}
