//! What cargo knows of the workspace and of its dependencies.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::run::cargo;

/// Output of `cargo metadata`, as far as it is used here.
#[derive(Deserialize)]
pub struct Metadata {
    /// Crates of the workspace, and all that they depend on.
    pub packages: Vec<Package>,
    /// Which of them uses which.
    #[serde(default)]
    pub resolve: Resolve,
}

/// The graph of dependencies, with features and platforms decided.
#[derive(Deserialize, Default)]
pub struct Resolve {
    pub nodes: Vec<Node>,
}

/// A crate of the graph.
#[derive(Deserialize)]
pub struct Node {
    pub id: String,
    pub deps: Vec<NodeDependency>,
}

/// An edge of the graph.
#[derive(Deserialize)]
pub struct NodeDependency {
    pub pkg: String,
    pub dep_kinds: Vec<DependencyKind>,
}

/// What an edge is for.
#[derive(Deserialize)]
pub struct DependencyKind {
    /// `dev`, `build`, or none for what is linked.
    pub kind: Option<String>,
}

/// One crate.
#[derive(Deserialize)]
pub struct Package {
    #[serde(default)]
    pub id: String,
    pub name: String,
    pub version: String,
    /// An SPDX expression.
    pub license: Option<String>,
    /// Where it was fetched from; none for a crate of the workspace.
    pub source: Option<String>,
    pub manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// `dev`, `build`, or none for an ordinary one.
    kind: Option<String>,
    /// Directory of a crate of the workspace.
    path: Option<PathBuf>,
}

/// A crate of the workspace and the crates of the workspace that it uses outside its tests, by their directories.
#[derive(Debug, PartialEq)]
pub struct Crate {
    /// Directory below the workspace's root, such as `crates/base/pki`.
    pub dir: String,
    pub uses: Vec<String>,
}

impl Metadata {
    /// The crates of the workspace.
    pub fn crates(&self, root: &Path) -> Vec<Crate> {
        let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        let own = self.packages.iter().filter(|p| p.source.is_none());
        own.map(|package| Crate {
            dir: package.manifest_path.parent().map(below).unwrap_or_default(),
            uses: package
                .dependencies
                .iter()
                .filter(|d| d.kind.as_deref() != Some("dev"))
                .filter_map(|d| d.path.as_deref().map(below))
                .collect(),
        })
        .collect()
    }
}

/// Asks cargo. Only what is built for our target counts: other systems' crates need not be on this machine.
pub fn load() -> Result<Metadata> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    let output = command.output().context("start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    serde_json::from_slice(&output.stdout).context("read the output of cargo metadata")
}
