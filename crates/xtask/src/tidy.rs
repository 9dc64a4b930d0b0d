//! What lints cannot say.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::root;

const MAX_LINES: usize = 800;
const MAX_MAIN_LINES: usize = 60;

/// Which crates a room may use, beyond its own and base. `lifecycle`, `cluster` and `node` know nothing of each other.
const ROOMS: &[&str] = &["lifecycle", "cluster", "node"];

/// `cargo xtask tidy`.
pub fn run() -> Result<()> {
    let root = root();
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    for dir in ["cmd", "crates", "ansible-free-tests"] {
        collect(&root.join(dir), &mut sources)?;
    }
    for path in &sources {
        let shown = path.strip_prefix(&root).unwrap_or(path).display().to_string();
        let text = std::fs::read_to_string(path).with_context(|| format!("read {shown}"))?;
        match path.extension().and_then(|e| e.to_str()) {
            Some("rs") => source(&shown, &text, &mut problems),
            Some("toml") => edges(&shown, &text, &mut problems),
            _ => {}
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    bail!("{} problem(s):\n{}", problems.len(), problems.join("\n"))
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn source(shown: &str, text: &str, problems: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > MAX_LINES {
        problems.push(format!("{shown}: {lines} lines; split it (at most {MAX_LINES})"));
    }
    if shown.starts_with("cmd/") && shown.ends_with("main.rs") && lines > MAX_MAIN_LINES {
        problems.push(format!("{shown}: {lines} lines; a main holds no logic (at most {MAX_MAIN_LINES})"));
    }
    // Spelled in parts, so that this file does not find itself.
    for mark in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("not yet ", "implemented")] {
        for (i, _) in text.lines().enumerate().filter(|(_, l)| l.contains(mark)) {
            problems.push(format!("{shown}:{}: {mark}", i + 1));
        }
    }
}

/// A manifest's dependencies on crates of other rooms.
fn edges(shown: &str, text: &str, problems: &mut Vec<String>) {
    let Some(room) = room(shown) else { return };
    let mine = crate_room(shown);
    for dependency in
        text.lines().filter_map(|l| l.strip_prefix("kinit-")).filter_map(|l| l.split(['.', ' ', '=']).next())
    {
        let theirs = ROOMS.iter().find(|r| root().join("crates").join(r).join(dependency).is_dir());
        if theirs.is_some_and(|t| *t != room) {
            problems.push(format!("{shown}: {room} may not use {dependency} of {}", theirs.unwrap_or(&"")));
        }
        if dependency == "storage" && mine != "apiserver" {
            problems.push(format!("{shown}: only apiserver uses storage"));
        }
    }
}

fn room(shown: &str) -> Option<&str> {
    let mut parts = shown.strip_prefix("crates/")?.split('/');
    let room = parts.next()?;
    (ROOMS.contains(&room) || room == "base").then_some(room)
}

fn crate_room(shown: &str) -> &str {
    shown.split('/').nth(2).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_edges_are_found() {
        let mut problems = Vec::new();
        edges(
            "crates/node/kubelet/Cargo.toml",
            "kinit-client.workspace = true\nkinit-config.workspace = true\n",
            &mut problems,
        );
        assert_eq!(problems, ["crates/node/kubelet/Cargo.toml: node may not use config of lifecycle"]);
        edges("crates/cluster/scheduler/Cargo.toml", "kinit-storage.workspace = true\n", &mut problems);
        assert_eq!(problems.len(), 2);
    }
}
