//! Anonymous access, as far as the AuthenticationConfiguration's conditions allow it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{UNAUTHENTICATED, User};

/// Which paths are open to everybody; authorization still follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymous {
    /// None.
    Off,
    /// All.
    On,
    /// These.
    Paths(Vec<String>),
}

impl Anonymous {
    /// Reads `--authentication-config` (`apiserver.config.k8s.io/v1 AuthenticationConfiguration`).
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let value = crate::http::body::yaml(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
        Self::from_value(&value).with_context(|| format!("use {}", path.display()))
    }

    fn from_value(value: &Value) -> Result<Self> {
        let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
        let version = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        if kind != "AuthenticationConfiguration" || !version.starts_with("apiserver.config.k8s.io/") {
            bail!("not an apiserver.config.k8s.io AuthenticationConfiguration but {version} {kind}");
        }
        if value.get("jwt").and_then(Value::as_array).is_some_and(|l| !l.is_empty()) {
            bail!("jwt authenticators are not supported");
        }
        let Some(anonymous) = value.get("anonymous") else { return Ok(Self::On) };
        if anonymous.get("enabled").and_then(Value::as_bool) != Some(true) {
            return Ok(Self::Off);
        }
        match anonymous.get("conditions").and_then(Value::as_array) {
            None => Ok(Self::On),
            Some(list) => {
                let paths: Option<Vec<String>> =
                    list.iter().map(|c| c.get("path").and_then(Value::as_str).map(str::to_owned)).collect();
                Ok(Self::Paths(paths.context("a condition of anonymous has no path")?))
            }
        }
    }

    /// `system:anonymous`, where it may be.
    pub fn user(&self, path: &str) -> Option<User> {
        let allowed = match self {
            Self::Off => false,
            Self::On => true,
            Self::Paths(paths) => paths.iter().any(|p| p == path),
        };
        allowed.then(|| User {
            name: "system:anonymous".into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..User::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_name_the_open_paths() {
        let config = json!({"apiVersion":"apiserver.config.k8s.io/v1","kind":"AuthenticationConfiguration",
            "anonymous":{"enabled":true,"conditions":[{"path":"/livez"}]}});
        let a = Anonymous::from_value(&config).unwrap();
        assert!(a.user("/livez").is_some() && a.user("/api").is_none());
        assert!(Anonymous::from_value(&json!({"kind":"X"})).is_err());
    }
}
