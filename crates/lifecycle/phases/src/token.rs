//! Bootstrap tokens, as kubeadm makes them (Authenticating with Bootstrap Tokens).

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kinit_manifests::{BootstrapToken, bootstrap_token};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use rand::Rng;
use serde::Serialize;

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// A token's two parts. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names it; not secret.
    pub id: String,
    /// Proves it.
    pub secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.(secret)", self.id)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.id, self.secret)
    }
}

impl Token {
    /// A new one.
    pub fn generate() -> Self {
        Self { id: random_word(6), secret: random_word(16) }
    }

    /// Reads `ID.SECRET` (`^[a-z0-9]{6}\.[a-z0-9]{16}$`).
    pub fn parse(text: &str) -> Result<Self> {
        let is_word = |word: &str, length| {
            word.len() == length && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        match text.split_once('.') {
            Some((id, secret)) if is_word(id, 6) && is_word(secret, 16) => {
                Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
            }
            // Not the text: it may be nearly a token.
            _ => bail!("a token has the form ID.SECRET: 6 and 16 lower-case letters and digits"),
        }
    }
}

/// Lower-case letters and digits, as bootstrap tokens have.
fn random_word(length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..length).filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len()))).map(|c| char::from(*c)).collect()
}

/// What a new token is like.
#[derive(Debug, Clone)]
pub struct TokenOptions {
    /// How long it is valid; for ever when absent.
    pub life: Option<Duration>,
    /// Words for people.
    pub description: String,
    /// `signing` (cluster-info), `authentication` (the API).
    pub usages: Vec<String>,
    /// Groups of who uses it.
    pub groups: Vec<String>,
}

/// A token that is there, without its secret.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TokenInfo {
    /// Its ID.
    pub id: String,
    /// Until when; RFC 3339. Empty for one without an end.
    pub expires: String,
    /// What it is good for.
    pub usages: Vec<String>,
    /// Words for people.
    pub description: String,
    /// Groups of who uses it.
    pub groups: Vec<String>,
}

/// Makes a token known to the cluster.
pub async fn create_token(client: &Client, token: &Token, options: &TokenOptions) -> Result<()> {
    let expires = options.life.map(|life| {
        let end = jiff::Timestamp::now().checked_add(life).context("compute the token's end")?;
        Ok::<_, anyhow::Error>(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    });
    let wanted = BootstrapToken {
        id: &token.id,
        secret: &token.secret,
        expires: expires.transpose()?,
        description: &options.description,
        usages: &options.usages,
        groups: &options.groups,
    };
    let object: Secret = serde_json::from_value(bootstrap_token(&wanted)).context("make a bootstrap token")?;
    let created = secrets(client).create(&PostParams::default(), &object).await;
    match created {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            bail!("there is a token with the ID {} already", token.id)
        }
        other => other.map(drop).context("create a bootstrap token"),
    }
}

/// The tokens that are there.
pub async fn list_tokens(client: &Client) -> Result<Vec<TokenInfo>> {
    let wanted = ListParams::default().fields(&format!("type={TYPE}"));
    let list = secrets(client).list(&wanted).await.context("list the bootstrap tokens")?;
    Ok(list.items.iter().filter_map(info).collect())
}

fn info(secret: &Secret) -> Option<TokenInfo> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| {
        let bytes = data.get(key).map(|ByteString(bytes)| bytes.as_slice()).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    let uses = data.iter().filter_map(|(key, value)| {
        key.strip_prefix("usage-bootstrap-").filter(|_| value.0 == b"true").map(str::to_owned)
    });
    let groups = text("auth-extra-groups").split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
    let (usages, expires) = (uses.collect(), text("expiration"));
    Some(TokenInfo { id: text("token-id"), expires, usages, description: text("description"), groups })
}

/// Deletes a token by its ID; `false` when there is none.
pub async fn delete_token(client: &Client, id: &str) -> Result<bool> {
    let name = format!("bootstrap-token-{id}");
    match secrets(client).delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error).with_context(|| format!("delete the bootstrap token {id}")),
    }
}

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_one_form_and_are_not_repeated_in_errors() {
        let made = Token::generate();
        assert_eq!(Token::parse(&made.to_string()).unwrap(), made);
        assert!(!format!("{made:?}").contains(&made.secret));
        for wrong in [
            "",
            "abcdef",
            "abcdef.0123456789abcde",
            "abcdeF.0123456789abcdef",
            "abcdef.0123456789abcdef.x",
            "abcdéf.0123456789abcdef",
        ] {
            let error = Token::parse(wrong).unwrap_err().to_string();
            assert!(wrong.is_empty() || !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_secret_reads_as_it_was_made() {
        let (usages, groups) = (
            vec!["signing".to_owned()],
            vec!["system:bootstrappers:a".to_owned(), "system:bootstrappers:b".to_owned()],
        );
        let wanted = BootstrapToken {
            id: "abcdef",
            secret: "0123456789abcdef",
            expires: None,
            description: "for w9",
            usages: &usages,
            groups: &groups,
        };
        let mut secret: Secret = serde_json::from_value(bootstrap_token(&wanted)).unwrap();
        let text = secret.string_data.take().unwrap();
        secret.data = Some(text.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))).collect());
        let expected =
            TokenInfo { id: "abcdef".into(), expires: String::new(), usages, description: "for w9".into(), groups };
        assert_eq!(info(&secret), Some(expected));
    }
}
