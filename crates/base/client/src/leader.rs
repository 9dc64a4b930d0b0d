//! Leader election on a Lease, compatible with `k8s.io/client-go/tools/leaderelection`.
//!
//! A candidate judges another's lease by its own clock, from the moment it *saw* the lease change, so that hosts'
//! clocks need not agree. The leader gives up when it could not renew for `renew_deadline`, which is shorter than
//! `lease_duration`: there is never a moment with two.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kinit_component_base::flags::{boolean, duration};
use kinit_component_base::metrics;
use kinit_component_base::metrics::prometheus_client::metrics::family::Family;
use kinit_component_base::metrics::prometheus_client::metrics::gauge::Gauge;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio_util::sync::CancellationToken;

/// Upstream's `--leader-elect*` flags.
#[derive(clap::Args, Debug, Clone)]
pub struct ElectionArgs {
    /// Waits to be elected leader before it acts
    #[arg(long, action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", value_parser = boolean)]
    pub leader_elect: bool,
    /// How long others respect an unrenewed lease
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Pause between attempts
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// Kind of the lock; only leases
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
    /// Name of the Lease [default: the component's name]
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the Lease
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
}

impl ElectionArgs {
    /// The election these flags describe, for `component` and this process.
    pub fn election(&self, component: &str) -> Election {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Election {
            namespace: self.leader_elect_resource_namespace.clone(),
            name: self.leader_elect_resource_name.clone().unwrap_or_else(|| component.to_owned()),
            identity: format!("{}_{}", host.trim(), uuid::Uuid::new_v4()),
            lease_duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        }
    }
}

/// Who leads what, and how fast. Defaults are upstream's: 15 s, 10 s, 2 s.
#[derive(Debug, Clone)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This candidate, unique in the cluster.
    pub identity: String,
    /// How long a lease is respected without a renewal.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry_period: Duration,
}

impl Election {
    /// An election with upstream's durations.
    pub fn new(namespace: &str, name: &str, identity: String) -> Self {
        let s = Duration::from_secs;
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity,
            lease_duration: s(15),
            renew_deadline: s(10),
            retry_period: s(2),
        }
    }

    /// Checks upstream's relations: lease > renew > 1.2 × retry.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.lease_duration > self.renew_deadline,
            "--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline"
        );
        ensure!(
            self.renew_deadline > self.retry_period.mul_f32(1.2),
            "--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period"
        );
        Ok(())
    }
}

/// What the last look at the Lease showed.
struct Seen {
    lease: Lease,
    at: Instant,
}

/// An elected leader; [`Leadership::lost`] ends when it is one no more.
#[derive(Debug)]
pub struct Leadership {
    lost: CancellationToken,
}

impl Leadership {
    /// Cancelled when the lease was lost: the process must stop acting at once (upstream's components exit). After a
    /// shutdown it is cancelled once the lease was released.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

/// Waits until this candidate leads, then keeps renewing in the background. `shutdown` releases the lease, so that the
/// next leader need not wait.
pub async fn elect(client: Client, election: Election, shutdown: CancellationToken) -> Result<Option<Leadership>> {
    leading(&election.name).set(0);
    election.validate()?;
    let api: Api<Lease> = Api::namespaced(client, &election.namespace);
    let mut seen = None;
    let since = loop {
        let started = Instant::now();
        match attempt(&api, &election, &mut seen).await {
            Ok(true) => break started,
            Ok(false) => {}
            Err(error) => tracing::warn!(lease = election.name, %error, "try to become leader"),
        }
        let pause = pause(&election, seen.as_ref().map(|s: &Seen| (&s.lease, s.at.elapsed())), jitter());
        tokio::select! { () = shutdown.cancelled() => return Ok(None), () = tokio::time::sleep(pause) => {} }
    };
    tracing::info!(lease = election.name, identity = election.identity, "became leader");
    let lost = CancellationToken::new();
    let status = leading(&election.name);
    status.set(1);
    let over = lost.clone();
    tokio::spawn(async move {
        over.cancelled().await;
        status.set(0);
    });
    tokio::spawn(keep(api, election, seen, since, lost.clone(), shutdown));
    Ok(Some(Leadership { lost }))
}

/// `leader_election_master_status`: 1 while this process leads, by the name of its lease.
fn leading(name: &str) -> Gauge {
    static STATUS: LazyLock<Family<[(&'static str, String); 1], Gauge>> = LazyLock::new(|| {
        let status = Family::default();
        let help =
            "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master";
        metrics::global().register("leader_election_master_status", help, status.clone());
        status
    });
    STATUS.get_or_create_owned(&[("name", name.to_owned())])
}

async fn keep(
    api: Api<Lease>,
    election: Election,
    mut seen: Option<Seen>,
    since: Instant,
    lost: CancellationToken,
    shutdown: CancellationToken,
) {
    // However this task ends, a panic included, nobody acts without the lease.
    let _lost = lost.clone().drop_guard();
    // From when a renewal was asked for, not answered: others count from when it was written, which lies between.
    let mut renewed = since;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => {
                release(&api, &election, seen).await;
                return lost.cancel();
            }
            () = tokio::time::sleep(election.retry_period) => {}
        }
        let started = Instant::now();
        let left = election.renew_deadline.saturating_sub(renewed.elapsed());
        match tokio::time::timeout(left, attempt(&api, &election, &mut seen)).await {
            Ok(Ok(true)) => renewed = started,
            Ok(Ok(false)) => {
                tracing::error!(lease = election.name, "another leads");
                return lost.cancel();
            }
            Ok(Err(error)) => tracing::warn!(lease = election.name, %error, "renew the lease"),
            Err(_) => {}
        }
        if renewed.elapsed() >= election.renew_deadline {
            tracing::error!(lease = election.name, "could not renew in time");
            return lost.cancel();
        }
    }
}

/// How long a candidate waits: the retry period, a little longer by chance, but not past the moment at which the lease
/// that it has seen unchanged for so long becomes free.
fn pause(election: &Election, seen: Option<(&Lease, Duration)>, jitter: f32) -> Duration {
    let usual = election.retry_period.mul_f32(1.0 + jitter * 0.2);
    let Some((lease, unchanged_for)) = seen else { return usual };
    let left = respected_for(lease, election).saturating_sub(unchanged_for);
    if left.is_zero() { usual } else { usual.min(left) }
}

/// One attempt to take or renew; true when this candidate holds the lease now.
async fn attempt(api: &Api<Lease>, election: &Election, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
    let Some(current) = api.get_opt(&election.name).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(election.name.clone()),
                namespace: Some(election.namespace.clone()),
                ..Default::default()
            },
            spec: Some(spec(election, None)),
        };
        return store(api.create(&PostParams::default(), &lease).await, seen);
    };
    let known = seen.as_ref().is_some_and(|s| s.lease.metadata.resource_version == current.metadata.resource_version);
    if !known {
        *seen = Some(Seen { lease: current.clone(), at: Instant::now() });
    }
    let held_for = seen.as_ref().map(|s| s.at.elapsed()).unwrap_or_default();
    if !may_take(&current, election, held_for) {
        return Ok(false);
    }
    let lease = Lease { spec: Some(spec(election, current.spec.as_ref())), ..current };
    store(api.replace(&election.name, &PostParams::default(), &lease).await, seen)
}

/// Whether the lease is ours, free, or has not changed for as long as it lasts.
fn may_take(lease: &Lease, election: &Election, unchanged_for: Duration) -> bool {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|s| s.holder_identity.as_deref()).unwrap_or("");
    holder.is_empty() || holder == election.identity || unchanged_for >= respected_for(lease, election)
}

/// How long a lease is respected without a renewal, by what its holder wrote.
fn respected_for(lease: &Lease, election: &Election) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|s| s.lease_duration_seconds).and_then(|s| u64::try_from(s).ok());
    seconds.map_or(election.lease_duration, Duration::from_secs)
}

fn spec(election: &Election, old: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let mine = old.is_some_and(|o| o.holder_identity.as_deref() == Some(&election.identity));
    let transitions = old.and_then(|o| o.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: Some(i32::try_from(election.lease_duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: if mine { old.and_then(|o| o.acquire_time.clone()) } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if mine || old.is_none() { transitions } else { transitions.saturating_add(1) }),
        ..old.cloned().unwrap_or_default()
    }
}

/// A conflict only says that somebody else was faster.
fn store(result: Result<Lease, kube::Error>, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
    match result {
        Ok(lease) => {
            *seen = Some(Seen { lease, at: Instant::now() });
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, election: &Election, seen: Option<Seen>) {
    let Some(Seen { mut lease, .. }) = seen else { return };
    if let Some(spec) = lease.spec.as_mut() {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
    }
    let done =
        tokio::time::timeout(Duration::from_secs(1), api.replace(&election.name, &PostParams::default(), &lease)).await;
    tracing::info!(lease = election.name, released = matches!(done, Ok(Ok(_))), "stopped leading");
}

/// A number in 0..1, different between candidates; no more is asked of it.
fn jitter() -> f32 {
    f32::from(u8::try_from(Timestamp::now().subsec_nanosecond().rem_euclid(256)).unwrap_or(0)) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, seconds: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(seconds),
            ..Default::default()
        };
        Lease { spec: Some(spec), ..Default::default() }
    }

    #[test]
    fn a_lease_is_taken_when_free_ours_or_stale() {
        let me = Election::new("kube-system", "x", "me".into());
        for (holder, seconds, unchanged, expected) in
            [("", 15, 0, true), ("me", 15, 0, true), ("you", 15, 14, false), ("you", 15, 15, true), ("you", 1, 2, true)]
        {
            assert_eq!(
                may_take(&lease(holder, seconds), &me, Duration::from_secs(unchanged)),
                expected,
                "{holder} {unchanged}"
            );
        }
    }

    #[test]
    fn a_candidate_wakes_when_the_lease_runs_out() {
        let me = Election::new("kube-system", "x", "me".into());
        let ms = Duration::from_millis;
        for (unchanged, expected) in [(0, 2000), (12_000, 2000), (14_300, 700), (15_000, 2000)] {
            assert_eq!(pause(&me, Some((&lease("you", 15), ms(unchanged))), 0.0), ms(expected), "{unchanged}");
        }
        assert_eq!(pause(&me, None, 0.0), ms(2000));
    }

    #[tokio::test]
    async fn who_renews_no_more_has_lost() {
        kinit_component_base::runtime::install_tls_provider();
        let client = Client::try_from(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let (lost, me) = (CancellationToken::new(), Election::new("n", "x", "me".into()));
        let renewing =
            keep(Api::namespaced(client, "n"), me, None, Instant::now(), lost.clone(), CancellationToken::new());
        let task = tokio::spawn(renewing);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!lost.is_cancelled());
        // As a panic in it would: it is dropped in the middle.
        task.abort();
        tokio::time::timeout(Duration::from_secs(5), lost.cancelled()).await.unwrap();
    }

    #[test]
    fn transitions_count_changes_of_holder() {
        let me = Election::new("kube-system", "x", "me".into());
        let old = spec(&Election { identity: "you".into(), ..me.clone() }, None);
        let taken = spec(&me, Some(&old));
        assert_eq!((old.lease_transitions, taken.lease_transitions), (Some(0), Some(1)));
        let renewed = spec(&me, Some(&taken));
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(1), taken.acquire_time));
    }

    #[test]
    fn durations_must_leave_a_gap() {
        let mut e = Election::new("n", "x", "me".into());
        assert!(e.validate().is_ok());
        e.renew_deadline = e.lease_duration;
        assert!(e.validate().is_err());
    }
}
