//! Looks at files and running programs for `kinit doctor --cis`. File names, modes and owners leave the host, contents
//! do not; command lines of components hold no secrets.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::Result;
use kinit_resource::{Evidence, FileEvidence};
use nix::unistd::{Gid, Group, Uid, User};

const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// No folder of these has more.
const MOST: usize = 1000;
const DEEPEST: usize = 3;

/// Of these paths, and of these programs.
pub(crate) fn gather(paths: &[String], programs: &[String]) -> Result<Evidence> {
    let mut files = Vec::new();
    for path in paths {
        look(Path::new(path), 0, &mut files)?;
    }
    let kubelet = match std::fs::read_to_string(KUBELET_CONFIG) {
        Ok(text) => serde_saphyr::from_str(&text)?,
        Err(_) => serde_json::Value::Null,
    };
    Ok(Evidence { files, commands: commands(programs), kubelet })
}

fn look(path: &Path, depth: usize, files: &mut Vec<FileEvidence>) -> Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if files.len() >= MOST || meta.is_symlink() {
        return Ok(());
    }
    let folder = meta.is_dir();
    files.push(FileEvidence {
        path: path.display().to_string(),
        mode: meta.permissions().mode() & 0o7777,
        owner: owner(meta.uid(), meta.gid()),
        folder,
    });
    if folder && depth < DEEPEST {
        let mut entries: Vec<_> = std::fs::read_dir(path)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            look(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

fn owner(uid: u32, gid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name);
    format!("{user}:{group}")
}

/// Arguments of the programs that run under these names.
fn commands(programs: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let mut words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let Some(program) = words.next() else { continue };
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        if programs.contains(&name) {
            found.entry(name).or_insert_with(|| words.filter(|word| !word.is_empty()).collect());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_commands_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let key = dir.path().join("pki/a.key");
        std::fs::write(&key, "secret").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        // A name that no other process of this machine has.
        let program = dir.path().join(format!("evidence-{}", std::process::id()));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("77").spawn().unwrap();
        let paths = [dir.path().join("pki").display().to_string(), "/nowhere".to_owned()];
        let name = program.file_name().unwrap().to_str().unwrap().to_owned();
        let mut seen = gather(&paths, std::slice::from_ref(&name)).unwrap();
        // A process has no command line yet for a moment after `exec`.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while seen.commands.is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            seen = gather(&paths, std::slice::from_ref(&name)).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.files.len(), 2);
        let file = seen.files.iter().find(|file| file.path.ends_with("a.key")).unwrap();
        assert_eq!((file.mode, file.folder), (0o640, false));
        assert_eq!(seen.commands.get(&name).map(Vec::as_slice), Some(&["77".to_owned()][..]));
    }
}
