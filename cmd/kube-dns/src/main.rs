//! Cluster DNS as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_dns::main(std::env::args_os().collect())
}
