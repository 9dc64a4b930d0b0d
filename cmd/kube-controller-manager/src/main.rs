//! The controller manager as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_controllers::main(std::env::args_os().collect())
}
