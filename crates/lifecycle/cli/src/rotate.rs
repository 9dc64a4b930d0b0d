//! `kinit certs rotate` and `kinit secrets rotate-key`: a shared secret's successor takes its place.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use kinit_phases::{Pods, Request, RotationOptions, Run};
use kinit_pki::Authority;
use kinit_planner::{Next, Plan};
use kinit_resource::{RotationStage, Shared};
use serde_json::json;

use crate::change::{ChangeArgs, confirm};
use crate::cluster::show_plan;
use crate::config;
use crate::duration::duration;
use crate::progress::{Output, listeners};

/// What has a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// The cluster's own authority, which all clients trust
    Ca,
    /// The authority of etcd's members and clients
    EtcdCa,
    /// The authority of the front proxy of aggregated API servers
    FrontProxyCa,
    /// The key that signs service-account tokens
    SaKey,
}

impl Name {
    fn shared(self) -> Shared {
        match self {
            Self::Ca => Shared::CLUSTER,
            Self::EtcdCa => Shared::Authority(Authority::Etcd),
            Self::FrontProxyCa => Shared::Authority(Authority::FrontProxy),
            Self::SaKey => Shared::ServiceAccountKey,
        }
    }
}

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// Both are accepted everywhere; the old one makes what is new
    #[value(aliases = ["publish", "read"])]
    Trust,
    /// Both are accepted; the new one makes what is new, and everything has been made anew
    #[value(aliases = ["sign", "write"])]
    Issue,
    /// Only the new one is accepted; there is no way back
    #[value(aliases = ["drop"])]
    Distrust,
}

/// Flags of every rotation.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// Stop after this stage; the same command without it goes on
    #[arg(long, value_enum, value_name = "STAGE", default_value_t = Stage::Distrust, conflicts_with = "rollback")]
    stage: Stage,
    /// Take back a rotation that has not ended
    #[arg(long, alias = "abort")]
    rollback: bool,
    /// Restart Deployments, StatefulSets and DaemonSets whose pods hold what is to go
    #[arg(long, conflicts_with = "leave_pods")]
    restart_workloads: bool,
    /// Go on though pods hold what is to go
    #[arg(long)]
    leave_pods: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArgs,
}

/// Flags of `kinit certs rotate`.
#[derive(Args, Debug)]
pub struct CertsRotateArgs {
    /// What gets a successor
    #[arg(value_enum)]
    name: Name,
    /// How long tokens of service accounts may live at most: the old key is dropped no earlier after the new one signs
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    token_life: String,
    #[command(flatten)]
    pub(crate) rotate: RotateArgs,
}

/// What can be done with secrets at rest.
#[derive(Subcommand, Debug)]
pub enum SecretsVerb {
    /// Encrypt Secrets in etcd with a new key: read with both, write with the new one, write all anew, drop the old one
    RotateKey(RotateArgs),
}

impl SecretsVerb {
    pub(crate) fn is_jsonl(&self) -> bool {
        let Self::RotateKey(args) = self;
        args.change.is_jsonl()
    }
}

/// `kinit certs rotate`.
pub(crate) async fn certs(args: CertsRotateArgs) -> Result<()> {
    let token_life = duration("--token-life", &args.token_life)?;
    rotate(args.rotate, args.name.shared(), token_life, "certs rotate").await
}

/// `kinit secrets`.
pub async fn secrets(verb: SecretsVerb) -> Result<()> {
    let SecretsVerb::RotateKey(args) = verb;
    rotate(args, Shared::EncryptionConfig, Duration::ZERO, "secrets rotate-key").await
}

impl RotateArgs {
    fn options(&self, shared: Shared, token_life: Duration) -> RotationOptions {
        let goal = match self.stage {
            _ if self.rollback => RotationStage::Old,
            Stage::Trust => RotationStage::Published,
            Stage::Issue => RotationStage::Signing,
            Stage::Distrust => RotationStage::New,
        };
        let pods = match (self.restart_workloads, self.leave_pods) {
            (true, _) => Pods::Restart,
            (_, true) => Pods::Leave,
            _ => Pods::Stop,
        };
        RotationOptions { shared, goal, pods, token_life }
    }
}

async fn rotate(args: RotateArgs, shared: Shared, token_life: Duration, operation: &str) -> Result<()> {
    let started = Instant::now();
    let options = args.options(shared, token_life);
    let cluster = config::load(args.change.file())?;
    let mut run = args.change.begin(cluster, &Request::Rotate, operation).await?;
    let output = args.change.common.output;
    // What is no state of a rotation is refused before anything else is looked at.
    run.next_of_rotation(&options, None).await?;
    let rotating = run.is_rotating(&options).await?;
    if !rotating {
        run.is_fit_for_rotation().await?;
    }
    let mut settled = (!rotating).then_some(RotationStage::Old);
    let mut next = run.next_of_rotation(&options, settled).await?;
    if args.change.common.dry_run {
        show(&next, &options, output);
        return Ok(());
    }
    if !args.change.yes {
        show(&next, &options, output);
        confirm(&Plan::default())?;
    }
    let mut changes = 0;
    loop {
        match next {
            Next::Turn { stage, plan } => {
                tell_stage(shared, stage, "begins", output);
                changes += carry_out(&run, &args, &plan).await?;
                settled = None;
            }
            Next::Settle(stage) => {
                let (listener, _) = listeners(output, args.change.common.verbose);
                let done = run.settle_rotation(&options, stage, listener.as_ref()).await;
                // The desk must trust what the servers show before the old one goes, also when it stops here.
                args.change.follow(&run).await?;
                done?;
                tell_stage(shared, stage, "is in force everywhere", output);
                settled = Some(stage);
            }
            Next::Finish(plan) => {
                changes += carry_out(&run, &args, &plan).await?;
                break;
            }
            Next::Done(_) => break,
        }
        next = run.next_of_rotation(&options, settled).await?;
    }
    ended(&options, changes, started, output);
    Ok(())
}

async fn carry_out(run: &Run, args: &RotateArgs, plan: &Plan) -> Result<usize> {
    let (listener, _) = listeners(args.change.common.output, args.change.common.verbose);
    run.execute(plan, listener.as_ref()).await?;
    Ok(plan.changes())
}

fn show(next: &Next, options: &RotationOptions, output: Output) {
    match next {
        Next::Turn { plan, .. } | Next::Finish(plan) => show_plan(plan, output),
        Next::Settle(_) | Next::Done(_) => {}
    }
    if output == Output::Text {
        let at = match next {
            Next::Turn { stage, .. } | Next::Settle(stage) | Next::Done(stage) => *stage,
            Next::Finish(_) => options.goal,
        };
        say!(
            "{}: from stage {} to {}. At each stage certificates and kubeconfigs follow, programs restart one host after the other, and everything is checked",
            options.shared.name(),
            name(at),
            name(options.goal)
        );
    }
}

/// A stage as `--stage` names it.
fn name(stage: RotationStage) -> &'static str {
    match stage {
        RotationStage::Old => "old",
        RotationStage::Published => "trust",
        RotationStage::Signing => "issue",
        RotationStage::New => "distrust",
    }
}

fn tell_stage(shared: Shared, stage: RotationStage, what: &str, output: Output) {
    let (secret, stage) = (shared.name(), name(stage));
    match output {
        Output::Text => say!("[rotate] {secret}: stage {stage} {what}"),
        Output::Jsonl => say!("{}", json!({ "event": "rotation", "secret": secret, "stage": stage, "state": what })),
    }
}

fn ended(options: &RotationOptions, changes: usize, started: Instant, output: Output) {
    let (secret, seconds) = (options.shared.name(), started.elapsed().as_secs_f64());
    if output == Output::Jsonl {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        say!("{}", json!({ "event": "done", "changes": changes, "milliseconds": milliseconds }));
        return;
    }
    match options.goal {
        RotationStage::New => say!("{secret} has been replaced in {seconds:.0} s"),
        RotationStage::Old => say!("{secret} is what it was, after {seconds:.0} s"),
        stage => say!(
            "{secret} stands at stage {} after {seconds:.0} s; the same command without --stage goes on, --rollback takes it back",
            name(stage)
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CertsRotateArgs,
    }

    fn goal(words: &[&str]) -> Option<(Shared, RotationStage, Pods)> {
        let line = Line::try_parse_from([&["rotate"], words].concat()).ok()?;
        let options = line.args.rotate.options(line.args.name.shared(), Duration::ZERO);
        Some((options.shared, options.goal, options.pods))
    }

    #[test]
    fn stages_have_the_names_of_what_is_rotated() {
        let ca = Shared::CLUSTER;
        let sa = Shared::ServiceAccountKey;
        for (words, expected) in [
            (&["ca"][..], Some((ca, RotationStage::New, Pods::Stop))),
            (&["ca", "--stage", "trust"], Some((ca, RotationStage::Published, Pods::Stop))),
            (&["sa-key", "--stage", "sign", "--leave-pods"], Some((sa, RotationStage::Signing, Pods::Leave))),
            (&["sa-key", "--stage", "publish", "--token-life", "1h"], Some((sa, RotationStage::Published, Pods::Stop))),
            (&["ca", "--rollback", "--restart-workloads"], Some((ca, RotationStage::Old, Pods::Restart))),
            (&["ca", "--abort"], Some((ca, RotationStage::Old, Pods::Stop))),
            (&["ca", "--rollback", "--stage", "trust"], None),
            (&["ca", "--leave-pods", "--restart-workloads"], None),
            (&["apiserver"], None),
            (&[], None),
        ] {
            assert_eq!(goal(words), expected, "{words:?}");
        }
    }
}
