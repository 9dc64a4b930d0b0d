//! Reading a backup: in one pass, each file checked as it streams by, nothing believed that is not signed.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

use crate::error::Error;
use crate::manifest::{FileEntry, Manifest, pki_path};
use crate::seal::Identity;
use crate::sign::{self, Signer};
use crate::write::Hashing;

/// What a reader brings along.
#[derive(Default)]
pub struct Keys {
    /// What opens the file.
    pub identity: Identity,
    /// The authority of the cluster whose backup is expected (`sha256:HEX`); another cluster's is refused.
    pub authority: Option<String>,
    /// The signer (public key in hexadecimal) of a cluster whose authority is external: nothing in such a backup proves
    /// who signed it.
    pub signer: Option<String>,
}

/// Is given each file with its entry. What it does not read is read for it, so that the hash is checked. The manifest
/// is authentic by then, and so are files below `pki/`; any other file is only after [`read`] has returned.
pub type Visit<'a> = dyn FnMut(&Manifest, &FileEntry, &mut dyn Read) -> Result<(), Error> + 'a;

const AGE: &[u8] = b"age-encryption.org/";
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LONGEST_MANIFEST: u64 = 4 << 20;
/// What is no snapshot is small.
const LONGEST_SMALL: u64 = 4 << 20;

/// What went wrong below tar and zstd, which would tell it in words of their own.
#[derive(Clone, Copy)]
enum Damage {
    Truncated,
    Tampered,
    Either,
}

#[derive(Clone, Default)]
struct State {
    ended: Rc<Cell<bool>>,
    damage: Rc<Cell<Option<Damage>>>,
}

/// Notices the file's end.
struct Watched<R> {
    inner: R,
    state: State,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.state.ended.set(count == 0 && !buffer.is_empty());
        Ok(count)
    }
}

/// Notices what decryption says.
struct Decrypted<R> {
    inner: R,
    state: State,
}

impl<R: Read> Read for Decrypted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| {
            let damage = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => Damage::Truncated,
                std::io::ErrorKind::InvalidData if self.state.ended.get() => Damage::Either,
                std::io::ErrorKind::InvalidData => Damage::Tampered,
                _ => return,
            };
            self.state.damage.set(Some(damage));
        })
    }
}

impl State {
    fn told(&self, error: std::io::Error) -> Error {
        // A visitor's own error comes back through the reader it was given.
        if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
            return inner.map_or(Error::Truncated, |inner| *inner);
        }
        match self.damage.get() {
            Some(Damage::Truncated) => return Error::Truncated,
            Some(Damage::Tampered) => return Error::Tampered("a part of it does not decrypt".to_owned()),
            Some(Damage::Either) => return Error::Damaged,
            None => {}
        }
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Truncated,
            _ if self.ended.get() => Error::Truncated,
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other => Error::Tampered(error.to_string()),
            _ => Error::Io { doing: "read the backup".to_owned(), source: error },
        }
    }
}

/// Reads a backup to its end and checks everything: encryption, signature, every hash, and that nothing is missing or
/// too much.
pub fn read(input: impl Read, keys: &Keys, visit: &mut Visit<'_>) -> Result<Manifest, Error> {
    let state = State::default();
    let mut input = BufReader::with_capacity(1 << 16, Watched { inner: input, state: state.clone() });
    let begin = input.fill_buf().map_err(Error::io("read the backup"))?;
    let state_of = state.clone();
    if begin.starts_with(AGE) {
        let opened = keys.identity.open(input)?;
        entries(Decrypted { inner: opened, state: state_of }, &state, keys, visit)
    } else if begin.starts_with(ZSTD) {
        entries(input, &state, keys, visit)
    } else if AGE.starts_with(begin) || ZSTD.starts_with(begin) {
        Err(Error::Truncated)
    } else {
        Err(Error::NotABackup("it begins neither as age's files do nor as zstd's".to_owned()))
    }
}

/// The manifest, and the files that are no snapshot, by path.
pub fn read_small(input: impl Read, keys: &Keys) -> Result<(Manifest, BTreeMap<String, Vec<u8>>), Error> {
    let mut files = BTreeMap::new();
    let manifest = read(input, keys, &mut |_, entry, bytes| {
        if entry.path != crate::SNAPSHOT {
            files.insert(entry.path.clone(), small(bytes, LONGEST_SMALL, &entry.path)?);
        }
        Ok(())
    })?;
    Ok((manifest, files))
}

fn entries(input: impl Read, state: &State, keys: &Keys, visit: &mut Visit<'_>) -> Result<Manifest, Error> {
    let told = |error| state.told(error);
    let zstd = zstd::stream::read::Decoder::new(input).map_err(told)?;
    let mut archive = tar::Archive::new(zstd);
    let mut entries = archive.entries().map_err(told)?;
    let mut next = || entries.next().transpose().map_err(told);
    let mut head = |name: &str, most: u64| -> Result<Vec<u8>, Error> {
        let mut entry = next()?.ok_or(Error::Truncated)?;
        if entry.path_bytes().as_ref() != name.as_bytes() {
            return Err(Error::NotABackup(format!("{name} is not where it should be")));
        }
        small(&mut entry, most, name).map_err(|error| match error {
            Error::Io { source, .. } => state.told(source),
            other => other,
        })
    };
    let json = head("manifest.json", LONGEST_MANIFEST)?;
    let signature = head("manifest.sig", sign::LENGTH as u64)?;
    let manifest = Manifest::parse(&json)?;
    sign::verify(&manifest.signer, &json, &signature)?;
    if let Some(authority) = &keys.authority
        && *authority != manifest.cluster.authority
    {
        return Err(Error::NotABackup(format!(
            "it is of another cluster ({}, authority {}); this one's authority is {authority}",
            manifest.cluster.name, manifest.cluster.authority
        )));
    }
    if keys.signer.as_ref().is_some_and(|signer| *signer != manifest.signer) {
        return Err(Error::Signature(format!("it was signed by {}, not by the given signer", manifest.signer)));
    }
    if manifest.signed_by == sign::Anchor::ServiceAccounts && keys.signer.is_none() {
        return Err(Error::Signature(format!(
            "it was signed without the authority's key, as for a cluster whose authority is external: if {} is the \
             signer that `kinit backup create` printed, give it (--signer)",
            manifest.signer
        )));
    }
    let mut authenticity = Authenticity::default();
    for expected in &manifest.files {
        let entry = next()?.ok_or(Error::Truncated)?;
        one(entry, expected, &manifest, state, &mut authenticity, visit)?;
    }
    authenticity.check(&manifest)?;
    if next()?.is_some() {
        return Err(Error::Tampered("it has more files than its manifest".to_owned()));
    }
    // To the very end: what proves that nothing is missing comes last.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(told)?;
    Ok(manifest)
}

fn one(
    entry: tar::Entry<'_, impl Read>,
    expected: &FileEntry,
    manifest: &Manifest,
    state: &State,
    authenticity: &mut Authenticity,
    visit: &mut Visit<'_>,
) -> Result<(), Error> {
    if entry.path_bytes().as_ref() != expected.path.as_bytes() || entry.size() != expected.size {
        return Err(Error::Tampered(format!("{} is not where the manifest has it", expected.path)));
    }
    let is_key = authenticity.wants(&expected.path);
    if !expected.path.starts_with("pki/") {
        // Before any of the rest is handed out.
        authenticity.check(manifest)?;
    }
    let mut hashing = Hashing::new(entry);
    let visited = if is_key {
        let bytes = small(&mut hashing, LONGEST_SMALL, &expected.path);
        bytes.and_then(|bytes| {
            visit(manifest, expected, &mut bytes.as_slice())?;
            authenticity.take(&expected.path, bytes);
            Ok(())
        })
    } else {
        visit(manifest, expected, &mut hashing)
    };
    visited.map_err(|error| match error {
        Error::Io { source, .. }
            if state.damage.get().is_some() || source.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            state.told(source)
        }
        other => other,
    })?;
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(|error| state.told(error))?;
    let (size, sha256) = hashing.end();
    if size < expected.size {
        return Err(Error::Truncated);
    }
    if sha256 != expected.sha256 {
        return Err(Error::Tampered(format!("{} has another hash than in the manifest", expected.path)));
    }
    Ok(())
}

fn small(bytes: &mut dyn Read, most: u64, what: &str) -> Result<Vec<u8>, Error> {
    let mut found = Vec::new();
    bytes.take(most + 1).read_to_end(&mut found).map_err(Error::io(format!("read {what} of the backup")))?;
    if found.len() as u64 > most {
        return Err(Error::NotABackup(format!("{what} is longer than {most} bytes")));
    }
    Ok(found)
}

/// Whether the signer had the key of the cluster's authority.
#[derive(Default)]
struct Authenticity {
    files: BTreeMap<String, Vec<u8>>,
    checked: bool,
}

impl Authenticity {
    fn wants(&self, path: &str) -> bool {
        ["ca.crt", "ca.key", "sa.key"].iter().any(|file| pki_path(file) == path)
    }

    fn take(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(path.to_owned(), bytes);
    }

    fn text(&self, file: &str) -> Result<String, Error> {
        let bytes = self.files.get(&pki_path(file));
        let bytes = bytes.ok_or_else(|| Error::Signature(format!("it has no {}", pki_path(file))))?;
        String::from_utf8(bytes.clone()).map_err(|_| Error::Signature(format!("{} is no text", pki_path(file))))
    }

    fn check(&mut self, manifest: &Manifest) -> Result<(), Error> {
        if self.checked {
            return Ok(());
        }
        let certificate = self.text("ca.crt")?;
        if kinit_pki::public_key_hash(&certificate).as_ref() != Some(&manifest.cluster.authority) {
            return Err(Error::Signature("pki/ca.crt is not of the authority that the manifest names".to_owned()));
        }
        let key = self.text(manifest.signed_by.file())?;
        if manifest.signed_by == sign::Anchor::Authority {
            let is_pair = kinit_pki::is_pair(&certificate, &key).unwrap_or(false);
            if !is_pair {
                return Err(Error::Signature("pki/ca.key does not belong to pki/ca.crt".to_owned()));
            }
        }
        if Signer::derive(manifest.signed_by, &key)?.public() != manifest.signer {
            return Err(Error::Signature(format!("whoever signed it did not have {}", manifest.signed_by.file())));
        }
        self.checked = true;
        self.files.clear();
        Ok(())
    }
}
