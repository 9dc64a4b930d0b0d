//! Packages of a distribution's release, for hosts that have no other source of packages: `.deb` files, and an index of
//! them in the format that apt reads (deb822, wiki.debian.org/DebianRepository/Format).
//!
//! ```text
//! packages/debian-trixie/Packages                     what each package is and needs
//! packages/debian-trixie/etcd-server_3.5.16-4_amd64.deb
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::folder::read_long_text;
use crate::manifest::{FileEntry, Manifest};

/// The folder of all packages in a bundle.
pub const PACKAGES: &str = "packages";
/// An index's file name.
pub const INDEX: &str = "Packages";
/// Packages that a host of the manifest's architecture takes.
const ARCHITECTURES: [&str; 2] = ["amd64", "all"];

/// The packages for hosts of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PackageSet {
    /// `ID` and `VERSION_CODENAME` of os-release(5): `debian-trixie`.
    pub release: String,
    /// The index's file.
    pub index: String,
    /// All of them, dependencies included.
    pub packages: Vec<Package>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Package {
    /// `etcd-server`.
    pub name: String,
    /// `3.5.16-4`.
    pub version: String,
    /// `amd64`, or `all`.
    pub architecture: String,
    /// The `.deb` file.
    pub file: String,
}

/// What of a package's control file apt needs to decide what is to be installed.
const FIELDS: [&str; 13] = [
    "Package",
    "Version",
    "Architecture",
    "Multi-Arch",
    "Essential",
    "Priority",
    "Installed-Size",
    "Pre-Depends",
    "Depends",
    "Provides",
    "Conflicts",
    "Breaks",
    "Replaces",
];

/// A field of a paragraph; continued lines are part of it.
fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    let is_field = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
    let line = paragraph.lines().find(is_field)?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// A name that a file of a bundle may have: versions have `~` and `:`.
pub fn file_name(name: &str, version: &str, architecture: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+') { c } else { '.' };
    format!("{name}_{version}_{architecture}.deb").chars().map(plain).collect()
}

/// A package and its paragraph of the index, from its control file and its file in the bundle; what is wrong with it
/// otherwise.
pub fn describe(control: &str, file: &FileEntry) -> Result<(Package, String), String> {
    let needed = |name: &str| {
        let value = field(control, name).filter(|value| !value.is_empty());
        value.map(str::to_owned).ok_or_else(|| format!("{}: its control file has no {name}", file.path))
    };
    let (name, version, architecture) = (needed("Package")?, needed("Version")?, needed("Architecture")?);
    if !ARCHITECTURES.contains(&architecture.as_str()) {
        return Err(format!("{}: it is for {architecture}, and the bundle is for amd64", file.path));
    }
    let base = file.path.rsplit('/').next().unwrap_or(&file.path);
    let mut paragraph = String::new();
    for name in FIELDS {
        if let Some(value) = field(control, name) {
            paragraph.push_str(&format!("{name}: {value}\n"));
        }
    }
    paragraph.push_str(&format!("Filename: ./{base}\nSize: {}\nSHA256: {}\n", file.size, file.sha256));
    Ok((Package { name, version, architecture, file: file.path.clone() }, paragraph))
}

impl PackageSet {
    /// What is wrong with it as a part of this manifest.
    pub(crate) fn problems(&self, manifest: &Manifest) -> Vec<String> {
        let mut problems = Vec::new();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if self.release.split('-').count() < 2 || !self.release.chars().all(plain) {
            problems.push(format!("packages for {:?}: a release is like debian-trixie", self.release));
        }
        let files = self.packages.iter().map(|package| &package.file).chain([&self.index]);
        problems
            .extend(files.filter(|file| manifest.file(file).is_none()).map(|file| format!("{file} is no file of it")));
        let foreign = self.packages.iter().filter(|package| !ARCHITECTURES.contains(&package.architecture.as_str()));
        problems.extend(foreign.map(|package| {
            format!("package {} is for {}, and the bundle is for amd64", package.name, package.architecture)
        }));
        problems
    }

    /// The text of its index, which says of every package what the manifest says: apt on the hosts trusts the index.
    pub fn read_index(&self, folder: &Path, manifest: &Manifest) -> Result<String, Error> {
        let path = folder.join(&self.index);
        let text = read_long_text(&path)?;
        let wrong = self.differences(&text, manifest);
        if wrong.is_empty() {
            return Ok(text);
        }
        Err(Error::Damaged {
            folder: folder.to_owned(),
            why: wrong.iter().map(|w| format!("{}: {w}", self.index)).collect(),
        })
    }

    fn differences(&self, index: &str, manifest: &Manifest) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut paragraphs = 0;
        for paragraph in index.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            paragraphs += 1;
            let name = field(paragraph, "Package").unwrap_or_default();
            let hash = field(paragraph, "SHA256").unwrap_or_default();
            let known = self.packages.iter().any(|package| {
                package.name == name
                    && field(paragraph, "Version") == Some(package.version.as_str())
                    && manifest.file(&package.file).is_some_and(|file| file.sha256 == hash)
            });
            if !known {
                wrong.push(format!("package {name:?} is not as the manifest has it"));
            }
        }
        if paragraphs != self.packages.len() {
            wrong.push(format!("it has {paragraphs} packages, and the manifest {}", self.packages.len()));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: etcd-server\nSource: etcd\nVersion: 1:3.5.16-4~deb13u1\nArchitecture: amd64\n\
                           Depends: libc6 (>= 2.34), adduser\nDescription: a store\n with: colons\n";

    fn set() -> (PackageSet, Manifest, String) {
        let name = file_name("etcd-server", "1:3.5.16-4~deb13u1", "amd64");
        let file = FileEntry { path: format!("packages/debian-trixie/{name}"), sha256: "ef".repeat(32), size: 7 };
        let (package, index) = describe(CONTROL, &file).unwrap();
        let of_index = FileEntry { path: "packages/debian-trixie/Packages".into(), sha256: "aa".repeat(32), size: 1 };
        let set = PackageSet { release: "debian-trixie".into(), index: of_index.path.clone(), packages: vec![package] };
        let mut manifest = Manifest::sample("v1.36.0".parse().unwrap());
        manifest.files.extend([file, of_index]);
        manifest.packages.push(set.clone());
        (set, manifest, index)
    }

    #[test]
    fn a_package_is_described_for_apt() {
        let (set, manifest, index) = set();
        assert_eq!(set.packages[0].file, "packages/debian-trixie/etcd-server_1.3.5.16-4.deb13u1_amd64.deb");
        assert_eq!(
            index,
            format!(
                "Package: etcd-server\nVersion: 1:3.5.16-4~deb13u1\nArchitecture: amd64\nDepends: libc6 (>= 2.34), adduser\n\
                 Filename: ./etcd-server_1.3.5.16-4.deb13u1_amd64.deb\nSize: 7\nSHA256: {}\n",
                "ef".repeat(32)
            )
        );
        let text = manifest.to_yaml().unwrap();
        assert_eq!(Manifest::parse(&text).unwrap(), manifest);
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("packages/debian-trixie")).unwrap();
        std::fs::write(folder.path().join(&set.index), &index).unwrap();
        assert_eq!(set.read_index(folder.path(), &manifest).unwrap(), index);
    }

    #[test]
    fn packages_that_do_not_fit_are_named() {
        for (control, expected) in [
            (CONTROL.replace("amd64", "arm64"), "it is for arm64"),
            (CONTROL.replace("Version:", "Wersion:"), "has no Version"),
            (String::new(), "has no Package"),
        ] {
            let file = FileEntry { path: "packages/a-b/x.deb".into(), sha256: "ef".repeat(32), size: 7 };
            let error = describe(&control, &file).unwrap_err();
            assert!(error.starts_with("packages/a-b/x.deb: ") && error.contains(expected), "{error}");
        }
        let (set, manifest, index) = set();
        for (other, expected) in [
            (index.replace("SHA256: ef", "SHA256: 00"), "\"etcd-server\" is not as the manifest has it"),
            (index.replace("3.5.16", "3.6.0"), "not as the manifest has it"),
            (String::new(), "it has 0 packages, and the manifest 1"),
            (format!("{index}\n{index}"), "it has 2 packages"),
        ] {
            let wrong = set.differences(&other, &manifest).join("; ");
            assert!(wrong.contains(expected), "{wrong}");
        }
        type Change = Box<dyn Fn(&mut Manifest)>;
        let wrong: [(&str, Change); 3] = [
            ("a release is like", Box::new(|m| m.packages[0].release = "trixie".into())),
            ("is for arm64", Box::new(|m| m.packages[0].packages[0].architecture = "arm64".into())),
            (".deb is no file of it", Box::new(|m| m.files.retain(|f| !f.path.ends_with(".deb")))),
        ];
        for (expected, change) in wrong {
            let mut changed = manifest.clone();
            change(&mut changed);
            let problems = Manifest::parse(&changed.to_yaml().unwrap()).unwrap_err();
            assert!(problems.contains(expected), "{problems}");
        }
    }
}
