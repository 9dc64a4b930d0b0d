//! `kinit logs`.

use anyhow::{Context, Result};
use clap::Args;
use kinit_agent::LogRequest;

use crate::cluster::{Common, Lock, connect_to};
use crate::config;
use crate::duration::duration;
use crate::errors::Usage;

/// Flags of `kinit logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// Name of the host
    host: String,
    /// What logs there: kube-apiserver, kube-controller-manager, kube-scheduler, etcd, kubelet, kube-proxy, kube-netd,
    /// cloud-controller-manager, metrics-server, containerd, haproxy or keepalived
    component: String,
    #[command(flatten)]
    pub(crate) common: Common,
    /// Go on with what is logged from now on, until interrupted
    #[arg(long)]
    follow: bool,
    /// How many of the last lines; -1 for all
    #[arg(long, default_value_t = 200, allow_negative_numbers = true, value_name = "LINES")]
    tail: i64,
    /// Only lines of the last so many seconds, minutes, hours or days (90s, 5m, 2h, 1d)
    #[arg(long, value_name = "DURATION")]
    since: Option<String>,
    /// Lines of earlier boots of the host too
    #[arg(long)]
    all_boots: bool,
}

/// Shows the log of a component of a host.
pub async fn run(args: LogsArgs) -> Result<()> {
    let cluster = config::load(&args.common.file)?;
    let Some(host) = cluster.spec.hosts.iter().find(|host| host.name == args.host) else {
        let known = cluster.spec.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Usage(format!("there is no host {:?} in the cluster file; there are {known}", args.host)).into());
    };
    let unit = format!("{}.service", args.component.trim_end_matches(".service"));
    let units = kinit_phases::units(&cluster, host);
    if !units.contains(&unit.as_str()) {
        let known = units.iter().map(|unit| unit.trim_end_matches(".service")).collect::<Vec<_>>().join(", ");
        return Err(Usage(format!("{} does not run {:?}; it runs {known}", host.name, args.component)).into());
    }
    let request = LogRequest {
        unit,
        tail: u32::try_from(args.tail).ok(),
        since: args.since.as_deref().map(|text| duration("--since", text)).transpose()?.map(|since| since.as_secs()),
        follow: args.follow,
        all_boots: args.all_boots,
    };
    let hosts = connect_to(&cluster, [host], &args.common, "logs", Lock::Look).await?;
    let shown = hosts.agent(&host.name)?.logs(request, &mut tokio::io::stdout()).await;
    match shown.with_context(|| format!("read the log of {} on {}", args.component, host.name)) {
        // A reader that goes away (`| head`) is no failure.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
