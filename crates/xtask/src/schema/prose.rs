//! What the published API definitions say of types and fields, as one text file.
//!
//! The source is the crate k8s-openapi, which is generated from them: each type names its definition, each field has
//! its description as a doc comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::{cargo, root};

const CRATE: &str = "k8s-openapi";
const OUT: &str = "crates/cluster/apiserver/data/descriptions.txt";
const HEADER: &str = "\
# Descriptions of the Kubernetes API's types and fields, from its published OpenAPI definitions.
# Copyright The Kubernetes Authors. Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0
";

/// A definition's own description, and those of its fields by their name in JSON.
type Definition = (String, BTreeMap<String, String>);

/// Writes the data file from the sources of the crate in use.
pub fn generate(minor: &str) -> Result<()> {
    let (dir, version) = source()?;
    let mut definitions = BTreeMap::new();
    read(&dir.join("src").join(minor), &mut definitions)?;
    let mut out = String::from(HEADER);
    writeln!(out, "# Made by `cargo xtask prose` from {CRATE} {version}, {minor}. `@` begins a definition.")?;
    for (name, (description, fields)) in definitions.iter().filter(|(name, _)| is_served(name)) {
        writeln!(out, "@{name}\t{}", escaped(description))?;
        for (field, description) in fields {
            writeln!(out, "{field}\t{}", escaped(description))?;
        }
    }
    let path = root().join(OUT);
    std::fs::write(&path, out).with_context(|| format!("write {}", path.display()))
}

fn source() -> Result<(PathBuf, String)> {
    let output =
        cargo().args(["metadata", "--format-version", "1", "--locked"]).output().context("run cargo metadata")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == CRATE).context("k8s-openapi is not in use")?;
    let manifest = package["manifest_path"].as_str().context("k8s-openapi has no manifest")?;
    let dir = Path::new(manifest).parent().context("k8s-openapi has no folder")?;
    Ok((dir.to_owned(), package["version"].as_str().unwrap_or_default().to_owned()))
}

/// Alpha and beta versions are not served.
fn is_served(name: &str) -> bool {
    !name.split('.').any(|part| part.starts_with('v') && (part.contains("alpha") || part.contains("beta")))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

fn read(dir: &Path, out: &mut BTreeMap<String, Definition>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, out)?;
        } else {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            out.extend(definition(&text));
        }
    }
    Ok(())
}

/// The definition that a generated file is of.
fn definition(text: &str) -> Option<(String, Definition)> {
    let name = text.lines().find_map(|line| line.strip_prefix("// Generated from definition "))?;
    let names = json_names(text);
    let (mut own, mut fields, mut doc) = (String::new(), BTreeMap::new(), Vec::new());
    let mut inside = false;
    for line in text.lines() {
        let trimmed = line.trim_start();
        if let Some(comment) = trimmed.strip_prefix("///") {
            doc.push(comment.strip_prefix(' ').unwrap_or(comment));
        } else if !inside && (trimmed.starts_with("pub struct ") || trimmed.starts_with("pub enum ")) {
            own = std::mem::take(&mut doc).join("\n");
            inside = true;
        } else if inside && line == "}" {
            break;
        } else if inside && let Some(field) = trimmed.strip_prefix("pub ").and_then(|rest| rest.split(':').next()) {
            let description = std::mem::take(&mut doc).join("\n");
            let name = names.get(field.trim_start_matches("r#")).cloned().unwrap_or_else(|| field.to_owned());
            if !description.is_empty() {
                fields.insert(name, description);
            }
        } else if !trimmed.starts_with("#[") {
            doc.clear();
        }
    }
    Some((name.to_owned(), (own, fields)))
}

/// `"clusterIP" => Field::Key_cluster_ip`, by the name in Rust.
fn json_names(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(" => Field::Key_"));
    pairs
        .filter_map(|(json, rust)| {
            let json = json.strip_prefix('"')?.strip_suffix('"')?;
            Some((rust.trim_end_matches(',').to_owned(), json.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_file() {
        let text = [
            "// Generated from definition io.k8s.api.core.v1.X\n\n/// X is one.\n///\n/// More.\n#[derive(Clone)]",
            "pub struct X {\n    /// An address.\n    pub cluster_ip: Option<String>,\n\n    pub bare: bool,\n}\n",
            "impl Y for X {\n    /// Not this.\n    pub fn f() {}\n    \"clusterIP\" => Field::Key_cluster_ip,\n}\n",
        ]
        .join("\n");
        let fields = BTreeMap::from([("clusterIP".to_owned(), "An address.".to_owned())]);
        let want = ("io.k8s.api.core.v1.X".to_owned(), ("X is one.\n\nMore.".to_owned(), fields));
        assert_eq!(definition(&text), Some(want));
        assert_eq!(definition("pub struct Z {}\n"), None);
    }

    #[test]
    fn what_is_served() {
        assert!(is_served("io.k8s.api.core.v1.Volume"));
        assert!(!is_served("io.k8s.api.resource.v1beta2.Device") && !is_served("io.k8s.api.x.v1alpha1.Y"));
    }
}
