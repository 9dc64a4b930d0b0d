//! `cargo xtask test`: the README's second command.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::panics::Panics;
use crate::run::{cargo, root};
use crate::{bundle, programs, setup, tidy};

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests on playground hosts
    #[arg(long)]
    quick: bool,
}

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    panics: Panics,
}

/// Runs everything and closes with one plain line.
pub fn run(args: &Args) -> ExitCode {
    let mut count = Count::default();
    for (name, step) in steps(args) {
        eprintln!("=== {name}");
        let started = Instant::now();
        if let Err(error) = step(&mut count) {
            eprintln!("{name}: {error:#}");
            count.failed += 1;
        }
        eprintln!("=== {name}: {} s", started.elapsed().as_secs());
    }
    // A long output is searched from its end.
    let panics = count.panics.text();
    if !panics.is_empty() {
        println!("=== what failed tests said\n{panics}");
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if count.failed == 0 && count.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

type Check = fn(&mut Count) -> Result<()>;

fn steps(args: &Args) -> Vec<(&'static str, Check)> {
    let mut steps: Vec<(&'static str, Check)> = vec![
        ("packages", |_| setup::run()),
        ("formatting", |_| crate::run::run(cargo().args(["fmt", "--all", "--check"]))),
        ("tidy", |_| tidy::run()),
        ("advisories", advisories),
    ];
    // End-to-end tests wait for most of their time: what the steps after them need is compiled meanwhile.
    if !args.quick {
        steps.push(("programs and hosts", |_| programs_and_hosts().map(drop)));
        steps.push(("end-to-end tests", end_to_end));
    }
    steps.push(("lints", |_| crate::run::run(cargo().args(LINTS))));
    steps.push(("unit and integration tests", |count| {
        let mut command = cargo();
        command.args(UNITS).arg("--no-fail-fast");
        test(count, command.env("PATH", programs::path(&[programs::ETCD, programs::CONTAINERD])?), |_| {})
    }));
    steps
}

const LINTS: [&str; 7] = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
const UNITS: [&str; 4] = ["test", "--workspace", "--exclude", "ansible-free-tests"];

/// Compiles what the steps after the end-to-end tests need, with the time and the disk that nobody else wants. What it
/// finds is found again by these steps.
fn compile_ahead() -> Option<Child> {
    let cargo = cargo();
    let program = cargo.get_program().to_string_lossy();
    // A session has a share of the processor of its own. It ends when its input does: with this program.
    let script = format!(
        "echo 19 > /proc/self/autogroup; exec 3<&0; (cat <&3 >&2; kill -TERM 0) & \
         exec chrt --idle 0 ionice -c 3 sh -c '{program} {}; {program} {} --no-run'",
        LINTS.join(" "),
        UNITS.join(" ")
    );
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", &script]).current_dir(root());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

/// Known vulnerabilities of dependencies, and where these may come from. The RustSec database is on the internet, which
/// a machine may not have: then the step is skipped, and counted as that.
fn advisories(count: &mut Count) -> Result<()> {
    let there = Command::new("cargo-deny").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        println!("advisories: skipped, because cargo-deny is not installed (`cargo install cargo-deny`)");
        count.skipped += 1;
        return Ok(());
    }
    crate::run::run(cargo().args(["deny", "--locked", "check", "advisories", "bans", "sources"]))
}

/// The programs under test, and what playground hosts are made of; the API server's tests take their etcd from there.
fn programs_and_hosts() -> Result<PathBuf> {
    let bundle = bundle::for_tests()?;
    crate::run::run(Command::new(bundle.join("kinit")).args(["playground", "cache"]).stdout(Stdio::null()))?;
    Ok(bundle)
}

fn end_to_end(count: &mut Count) -> Result<()> {
    let bundle = programs_and_hosts()?;
    let mut command = cargo();
    // Of the whole workspace, so that dependencies have the features they were built with.
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for name in end_to_end_names()? {
        command.args(["--test", &name]);
    }
    // One at a time: the machine's cores are few, and hosts are greedy.
    command.args(["--", "--test-threads=1", "--nocapture"]);
    command.env("KINIT_BUNDLE", bundle);
    let mut ahead = None;
    let result = test(count, &mut command, |line| {
        // From here on cargo does not need its folder any more.
        if ahead.is_none() && line.trim_start().starts_with("Running ") {
            ahead = compile_ahead();
        }
    });
    if let Some(mut ahead) = ahead {
        let _open = ahead.stdin.take();
        ahead.wait().context("wait for what is compiled ahead")?;
    }
    result
}

/// A file or a folder is a test program.
fn end_to_end_names() -> Result<Vec<String>> {
    let dir = root().join("ansible-free-tests/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Runs cargo's test runner and adds up its closing lines; `heard` gets every line of its standard error.
fn test(count: &mut Count, command: &mut Command, mut heard: impl FnMut(&str) + Send) -> Result<()> {
    // What a test says when it fails is enough; a backtrace buries it.
    command.env("RUST_BACKTRACE", "0");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let errors = child.stderr.take().context("cargo test has no standard error")?;
    let failed_before = count.failed;
    let panics = std::thread::scope(|scope| {
        let errors = scope.spawn(|| {
            let mut panics = Panics::default();
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                eprintln!("{line}");
                panics.hear(&line);
                heard(&line);
            }
            panics
        });
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            count.panics.hear(&line);
            if let Some((passed, failed, ignored)) = result_line(&line) {
                count.passed += passed;
                count.failed += failed;
                count.skipped += ignored;
            }
        }
        std::io::Result::Ok(errors.join().unwrap_or_default())
    })?;
    let status = child.wait()?;
    count.panics.extend(panics);
    // A test program that did not compile, or died, prints no closing line.
    anyhow::ensure!(status.success() || count.failed > failed_before, "cargo test failed with {status}");
    Ok(())
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; ...`
fn result_line(line: &str) -> Option<(u64, u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let number =
        |word: &str| rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    Some((number("passed")?, number("failed")?, number("ignored")?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn closing_lines_are_read() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(super::result_line(line), Some((3, 2, 1)));
        assert_eq!(super::result_line("running 3 tests"), None);
    }

    /// End-to-end tests are chosen by name from the whole workspace: a name that another crate's test has, too, would
    /// run that one without what it needs.
    #[test]
    fn names_of_end_to_end_tests_are_theirs_alone() {
        let names = super::end_to_end_names().unwrap();
        for room in std::fs::read_dir(super::root().join("crates")).unwrap() {
            for member in std::fs::read_dir(room.unwrap().path()).into_iter().flatten() {
                for test in std::fs::read_dir(member.unwrap().path().join("tests")).into_iter().flatten() {
                    let path = test.unwrap().path();
                    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                    assert!(!names.contains(&name), "{} has the name of an end-to-end test", path.display());
                }
            }
        }
    }
}
