//! A process does not outlive its vital tasks. In a process of its own: the failure is the whole process's.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use kinit_component_base::logs::LoggingArgs;
use kinit_component_base::{run, supervise};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    logging: LoggingArgs,
}

#[test]
fn the_process_ends_with_an_error() {
    let args = Args::parse_from(["x"]);
    // A vital task that ends at its shutdown is none of it.
    let code = run("x", &args.logging, |shutdown| async move {
        let stop = shutdown.child_token();
        let until = stop.clone();
        let task = supervise::vital("watched resource", &stop, async move { until.cancelled().await });
        stop.cancel();
        task.await?;
        Ok(())
    });
    assert_eq!(code, ExitCode::SUCCESS);
    // Nor is a task that ends well.
    let code = run("x", &args.logging, |_| async move {
        supervise::spawn("quiet", async {}).await?;
        Ok(())
    });
    assert_eq!(code, ExitCode::SUCCESS);
    let code = run("x", &args.logging, |shutdown| async move {
        supervise::vital("feed", &shutdown, async { panic!("bad object") });
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(())
    });
    assert_eq!(code, ExitCode::FAILURE);
}
