//! `csrcleaner`: old requests go (`pkg/controller/certificates/cleaner`).

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{ACCOUNT, conditions, is_issued};
use crate::context::Context;
use crate::object::ignore_gone;

const DONE: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Runs the controller: ages pass without events, so it looks once a minute, at the store alone.
pub async fn run(ctx: Context) -> Result<()> {
    let api: Api<CertificateSigningRequest> = Api::all(ctx.client(ACCOUNT).await?);
    let requests = ctx.store::<CertificateSigningRequest>();
    let shutdown = ctx.shutdown();
    let mut minute = tokio::time::interval(std::time::Duration::from_secs(60));
    loop {
        tokio::select! { () = shutdown.cancelled() => return Ok(()), _ = minute.tick() => {} }
        for csr in requests.list() {
            if !is_over(&csr, Timestamp::now()) {
                continue;
            }
            let name = csr.name_any();
            match ignore_gone(api.delete(&name, &DeleteParams::default()).await) {
                Ok(_) => tracing::info!(csr = name, "deleted an old request"),
                Err(error) => tracing::warn!(csr = name, %error, "delete an old request"),
            }
        }
    }
}

fn is_over(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |at: Timestamp, limit: SignedDuration| now.duration_since(at) > limit;
    if is_issued(csr) && expired(csr, now) {
        return true;
    }
    let mut decided = false;
    for condition in conditions(csr).filter(|c| ["Approved", "Denied", "Failed"].contains(&c.type_.as_str())) {
        decided = true;
        let waiting = condition.type_ == "Approved" && !is_issued(csr);
        let since = condition.last_update_time.as_ref().or(csr.metadata.creation_timestamp.as_ref());
        if since.is_some_and(|t| older(t.0, if waiting { PENDING } else { DONE })) {
            return true;
        }
    }
    !decided && csr.metadata.creation_timestamp.as_ref().is_some_and(|t| older(t.0, PENDING))
}

fn expired(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let Some(pem) = csr.status.as_ref().and_then(|s| s.certificate.as_ref()) else { return false };
    let Ok(der) = CertificateDer::from_pem_slice(&pem.0) else { return false };
    x509_parser::parse_x509_certificate(&der).is_ok_and(|(_, c)| c.validity().not_after.timestamp() < now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages() {
        let hours_ago =
            |h: i64| Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_hours(1000 - h)).unwrap().to_string();
        let now = Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_hours(1000)).unwrap();
        for (created, condition, issued, over) in [
            (25, None, false, true),
            (23, None, false, false),
            (30, Some(("Denied", 2)), false, true),
            (30, Some(("Approved", 2)), false, false),
            (30, Some(("Approved", 2)), true, true),
            (30, Some(("Approved", 0)), true, false),
        ] {
            let conditions: Vec<_> = condition
                .iter()
                .map(|(t, h)| json!({"type": t, "status": "True", "lastUpdateTime": hours_ago(*h)}))
                .collect();
            let csr: CertificateSigningRequest = serde_json::from_value(json!({
                "metadata": {"creationTimestamp": hours_ago(created)},
                "spec": {"request": "", "signerName": "x"},
                "status": {"conditions": conditions, "certificate": if issued { "eA==" } else { "" }}
            }))
            .unwrap();
            assert_eq!(is_over(&csr, now), over, "{created} {condition:?} {issued}");
        }
    }
}
