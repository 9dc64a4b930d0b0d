//! What a bundle's programs are made of: a bill of materials (CycloneDX 1.6, JSON) and the licences' texts. Both are
//! of what is linked, and the same for the same Cargo.lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::tidy::metadata::{Metadata, Package, load};

/// The bill of materials' file in a bundle.
pub const SBOM: &str = "sbom.cdx.json";
/// The licences' file.
pub const LICENCES: &str = "third-party-licences.txt";

/// Writes both into a bundle's folder.
pub fn write(dir: &Path, root: &Path, programs: &[&str]) -> Result<()> {
    let metadata = load()?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("read Cargo.lock")?;
    let sbom = bill(&metadata, &checksums(&lock), programs)?;
    let text = format!("{sbom:#}\n");
    std::fs::write(dir.join(SBOM), text).with_context(|| format!("write {SBOM}"))?;
    let licences = licences(&linked(&metadata, programs)?)?;
    std::fs::write(dir.join(LICENCES), licences).with_context(|| format!("write {LICENCES}"))
}

/// SHA-256 of each crate's archive, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    let one = |text: &str| Some(((field(text, "name")?, field(text, "version")?), field(text, "checksum")?));
    lock.split("[[package]]").filter_map(one).collect()
}

/// The crates that are linked into these programs, by their identities; those of the workspace among them.
fn linked<'a>(metadata: &'a Metadata, programs: &[&str]) -> Result<BTreeMap<&'a str, &'a Package>> {
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|p| (p.id.as_str(), p)).collect();
    let nodes: BTreeMap<&str, _> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let is_program = |package: &&&Package| package.source.is_none() && programs.contains(&package.name.as_str());
    let mut waiting: Vec<&str> = packages.values().filter(is_program).map(|package| package.id.as_str()).collect();
    ensure!(waiting.len() == programs.len(), "not all of {} are programs of the workspace", programs.join(", "));
    let mut found = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let package = packages.get(id).with_context(|| format!("cargo says nothing of {id}"))?;
        if found.insert(id, *package).is_some() {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo says nothing of what {id} uses"))?;
        let is_linked = |kinds: &[crate::tidy::metadata::DependencyKind]| kinds.iter().any(|kind| kind.kind.is_none());
        waiting.extend(node.deps.iter().filter(|dep| is_linked(&dep.dep_kinds)).map(|dep| dep.pkg.as_str()));
    }
    Ok(found)
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The bill of materials (cyclonedx.org/docs/1.6/json). Without a time and a serial number, which are optional: the
/// same sources give the same bytes.
fn bill(metadata: &Metadata, checksums: &BTreeMap<(String, String), String>, programs: &[&str]) -> Result<Value> {
    let linked = linked(metadata, programs)?;
    let mut components = BTreeMap::new();
    for package in linked.values() {
        let mut component = json!({
            "type": if programs.contains(&package.name.as_str()) && package.source.is_none() { "application" } else { "library" },
            "bom-ref": purl(package),
            "name": package.name,
            "version": package.version,
            "purl": purl(package),
        });
        if let Some(licence) = &package.license {
            component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
        }
        if let Some(hash) = checksums.get(&(package.name.clone(), package.version.clone())) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
        }
        components.insert(purl(package), component);
    }
    let mut dependencies = BTreeMap::new();
    for node in metadata.resolve.nodes.iter().filter(|node| linked.contains_key(node.id.as_str())) {
        let uses = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
        let uses: BTreeSet<String> = uses.filter_map(|dep| Some(purl(linked.get(dep.pkg.as_str())?))).collect();
        let package = linked.get(node.id.as_str()).context("a crate that was there is gone")?;
        dependencies.insert(purl(package), json!({ "ref": purl(package), "dependsOn": uses }));
    }
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": { "type": "application", "bom-ref": "kinit-bundle", "name": "kinit-bundle", "version": env!("CARGO_PKG_VERSION") } },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": dependencies.into_values().collect::<Vec<_>>(),
    }))
}

/// The texts of licences and notices that crates come with, each once, with the crates that have it.
fn licences(linked: &BTreeMap<&str, &Package>) -> Result<String> {
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = Vec::new();
    let mut table = BTreeSet::new();
    for package in linked.values().filter(|package| package.source.is_some()) {
        let shown = format!("{} {}", package.name, package.version);
        let licence = package.license.as_deref().unwrap_or("its own");
        table.insert(format!("{shown}: {licence}"));
        let folder = package.manifest_path.parent().with_context(|| format!("find the sources of {shown}"))?;
        let found = texts_in(folder).with_context(|| format!("read the licences of {shown}"))?;
        if found.is_empty() {
            without.push(shown.clone());
        }
        for text in found {
            texts.entry(text).or_default().insert(shown.clone());
        }
    }
    let mut all = String::from("Crates that are linked into the programs of this bundle, with their licences.\n\n");
    table.iter().for_each(|line| all.push_str(&format!("{line}\n")));
    if !without.is_empty() {
        without.sort();
        all.push_str(&format!("\nWithout a text of their own: {}\n", without.join(", ")));
    }
    let mut texts: Vec<(BTreeSet<String>, String)> = texts.into_iter().map(|(text, crates)| (crates, text)).collect();
    texts.sort();
    for (crates, text) in texts {
        let line = "-".repeat(80);
        let crates = crates.into_iter().collect::<Vec<_>>().join(", ");
        all.push_str(&format!("\n{line}\n{crates}\n{line}\n\n{text}\n"));
    }
    Ok(all)
}

fn texts_in(folder: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_uppercase()).unwrap_or_default();
        let is_licence =
            ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"].iter().any(|w| name.starts_with(w));
        if is_licence && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Ok(String::from_utf8_lossy(&std::fs::read(path)?).trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(folder: &Path) -> Metadata {
        let package = |name: &str, source: Option<&str>| {
            let manifest = folder.join(name).join("Cargo.toml");
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source,
                    "manifest_path": manifest, "dependencies": [] })
        };
        let dep = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        serde_json::from_value(json!({
            "packages": [package("kinit", None), package("lib", Some("r")), package("deep", Some("r")), package("tool", Some("r")), package("test", Some("r"))],
            "resolve": { "nodes": [
                { "id": "kinit", "deps": [dep("lib", None), dep("test", Some("dev")), dep("tool", Some("build"))] },
                { "id": "lib", "deps": [dep("deep", None)] },
                { "id": "deep", "deps": [] }, { "id": "tool", "deps": [] }, { "id": "test", "deps": [] },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let metadata = metadata(folder.path());
        let lock = "version = 4\n\n[[package]]\nname = \"deep\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n\n[[package]]\nname = \"kinit\"\nversion = \"1.0.0\"\n";
        let bill = bill(&metadata, &checksums(lock), &["kinit"]).unwrap();
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["deep", "kinit", "lib"]);
        let deep = &bill["components"][0];
        assert_eq!(
            (deep["hashes"][0]["content"].as_str(), deep["licenses"][0]["expression"].as_str()),
            (Some("ab"), Some("MIT OR Apache-2.0"))
        );
        assert_eq!(bill["components"][1]["type"], "application");
        assert_eq!(bill["dependencies"][2]["dependsOn"], json!(["pkg:cargo/deep@1.0.0"]));
        assert!(linked(&metadata, &["nothing"]).is_err());
    }

    #[test]
    fn a_text_is_there_once_with_all_its_crates() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("lib", Some("The text")), ("deep", Some("The text\n"))] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            if let Some(text) = text {
                std::fs::write(folder.path().join(name).join("LICENSE-MIT"), text).unwrap();
            }
        }
        let metadata = metadata(folder.path());
        let text = licences(&linked(&metadata, &["kinit"]).unwrap()).unwrap();
        assert_eq!(text.matches("The text").count(), 1, "{text}");
        assert!(text.contains("\ndeep 1.0.0, lib 1.0.0\n") && text.contains("lib 1.0.0: MIT/Apache-2.0"), "{text}");
        assert!(!text.contains("tool"), "{text}");
    }
}
