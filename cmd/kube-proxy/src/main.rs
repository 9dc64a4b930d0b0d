//! The service proxy as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_proxy::main(std::env::args_os().collect())
}
