//! From a failure to an exit code and a hint.

use std::process::ExitCode;

use kinit_config::LoadError;
use kinit_phases::{
    DrainBlocked, Impossible, Locked, NothingToRequest, RotationStopped, Strangers, Unfit, Unreachable,
};
use kinit_planner::{Refused, RotationRefused};
use kinit_workflow::RunError;

/// Findings of preflight checks that stop a run; they were printed already.
#[derive(Debug)]
pub struct PreflightFailed(pub usize);

impl std::fmt::Display for PreflightFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} preflight check(s) failed; nothing was changed", self.0)
    }
}

impl std::error::Error for PreflightFailed {}

/// A saved plan that does not fit any more.
#[derive(Debug, thiserror::Error)]
#[error("the cluster is not as it was when the plan was made: {0}")]
pub struct Moved(pub String);

/// A cluster would be deleted of which nothing on this desk says that it is the one that is meant.
#[derive(Debug, thiserror::Error)]
#[error(
    "nothing on this desk says that the cluster on these hosts is the one that is meant: there is no {kubeconfig}, and the hosts' authority is {authority}"
)]
pub struct Unidentified {
    /// Where its kubeconfig would be.
    pub kubeconfig: String,
    /// The hash of the authority's public key.
    pub authority: String,
}

/// Something is not as it should be; what, was printed already.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not healthy")]
pub struct Unhealthy(pub String);

/// A flag's value that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Prints the failure with all its causes and, where there is one, a hint; returns the code of its family:
/// 1 anything else, 2 usage (most of it clap's), 3 cluster file, 4 hosts not reached, 5 preflight, 6 conflict, 7 a step
/// failed, 8 not healthy (`status`, `etcd status`, `doctor`), 9 a backup cannot be used, 10 a bundle cannot be used. A
/// run that a signal ends has the shell's code for it: 130 for SIGINT, 143 for SIGTERM. With `jsonl` the failure is an
/// event on standard output too.
pub fn report(error: &anyhow::Error, jsonl: bool) -> ExitCode {
    tell!("error: {error:#}");
    let (code, hint) = classify(error);
    if jsonl {
        say!("{}", event(error, code, hint));
    }
    if let Some(hint) = hint {
        tell!("hint: {hint}");
    }
    ExitCode::from(code)
}

fn event(error: &anyhow::Error, code: u8, hint: Option<&str>) -> serde_json::Value {
    serde_json::json!({ "event": "error", "error": format!("{error:#}"), "exitCode": code, "hint": hint })
}

fn not_reached(unreachable: &Unreachable) -> (u8, Option<&'static str>) {
    match unreachable.busy {
        true => (
            6,
            Some(
                "nothing was changed; run the same command again when the other kinit has ended, or take over with --break-lock",
            ),
        ),
        false => {
            (4, Some("nothing was changed; check addresses, keys and that sshd runs, then run the same command again"))
        }
    }
}

const WRONG_HOSTS: &str =
    "nothing was changed; correct the addresses, or name the cluster that is meant with --ca-cert-hash";
const UNNAMED: &str =
    "nothing was changed; name the cluster with --kubeconfig or --ca-cert-hash, or confirm its name without --force";

fn classify(error: &anyhow::Error) -> (u8, Option<&'static str>) {
    for cause in error.chain() {
        if cause.is::<Usage>() {
            return (2, Some("`kinit help VERB` lists the flags and their values"));
        }
        if cause.is::<LoadError>() {
            return (3, Some("`kinit config init` prints an example of a cluster file"));
        }
        if let Some(unreachable) = cause.downcast_ref::<Unreachable>() {
            return not_reached(unreachable);
        }
        if cause.is::<PreflightFailed>() {
            return (5, Some("a check can be ignored by its name: --ignore-preflight-errors=NAME[,NAME...]"));
        }
        if cause.is::<Strangers>() {
            return (6, Some(WRONG_HOSTS));
        }
        if cause.is::<Unidentified>() {
            return (6, Some(UNNAMED));
        }
        if cause.is::<RotationStopped>() {
            return (6, Some("what is done is kept; the same command goes on, --rollback takes a rotation back"));
        }
        if cause.is::<RotationRefused>() {
            return (6, Some("nothing was changed"));
        }
        if cause.is::<Locked>() {
            return (6, None);
        }
        if cause.is::<NothingToRequest>() {
            return (6, Some("nothing was changed"));
        }
        if cause.is::<Unfit>() || cause.is::<Refused>() || cause.is::<Impossible>() || cause.is::<DrainBlocked>() {
            return (6, Some("nothing was changed"));
        }
        if cause.is::<kinit_bundle::Error>() {
            return (
                10,
                Some("nothing was changed; docs/bundles.md says what a bundle consists of, and how it is checked"),
            );
        }
        if cause.is::<kinit_backup::Error>() {
            return (
                9,
                Some("nothing was changed; docs/backup.md says what a backup consists of, and how it is checked"),
            );
        }
        if cause.is::<Moved>() {
            return (6, Some("nothing was changed; make the plan again (`kinit plan -o FILE`)"));
        }
        if cause.is::<Unhealthy>() {
            return (8, None);
        }
        if cause.is::<RunError>() {
            return (7, Some("completed steps are kept; run the same command again to continue"));
        }
    }
    (1, None)
}

#[cfg(test)]
mod tests {
    use kinit_agent::{Busy, Caller, Held};

    use super::*;

    #[test]
    fn a_busy_host_is_a_conflict_and_an_unreached_one_is_not() {
        let why = || vec![("cp1".to_owned(), "x".to_owned())];
        for (busy, expected) in [(true, 6), (false, 4)] {
            let error = anyhow::Error::from(Unreachable { why: why(), busy }).context("connect");
            let (code, hint) = classify(&error);
            assert_eq!((code, hint.is_some_and(|h| h.contains("--break-lock"))), (expected, busy));
            let event = event(&error, code, hint);
            assert_eq!((&event["event"], &event["exitCode"]), (&"error".into(), &expected.into()));
        }
        let held = Held { holder: None, seconds: 0 };
        assert!(Busy(held).to_string().contains("--break-lock") && Caller::default().to_string().contains("kinit"));
    }
}
