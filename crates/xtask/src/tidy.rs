//! What lints cannot say.
//!
//! ```text
//! files            sizes, sizes of mains, marks of unfinished work, width of comments
//! functions        length, with a list of known offenders that may only shrink
//! edges            who uses whom, against the table in docs/architecture.md
//! lints            the workspace's, everywhere
//! licences         of every dependency, against deny.toml
//! ```

mod comments;
mod edges;
mod functions;
mod licences;
mod lints;
pub(crate) mod metadata;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::root;

const MAX_LINES: usize = 800;
const MAX_MAIN_LINES: usize = 60;

/// `cargo xtask tidy`.
pub fn run() -> Result<()> {
    let root = root();
    let mut problems = Vec::new();
    let mut long = Vec::new();
    let width = comments::max_width(&read(&root.join("rustfmt.toml"))?)?;
    for path in sources(&root)? {
        let shown = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
        let text = read(&path)?;
        source(&shown, &text, &mut problems);
        problems.extend(comments::too_wide(&shown, &text, width));
        long.extend(functions::too_long(&shown, &text));
    }
    problems.extend(functions::compare(&long));
    let metadata = metadata::load()?;
    let crates = metadata.crates(&root);
    problems.extend(edges::check(&read(&root.join("docs/architecture.md"))?, &crates)?);
    let workspace = read(&root.join("Cargo.toml"))?;
    for one in &crates {
        let manifest = read(&root.join(&one.dir).join("Cargo.toml"))?;
        problems.extend(lints::check(&one.dir, &manifest, &workspace));
    }
    problems.extend(licences::check(&read(&root.join("deny.toml"))?, &metadata)?);
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    bail!("{} problem(s):\n{}", problems.len(), problems.join("\n"))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// All Rust files of the workspace.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in ["cmd", "crates", "ansible-free-tests"] {
        collect(&root.join(dir), &mut files)?;
    }
    files.retain(|file| file.extension().is_some_and(|e| e == "rs"));
    Ok(files)
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
