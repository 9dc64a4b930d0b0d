//! kube-apiserver.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinit_apiserver::main(std::env::args_os().collect())
}
