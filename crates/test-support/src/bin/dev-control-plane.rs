//! A control plane for development: one etcd, one API server, kubeconfigs; until interrupted.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kinit_component_base::logs::LoggingArgs;
use kinit_test_support::{ControlPlane, TestApiServer, free_port};

/// Starts etcd (from PATH) and an API server with throwaway certificates
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    logging: LoggingArgs,
    /// Where certificates, kubeconfigs and etcd's data are put (kept across runs)
    #[arg(long)]
    dir: PathBuf,
    /// The API's port
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// The API's address
    #[arg(long, default_value = "127.0.0.1")]
    address: IpAddr,
    /// etcd's client port; any free one when not given
    #[arg(long)]
    etcd_port: Option<u16>,
    /// More flags for kube-apiserver, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let logging = args.logging.clone();
    kinit_component_base::run("dev-control-plane", &logging, |shutdown| async move {
        let dir = std::path::absolute(&args.dir)?;
        let plane = ControlPlane { dir: dir.clone(), port: args.port, address: args.address, flags: args.flags };
        let etcd_port = match args.etcd_port {
            Some(port) => port,
            None => free_port()?,
        };
        let running = TestApiServer::start_at(plane, etcd_port).await?;
        println!("ready: kubectl --kubeconfig {}/admin.conf get nodes", dir.display());
        shutdown.cancelled().await;
        drop(running);
        Ok(())
    })
}
