//! Variables from files in a volume, as init containers leave them (`fileKeyRef`, KEP-3721).

use std::io::Read;
use std::path::Path;

use k8s_openapi::api::core::v1::FileKeySelector;

use crate::volumes::{Volumes, subpath};

/// No environment is larger than this (upstream's bound of a file).
const MOST: u64 = 64 << 10;

/// The value of a key; `None` when it is optional and absent.
pub fn value(key: &FileKeySelector, volumes: &Volumes) -> Result<Option<String>, String> {
    let optional = key.optional == Some(true);
    let volume = volumes
        .get(&key.volume_name)
        .ok_or_else(|| format!("volume {:?} of fileKeyRef is not mounted", key.volume_name))?;
    let file = match subpath::open_file(&volume.path, Path::new(&key.path)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && optional => return Ok(None),
        Err(error) => return Err(format!("open file {:?} of volume {:?}: {error}", key.path, key.volume_name)),
    };
    let mut text = String::new();
    let failed = |why: String| format!("environment file {:?} of volume {:?}: {why}", key.path, key.volume_name);
    file.take(MOST + 1).read_to_string(&mut text).map_err(|e| failed(e.to_string()))?;
    if text.len() as u64 > MOST {
        return Err(failed(format!("it has more than {MOST} bytes")));
    }
    match find(&text, &key.key).map_err(failed)? {
        None if !optional => Err(failed(format!("it has no key {:?}", key.key))),
        found => Ok(found),
    }
}

/// `NAME='VALUE'`, one after the other; a value is taken as it stands, over several lines if it has them. Blank lines
/// and lines that begin with `#` are passed over. The last of several values counts.
fn find(text: &str, wanted: &str) -> Result<Option<String>, String> {
    let (mut rest, mut found, mut line) = (text, None, 1);
    while !rest.is_empty() {
        let (head, tail) = rest.split_once('\n').unwrap_or((rest, ""));
        let trimmed = head.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            (rest, line) = (tail, line + 1);
            continue;
        }
        let bad = || format!("line {line} is not NAME='VALUE'");
        let (name, after) = rest.trim_start().split_once('=').ok_or_else(bad)?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\'') {
            return Err(bad());
        }
        let (value, after) = after.strip_prefix('\'').and_then(|v| v.split_once('\'')).ok_or_else(bad)?;
        let (end, tail) = after.split_once('\n').unwrap_or((after, ""));
        if !(end.trim().is_empty() || end.trim_start().starts_with('#')) {
            return Err(bad());
        }
        line += value.matches('\n').count() + 1;
        if name == wanted {
            found = Some(value.to_owned());
        }
        rest = tail;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let ok = |v: &str| Ok(Some(v.to_owned()));
        for (text, expected) in [
            ("A='1'\nB='2'", ok("1")),
            ("# A='0'\n\n  A='x y' # why\n", ok("x y")),
            ("A='one\ntwo'\nB=''\n", ok("one\ntwo")),
            ("A='1'\nA='2'\n", ok("2")),
            ("B='1'\n", Ok(None)),
            ("A=1\n", Err(())),
            ("A='1' x\n", Err(())),
            ("A='1\n", Err(())),
            ("nonsense", Err(())),
            ("", Ok(None)),
        ] {
            assert_eq!(find(text, "A").map_err(drop), expected, "{text:?}");
        }
    }
}
