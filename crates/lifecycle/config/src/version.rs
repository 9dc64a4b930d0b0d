//! Versions of Kubernetes components.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `v1.36.2`, with or without a pre-release (`-rc.1`) and a build (`+kinit.0.1.0`). Ordered by semver's rules, builds
/// last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(semver::Version);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version of Kubernetes, such as v1.36.0")]
pub struct NoVersion(String);

impl Version {
    /// The first two numbers.
    pub fn minor(&self) -> Minor {
        Minor { major: self.0.major, minor: self.0.minor }
    }

    /// For tests: the first version that kinit had.
    #[doc(hidden)]
    pub fn sample() -> Self {
        Self(semver::Version::new(1, 36, 0))
    }

    /// Without the build: what `spec.kubernetesVersion` says.
    pub fn release(&self) -> Self {
        Self(semver::Version { build: semver::BuildMetadata::EMPTY, ..self.0.clone() })
    }
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let number = text.strip_prefix('v').ok_or_else(|| NoVersion(text.to_owned()))?;
        number.parse().map(Self).map_err(|_| NoVersion(text.to_owned()))
    }
}

impl TryFrom<String> for Version {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A minor version: `1.36`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Minor {
    /// 1.
    pub major: u64,
    /// 36.
    pub minor: u64,
}

impl Minor {
    /// How many minors this one is ahead of another of the same major; negative when it is behind.
    pub fn ahead_of(self, other: Self) -> i64 {
        let number = |minor: Self| i64::try_from(minor.major * 1000 + minor.minor).unwrap_or(i64::MAX / 2);
        number(self) - number(other)
    }
}

impl FromStr for Minor {
    type Err = NoVersion;

    /// `1.36`, or `v1.36`.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let wrong = || NoVersion(text.to_owned());
        let (major, minor) = text.strip_prefix('v').unwrap_or(text).split_once('.').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u32>().map(u64::from).map_err(|_| wrong());
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl TryFrom<String> for Minor {
    type Error = NoVersion;

    fn try_from(text: String) -> Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<Minor> for String {
    fn from(minor: Minor) -> Self {
        minor.to_string()
    }
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let ordered = ["v1.9.0", "v1.36.0-rc.1", "v1.36.0", "v1.36.0+kinit.0.9.0", "v1.36.0+kinit.0.10.0", "v1.36.2"];
        for pair in ordered.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert_eq!(version("v1.36.0+kinit.0.1.0").release().to_string(), "v1.36.0");
        for wrong in ["1.36.0", "v1.36", "v1.36.0.0", "", "v1.36.x", "latest"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn minors_are_counted() {
        let minor = |text: &str| text.parse::<Minor>().unwrap();
        assert_eq!(minor("v1.36").ahead_of(minor("1.33")), 3);
        assert_eq!(minor("1.35").ahead_of(version("v1.36.4").minor()), -1);
        assert!(minor("2.0").ahead_of(minor("1.99")) > 1);
        for wrong in ["1", "1.36.0", "1.-1", "v", "99999999999.1"] {
            assert!(wrong.parse::<Minor>().is_err(), "{wrong}");
        }
    }
}
