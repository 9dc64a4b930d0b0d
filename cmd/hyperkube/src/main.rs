//! All programs of a host in one file: the name it is called by, or its first argument, says which one runs.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

type Main = fn(Vec<OsString>) -> ExitCode;

/// One line a program.
const PROGRAMS: &[(&str, Main)] = &[
    ("kube-apiserver", kinit_apiserver::main),
    ("kube-controller-manager", kinit_controllers::main),
    ("kube-scheduler", kinit_scheduler::main),
    ("cloud-controller-manager", kinit_cloud_baremetal::main),
    ("metrics-server", kinit_metrics_server::main),
    ("kubelet", kinit_kubelet::main),
    ("kube-proxy", kinit_proxy::main),
    ("kube-netd", kinit_netd::main),
];

fn find(name: &OsString) -> Option<Main> {
    let name = Path::new(name).file_name()?.to_str()?;
    PROGRAMS.iter().find(|(program, _)| *program == name).map(|(_, main)| *main)
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    if let Some(main) = args.first().and_then(find) {
        return main(args);
    }
    if let Some(main) = args.get(1).and_then(find) {
        args.remove(0);
        return main(args);
    }
    let names: Vec<&str> = PROGRAMS.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: hyperkube PROGRAM [FLAGS], or a link of the program's name; programs: {}", names.join(", "));
    ExitCode::from(2)
}
