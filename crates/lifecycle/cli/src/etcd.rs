//! `kinit etcd`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use kinit_phases::EtcdOverview;
use serde_json::json;

use crate::cluster::{Common, Lock, connect};
use crate::config;
use crate::errors::Unhealthy;
use crate::progress::Output;

/// What can be done to etcd.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Show what each member says: leader, size, lag, alarms
    Status(Common),
    /// The members
    #[command(subcommand)]
    Member(Member),
    /// Give free space of the database files back, one member at a time, the leader last
    Defrag(Common),
    /// Snapshots
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Go on with one control plane's data after the quorum was lost
    Recover(Box<crate::restore::RecoverArgs>),
    /// Alarms
    #[command(subcommand)]
    Alarm(Alarm),
}

/// What can be done to members.
#[derive(Subcommand, Debug)]
pub enum Member {
    /// List the members
    List(Common),
}

/// What can be done with snapshots.
#[derive(Subcommand, Debug)]
pub enum Snapshot {
    /// Take a snapshot and check it; `etcdutl snapshot status FILE` reads it
    Save(Save),
}

/// Flags of `kinit etcd snapshot save`.
#[derive(Args, Debug)]
pub struct Save {
    #[command(flatten)]
    common: Common,
    /// Where to write it; it holds all Secrets
    #[arg(value_name = "SNAPSHOT")]
    to: PathBuf,
}

/// What can be done about alarms.
#[derive(Subcommand, Debug)]
pub enum Alarm {
    /// List the alarms that are raised, and say what to do
    List(Common),
    /// Clear all alarms; one whose cause is still there comes back
    Disarm(Common),
    /// End a NOSPACE alarm: drop history, defragment all members, clear the alarm
    Repair(Common),
}

impl Verb {
    pub(crate) fn common(&self) -> &Common {
        match self {
            Self::Snapshot(Snapshot::Save(save)) => &save.common,
            Self::Recover(recover) => &recover.put_back.common,
            Self::Status(common) | Self::Defrag(common) | Self::Member(Member::List(common)) => common,
            Self::Alarm(Alarm::List(common) | Alarm::Disarm(common) | Alarm::Repair(common)) => common,
        }
    }
}

/// Does it.
pub async fn run(verb: Verb) -> Result<()> {
    let verb = match verb {
        Verb::Recover(recover) => return crate::restore::recover(*recover).await,
        other => other,
    };
    let common = verb.common();
    let cluster = config::load(&common.file)?;
    let lock = match &verb {
        Verb::Recover(_) | Verb::Defrag(_) | Verb::Alarm(Alarm::Disarm(_) | Alarm::Repair(_)) => Lock::Take,
        Verb::Status(_) | Verb::Member(_) | Verb::Snapshot(_) | Verb::Alarm(Alarm::List(_)) => Lock::Look,
    };
    let hosts = connect(&cluster, common, "etcd", lock).await?;
    let output = common.output;
    let done = |host: &str, before: u64, after: u64| match output {
        Output::Text => say!("{host:<10} {} -> {}", size(before), size(after)),
        Output::Jsonl => say!("{}", json!({"event": "defragmented", "host": host, "before": before, "after": after})),
    };
    match &verb {
        Verb::Status(_) => status(&EtcdOverview::of(&hosts, &cluster).await, output),
        Verb::Member(Member::List(_)) => members(&EtcdOverview::of(&hosts, &cluster).await, output),
        Verb::Alarm(Alarm::List(_)) => alarms(&EtcdOverview::of(&hosts, &cluster).await, output),
        Verb::Defrag(_) => kinit_phases::defragment(&hosts, &cluster, &done).await,
        Verb::Alarm(Alarm::Repair(_)) => kinit_phases::repair_space(&hosts, &cluster, &done).await,
        Verb::Alarm(Alarm::Disarm(_)) => kinit_phases::disarm(&hosts, &cluster).await,
        Verb::Recover(_) => Ok(()),
        Verb::Snapshot(Snapshot::Save(save)) => {
            let (host, length) = kinit_phases::snapshot(&hosts, &cluster, &save.to).await?;
            match output {
                Output::Text => say!("{} from {host}: {}", save.to.display(), size(length)),
                Output::Jsonl => say!("{}", json!({"event": "done", "host": host, "bytes": length, "file": save.to})),
            }
            Ok(())
        }
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{:.1} MiB", (bytes >> 10) as f64 / 1024.0) }
}

fn status(overview: &EtcdOverview, output: Output) -> Result<()> {
    if output == Output::Text {
        say!(
            "{:<10} {:<17} {:<8} {:<8} {:>10} {:>10} {:>6} {:>10}  ALARMS AND ERRORS",
            "HOST",
            "ID",
            "VERSION",
            "ROLE",
            "SIZE",
            "IN USE",
            "TERM",
            "INDEX"
        );
    }
    for (host, said) in &overview.hosts {
        match (said, output) {
            (Ok(s), Output::Text) => {
                let own = s.members.iter().find(|m| m.id == s.id);
                let role = match own {
                    _ if s.leader == 0 => "no leader",
                    _ if s.leader == s.id => "leader",
                    Some(member) if member.learner => "learner",
                    _ => "follower",
                };
                let alarms = s.alarms.iter().map(|(alarm, id)| format!("{alarm} {id:x}"));
                let troubles: Vec<String> = alarms.chain(s.errors.iter().cloned()).collect();
                say!(
                    "{host:<10} {:<17x} {:<8} {role:<8} {:>10} {:>10} {:>6} {:>10}  {}",
                    s.id,
                    s.version,
                    size(s.db_size),
                    size(s.db_size_in_use),
                    s.raft_term,
                    s.raft_index,
                    troubles.join(", ")
                );
            }
            (Err(why), Output::Text) => say!("{host:<10} {why}"),
            (Ok(s), Output::Jsonl) => say!("{}", json!({"host": host, "status": s})),
            (Err(why), Output::Jsonl) => say!("{}", json!({"host": host, "error": why})),
        }
    }
    if overview.is_well() { Ok(()) } else { Err(Unhealthy("etcd".to_owned()).into()) }
}

fn members(overview: &EtcdOverview, output: Output) -> Result<()> {
    let view = overview.healthy().next().map(|(_, status)| status);
    let Some(view) = view else { return status(overview, output) };
    if output == Output::Text {
        say!("{:<17} {:<10} {:<9} {:<28} CLIENT URLS", "ID", "NAME", "STATE", "PEER URLS");
    }
    for member in &view.members {
        let state = match (member.has_started(), member.learner) {
            (false, _) => "unstarted",
            (true, true) => "learner",
            (true, false) => "started",
        };
        let (peers, clients) = (member.peer_urls.join(","), member.client_urls.join(","));
        match output {
            Output::Text => say!("{:<17} {:<10} {state:<9} {peers:<28} {clients}", member.hex(), member.name),
            Output::Jsonl => say!("{}", json!({"state": state, "member": member})),
        }
    }
    Ok(())
}

fn alarms(overview: &EtcdOverview, output: Output) -> Result<()> {
    let raised = overview.healthy().next().map(|(_, s)| s.alarms.clone()).unwrap_or_default();
    for (alarm, id) in &raised {
        let what = match alarm.as_str() {
            "NOSPACE" => {
                "the database has reached its quota and takes no writes; `kinit etcd alarm repair` gives space back"
            }
            "CORRUPT" => "this member's data differs from the others'; remove its host and join it again",
            _ => "unknown to kinit",
        };
        match output {
            Output::Text => say!("{alarm} {id:x}: {what}"),
            Output::Jsonl => say!("{}", json!({"alarm": alarm, "member": format!("{id:x}")})),
        }
    }
    if raised.is_empty() && output == Output::Text {
        say!("no alarms");
    }
    Ok(())
}
