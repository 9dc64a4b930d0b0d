//! What a namespace's labels ask for: a level and a version for each of enforce, audit and warn
//! (`pod-security-admission/api/helpers.go`).

use std::fmt;

use kinit_apimachinery::status::FieldErrors;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const ENFORCE_VERSION: &str = "pod-security.kubernetes.io/enforce-version";
const AUDIT: &str = "pod-security.kubernetes.io/audit";
const AUDIT_VERSION: &str = "pod-security.kubernetes.io/audit-version";
const WARN: &str = "pod-security.kubernetes.io/warn";
const WARN_VERSION: &str = "pod-security.kubernetes.io/warn-version";

/// How much a pod may do, from everything to as little as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// No known way to become more than the pod is.
    Baseline,
    /// Current practice of hardening.
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Which Kubernetes release's rules count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Those of v1.x.
    Minor(i64),
    /// The newest.
    Latest,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor == "0" || !minor.starts_with('0');
        (plain && minor.bytes().all(|b| b.is_ascii_digit())).then(|| minor.parse().ok().map(Self::Minor))?
    }
}

/// A level as of a version; written `restricted:latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// How much is allowed.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

impl Standard {
    /// What counts where nothing is said.
    pub const PRIVILEGED: Self = Self { level: Level::Privileged, version: Version::Latest };

    /// Whether nothing is checked.
    pub fn is_privileged(self) -> bool {
        self.level == Level::Privileged
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Minor(minor) => write!(f, "{}:v1.{minor}", self.level.name()),
            Version::Latest => write!(f, "{}:latest", self.level.name()),
        }
    }
}

/// A namespace's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate this are refused.
    pub enforce: Standard,
    /// Violations of this are noted in the audit log.
    pub audit: Standard,
    /// Violations of this are told to the client.
    pub warn: Standard,
}

impl Policy {
    const PRIVILEGED: Self =
        Self { enforce: Standard::PRIVILEGED, audit: Standard::PRIVILEGED, warn: Standard::PRIVILEGED };

    /// Reads the labels (`PolicyToEvaluate`). There is always a policy: what cannot be read is enforced as
    /// `restricted:latest`, and neither audited nor warned of. What is enforced is warned of too, unless the labels say
    /// else.
    pub fn of<'a>(label: impl Fn(&str) -> Option<&'a str>) -> (Self, FieldErrors) {
        let mut reader = Reader { label, errors: FieldErrors::default() };
        let privileged = Level::Privileged;
        let mut policy = Self::PRIVILEGED;
        let enforce = reader.level(ENFORCE);
        policy.enforce.level = enforce.map_or(privileged, |level| level.unwrap_or(Level::Restricted));
        policy.enforce.version = reader.version(ENFORCE_VERSION).unwrap_or(Version::Latest);
        policy.audit.level = reader.level(AUDIT).flatten().unwrap_or(privileged);
        policy.audit.version = reader.version(AUDIT_VERSION).unwrap_or(Version::Latest);
        let warn = reader.level(WARN);
        let warn_version = reader.version(WARN_VERSION);
        policy.warn.level = warn.flatten().unwrap_or(privileged);
        policy.warn.version = warn_version.unwrap_or(Version::Latest);
        if let (None, Some(Some(enforced))) = (warn, enforce)
            && enforced > policy.warn.level
        {
            policy.warn.level = enforced;
            policy.warn.version = warn_version.unwrap_or(policy.enforce.version);
        }
        (policy, reader.errors)
    }
}

struct Reader<L> {
    label: L,
    errors: FieldErrors,
}

impl<'a, L: Fn(&str) -> Option<&'a str>> Reader<L> {
    /// `None` without the label, `Some(None)` for one that cannot be read.
    fn level(&mut self, name: &str) -> Option<Option<Level>> {
        let text = (self.label)(name)?;
        let level = Level::parse(text);
        if level.is_none() {
            self.refuse(name, text, "must be one of privileged, baseline, restricted");
        }
        Some(level)
    }

    /// `None` without the label; the newest for one that cannot be read.
    fn version(&mut self, name: &str) -> Option<Version> {
        let text = (self.label)(name)?;
        let version = Version::parse(text);
        if version.is_none() {
            self.refuse(name, text, "must be \"latest\" or \"v1.x\"");
        }
        Some(version.unwrap_or(Version::Latest))
    }

    fn refuse(&mut self, name: &str, text: &str, why: &str) {
        self.errors.invalid(&format!("metadata.labels[{name}]"), &text.into(), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(labels: &[(&'static str, &'static str)]) -> (String, Vec<String>) {
        let find = |key: &str| {
            labels.iter().find(|(k, _)| key.strip_prefix("pod-security.kubernetes.io/") == Some(k)).map(|(_, v)| *v)
        };
        let (policy, errors) = Policy::of(find);
        let texts = errors.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), texts)
    }

    #[test]
    fn labels_to_policies() {
        for (labels, want) in [
            (&[][..], "privileged:latest privileged:latest privileged:latest"),
            (&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest"),
            (&[("warn", "restricted")], "privileged:latest privileged:latest restricted:latest"),
            (
                &[("audit", "baseline"), ("audit-version", "v1.22")],
                "privileged:latest baseline:v1.22 privileged:latest",
            ),
            (&[("enforce", "baseline"), ("warn", "privileged")], "baseline:latest privileged:latest privileged:latest"),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.22")],
                "baseline:v1.22 privileged:latest baseline:v1.22",
            ),
            (&[("enforce", "baseline"), ("warn-version", "v1.23")], "baseline:latest privileged:latest baseline:v1.23"),
            (
                &[("enforce", "privileged"), ("enforce-version", "v1.0")],
                "privileged:v1.0 privileged:latest privileged:latest",
            ),
        ] {
            assert_eq!(read(labels), (want.to_owned(), vec![]), "{labels:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_enforced_most_strictly() {
        let (policy, errors) =
            read(&[("enforce", "foo"), ("audit", ""), ("warn", "Baseline"), ("warn-version", "1.2")]);
        assert_eq!(policy, "restricted:latest privileged:latest privileged:latest");
        assert_eq!(
            errors,
            [
                r#"metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "foo": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: "": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: "Baseline": must be one of privileged, baseline, restricted"#,
                r#"metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1.2": must be "latest" or "v1.x""#,
            ]
        );
    }

    #[test]
    fn versions() {
        for (text, want) in [
            ("latest", Some(Version::Latest)),
            ("v1.0", Some(Version::Minor(0))),
            ("v1.36", Some(Version::Minor(36))),
            ("v1.10000", Some(Version::Minor(10_000))),
        ] {
            assert_eq!(Version::parse(text), want, "{text}");
        }
        for text in ["", "foo", "v2.0", "v1", "1.1", "v1.", "v1.01", "v1.+1", "v1.-1", "v1.99999999999999999999"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert!(Version::Minor(99) < Version::Latest);
    }
}
