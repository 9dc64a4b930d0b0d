//! The cloud controller manager for bare metal as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_cloud_baremetal::main(std::env::args_os().collect())
}
