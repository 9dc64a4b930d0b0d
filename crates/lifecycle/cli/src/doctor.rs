//! `kinit doctor`: what is wrong with a cluster, and what to do about it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use kinit_phases::{Diagnosis, DrainOptions, Hosts, Request};
use kinit_planner::{Assessed, Finding, Verdict};
use serde_json::json;

use crate::cluster::{Common, Flags, Lock, begin, connect};
use crate::config;
use crate::desk::known_authority;
use crate::errors::Unhealthy;
use crate::progress::Output;

/// Flags of `kinit doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Bundle that the cluster was made of, for the look at what differs from the file [default: the folder of kinit
    /// itself]
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Hold the hosts against the CIS Kubernetes Benchmark instead: every control with what was seen
    #[arg(long)]
    cis: bool,
}

/// Looks at everything; an error when there is one among the findings.
pub async fn run(args: DoctorArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let known = known_authority(&args.common.file.with_file_name("admin.conf"), &cluster.metadata.name, None)?;
    let hosts = connect(&cluster, &args.common, "doctor", Lock::Look).await?;
    if args.cis {
        return benchmark(&hosts, &cluster, args.common.output).await;
    }
    let now = jiff::Timestamp::now().as_second();
    let mut diagnosis = kinit_phases::diagnose(&hosts, &cluster, known.as_deref(), now).await?;
    drop(hosts);
    diagnosis.checks.push("Drift");
    diagnosis.findings.extend(drift(&args, cluster.clone(), known).await);
    print(&diagnosis, args.common.output);
    if diagnosis.is_well() { Ok(()) } else { Err(Unhealthy(format!("cluster {}", cluster.metadata.name)).into()) }
}

/// Every control of the benchmark; an error when one fails.
async fn benchmark(hosts: &Hosts, cluster: &kinit_config::Cluster, output: Output) -> Result<()> {
    let assessed = kinit_phases::assess(hosts, cluster).await?;
    let count = |verdict: Verdict| assessed.iter().filter(|control| control.verdict == verdict).count();
    let (passed, failed, manual) = (count(Verdict::Pass), count(Verdict::Fail), count(Verdict::Manual));
    for Assessed { id, title, host, verdict, evidence } in &assessed {
        let verdict = verdict.word();
        match output {
            Output::Jsonl => say!(
                "{}",
                json!({ "event": "control", "id": id, "title": title, "host": host, "result": verdict.to_lowercase(), "evidence": evidence })
            ),
            Output::Text => {
                let host = if host.is_empty() { "cluster" } else { host };
                say!("{id:<7} {verdict:<7} {host:<10} {title}\n        {evidence}");
            }
        }
    }
    let unreachable: Vec<&String> = hosts.unreachable().keys().collect();
    match output {
        Output::Jsonl => say!(
            "{}",
            json!({ "event": "done", "pass": passed, "fail": failed, "manual": manual, "unreachable": unreachable })
        ),
        Output::Text => say!("{passed} pass, {failed} fail, {manual} are for a person to decide"),
    }
    if !unreachable.is_empty() {
        let names = unreachable.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Unhealthy(format!("{names} (cannot be reached)")).into());
    }
    if failed == 0 { Ok(()) } else { Err(Unhealthy(format!("cluster {}", cluster.metadata.name)).into()) }
}

/// What `kinit apply` would change.
async fn drift(args: &DoctorArgs, cluster: kinit_config::Cluster, known: Option<String>) -> Option<Finding> {
    let flags = Flags {
        bundle: args.bundle.clone(),
        previous: false,
        drain: DrainOptions::default(),
        look: true,
        known,
        ..Flags::default()
    };
    let planned = async {
        let run = begin(cluster, &Request::Apply { only: Vec::new() }, "doctor", &args.common, flags).await?;
        anyhow::Ok(run.plan().await?.changes())
    };
    let message = match planned.await {
        Ok(0) => return None,
        Ok(changes) => format!("the cluster is not what its file says: {changes} changes"),
        Err(error) => format!("what differs from the file could not be found out: {error:#}"),
    };
    let remedy = "`kinit plan` shows what differs, `kinit apply` brings it about";
    Some(Finding { host: String::new(), check: "Drift".to_owned(), message, remedy, warning: true })
}

fn print(diagnosis: &Diagnosis, output: Output) {
    for Finding { host, check, message, remedy, warning } in &diagnosis.findings {
        let level = if *warning { "warning" } else { "error" };
        match output {
            Output::Jsonl => say!(
                "{}",
                json!({ "event": "finding", "level": level, "host": host, "check": check, "message": message, "remedy": remedy })
            ),
            Output::Text => {
                let host = if host.is_empty() { "cluster" } else { host };
                say!("{level:<8} {host:<10} {check}: {message}\n         {remedy}");
            }
        }
    }
    let errors = diagnosis.findings.iter().filter(|finding| !finding.warning).count();
    let warnings = diagnosis.findings.len() - errors;
    match output {
        Output::Jsonl => {
            say!("{}", json!({ "event": "done", "checks": diagnosis.checks, "errors": errors, "warnings": warnings }));
        }
        Output::Text => say!("{errors} errors, {warnings} warnings; looked at: {}", diagnosis.checks.join(", ")),
    }
}
