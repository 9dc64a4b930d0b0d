//! What a bundle says of itself.

use std::collections::BTreeSet;

use kinit_config::{API_VERSION, Minor, Version};
use serde::{Deserialize, Serialize};

use crate::packages::PackageSet;

/// The manifest's name in the bundle's folder.
pub const MANIFEST: &str = "bundle.yaml";
/// The kind of the manifest.
pub(crate) const KIND: &str = "Bundle";
/// The components that hosts need, each by the name of its program.
pub const COMPONENTS: [&str; 6] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kube-netd"];

/// Components that a bundle may be without: some clusters need the first (`spec.loadBalancerPools`), and do without the
/// second (`spec.metricsServer`).
pub const OPTIONAL: [&str; 2] = ["cloud-controller-manager", "metrics-server"];

/// `bundle.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// `kinit.dev/v1alpha1`.
    pub api_version: String,
    /// `Bundle`.
    pub kind: String,
    /// The version that a cluster has which is made of it.
    pub version: Version,
    /// The minor that the control plane serves, when it is to be an earlier one than its own (upstream's
    /// `--emulated-version`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulated_version: Option<Minor>,
    /// CPU architecture of the programs, by Go's names.
    pub architecture: String,
    /// Programs, by component.
    pub components: Vec<Component>,
    /// Image archives that every node gets.
    #[serde(default)]
    pub images: Vec<Image>,
    /// Packages that hosts need, by release, for hosts without a source of packages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<PackageSet>,
    /// Every file of the bundle but the manifest and its signature.
    pub files: Vec<FileEntry>,
}

/// A component's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Component {
    /// `kube-apiserver`.
    pub name: String,
    /// What the program says of itself.
    pub version: Version,
    /// The file; several components may be one (a multi-call program).
    pub file: String,
    /// Flags that kinit would set and the program does not know, without dashes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_flags: Vec<String>,
}

/// An image archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    /// `kinit.dev/pause:0.1.0`.
    pub name: String,
    /// The archive (`docker save`).
    pub file: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the bundle's folder.
    pub path: String,
    /// In hexadecimal.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

impl Manifest {
    /// An empty one.
    pub fn new(version: Version) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            version,
            emulated_version: None,
            architecture: "amd64".to_owned(),
            components: Vec::new(),
            images: Vec::new(),
            packages: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The minor that the cluster's API is of.
    pub fn minor(&self) -> Minor {
        self.emulated_version.unwrap_or_else(|| self.version.minor())
    }

    /// Its text.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }

    /// Every component in one program, for tests.
    #[doc(hidden)]
    pub fn sample(version: Version) -> Self {
        let component = |name: &str| Component {
            name: name.to_owned(),
            version: version.clone(),
            file: "hyperkube".to_owned(),
            without_flags: Vec::new(),
        };
        let file = FileEntry { path: "hyperkube".to_owned(), sha256: "ab".repeat(32), size: 1 };
        let components = COMPONENTS.iter().map(|name| component(name)).collect();
        Self { components, files: vec![file], ..Self::new(version) }
    }

    /// Without packages and their files: what there is to know of a bundle whose files nobody needs any more.
    #[must_use]
    pub fn without_packages(&self) -> Self {
        let mut plain = self.clone();
        let sets = std::mem::take(&mut plain.packages);
        let is_package = |path: &str| {
            sets.iter().any(|set| set.index == path || set.packages.iter().any(|package| package.file == path))
        };
        plain.files.retain(|file| !is_package(&file.path));
        plain
    }

    /// A component by its name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }

    /// A file by its path.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Reads and checks the text of a manifest; what is wrong with it otherwise.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        match manifest.problems() {
            problems if problems.is_empty() => Ok(manifest),
            problems => Err(problems.join("; ")),
        }
    }

    fn problems(&self) -> Vec<String> {
        if (self.api_version.as_str(), self.kind.as_str()) != (API_VERSION, KIND) {
            return vec![format!("apiVersion {} and kind {}", self.api_version, self.kind)];
        }
        let mut problems = Vec::new();
        if self.architecture != "amd64" {
            problems.push(format!("its programs are for {}, and this kinit installs on amd64 only", self.architecture));
        }
        for name in COMPONENTS.iter().filter(|name| self.component(name).is_none()) {
            problems.push(format!("component {name} is missing"));
        }
        let mut seen = BTreeSet::new();
        for component in &self.components {
            let name = component.name.as_str();
            if !COMPONENTS.contains(&name) && !OPTIONAL.contains(&name) {
                problems.push(format!("{:?} is no component of kinit's", component.name));
            }
            if !seen.insert(&component.name) {
                problems.push(format!("component {} is there twice", component.name));
            }
        }
        let parts = self.components.iter().map(|c| &c.file).chain(self.images.iter().map(|image| &image.file));
        problems.extend(parts.filter(|file| self.file(file).is_none()).map(|file| format!("{file} is no file of it")));
        problems.extend(self.files.iter().filter_map(wrong_file));
        let mut releases = BTreeSet::new();
        for set in &self.packages {
            problems.extend(set.problems(self));
            if !releases.insert(&set.release) {
                problems.push(format!("packages for {} are there twice", set.release));
            }
        }
        problems.extend(self.emulation());
        problems
    }

    /// Upstream's servers emulate up to three minors before their own (KEP-4330).
    fn emulation(&self) -> Option<String> {
        let (emulated, own) = (self.emulated_version?, self.version.minor());
        let fits = (0..=3).contains(&own.ahead_of(emulated));
        (!fits).then(|| format!("{own} cannot emulate {emulated}"))
    }
}

fn wrong_file(file: &FileEntry) -> Option<String> {
    if !is_plain(&file.path) {
        return Some(format!("{:?} is no path within a bundle", file.path));
    }
    let hash = file.sha256.len() == 64 && file.sha256.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    (!hash).then(|| format!("{}: {:?} is no SHA-256", file.path, file.sha256))
}

/// A relative path that stays where it belongs, of characters that are the same everywhere.
pub(crate) fn is_plain(path: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+'))
    };
    path.len() <= 200 && path.split('/').all(part)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of these files.
    pub(crate) fn sample(files: Vec<FileEntry>) -> Manifest {
        Manifest { files, ..Manifest::sample("v1.36.0+kinit.0.1.0".parse().unwrap()) }
    }

    fn hyperkube() -> FileEntry {
        FileEntry { path: "hyperkube".into(), sha256: "ab".repeat(32), size: 1 }
    }

    #[test]
    fn what_it_says_is_checked_as_a_whole() {
        let good = sample(vec![hyperkube()]);
        assert_eq!(good.problems(), Vec::<String>::new());
        let text = serde_saphyr::to_string(&good).unwrap();
        assert_eq!(Manifest::parse(&text).unwrap(), good);
        type Change = Box<dyn Fn(&mut Manifest)>;
        let wrong: [(&str, Change); 9] = [
            ("kubelet is missing", Box::new(|m| m.components.retain(|c| c.name != "kubelet"))),
            ("is there twice", Box::new(|m| m.components.push(m.components[0].clone()))),
            ("no component of kinit's", Box::new(|m| m.components[0].name = "sshd".into())),
            ("hyperkube is no file of it", Box::new(|m| m.files.clear())),
            ("no path within", Box::new(|m| m.files[0].path = "../../etc/passwd".into())),
            ("is no SHA-256", Box::new(|m| m.files[0].sha256 = "xyz".into())),
            ("amd64 only", Box::new(|m| m.architecture = "arm64".into())),
            ("cannot emulate 1.37", Box::new(|m| m.emulated_version = Some("1.37".parse().unwrap()))),
            ("kind Cluster", Box::new(|m| m.kind = "Cluster".into())),
        ];
        for (expected, change) in wrong {
            let mut manifest = good.clone();
            change(&mut manifest);
            let problems = Manifest::parse(&serde_saphyr::to_string(&manifest).unwrap()).unwrap_err();
            assert!(problems.contains(expected), "{problems}");
        }
        assert!(Manifest::parse(&text.replace("version: v1.36.0+kinit.0.1.0", "version: latest")).is_err());
        assert!(Manifest::parse("").is_err());
    }
}
