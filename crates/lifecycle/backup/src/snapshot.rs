//! Snapshots as `etcdctl snapshot save` writes them: a database of bbolt, and its SHA-256 after it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Error;

/// Length of the hash at the end.
const HASH: u64 = 32;
/// bbolt's mark in the first page, after the page's header (`bbolt/internal/common`).
const MAGIC: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
const MAGIC_AT: usize = 16;

/// Whether a file is a database of bbolt, and so no backup of kinit's.
pub fn is_snapshot(path: &Path) -> bool {
    let mut head = [0; MAGIC_AT + 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.ends_with(&MAGIC)
}

/// Length and SHA-256 (in hexadecimal) of a snapshot whose own hash, at its end, is right.
pub fn check_snapshot(path: &Path) -> Result<(u64, String), Error> {
    let reading = || Error::io(format!("read {}", path.display()));
    let mut file = File::open(path).map_err(reading())?;
    let length = file.metadata().map_err(reading())?.len();
    if length <= HASH || length % 512 != HASH {
        return Err(Error::Truncated);
    }
    let (mut whole, mut hash) = (Sha256::new(), Sha256::new());
    let (mut left, mut buffer) = (length - HASH, vec![0; 1 << 20]);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        file.read_exact(part).map_err(reading())?;
        whole.update(&*part);
        hash.update(&*part);
        left -= wanted as u64;
    }
    let mut stored = [0; HASH as usize];
    file.read_exact(&mut stored).map_err(reading())?;
    whole.update(stored);
    if hash.finalize().as_slice() != stored {
        return Err(Error::Tampered("the snapshot's own hash is another".to_owned()));
    }
    Ok((length, hex::encode(whole.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_told_from_backups_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut bytes = vec![0; 1024];
        bytes[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&MAGIC);
        bytes.extend(Sha256::digest(&bytes));
        std::fs::write(&path, &bytes).unwrap();
        assert!(is_snapshot(&path));
        assert_eq!(check_snapshot(&path).unwrap(), crate::measure(&path).unwrap());
        bytes[900] = 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(check_snapshot(&path), Err(Error::Tampered(_))));
        std::fs::write(&path, &bytes[..1000]).unwrap();
        assert!(matches!(check_snapshot(&path), Err(Error::Truncated)));
        std::fs::write(&path, b"age-encryption.org/v1\n").unwrap();
        assert!(!is_snapshot(&path) && !is_snapshot(&dir.path().join("none")));
    }
}
