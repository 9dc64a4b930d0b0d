//! Serving an earlier minor version than the program's own: `--emulated-version` and `--min-compatibility-version`
//! (`k8s.io/component-base/compatibility`, KEP-4330).

use std::fmt;

use crate::version::{MAJOR, MINOR};

/// How many minors before its own a server emulates.
const REACH: u32 = 3;

/// Upstream's flags.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct CompatibilityArgs {
    /// Minor version whose APIs and features are served, such as 1.35 or kube=1.35 [default: the program's own]
    #[arg(long, value_name = "MINOR", value_parser = minor)]
    pub emulated_version: Option<Minor>,
    /// Minor version of the oldest other server of the control plane [default: the one before the emulated version]
    #[arg(long, value_name = "MINOR", value_parser = minor)]
    pub min_compatibility_version: Option<Minor>,
}

/// A minor version of major version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor(pub u32);

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MAJOR}.{}", self.0)
    }
}

/// What a server is and what it behaves as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compatibility {
    /// What it behaves as.
    pub emulated: Minor,
    /// The oldest server that it works beside.
    pub min_compatible: Minor,
}

/// Values that no server has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// Too old, or later than the program.
    #[error("emulation version {0} is not between [{first}, {last}]", first = Minor(own().saturating_sub(REACH)), last = Minor(own()))]
    Emulated(Minor),
    /// Later than what is emulated, or too old.
    #[error("minCompatibilityVersion version {0} is not between [{first}, {1}]", first = Minor(own().saturating_sub(REACH + 1)))]
    MinCompatible(Minor, Minor),
}

/// The program's own minor version.
fn own() -> u32 {
    MINOR.parse().unwrap_or(0)
}

fn minor(text: &str) -> Result<Minor, String> {
    let wrong = || format!("{text:?} is no minor version, such as {MAJOR}.{MINOR} or kube={MAJOR}.{MINOR}");
    let version = text.strip_prefix("kube=").unwrap_or(text);
    let number =
        version.strip_prefix('v').unwrap_or(version).strip_prefix(MAJOR).and_then(|rest| rest.strip_prefix('.'));
    number.and_then(|number| number.parse().ok()).map(Minor).ok_or_else(wrong)
}

impl CompatibilityArgs {
    /// What they come to, if that can be.
    pub fn resolve(&self) -> Result<Compatibility, Incompatible> {
        let emulated = self.emulated_version.unwrap_or(Minor(own()));
        if !(Minor(own().saturating_sub(REACH))..=Minor(own())).contains(&emulated) {
            return Err(Incompatible::Emulated(emulated));
        }
        let min_compatible = self.min_compatibility_version.unwrap_or(Minor(emulated.0.saturating_sub(1)));
        if min_compatible > emulated || min_compatible < Minor(own().saturating_sub(REACH + 1)) {
            return Err(Incompatible::MinCompatible(min_compatible, emulated));
        }
        Ok(Compatibility { emulated, min_compatible })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_emulates_what_came_shortly_before_it() {
        let resolve = |emulated: Option<&str>, min: Option<&str>| {
            let of = |text: &str| minor(text).unwrap();
            let args = CompatibilityArgs { emulated_version: emulated.map(of), min_compatibility_version: min.map(of) };
            args.resolve().map_err(|error| error.to_string())
        };
        let is = |emulated, min_compatible| {
            Ok(Compatibility { emulated: Minor(emulated), min_compatible: Minor(min_compatible) })
        };
        assert_eq!(resolve(None, None), is(36, 35));
        assert_eq!(resolve(Some("1.35"), None), is(35, 34));
        assert_eq!(resolve(Some("kube=1.33"), Some("v1.33")), is(33, 33));
        assert_eq!(resolve(Some("1.32"), None), Err("emulation version 1.32 is not between [1.33, 1.36]".into()));
        assert_eq!(resolve(Some("1.37"), None), Err("emulation version 1.37 is not between [1.33, 1.36]".into()));
        assert!(resolve(Some("1.35"), Some("1.36")).is_err());
        for wrong in ["", "1", "2.35", "1.x", "kube=", "etcd=1.35"] {
            assert!(minor(wrong).is_err(), "{wrong}");
        }
    }
}
