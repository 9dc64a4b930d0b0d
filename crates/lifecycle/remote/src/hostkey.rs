//! Whether to trust the key a host presents.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::{Algorithm, HashAlg, PublicKey};

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
    /// The desk's known_hosts files; new keys are added to the first.
    pub known_hosts: Vec<PathBuf>,
    /// The name under which the host's key is kept there, in place of its address and port (`HostKeyAlias`).
    pub alias: Option<String>,
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
        let (name, port) = self.name(host, port);
        let (mut known, mut changed) = (false, None);
        for (file, keys) in self.read()? {
            match keys.judge(name, port, key) {
                Verdict::Known => known = true,
                Verdict::Changed(line) => changed = changed.or(Some((file, line))),
                Verdict::Revoked(line) => return Err(HostKeyProblem::Revoked(fingerprint, file, line)),
                Verdict::Unknown => {}
            }
        }
        match changed {
            _ if known => return Ok(()),
            Some((file, line)) => return Err(HostKeyProblem::Changed(fingerprint, file, line)),
            None => {}
        }
        let accepted = match &self.on_unknown {
            OnUnknown::Refuse => false,
            OnUnknown::Accept => true,
            OnUnknown::Ask(ask) => ask(host, &fingerprint),
        };
        if !accepted {
            let file = self.known_hosts.first().cloned().unwrap_or_else(|| "known_hosts".into());
            return Err(HostKeyProblem::Unknown(fingerprint, file));
        }
        self.remember(name, port, key)
    }

    /// Kinds of key that are known of the host, so that the handshake can ask for these first: a host with several
    /// must not look like a stranger.
    pub(crate) fn algorithms(&self, host: &str, port: u16) -> Result<Vec<Algorithm>, HostKeyProblem> {
        if let Some(pinned) = self.pinned.as_deref().and_then(|p| PublicKey::from_openssh(p).ok()) {
            return Ok(vec![pinned.algorithm()]);
        }
        let (name, port) = self.name(host, port);
        Ok(self.read()?.iter().flat_map(|(_, keys)| keys.algorithms(name, port)).collect())
    }

    /// Name and port to look up; an alias stands without a port.
    fn name<'a>(&'a self, host: &'a str, port: u16) -> (&'a str, u16) {
        self.alias.as_deref().map_or((host, port), |alias| (alias, known_hosts::DEFAULT_PORT))
    }

    fn read(&self) -> Result<Vec<(PathBuf, KnownHosts)>, HostKeyProblem> {
        self.known_hosts.iter().map(|file| Ok((file.clone(), read(file)?))).collect()
    }

    fn remember(&self, host: &str, port: u16, key: &PublicKey) -> Result<(), HostKeyProblem> {
        // `UserKnownHostsFile none`: accepted for this run.
        let Some(path) = self.known_hosts.first() else { return Ok(()) };
        let problem = |why: String| HostKeyProblem::Remember(path.clone(), why);
        let line = known_hosts::line(host, port, key).ok_or_else(|| problem("the key cannot be encoded".into()))?;
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| problem(e.to_string()))?;
        }
        // One write of one line: parallel connections append whole lines.
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut f| f.write_all(line.as_bytes())).map_err(|e| problem(e.to_string()))
    }
}

/// A file that is missing knows nobody; `/dev/null` too. Lines that are no text are skipped as any others that are no
/// entries.
fn read(path: &Path) -> Result<KnownHosts, HostKeyProblem> {
    let problem = |why: String| HostKeyProblem::Unreadable(path.to_owned(), why);
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(KnownHosts::default()),
        Err(error) => return Err(problem(error.to_string())),
        _ if path == Path::new("/dev/null") => return Ok(KnownHosts::default()),
        Ok(data) if !data.is_file() => return Err(problem("it is not a regular file".to_owned())),
        Ok(_) => {}
    }
    let bytes = std::fs::read(path).map_err(|e| problem(e.to_string()))?;
    Ok(KnownHosts::parse(&String::from_utf8_lossy(&bytes)))
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
            known_hosts: vec![dir.path().join("ssh/known_hosts"), dir.path().join("more")],
            alias: None,
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
        // The second file counts as the first, and a revocation in either wins.
        std::fs::write(dir.path().join("more"), format!("other,alias {B}\n")).unwrap();
        assert_eq!(policy(OnUnknown::Refuse, None).judge("other", 22, &b), Ok(()));
        let aliased = HostKeyPolicy { alias: Some("alias".into()), ..policy(OnUnknown::Refuse, None) };
        assert_eq!(aliased.judge("10.0.0.9", 2222, &b), Ok(()));
        assert_eq!(aliased.algorithms("10.0.0.9", 2222).unwrap(), [b.algorithm()]);
        assert!(matches!(aliased.judge("10.0.0.9", 2222, &a), Err(HostKeyProblem::Changed(_, _, 1))));
        std::fs::write(dir.path().join("more"), format!("@revoked * {A}\n")).unwrap();
        assert!(matches!(policy(OnUnknown::Accept, None).judge("h", 22, &a), Err(HostKeyProblem::Revoked(_, _, 1))));
        let none = HostKeyPolicy { known_hosts: Vec::new(), ..policy(OnUnknown::Refuse, None) };
        assert!(matches!(none.judge("h", 22, &a), Err(HostKeyProblem::Unknown(..))));
    }

    #[test]
    fn a_file_that_cannot_be_read_whole_makes_no_changed_key_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let known_hosts = dir.path().join("known_hosts");
        let policy = HostKeyPolicy {
            pinned: None,
            known_hosts: vec![known_hosts.clone()],
            alias: None,
            on_unknown: OnUnknown::Accept,
        };
        let b = PublicKey::from_openssh(B).unwrap();
        std::fs::write(&known_hosts, [&b"# \xff\xfe\n"[..], format!("h {A}\r\n").as_bytes()].concat()).unwrap();
        assert!(matches!(policy.judge("h", 22, &b), Err(HostKeyProblem::Changed(_, _, 2))));
        std::fs::remove_file(&known_hosts).unwrap();
        std::fs::create_dir(&known_hosts).unwrap();
        assert!(matches!(policy.judge("h", 22, &b), Err(HostKeyProblem::Unreadable(..))));
    }
}
