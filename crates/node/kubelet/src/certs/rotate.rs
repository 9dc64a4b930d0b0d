//! Renewal before the end (`certificate_manager.go: nextRotationDeadline`: at 70 to 90 % of a certificate's life).

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kinit_component_base::Shutdown;
use kube::Client;

use super::signing::{SigningRequest, sign};
use super::store::{Store, Validity};

const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// When to renew: a share of the life between 0.7 and 0.9, chosen by `luck` in 0..1 so that nodes do not all ask at
/// once.
pub fn deadline(validity: Validity, luck: f64) -> Timestamp {
    let life = validity.not_after.duration_since(validity.not_before).as_secs_f64();
    let after = SignedDuration::from_secs_f64(life * (0.7 + 0.2 * luck));
    validity.not_before.checked_add(after).unwrap_or(validity.not_after)
}

/// Keeps a certificate fresh for ever; asks at once where there is none. `renewed` is told of every new one.
pub async fn keep(client: Client, store: Store, wanted: SigningRequest, shutdown: Shutdown, renewed: impl Fn() + Send) {
    let mut pause = Duration::from_secs(5);
    let luck = rand::random::<f64>();
    loop {
        let due = store.validity().map_or(Timestamp::UNIX_EPOCH, |v| deadline(v, luck));
        let left = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
        // Clocks are set and machines sleep: look again at least daily.
        let left = left.min(Duration::from_secs(24 * 3600));
        tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(left) => {} }
        if Timestamp::now() < due {
            continue;
        }
        let done = sign(&client, &wanted, PATIENCE).await.and_then(|(certificate, key)| store.save(&certificate, &key));
        match done {
            Ok(()) => {
                tracing::info!(signer = wanted.signer, "certificate renewed");
                renewed();
                pause = Duration::from_secs(5);
            }
            Err(error) => {
                tracing::warn!(signer = wanted.signer, error = format!("{error:#}"), "renew a certificate");
                tokio::select! { () = shutdown.cancelled() => return, () = tokio::time::sleep(pause) => {} }
                pause = (pause * 2).min(Duration::from_secs(300));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_well_before_the_end() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let validity = Validity { not_before: at(0), not_after: at(1000) };
        assert_eq!((deadline(validity, 0.0), deadline(validity, 1.0)), (at(700), at(900)));
    }
}
