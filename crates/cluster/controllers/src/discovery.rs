//! Which resources the API server has now, custom ones included.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;

/// One resource of one group and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiResource {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural name.
    pub plural: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What may be done with it.
    pub verbs: Vec<String>,
}

impl ApiResource {
    /// Whether a verb is there.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `PLURAL.GROUP`.
    pub fn qualified(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// `GROUP/VERSION`, or `VERSION`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The form kube's dynamic API takes.
    pub fn kube(&self) -> kube::core::ApiResource {
        kube::core::ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version: self.api_version(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }
}

/// The answer to a discovery.
#[derive(Debug, Default)]
pub struct Discovered {
    /// Each resource once: in its group's preferred version where that has it.
    pub resources: Vec<ApiResource>,
    /// Group versions that did not answer, and why.
    pub failures: Vec<String>,
}

/// Asks the API server. A group that does not answer (an aggregated server that is down) is reported, not fatal.
pub async fn discover(client: &Client) -> Result<Discovered, kube::Error> {
    let mut found = Discovered::default();
    let core = client.list_core_api_resources("v1").await?;
    found.add("", "v1", core);
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.as_ref().map(|v| v.version.clone());
        let mut versions: Vec<String> = group.versions.iter().map(|v| v.version.clone()).collect();
        versions.sort_by_key(|v| Some(v) != preferred.as_ref());
        for version in versions {
            let name = format!("{}/{version}", group.name);
            match client.list_api_group_resources(&name).await {
                Ok(list) => found.add(&group.name, &version, list),
                Err(error) => found.failures.push(format!("{name}: {error}")),
            }
        }
    }
    Ok(found)
}

impl Discovered {
    fn add(&mut self, group: &str, version: &str, list: APIResourceList) {
        for resource in list.resources {
            let known = self.resources.iter().any(|r| r.group == group && r.plural == resource.name);
            if resource.name.contains('/') || known {
                continue;
            }
            self.resources.push(ApiResource {
                group: group.to_owned(),
                version: version.to_owned(),
                kind: resource.kind,
                plural: resource.name,
                namespaced: resource.namespaced,
                verbs: resource.verbs,
            });
        }
    }
}
