//! OpenSSH's `known_hosts` (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): patterns, hashed names, revoked keys.
//!
//! russh has a reader too; it ignores markers, so that a revoked key would pass.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use russh::keys::{Algorithm, PublicKey};

use crate::pattern;

/// A parsed file.
#[derive(Debug, Default, Clone)]
pub struct KnownHosts(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    line: usize,
    revoked: bool,
    authority: bool,
    hosts: String,
    key: PublicKey,
}

/// What the file says of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the host's.
    Known,
    /// The host has another key of that kind, on that line.
    Changed(usize),
    /// The key is revoked, on that line.
    Revoked(usize),
    /// Nothing is known of the host.
    Unknown,
}

impl KnownHosts {
    /// Lines that are not entries are skipped, as OpenSSH does.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().enumerate().filter_map(|(i, line)| parse_line(i + 1, line)).collect())
    }

    /// Judges a key that `host` (an address or a name) presented on `port`.
    pub fn judge(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        let name = lookup_name(host, port);
        let mut verdict = Verdict::Unknown;
        for entry in self.0.iter().filter(|e| matches_hosts(&e.hosts, &name)) {
            let same = entry.key.key_data() == key.key_data();
            match (entry.revoked, entry.authority, same) {
                (true, _, true) => return Verdict::Revoked(entry.line),
                (false, false, true) => verdict = Verdict::Known,
                (false, false, false) if entry.key.algorithm() == key.algorithm() && verdict == Verdict::Unknown => {
                    verdict = Verdict::Changed(entry.line);
                }
                _ => {}
            }
        }
        verdict
    }

    /// Kinds of key that are known of a host, so that the handshake can ask for these first.
    pub fn algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let name = lookup_name(host, port);
        let plain = self.0.iter().filter(|e| !e.revoked && !e.authority && matches_hosts(&e.hosts, &name));
        plain.map(|e| e.key.algorithm()).collect()
    }
}

/// The line that accepts a key from now on.
pub fn line(host: &str, port: u16, key: &PublicKey) -> Option<String> {
    Some(format!("{} {}\n", lookup_name(host, port), key.to_openssh().ok()?))
}

/// Names stand alone with this port, and as `[NAME]:PORT` with others.
pub(crate) const DEFAULT_PORT: u16 = 22;

fn lookup_name(host: &str, port: u16) -> String {
    if port == DEFAULT_PORT { host.to_lowercase() } else { format!("[{}]:{port}", host.to_lowercase()) }
}

fn parse_line(number: usize, line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace().peekable();
    let marker = words.next_if(|w| w.starts_with('@'));
    let hosts = words.next().filter(|w| !w.starts_with('#'))?.to_owned();
    let key = PublicKey::from_openssh(&format!("{} {}", words.next()?, words.next()?)).ok()?;
    Some(Entry {
        line: number,
        revoked: marker == Some("@revoked"),
        authority: marker == Some("@cert-authority"),
        hosts,
        key,
    })
}

fn matches_hosts(hosts: &str, name: &str) -> bool {
    if let Some(hashed) = hosts.strip_prefix("|1|") {
        return matches_hash(hashed, name).unwrap_or(false);
    }
    pattern::in_list(hosts.split(','), name)
}

fn matches_hash(hashed: &str, name: &str) -> Option<bool> {
    let (salt, hash) = hashed.split_once('|')?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &STANDARD.decode(salt).ok()?);
    Some(hmac::verify(&key, name.as_bytes(), &STANDARD.decode(hash).ok()?).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn judge(text: &str, host: &str, port: u16) -> Verdict {
        KnownHosts::parse(text).judge(host, port, &PublicKey::from_openssh(A).unwrap())
    }

    #[test]
    fn names_patterns_ports_and_markers() {
        for (text, host, port, expected) in [
            (format!("10.0.0.1 {A}"), "10.0.0.1", 22, Verdict::Known),
            (format!("# comment\n\n10.0.0.2,10.0.0.1 {A} me"), "10.0.0.1", 22, Verdict::Known),
            (format!("10.0.0.1 {B}"), "10.0.0.1", 22, Verdict::Changed(1)),
            (format!("10.0.0.1 {B}\n10.0.0.1 {A}"), "10.0.0.1", 22, Verdict::Known),
            (format!("10.0.0.1 {A}"), "10.0.0.1", 2222, Verdict::Unknown),
            (format!("[10.0.0.1]:2222 {A}"), "10.0.0.1", 2222, Verdict::Known),
            (format!("*.example.org {A}"), "Node1.example.org", 22, Verdict::Known),
            (format!("*.example.org,!node1.example.org {A}"), "node1.example.org", 22, Verdict::Unknown),
            (format!("10.0.0.1 {A}\n@revoked * {A}"), "10.0.0.1", 22, Verdict::Revoked(2)),
            (format!("@cert-authority * {A}"), "10.0.0.1", 22, Verdict::Unknown),
            ("rubbish".to_owned(), "10.0.0.1", 22, Verdict::Unknown),
        ] {
            assert_eq!(judge(&text, host, port), expected, "{text}");
        }
    }

    #[test]
    fn hashed_names_are_found() {
        // From `ssh-keygen -H` on an entry for 10.0.0.1.
        let salt = STANDARD.encode([7u8; 20]);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &[7u8; 20]);
        let hash = STANDARD.encode(hmac::sign(&key, b"10.0.0.1").as_ref());
        let text = format!("|1|{salt}|{hash} {A}");
        assert_eq!(judge(&text, "10.0.0.1", 22), Verdict::Known);
        assert_eq!(judge(&text, "10.0.0.2", 22), Verdict::Unknown);
    }
}
