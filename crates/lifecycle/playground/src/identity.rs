//! SSH keys: the playground's own, and one host key per host, known before the first connection.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use russh::keys::{Algorithm, PrivateKey, ssh_key::LineEnding};

/// A fresh Ed25519 key.
pub fn generate(comment: &str) -> Result<PrivateKey> {
    let mut seed = [0u8; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .context("get random bytes for an SSH key")?;
    let pair = russh::keys::ssh_key::private::Ed25519Keypair::from_seed(&seed);
    let mut key = PrivateKey::from(pair);
    debug_assert_eq!(key.algorithm(), Algorithm::Ed25519);
    key.set_comment(comment);
    Ok(key)
}

/// Writes `key` (mode 0600 from the first byte) and `key.pub` in OpenSSH's format.
pub fn save(key: &PrivateKey, path: &Path) -> Result<()> {
    let text = key.to_openssh(LineEnding::LF).context("encode an SSH key")?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))?;
    let public = path.with_extension("pub");
    std::fs::write(&public, public_line(key)?).with_context(|| format!("write {}", public.display()))
}

/// `ssh-ed25519 AAAA... comment`, with a line end.
pub fn public_line(key: &PrivateKey) -> Result<String> {
    Ok(key.public_key().to_openssh().context("encode a public SSH key")? + "\n")
}

/// 32 hexadecimal digits for `/etc/machine-id`.
pub fn machine_id() -> Result<String> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("get random bytes for a machine-id")?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
