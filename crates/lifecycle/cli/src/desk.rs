//! What the desk knows: who works at it, and which cluster is meant, by the kubeconfig that `init` wrote.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kinit_agent::{Caller, LockMode, Opening};
use kinit_phases::{Entry, KubeconfigFile};
use kube::Client;

use crate::cluster::{Lock, write_private};
use crate::errors::Usage;
use crate::token::AdminArgs;

/// How the hosts' agents are asked: in whose name, for which verb, and whether other kinits have to stop.
pub(crate) fn opening(operation: &str, lock: Lock, break_lock: bool) -> Opening {
    let named = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty());
    let user = named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| match std::fs::metadata("/proc/self") {
        Ok(own) if own.uid() == 0 => "root".to_owned(),
        Ok(own) => format!("uid-{}", own.uid()),
        Err(_) => "unknown".to_owned(),
    });
    let desk = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let by = format!("{user}@{}", desk.trim());
    let caller = Caller { by, pid: std::process::id(), operation: operation.to_owned() };
    let lock = match lock {
        Lock::Look => LockMode::Look,
        Lock::Take if break_lock => LockMode::Break,
        Lock::Take => LockMode::Take,
    };
    Opening { caller, lock }
}

/// The authority of a cluster as the desk knows it: by the given hash, or by what its kubeconfig says of the cluster of
/// that name.
pub(crate) fn known_authority(kubeconfig: &Path, cluster: &str, hash: Option<&str>) -> Result<Option<String>> {
    if let Some(hash) = hash {
        if !is_key_hash(hash) {
            return Err(Usage(format!("--ca-cert-hash: {hash:?} is not sha256: and 64 hexadecimal digits")).into());
        }
        return Ok(Some(hash.to_ascii_lowercase()));
    }
    let Some(file) = read(kubeconfig)? else { return Ok(None) };
    file.authority(cluster).with_context(|| format!("learn from {} which cluster is meant", kubeconfig.display()))
}

/// Whether a text has the form of a public key's hash, as kubeadm writes it.
pub(crate) fn is_key_hash(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A kubeconfig of the desk; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<KubeconfigFile>> {
    match std::fs::read_to_string(path) {
        Ok(text) => KubeconfigFile::parse(&text).map(Some).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The API as the administrator of a kubeconfig.
pub(crate) struct Admin {
    /// Who asks.
    pub(crate) client: Client,
    /// The kubeconfig.
    pub(crate) file: KubeconfigFile,
}

impl Admin {
    pub(crate) async fn read(args: &AdminArgs) -> Result<Self> {
        let paths = kubeconfigs(args.kubeconfig.as_deref(), std::env::var_os("KUBECONFIG").as_deref());
        let file = read_all(&paths)?;
        let shown = shown(&paths);
        let client = kinit_phases::desk_client(&file.text()?).await;
        Ok(Self { client: client.with_context(|| format!("use the kubeconfig {shown}"))?, file })
    }

    /// HOST:PORT of the API.
    pub(crate) fn endpoint(&self) -> Result<String> {
        let cluster = self.file.cluster(&self.file.current()?.cluster).and_then(|cluster| cluster.get("server"));
        let server = cluster.and_then(|server| server.as_str()).context("the kubeconfig names no server")?;
        Ok(server.trim_start_matches("https://").trim_end_matches('/').to_owned())
    }

    /// Hash of the authority's public key.
    pub(crate) fn authority(&self) -> Result<String> {
        self.file.authority(&self.file.current()?.cluster)?.context("the kubeconfig names no authority")
    }
}

/// Where the administrator's kubeconfig is: in the file of the flag, in those of `KUBECONFIG` (a list as in `PATH`;
/// empty names do not count), or beside the cluster file.
fn kubeconfigs(flag: Option<&Path>, variable: Option<&OsStr>) -> Vec<PathBuf> {
    if let Some(path) = flag {
        return vec![path.to_owned()];
    }
    let listed = variable.into_iter().flat_map(std::env::split_paths);
    let listed: Vec<PathBuf> = listed.filter(|path| !path.as_os_str().is_empty()).collect();
    if listed.is_empty() { vec![PathBuf::from("admin.conf")] } else { listed }
}

/// Files as one; as for kubectl, some of a list may be missing.
fn read_all(paths: &[PathBuf]) -> Result<KubeconfigFile> {
    let mut files = Vec::new();
    for path in paths {
        if let Some(file) = read(path)? {
            let absolute = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
            files.push(file.at(absolute.parent().unwrap_or(Path::new("/"))));
        }
    }
    if files.is_empty() {
        bail!(
            "there is no kubeconfig {}: --kubeconfig names the administrator's, which `kinit init` wrote",
            shown(paths)
        );
    }
    KubeconfigFile::layered(files)
}

fn shown(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

/// Puts a kubeconfig's current context into a file beside the clusters that others keep there.
pub(crate) fn merge(path: &Path, new: &KubeconfigFile, names: Option<Entry>) -> Result<()> {
    let mut file = match read(path)? {
        Some(file) => file,
        None => KubeconfigFile::parse("")?,
    };
    file.merge(new, names)?;
    write_private(path, &file.text()?)
}

/// Removes a cluster that is gone from the kubeconfig: its entry opens nothing any more, and the next cluster would be
/// taken for a stranger by it. A file without any other cluster goes as a whole.
pub(crate) fn forget(kubeconfig: &Path, cluster: &str, authority: Option<&str>) -> Result<()> {
    let Ok(Some(mut file)) = read(kubeconfig) else { return Ok(()) };
    let known = file.authority(cluster).ok().flatten();
    if known.is_none() || known.as_deref() != authority {
        return Ok(());
    }
    file.remove(cluster);
    if file.clusters() > 0 {
        write_private(kubeconfig, &file.text()?)?;
        tell!("[reset] removed cluster {cluster} from {}", kubeconfig.display());
        return Ok(());
    }
    std::fs::remove_file(kubeconfig).with_context(|| format!("remove {}", kubeconfig.display()))?;
    tell!("[reset] removed {}: its cluster is gone", kubeconfig.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_are_where_kubectl_looks() {
        let of = |flag: Option<&str>, variable: Option<&str>| {
            shown(&kubeconfigs(flag.map(Path::new), variable.map(OsStr::new)))
        };
        assert_eq!(of(Some("a:b"), Some("c")), "a:b", "a flag names one file");
        assert_eq!(of(None, Some("c:/d:")), "c, /d");
        assert_eq!((of(None, Some("")), of(None, None)), ("admin.conf".to_owned(), "admin.conf".to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let (here, missing) = (dir.path().join("here"), dir.path().join("missing"));
        std::fs::write(&here, "current-context: x\n").unwrap();
        assert!(read_all(&[missing.clone(), here]).is_ok(), "some may be missing");
        let error = read_all(&[missing]).unwrap_err().to_string();
        assert!(error.starts_with("there is no kubeconfig"), "{error}");
    }
}
