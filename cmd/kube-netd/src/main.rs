//! The pod network's agent as a program of its own.

fn main() -> std::process::ExitCode {
    kinit_netd::main(std::env::args_os().collect())
}
