//! Static tokens (`--token-auth-file`): lines of `token,user name,user uid,"group1,group2"`, read once
//! (`k8s.io/apiserver/pkg/authentication/token/tokenfile`).

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::User;

/// The users of static tokens, by the tokens' hashes: a look-up tells nothing of a token by the time it takes.
#[derive(Debug, Default)]
pub struct TokenFile(HashMap<[u8; 32], User>);

impl TokenFile {
    /// Reads a file. Errors name the line, never the token.
    pub fn load(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("open the token file {}", path.display()))?;
        Self::read(file).with_context(|| format!("read the token file {}", path.display()))
    }

    fn read(text: impl std::io::Read) -> Result<Self> {
        let mut out = HashMap::new();
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
        for (at, record) in reader.records().enumerate() {
            let line = at + 1;
            let record = record.map_err(|_| anyhow::anyhow!("record {line} is not comma-separated text"))?;
            let field = |index: usize| record.get(index).unwrap_or_default().trim();
            if record.len() < 3 {
                bail!(
                    "record {line} must have at least 3 columns (token, user name, user uid), found {}",
                    record.len()
                );
            }
            if field(0).is_empty() {
                tracing::warn!(line, "a record of the token file has no token and is ignored");
                continue;
            }
            let groups = field(3).split(',').map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned);
            let user = User { uid: field(2).to_owned(), ..User::authenticated(field(1), groups) };
            if out.insert(hash(field(0)), user).is_some() {
                tracing::warn!(line, "a token is in the token file twice; the last one counts");
            }
        }
        Ok(Self(out))
    }

    /// The user of a token.
    pub fn user(&self, token: &str) -> Option<User> {
        if self.0.is_empty() { None } else { self.0.get(&hash(token)).cloned() }
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_their_users() {
        let tokens = TokenFile::read(&b"t1,alice,u1,\"dev,ops\"\nt2,bob,u2\n,nobody,u3\n"[..]).unwrap();
        let alice = tokens.user("t1").unwrap();
        assert_eq!((alice.name.as_str(), alice.uid.as_str()), ("alice", "u1"));
        assert_eq!(alice.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(tokens.user("t2").unwrap().groups, ["system:authenticated"]);
        assert_eq!((tokens.user(""), tokens.user("t")), (None, None));
    }

    #[test]
    fn spoilt_files_are_refused_without_showing_a_token() {
        let error = format!("{:#}", TokenFile::read(&b"t1,alice,u1\nsecret,bob\n"[..]).unwrap_err());
        assert!(error.contains("record 2 must have at least 3 columns") && !error.contains("secret"), "{error}");
    }
}
