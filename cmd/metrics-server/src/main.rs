//! The server of `metrics.k8s.io` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_metrics_server::main(std::env::args_os().collect())
}
