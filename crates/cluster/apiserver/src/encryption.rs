//! `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine;
use kinit_storage::crypt::{Crypt, Key};
use serde_json::Value;

/// Which resources are encrypted how.
#[derive(Default)]
pub struct Config {
    entries: Vec<(Vec<String>, Arc<Crypt>)>,
}

impl Config {
    /// Reads the file; no file means no encryption.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        // A parser's message could quote a key: say only that it is broken.
        let value =
            crate::http::body::yaml(&text).map_err(|_| anyhow::anyhow!("{} is not a YAML document", path.display()))?;
        Self::from_value(&value).with_context(|| format!("use {}", path.display()))
    }

    fn from_value(value: &Value) -> Result<Self> {
        if value.get("kind").and_then(Value::as_str) != Some("EncryptionConfiguration") {
            bail!("not an EncryptionConfiguration");
        }
        let mut entries = Vec::new();
        for (i, entry) in value["resources"].as_array().context("resources is missing")?.iter().enumerate() {
            let resources = kinit_apimachinery::meta::strings(entry.get("resources"));
            anyhow::ensure!(!resources.is_empty(), "resources[{i}].resources is empty");
            let providers =
                entry["providers"].as_array().with_context(|| format!("resources[{i}].providers is missing"))?;
            let mut keys = Vec::new();
            for provider in providers {
                add(&mut keys, provider).with_context(|| format!("resources[{i}].providers"))?;
            }
            anyhow::ensure!(!keys.is_empty(), "resources[{i}].providers is empty");
            entries.push((resources, Arc::new(Crypt::new(keys))));
        }
        Ok(Self { entries })
    }

    /// The encryption of a resource; the first entry that names it counts.
    pub fn of(&self, group: &str, resource: &str) -> Arc<Crypt> {
        let full = kinit_apimachinery::status::qualified(group, resource);
        let names = |list: &Vec<String>| {
            list.iter().any(|r| {
                *r == full
                    || r == "*.*"
                    || r.strip_prefix("*.").is_some_and(|g| g == group || (g.is_empty() && group.is_empty()))
            })
        };
        self.entries.iter().find(|(list, _)| names(list)).map(|(_, crypt)| crypt.clone()).unwrap_or_default()
    }
}

fn add(keys: &mut Vec<Key>, provider: &Value) -> Result<()> {
    let map = provider.as_object().context("a provider is not an object")?;
    for (name, config) in map {
        match name.as_str() {
            "identity" => keys.push(Key::Identity),
            "aescbc" | "aesgcm" => {
                for key in config["keys"].as_array().with_context(|| format!("{name}.keys is missing"))? {
                    let key_name = key["name"].as_str().unwrap_or_default();
                    anyhow::ensure!(
                        !key_name.is_empty() && !key_name.contains(':'),
                        "{name}: a key needs a name without colons"
                    );
                    let secret = base64::engine::general_purpose::STANDARD
                        .decode(key["secret"].as_str().unwrap_or_default())
                        .map_err(|_| anyhow::anyhow!("{name}: secret of key {key_name:?} is not base64"))?;
                    let made = if name == "aescbc" {
                        Key::aes_cbc(key_name, &secret)
                    } else {
                        Key::aes_gcm(key_name, &secret)
                    };
                    keys.push(made.map_err(|e| anyhow::anyhow!("{name}: {e}"))?);
                }
            }
            other => bail!("provider {other} is not supported; aesgcm, aescbc and identity are"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn first_match_counts_and_unknown_providers_are_refused() {
        let key = base64::engine::general_purpose::STANDARD.encode([1u8; 32]);
        let config = Config::from_value(&json!({"kind":"EncryptionConfiguration","resources":[
            {"resources":["secrets"],"providers":[{"aesgcm":{"keys":[{"name":"k","secret":key}]}},{"identity":{}}]}]}))
        .unwrap();
        assert!(config.of("", "secrets").seal("x", b"{}").unwrap().starts_with(b"k8s:enc:aesgcm:v1:k:"));
        assert_eq!(config.of("", "pods").seal("x", b"{}").unwrap(), b"{}");
        let kms =
            json!({"kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],"providers":[{"kms":{}}]}]});
        assert!(format!("{:#}", Config::from_value(&kms).err().unwrap()).contains("kms is not supported"));
    }
}
