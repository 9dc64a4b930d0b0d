//! From what is wanted and what was seen to what would change.

use serde::{Deserialize, Serialize};

use crate::types::{Observed, Resource, UnitState};

/// What would be done to a resource, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `install`, `create`, `change`, `remove`, `start`, ...
    pub verb: String,
    /// What it is done to.
    pub what: String,
    /// Why, when it is there but differs.
    pub why: Option<String>,
    /// False for waiting, which changes nothing.
    pub changes: bool,
    /// Which lines of a text file change, as `diff -u` shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl Change {
    /// A change without a reason.
    pub fn new(verb: &str, what: impl Into<String>) -> Self {
        Self { verb: verb.to_owned(), what: what.into(), why: None, changes: true, diff: None }
    }

    /// Waiting for something.
    pub fn wait(what: impl Into<String>) -> Self {
        Self { changes: false, ..Self::new("wait for", what) }
    }

    /// The same, with the reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.what)?;
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// The change a resource needs; `None` when it is as wanted. `Shared` resources are the planner's affair: one host's
/// fingerprint says nothing alone. What could not be looked at has no known difference: whoever plans refuses it first
/// (`kinit_planner::all_observed`).
pub fn compare(resource: &Resource, observed: &Observed) -> Option<Change> {
    if matches!(resource, Resource::Shared { .. }) {
        return None;
    }
    let (missing, why, diff) = match observed {
        Observed::AsWanted | Observed::Fingerprint(_) | Observed::Public(_) | Observed::Failed(_) => return None,
        Observed::Missing => (true, None, None),
        Observed::Differs(why) | Observed::Signed(why) => (false, Some(why.clone()), None),
        Observed::NotHeld(names) => return Some(Change::new("hold", format!("packages {}", names.join(" ")))),
        Observed::TextDiffers(diff) => (false, Some("content differs".to_owned()), Some(diff.clone())),
    };
    let verb = if matches!(observed, Observed::Signed(_)) { "install" } else { verb(resource, missing) }.to_owned();
    Some(Change { verb, what: what(resource), why, changes: !is_wait(resource), diff })
}

/// Waiting changes nothing.
fn is_wait(resource: &Resource) -> bool {
    matches!(resource, Resource::Healthy { .. } | Resource::Steady { .. })
}

fn verb(resource: &Resource, missing: bool) -> &'static str {
    match resource {
        Resource::Packages { .. } => "install",
        Resource::PackageVersions { .. } => "upgrade",
        Resource::Absent { .. } | Resource::Erased { .. } => "remove",
        Resource::Sysctl { .. } => "set",
        Resource::KernelModule(_) => "load",
        Resource::SwapOff => "switch off",
        Resource::Blob { .. } if missing => "place",
        Resource::Image { .. } => "import",
        Resource::Unit { state: UnitState::Stopped, .. } => "stop",
        Resource::Unit { .. } if missing => "start",
        Resource::Unit { state: UnitState::Running { reloads: true, .. }, .. } => "reload",
        Resource::Unit { .. } => "restart",
        Resource::Healthy { .. } | Resource::Steady { .. } => "wait for",
        Resource::Leaf(_) if missing => "issue",
        Resource::Leaf(_) => "reissue",
        _ if missing => "create",
        _ => "change",
    }
}

/// A resource's name for people.
pub fn what(resource: &Resource) -> String {
    match resource {
        Resource::Packages { names, .. } | Resource::PackageVersions { names, .. } => {
            format!("packages {}", names.join(" "))
        }
        Resource::Directory { path, .. } => format!("directory {path}"),
        Resource::File(file) => file.path.clone(),
        Resource::Link { path, target, .. } => format!("{path} -> {target}"),
        Resource::Absent { path } | Resource::Erased { path } | Resource::ClusterOf { path, .. } => path.clone(),
        Resource::Sysctl { key, value } => format!("sysctl {key}={value}"),
        Resource::KernelModule(name) => format!("kernel module {name}"),
        Resource::SwapOff => "swap".to_owned(),
        Resource::Blob { path, .. } => path.clone(),
        Resource::Image { name, .. } => format!("image {name}"),
        Resource::Unit { name, .. } => name.clone(),
        Resource::Shared { shared, .. } => shared.name().to_owned(),
        Resource::Leaf(leaf) => leaf.path(),
        Resource::Healthy { url, .. } => url.clone(),
        Resource::Steady { unit, seconds } => format!("{unit} to stay up for {seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_read_as_sentences() {
        let unit = |state| Resource::Unit { name: "etcd.service".into(), state };
        let packages = || Resource::Packages { names: vec!["a".into(), "b".into()], mask: vec![], index: None };
        let running = unit(UnitState::Running { reads: vec![], reloads: false });
        for (resource, observed, expected) in [
            (running.clone(), Observed::AsWanted, None),
            (running.clone(), Observed::Missing, Some("start etcd.service")),
            (running, Observed::Differs("its files changed".into()), Some("restart etcd.service (its files changed)")),
            (unit(UnitState::Stopped), Observed::Differs("runs".into()), Some("stop etcd.service (runs)")),
            (Resource::Absent { path: "/x".into() }, Observed::Differs("exists".into()), Some("remove /x (exists)")),
            (packages(), Observed::Missing, Some("install packages a b")),
            (packages(), Observed::NotHeld(vec!["b".into()]), Some("hold packages b")),
            (
                Resource::PackageVersions { names: vec!["a".into()], program: "/a".into(), index: String::new() },
                Observed::Differs("1 -> 2".into()),
                Some("upgrade packages a (1 -> 2)"),
            ),
            (
                Resource::Sysctl { key: "a".into(), value: "1".into() },
                Observed::Differs("0".into()),
                Some("set sysctl a=1 (0)"),
            ),
        ] {
            assert_eq!(compare(&resource, &observed).map(|c| c.to_string()).as_deref(), expected);
        }
    }

    #[test]
    fn waiting_is_not_a_change() {
        let wait = Resource::Healthy { url: "http://127.0.0.1:2381/readyz".into(), authority_file: None, seconds: 5 };
        assert!(!compare(&wait, &Observed::Missing).unwrap().changes);
    }
}
