//! The process that holds a pod's namespaces: it waits, reaps what is orphaned to it when it is PID 1 of a shared
//! process namespace, and ends on SIGINT or SIGTERM. Follows upstream's `build/pause` in what it does.

use std::process::ExitCode;
use std::ptr::null_mut;

#[expect(unsafe_code, reason = "a static program of three system calls")]
fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("-v") {
        println!("pause {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // SAFETY: plain system calls on a signal set that lives on this stack; sigwait takes no handler, so nothing runs
    // asynchronously.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD] {
            libc::sigaddset(&mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &set, null_mut()) != 0 {
            return ExitCode::from(1);
        }
        loop {
            let mut signal = 0;
            if libc::sigwait(&set, &mut signal) != 0 {
                return ExitCode::from(2);
            }
            if signal == libc::SIGCHLD {
                while libc::waitpid(-1, null_mut(), libc::WNOHANG) > 0 {}
            } else {
                return ExitCode::SUCCESS;
            }
        }
    }
}
