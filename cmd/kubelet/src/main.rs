//! The kubelet as a program of its own.

fn main() -> std::process::ExitCode {
    kinit_kubelet::main(std::env::args_os().collect())
}
