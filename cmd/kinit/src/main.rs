//! `kinit`: see `kinit --help`.

fn main() -> std::process::ExitCode {
    kinit_cli::main()
}
