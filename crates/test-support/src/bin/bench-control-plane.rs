//! `cargo xtask bench apiserver|pods` without the build: measures the components of a given hyperkube.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kinit_component_base::logs::LoggingArgs;
use kinit_test_support::bench::{apiserver, pods};

/// Measures a control plane of etcd (from PATH) and hyperkube's components
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    logging: LoggingArgs,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// One API server's operations, beside those of etcd alone
    Apiserver(apiserver::Args),
    /// A ReplicaSet's pods: created, bound, deleted
    Pods(pods::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    kinit_component_base::run("bench", &args.logging, |shutdown| async move {
        let measure = async {
            match &args.bench {
                Bench::Apiserver(args) => apiserver::run(args).await,
                Bench::Pods(args) => pods::run(args).await,
            }
        };
        tokio::select! {
            measured = measure => measured,
            () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
        }
    })
}
