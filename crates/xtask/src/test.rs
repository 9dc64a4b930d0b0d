//! `cargo xtask test`: the README's second command.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

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
}

/// Runs everything and closes with one plain line.
pub fn run(args: &Args) -> ExitCode {
    let mut count = Count::default();
    for (name, step) in steps(args) {
        eprintln!("=== {name}");
        if let Err(error) = step(&mut count) {
            eprintln!("{name}: {error:#}");
            count.failed += 1;
        }
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
        ("lints", |_| {
            crate::run::run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        }),
    ];
    if !args.quick {
        steps.push(("programs and hosts", |_| programs_and_hosts().map(drop)));
    }
    steps.push(("unit and integration tests", |count| {
        let mut command = cargo();
        command.args(["test", "--workspace", "--exclude", "ansible-free-tests", "--no-fail-fast"]);
        test(count, command.env("PATH", programs::path(&[programs::ETCD, programs::CONTAINERD])?))
    }));
    if !args.quick {
        steps.push(("end-to-end tests", end_to_end));
    }
    steps
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
    test(count, &mut command)
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

/// Runs cargo's test runner and adds up its closing lines.
fn test(count: &mut Count, command: &mut Command) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let failed_before = count.failed;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some((passed, failed, ignored)) = result_line(&line) {
            count.passed += passed;
            count.failed += failed;
            count.skipped += ignored;
        }
    }
    let status = child.wait()?;
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
