//! Text to cluster and back.

use std::io::Read;
use std::path::Path;

use crate::types::{API_VERSION, Cluster, KIND};
use crate::validate::{FieldError, validate};

/// Why a cluster file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("read {0}")]
    Read(String, #[source] std::io::Error),
    /// Not YAML.
    #[error("the cluster file is not valid YAML: {0}")]
    Yaml(String),
    /// A field that does not exist, is missing or has the wrong type.
    #[error("{path}: {message}")]
    Field {
        /// `spec.hosts[2].address`.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// Another version or kind.
    #[error("this kinit reads apiVersion {API_VERSION} and kind {KIND}, not {0}")]
    Version(String),
    /// Values that cannot be.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<FieldError>),
}

/// Reads a cluster file: strict, with defaults filled in, validated as a whole.
pub fn load(text: &str) -> Result<Cluster, LoadError> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(text, options).map_err(|e| LoadError::Yaml(e.to_string()))?;
    let field = |name: &str| value.get(name).and_then(|v| v.as_str()).unwrap_or("(none)").to_owned();
    let (version, kind) = (field("apiVersion"), field("kind"));
    if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(LoadError::Version(format!("apiVersion {version} and kind {kind}")));
    }
    let mut cluster: Cluster =
        serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string().as_str() {
            "." => LoadError::Field { path: "the cluster file".to_owned(), message: error.inner().to_string() },
            path => LoadError::Field { path: path.to_owned(), message: error.inner().to_string() },
        })?;
    default(&mut cluster);
    let errors = validate(&cluster);
    if errors.is_empty() { Ok(cluster) } else { Err(LoadError::Invalid(errors)) }
}

/// Defaults that depend on other fields.
fn default(cluster: &mut Cluster) {
    let endpoint = &cluster.spec.control_plane_endpoint;
    if endpoint.is_empty() {
        let host = cluster.default_endpoint().map(|host| format!("{host}:6443"));
        cluster.spec.control_plane_endpoint = host.unwrap_or_default();
    } else if !endpoint.contains(':') {
        cluster.spec.control_plane_endpoint = format!("{endpoint}:6443");
    }
    for host in &mut cluster.spec.hosts {
        host.name = host.name.to_lowercase();
    }
}

/// A cluster of a thousand hosts is far below; what is above is another file.
const LONGEST: u64 = 4 << 20;

/// Reads a cluster file from disk; see [`load`].
pub fn read(file: &Path) -> Result<Cluster, LoadError> {
    let cannot = |error| LoadError::Read(file.display().to_string(), error);
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(cannot)?;
    opened.take(LONGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > LONGEST {
        return Err(cannot(std::io::Error::other("longer than 4 MiB: this is no cluster file")));
    }
    load(&String::from_utf8(bytes).map_err(|_| cannot(std::io::Error::other("not a text file (UTF-8)")))?)
}

/// The file with all defaults written out.
pub fn print(cluster: &Cluster) -> Result<String, LoadError> {
    serde_saphyr::to_string(cluster).map_err(|e| LoadError::Yaml(e.to_string()))
}

/// A document of YAML.
pub fn to_yaml(value: &serde_json::Value) -> Result<String, LoadError> {
    serde_saphyr::to_string(value).map_err(|e| LoadError::Yaml(e.to_string()))
}

/// What `kinit config init` prints.
pub fn example() -> &'static str {
    include_str!("example.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_loads_and_survives_a_round_trip() {
        let cluster = load(example()).unwrap();
        assert_eq!(cluster.spec.control_plane_endpoint, "192.0.2.10:6443");
        assert_eq!(cluster.service_ip(10).to_string(), "10.96.0.10");
        assert_eq!(load(&print(&cluster).unwrap()).unwrap(), cluster);
    }

    #[test]
    fn mistakes_are_told_with_their_path() {
        for (from, to, expected) in [
            ("    address: 192.0.2.11", "    adress: 192.0.2.11", "spec.hosts[1].adress: unknown field `adress`"),
            ("roles: [worker]", "roles: [laborer]", "spec.hosts[4].roles[0]: unknown variant `laborer`"),
            ("kinit.dev/v1alpha1", "kinit.dev/v9", "not apiVersion kinit.dev/v9"),
            ("  hosts:", "  hosts: [", "not valid YAML"),
            (
                "  hosts:",
                "  kubernetesVersion: latest\n  hosts:",
                "\"latest\" is no version of Kubernetes, such as v1.36.0",
            ),
            (
                "  hosts:",
                "  kubernetesVersion: v1.36.1+x\n  hosts:",
                "write v1.36.1; the bundle says which build it is",
            ),
            ("name: cp2", "name: cp1", "spec.hosts[2].name: \"cp1\" is the name of spec.hosts[1] too"),
        ] {
            let error = load(&example().replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
