//! EncryptionConfigurations (apiserver.config.k8s.io/v1) of kinit's form: one entry of resources, one provider with
//! keys that writes, and `identity` to read what was stored plain.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What kinit encrypts with, as the CIS benchmark accepts it; it binds a value to its key in etcd.
const PROVIDER: &str = "aesgcm";

/// What a rotation can write anew: kinds of the core group, whose names are their folders in etcd.
const RESOURCES: [&str; 2] = ["secrets", "configmaps"];

#[derive(Deserialize, Clone, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Provider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    identity: Option<Identity>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Identity {}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize, Clone, PartialEq)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

/// What a rotation needs to know of a configuration.
struct Form {
    resources: Vec<String>,
    provider: &'static str,
    keys: Vec<Key>,
    identity: bool,
}

impl Form {
    fn parse(yaml: &str) -> Result<Self> {
        const HINT: &str = "encryption.yaml is not of the form that kinit writes; rotate its keys by hand";
        // A parser's message could quote a key.
        let configuration: Configuration = serde_saphyr::from_str(yaml).map_err(|_| anyhow::anyhow!(HINT))?;
        let [entry] = configuration.resources.as_slice() else { bail!("{HINT}: it has several entries of resources") };
        let (first, rest) = entry.providers.split_first().context(HINT)?;
        let (provider, keys) = match (&first.aesgcm, &first.aescbc, &first.identity) {
            (Some(keys), None, None) => ("aesgcm", keys),
            (None, Some(keys), None) => ("aescbc", keys),
            _ => bail!("{HINT}: its first provider is neither aesgcm nor aescbc"),
        };
        let identity = match rest {
            [] => false,
            [Provider { aesgcm: None, aescbc: None, identity: Some(_) }] => true,
            _ => bail!("{HINT}: it has other providers than one with keys and identity"),
        };
        ensure!(!keys.keys.is_empty(), "{HINT}: it has no key");
        if let Some(other) = entry.resources.iter().find(|name| !RESOURCES.contains(&name.as_str())) {
            bail!("{HINT}: it encrypts {other}");
        }
        Ok(Self { resources: entry.resources.clone(), provider, keys: keys.keys.clone(), identity })
    }

    fn print(&self) -> String {
        let keys = self.keys.iter().map(|key| format!("      - name: {}\n        secret: {}\n", key.name, key.secret));
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{}]\n  providers:\n  \
             - {}:\n      keys:\n{}{}",
            self.resources.join(", "),
            self.provider,
            keys.collect::<String>(),
            if self.identity { "  - identity: {}\n" } else { "" }
        )
    }
}

fn new_key(name: String) -> Result<Key> {
    let mut key = [0u8; 32];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).context("get random bytes for a key")?;
    Ok(Key { name, secret: STANDARD.encode(key) })
}

/// A configuration for Secrets: a fresh key to write with; what was stored plain stays readable.
pub(crate) fn fresh() -> Result<String> {
    let keys = vec![new_key("key1".to_owned())?];
    Ok(Form { resources: vec!["secrets".to_owned()], provider: PROVIDER, keys, identity: true }.print())
}

/// The same configuration with a fresh key alone, of a name that none of its keys has.
pub(crate) fn successor(yaml: &str) -> Result<String> {
    let form = Form::parse(yaml)?;
    let number = |key: &Key| key.name.strip_prefix("key").and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    let next = form.keys.iter().map(number).max().unwrap_or(0).saturating_add(1);
    Ok(Form { keys: vec![new_key(format!("key{next}"))?], ..form }.print())
}

/// What is encrypted, and what with: the resources, and `PROVIDER:KEY` of the key that writes.
pub(crate) fn writes(yaml: &str) -> Result<(Vec<String>, String)> {
    let form = Form::parse(yaml)?;
    let key = form.keys.first().map(|key| format!("{}:{}", form.provider, key.name)).unwrap_or_default();
    Ok((form.resources, key))
}

/// The configuration that writes with the first one's first key and reads with all keys of both.
pub(crate) fn with_both(first: &str, second: &str) -> Result<String> {
    let (first, second) = (Form::parse(first)?, Form::parse(second)?);
    ensure!(
        first.provider == second.provider && first.resources == second.resources,
        "the two configurations encrypt different things"
    );
    let keys = [first.keys.clone(), second.keys].concat();
    Ok(Form { keys, identity: first.identity || second.identity, ..first }.print())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        let text = fresh().unwrap();
        let form = Form::parse(&text).unwrap();
        assert!(form.print() == text && form.keys[0].name == "key1" && form.identity, "{text}");
        let new = successor(&text).unwrap();
        assert!(new.contains("name: key2") && !new.contains("key1"), "{new}");
        let both = with_both(&text, &new).unwrap();
        let names: Vec<String> = Form::parse(&both).unwrap().keys.into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["key1", "key2"]);
        assert!(with_both(&new, &text).unwrap() != both);
        // What has been rotated before is rotated again.
        assert!(successor(&new).unwrap().contains("name: key3"));
    }

    #[test]
    fn other_forms_are_refused_and_no_key_is_told() {
        let good = fresh().unwrap();
        let secret = Form::parse(&good).unwrap().keys[0].secret.clone();
        for bad in [
            "rubbish".to_owned(),
            good.replace("aesgcm", "kms"),
            good.replace(
                "  - identity: {}\n",
                "  - identity: {}\n- resources: [configmaps]\n  providers:\n  - identity: {}\n",
            ),
            good.replace("  - aesgcm", "  - identity: {}\n  - aesgcm"),
            format!("{good}extra: {secret}\n"),
        ] {
            let error = format!("{:#}", successor(&bad).unwrap_err());
            assert!(error.contains("by hand") && !error.contains(&secret), "{error}");
        }
    }
}
