//! What could not be looked at. A plan that is made without knowing would change what is well.

use std::collections::BTreeMap;

use kinit_resource::{Observed, what};

use crate::situation::HostObservation;

/// A resource that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The host.
    pub host: String,
    /// The resource, as plans name it.
    pub what: String,
    /// The cause.
    pub why: String,
}

/// Resources that could not be looked at, of all hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|f| format!("{}: cannot look at {}: {}", f.host, f.what, f.why)).collect::<Vec<_>>().join("\n"))]
pub struct Unobserved(pub Vec<Failure>);

/// Refuses observations that are not whole, with every resource that could not be looked at.
pub fn all_observed(hosts: &BTreeMap<String, HostObservation>) -> Result<(), Unobserved> {
    let mut failures = Vec::new();
    for (host, seen) in hosts {
        failures.extend(seen.iter().filter_map(|(_, resource, observed)| match observed {
            Observed::Failed(why) => Some(Failure { host: host.clone(), what: what(resource), why: why.clone() }),
            _ => None,
        }));
    }
    if failures.is_empty() { Ok(()) } else { Err(Unobserved(failures)) }
}

#[cfg(test)]
mod tests {
    use kinit_manifests::Phase;
    use kinit_resource::{Resource, compare};

    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_an_error_and_no_change() {
        let absent = |path: &str| Resource::Absent { path: path.into() };
        let of = |seen: Vec<(&str, Observed)>| -> HostObservation {
            seen.into_iter().map(|(path, observed)| (Phase::Certs, absent(path), observed)).collect()
        };
        let failed = || Observed::Failed("read: Input/output error".into());
        let mut hosts = BTreeMap::from([
            ("cp1".to_owned(), of(vec![("/a", Observed::AsWanted), ("/b", failed()), ("/c", failed())])),
            ("w1".to_owned(), of(vec![("/d", failed())])),
            ("w2".to_owned(), of(vec![("/e", Observed::Missing)])),
        ]);
        let error = all_observed(&hosts).unwrap_err();
        let named: Vec<_> = error.0.iter().map(|f| (f.host.as_str(), f.what.as_str())).collect();
        assert_eq!(named, [("cp1", "/b"), ("cp1", "/c"), ("w1", "/d")]);
        assert!(error.to_string().starts_with("cp1: cannot look at /b: read: Input/output error\n"), "{error}");
        assert_eq!(compare(&absent("/b"), &failed()), None);
        hosts.retain(|host, _| host == "w2");
        assert_eq!(all_observed(&hosts), Ok(()));
    }
}
