//! `kinit status`: one screen.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use kinit_config::Role;
use kinit_phases::{HostStatus, Status};

use crate::cluster::{Common, Lock, connect};
use crate::config;
use crate::errors::Unhealthy;
use crate::etcd::size;
use crate::progress::Output;

/// Flags of `kinit status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of `kinit history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Shows what was done to the hosts, from their journals.
pub async fn history(args: HistoryArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let hosts = connect(&cluster, &args.common, "history", Lock::Look).await?;
    let runs = kinit_phases::history(&hosts).await?;
    if args.common.output == Output::Text {
        say!("{:<20} {:<10} {:<10} {:<24} {:>5}  RESULT", "TIME", "HOST", "OPERATION", "BY", "STEPS");
    }
    for run in &runs {
        match args.common.output {
            Output::Jsonl => say!("{}", serde_json::to_string(run)?),
            Output::Text => {
                let time = jiff::Timestamp::from_second(run.time).map(|t| t.to_string()).unwrap_or_default();
                let result = run.result.lines().next().unwrap_or_default();
                say!("{time:<20} {:<10} {:<10} {:<24} {:>5}  {result}", run.host, run.operation, run.by, run.steps);
            }
        }
    }
    for (host, why) in hosts.unreachable() {
        tell!("warning: {host} cannot be reached: {why}");
    }
    Ok(())
}

/// Shows the cluster; an error when something is not as it should be.
pub async fn run(args: StatusArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let hosts = connect(&cluster, &args.common, "status", Lock::Look).await?;
    let status = kinit_phases::status(&hosts, &cluster).await?;
    match args.common.output {
        Output::Text => print(&status),
        Output::Jsonl => say!("{}", serde_json::to_string(&status)?),
    }
    if status.healthy { Ok(()) } else { Err(Unhealthy(format!("cluster {}", status.cluster)).into()) }
}

fn print(status: &Status) {
    let api = if status.api { "answers" } else { "does not answer" };
    say!("cluster {}: the API {api}, endpoint https://{}\n", status.cluster, status.endpoint);
    say!("{:<10} {:<14} {:<28} {:<20} {:<34} CERTIFICATES", "HOST", "ROLES", "NODE", "UNITS", "ETCD");
    for host in &status.hosts {
        let mut roles = host.roles.iter().map(short).collect::<Vec<_>>().join("+");
        if host.virtual_address {
            roles.push('*');
        }
        if host.unreachable.is_some() {
            say!("{:<10} {roles:<14} unreachable", host.name);
            continue;
        }
        say!(
            "{:<10} {roles:<14} {:<28} {:<20} {:<34} {}",
            host.name,
            node(host),
            units(host),
            etcd(host),
            expiry(host)
        );
    }
    if status.hosts.iter().any(|host| host.virtual_address) {
        say!("\n* has the load balancers' virtual address");
    }
    for line in renewals(status) {
        say!("{line}");
    }
    packages(&status.hosts);
    if let Some(backup) = &status.backup {
        let created = backup.created.parse::<jiff::Timestamp>();
        let age = created.map(|time| (jiff::Timestamp::now().as_second() - time.as_second()) / 60).unwrap_or_default();
        say!("\nlast proven backup: {} on {}, {age} min ago, revision {}", backup.file, backup.host, backup.revision);
    }
    if !status.problems.is_empty() {
        say!("\nproblems:");
        status.problems.iter().for_each(|problem| say!("  {problem}"));
    }
}

/// Each version of each package with the hosts that have it, and where it is not held.
fn packages(hosts: &[HostStatus]) {
    let mut versions: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for host in hosts {
        for (name, package) in &host.packages {
            let loose = if package.held { "" } else { " (not held)" };
            versions.entry((name, &package.version)).or_default().push(format!("{}{loose}", host.name));
        }
    }
    if !versions.is_empty() {
        say!("\n{:<28} {:<30} HOSTS", "PACKAGE", "VERSION");
    }
    for ((name, version), hosts) in versions {
        say!("{name:<28} {version:<30} {}", hosts.join(", "));
    }
}

fn short(role: &Role) -> &'static str {
    match role {
        Role::ControlPlane => "control-plane",
        Role::Worker => "worker",
        Role::LoadBalancer => "loadbalancer",
    }
}

fn node(host: &HostStatus) -> String {
    let Some(node) = &host.node else { return String::new() };
    let condition = node.condition.split(' ').next().unwrap_or_default();
    let cordoned = if node.unschedulable { ",cordoned" } else { "" };
    format!("{condition}{cordoned} {}", node.version)
}

fn units(host: &HostStatus) -> String {
    let well = host.units.values().filter(|why| why.is_empty()).count();
    format!("{well}/{} run", host.units.len())
}

fn etcd(host: &HostStatus) -> String {
    let Some(member) = &host.etcd else { return String::new() };
    let role = match (member.leader, member.learner) {
        (true, _) => "leader",
        (_, true) => "learner",
        _ => "follower",
    };
    format!("{role} {} {} lag {}", member.version, size(member.db_size), member.lag)
}

fn expiry(host: &HostStatus) -> String {
    host.next_expiry.as_ref().map(|expiry| format!("{} days", expiry.days)).unwrap_or_default()
}

/// What is renewed next, and when hosts looked last.
fn renewals(status: &Status) -> Vec<String> {
    let time = |second: i64| jiff::Timestamp::from_second(second).map(|time| time.to_string()).unwrap_or_default();
    let of = || status.hosts.iter().filter_map(|host| Some((host, host.renewal.as_ref()?)));
    let due = of().filter_map(|(host, renewal)| Some((host, renewal.due.as_ref()?))).min_by_key(|(_, due)| due.time);
    let first = due.map(|(host, due)| {
        let run = host.renewal.as_ref().and_then(|renewal| renewal.next_run).map(time).unwrap_or_default();
        format!("\nnext renewal due: {} {} from {} (its timer runs next at {run})", host.name, due.path, time(due.time))
    });
    let renewed = of().filter_map(|(host, renewal)| Some((host, renewal.last.as_ref()?)));
    let last = renewed.max_by_key(|(_, last)| last.time).map(|(host, last)| {
        let how = match (&last.failed, last.renewed.len()) {
            (Some(_), _) => "failed".to_owned(),
            (None, 0) => "nothing was due".to_owned(),
            (None, count) => format!("{count} renewed"),
        };
        format!("last renewal: {} at {}, {how}", host.name, time(last.time))
    });
    first.into_iter().chain(last).collect()
}
