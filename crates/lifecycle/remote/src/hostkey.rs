//! Whether to trust the key a host presents.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use russh::keys::{HashAlg, PublicKey};

use crate::known_hosts::{self, KnownHosts, Verdict};

/// Asks a person about a host and its key's fingerprint.
pub type Question = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// What to do about a host that is not known.
#[derive(Clone)]
pub enum OnUnknown {
    /// Refuse.
    Refuse,
    /// Accept, and remember.
    Accept,
    /// Ask (the host and its key's fingerprint), and remember if the answer is yes.
    Ask(Question),
}

/// Where trust comes from.
#[derive(Clone)]
pub struct HostKeyPolicy {
    /// The one key that is right, from the cluster file.
    pub pinned: Option<String>,
    /// The desk's known_hosts file.
    pub known_hosts: PathBuf,
    /// For hosts that are in neither.
    pub on_unknown: OnUnknown,
}

/// Why a host's key is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostKeyProblem {
    /// The cluster file pins another.
    #[error(
        "the host presents key {0}, but the cluster file pins another: somebody may be in between, or the host was reinstalled"
    )]
    NotThePinned(String),
    /// known_hosts has another.
    #[error(
        "the host presents key {0}, but {1} line {2} has another: somebody may be in between, or the host was reinstalled (then remove that line)"
    )]
    Changed(String, PathBuf, usize),
    /// known_hosts revokes it.
    #[error("the host presents key {0}, which {1} line {2} revokes")]
    Revoked(String, PathBuf, usize),
    /// Nobody knows it.
    #[error(
        "the host is not known; its key is {0}. Compare it with the host's, then add it to {1}, pin it in the cluster file (ssh.hostKey), or pass --accept-new-host-keys"
    )]
    Unknown(String, PathBuf),
    /// The file with the known keys cannot be read: a changed or revoked key would pass for a new one.
    #[error("read the known hosts {0}: {1}")]
    Unreadable(PathBuf, String),
    /// It is known now but could not be written down.
    #[error("remember the host's key in {0}: {1}")]
    Remember(PathBuf, String),
}

impl HostKeyPolicy {
    /// Judges the key; remembers it where the policy says so.
    pub fn judge(&self, host: &str, port: u16, key: &PublicKey) -> Result<(), HostKeyProblem> {
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        if let Some(pinned) = &self.pinned {
            let same = PublicKey::from_openssh(pinned).is_ok_and(|p| p.key_data() == key.key_data());
            return if same { Ok(()) } else { Err(HostKeyProblem::NotThePinned(fingerprint)) };
        }
        let file = || self.known_hosts.clone();
        match self.read()?.judge(host, port, key) {
            Verdict::Known => Ok(()),
            Verdict::Changed(line) => Err(HostKeyProblem::Changed(fingerprint, file(), line)),
            Verdict::Revoked(line) => Err(HostKeyProblem::Revoked(fingerprint, file(), line)),
            Verdict::Unknown => {
                let accepted = match &self.on_unknown {
                    OnUnknown::Refuse => false,
                    OnUnknown::Accept => true,
                    OnUnknown::Ask(ask) => ask(host, &fingerprint),
                };
                if accepted {
                    self.remember(host, port, key)
                } else {
                    Err(HostKeyProblem::Unknown(fingerprint, file()))
                }
            }
        }
    }

    /// A file that is missing knows nobody; `/dev/null` too. Lines that are no text are skipped as any others that are
    /// no entries.
    pub(crate) fn read(&self) -> Result<KnownHosts, HostKeyProblem> {
        let problem = |why: String| HostKeyProblem::Unreadable(self.known_hosts.clone(), why);
        match std::fs::metadata(&self.known_hosts) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KnownHosts::default()),
            Err(error) => return Err(problem(error.to_string())),
            _ if self.known_hosts == std::path::Path::new("/dev/null") => return Ok(KnownHosts::default()),
            Ok(data) if !data.is_file() => return Err(problem("it is not a regular file".to_owned())),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&self.known_hosts).map_err(|e| problem(e.to_string()))?;
        Ok(KnownHosts::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn remember(&self, host: &str, port: u16, key: &PublicKey) -> Result<(), HostKeyProblem> {
        let problem = |why: String| HostKeyProblem::Remember(self.known_hosts.clone(), why);
        let line = known_hosts::line(host, port, key).ok_or_else(|| problem("the key cannot be encoded".into()))?;
        if let Some(dir) = self.known_hosts.parent() {
            std::fs::create_dir_all(dir).map_err(|e| problem(e.to_string()))?;
        }
        // One write of one line: parallel connections append whole lines.
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.known_hosts);
        file.and_then(|mut f| f.write_all(line.as_bytes())).map_err(|e| problem(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn unknown_keys_are_refused_or_remembered_and_changes_are_always_refused() {
        let dir = tempfile::tempdir().unwrap();
        let policy = |on_unknown, pinned: Option<&str>| HostKeyPolicy {
            pinned: pinned.map(str::to_owned),
            known_hosts: dir.path().join("ssh/known_hosts"),
            on_unknown,
        };
        let (a, b) = (PublicKey::from_openssh(A).unwrap(), PublicKey::from_openssh(B).unwrap());
        assert!(matches!(policy(OnUnknown::Refuse, None).judge("h", 22, &a), Err(HostKeyProblem::Unknown(..))));
        assert!(matches!(
            policy(OnUnknown::Ask(Arc::new(|_, _| false)), None).judge("h", 22, &a),
            Err(HostKeyProblem::Unknown(..))
        ));
        assert_eq!(policy(OnUnknown::Accept, None).judge("h", 22, &a), Ok(()));
        assert_eq!(policy(OnUnknown::Refuse, None).judge("h", 22, &a), Ok(()));
        assert!(matches!(policy(OnUnknown::Accept, None).judge("h", 22, &b), Err(HostKeyProblem::Changed(_, _, 1))));
        assert!(matches!(policy(OnUnknown::Accept, Some(A)).judge("x", 22, &b), Err(HostKeyProblem::NotThePinned(_))));
        assert_eq!(policy(OnUnknown::Refuse, Some(B)).judge("h", 22, &b), Ok(()));
    }

    #[test]
    fn a_file_that_cannot_be_read_whole_makes_no_changed_key_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let known_hosts = dir.path().join("known_hosts");
        let policy = HostKeyPolicy { pinned: None, known_hosts: known_hosts.clone(), on_unknown: OnUnknown::Accept };
        let b = PublicKey::from_openssh(B).unwrap();
        std::fs::write(&known_hosts, [&b"# \xff\xfe\n"[..], format!("h {A}\r\n").as_bytes()].concat()).unwrap();
        assert!(matches!(policy.judge("h", 22, &b), Err(HostKeyProblem::Changed(_, _, 2))));
        std::fs::remove_file(&known_hosts).unwrap();
        std::fs::create_dir(&known_hosts).unwrap();
        assert!(matches!(policy.judge("h", 22, &b), Err(HostKeyProblem::Unreadable(..))));
    }
}
