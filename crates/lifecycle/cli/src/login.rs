//! Passwords and passphrases: from a terminal without echo, from a file descriptor, or from a file. Never from the
//! command line or the environment, which others on the machine can read.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kinit_remote::{Desk, Prompt, Secret};

use crate::terminal;

/// Flags that say where secrets come from.
#[derive(Args, Debug, Clone, Default)]
pub struct LoginArgs {
    /// Read the password for sudo on the hosts from this file descriptor, one line [default: asked for on the terminal
    /// when a host wants one]
    #[arg(long, value_name = "N", conflicts_with = "sudo_password_file")]
    sudo_password_fd: Option<u32>,
    /// Read the password for sudo on the hosts from the first line of a file
    #[arg(long, value_name = "FILE")]
    sudo_password_file: Option<PathBuf>,
    /// Read the passphrase of SSH keys from this file descriptor, one line [default: asked for on the terminal, once a
    /// key]
    #[arg(long, value_name = "N")]
    ssh_passphrase_fd: Option<u32>,
}

impl LoginArgs {
    /// The desk's end of connections, with these sources. File descriptors are read at once.
    pub fn desk(&self) -> Result<Desk> {
        let sudo = match (self.sudo_password_fd, &self.sudo_password_file) {
            (Some(fd), _) => Some(from_descriptor(fd).context("--sudo-password-fd")?),
            (None, Some(file)) => Some(from_file(file).context("--sudo-password-file")?),
            (None, None) => None,
        };
        let passphrase = self.ssh_passphrase_fd.map(|fd| from_descriptor(fd).context("--ssh-passphrase-fd"));
        Ok(Desk::new(Arc::new(Given { sudo, passphrase: passphrase.transpose()?, turn: Mutex::new(()) })))
    }
}

/// What was given, or else the terminal.
struct Given {
    sudo: Option<Secret>,
    passphrase: Option<Secret>,
    /// One question at a time.
    turn: Mutex<()>,
}

impl Prompt for Given {
    fn passphrase(&self, key: &Path, wrong: u32) -> Result<Secret> {
        match &self.passphrase {
            Some(given) if wrong == 0 => return Ok(given.clone()),
            Some(_) => bail!("the passphrase of --ssh-passphrase-fd is not this key's"),
            None => {}
        }
        let _turn = self.turn.lock();
        let again = if wrong > 0 { "wrong; " } else { "" };
        terminal::ask_secret(&format!("{again}passphrase of the SSH key {}: ", key.display()))
            .context("it has a passphrase: add it to the SSH agent, or give it by --ssh-passphrase-fd")
    }

    fn sudo_password(&self, user: &str) -> Result<Secret> {
        if let Some(given) = &self.sudo {
            return Ok(given.clone());
        }
        let _turn = self.turn.lock();
        terminal::ask_secret(&format!("sudo password of {user} on the hosts: "))
            .context("give it by --sudo-password-fd or --sudo-password-file")
    }
}

/// The first line that a descriptor of this process gives.
pub(crate) fn from_descriptor(fd: u32) -> Result<Secret> {
    let file = File::open(format!("/proc/self/fd/{fd}")).with_context(|| format!("open file descriptor {fd}"))?;
    first_line(file).with_context(|| format!("read file descriptor {fd}"))
}

/// All of a file that only its owner may read.
pub(crate) fn from_file_text(path: &Path) -> Result<String> {
    let open = || -> Result<String> {
        let mut text = String::new();
        private(path)?.take(LONGEST as u64).read_to_string(&mut text)?;
        Ok(text)
    };
    open().with_context(|| format!("read {}", path.display()))
}

fn private(path: &Path) -> Result<File> {
    use std::os::unix::fs::PermissionsExt;
    let file = File::open(path)?;
    let (meta, mode) = (file.metadata()?, file.metadata()?.permissions().mode() & 0o777);
    // A pipe made by the shell (`<(pass show ...)`) has no mode that counts.
    ensure!(!meta.is_file() || mode & 0o077 == 0, "it is open to others (mode {mode:04o}); `chmod 600` it");
    Ok(file)
}

/// The first line of a file that only its owner may read.
pub(crate) fn from_file(path: &Path) -> Result<Secret> {
    let open = || first_line(private(path)?);
    open().with_context(|| format!("read {}", path.display()))
}

/// Longer lines are no passwords.
const LONGEST: usize = 4096;

fn first_line(mut from: impl Read) -> Result<Secret> {
    let mut bytes = Vec::new();
    // A byte at a time: what follows the line is left to whoever else reads there.
    while bytes.len() < LONGEST {
        let mut byte = [0u8];
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == [b'\n'] => break,
            Ok(_) => bytes.extend(byte),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let line = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("it is no text (UTF-8)"))?;
    ensure!(!line.is_empty(), "its first line is empty");
    Ok(Secret::new(line))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_first_lines_of_private_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "pass word \nrest\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = format!("{:#}", from_file(&path).unwrap_err());
        assert!(error.contains("open to others (mode 0640)") && !error.contains("pass word"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(from_file(&path).unwrap().reveal(), "pass word ");
        assert!(first_line(&b"\nx"[..]).is_err());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"hunter2\nmore").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        assert_eq!(from_descriptor(u32::try_from(fd).unwrap()).unwrap().reveal(), "hunter2");
        assert!(from_descriptor(987_654).is_err());
    }
}
