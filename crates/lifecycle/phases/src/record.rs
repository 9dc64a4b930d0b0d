//! What kinit keeps of a cluster in ConfigMap `kube-system/kinit-config`: the cluster file as it was last applied,
//! which tells the next run who belongs to the cluster, and what its programs are, now and before the last upgrade.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::ConfigMap;
use kinit_bundle::Manifest;
use kinit_config::Cluster;
use kube::{Api, Client};

const CLUSTER: &str = "Cluster";
const BUNDLE: &str = "Bundle";
const PREVIOUS: &str = "PreviousBundle";

/// What was kept.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// The cluster file of the last run that finished.
    pub cluster: Option<Cluster>,
    /// The manifests of bundles.
    pub bundles: Bundles,
}

/// The bundles of a cluster, by the text of their manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    current: Option<String>,
    previous: Option<String>,
}

/// Nothing before the first run.
pub async fn read(client: &Client) -> Result<Record> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-system");
    let object = api.get_opt("kinit-config").await.context("read ConfigMap kube-system/kinit-config")?;
    let mut data = object.and_then(|object| object.data).unwrap_or_default();
    let cluster = data.remove(CLUSTER).map(|text| kinit_config::load(&text)).transpose();
    let cluster = cluster.context("read the cluster file in ConfigMap kube-system/kinit-config")?;
    Ok(Record { cluster, bundles: Bundles { current: data.remove(BUNDLE), previous: data.remove(PREVIOUS) } })
}

impl Bundles {
    /// With this one as the current; what was the current before is the previous, if it was of another version.
    pub fn with(self, manifest: &Manifest) -> Result<Self> {
        // Hosts keep no packages for a way back, and an object of the API has room for 1 MiB.
        let text = manifest.without_packages().to_yaml().context("print the bundle's manifest")?;
        let same = self.current.as_deref().is_none_or(|current| version(current) == version(&text));
        let previous = if same { self.previous } else { self.current };
        Ok(Self { current: Some(text), previous })
    }

    /// What the cluster was before its last upgrade.
    pub fn previous(&self) -> Result<Option<Manifest>> {
        let read = |text: &String| Manifest::parse(text).map_err(|why| anyhow::anyhow!(why));
        let previous = self.previous.as_ref().map(read).transpose();
        previous.context("read the previous bundle's manifest in ConfigMap kube-system/kinit-config")
    }

    /// The ConfigMap's data, with a cluster file.
    pub fn data(&self, cluster: String) -> BTreeMap<String, String> {
        let entries = [(CLUSTER, Some(cluster)), (BUNDLE, self.current.clone()), (PREVIOUS, self.previous.clone())];
        entries.into_iter().filter_map(|(key, text)| Some((key.to_owned(), text?))).collect()
    }
}

/// What tells versions apart: the manifest's own, and the minor that it emulates.
fn version(text: &str) -> Option<(kinit_config::Version, kinit_config::Minor)> {
    let manifest = Manifest::parse(text).ok()?;
    Some((manifest.version.clone(), manifest.minor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_before_is_remembered() {
        let of = |version: &str| Manifest::sample(version.parse().unwrap());
        let first = Bundles::default().with(&of("v1.36.0")).unwrap();
        assert_eq!(first.previous().unwrap(), None);
        let again = first.with(&of("v1.36.0")).unwrap();
        assert_eq!(again.previous().unwrap(), None, "another build of the same version");
        let next = again.with(&of("v1.36.1")).unwrap().with(&of("v1.36.1")).unwrap();
        assert_eq!(next.previous().unwrap(), Some(of("v1.36.0")));
        let data = next.data("x".into());
        assert_eq!(data.keys().map(String::as_str).collect::<Vec<_>>(), ["Bundle", "Cluster", "PreviousBundle"]);
        let back = next.with(&of("v1.36.0")).unwrap();
        assert_eq!(back.previous().unwrap(), Some(of("v1.36.1")));
    }
}
