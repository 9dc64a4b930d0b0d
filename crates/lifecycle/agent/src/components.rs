//! Which programs of components are on a host, and what they say of themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kinit_resource::Installed;

use crate::prune::LINKS;

/// Where kinit places programs.
const PLACE: &str = "/usr/local/lib/kinit/";
/// A program that takes longer says nothing.
const PATIENCE: Duration = Duration::from_secs(10);

/// The programs that kinit placed, by component.
pub(crate) async fn installed() -> BTreeMap<String, Installed> {
    let entries = std::fs::read_dir(LINKS).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(PLACE)));
    let names: Vec<String> = ours.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let mut found = BTreeMap::new();
    for name in names {
        let unit = std::fs::read_to_string(format!("/etc/systemd/system/{name}.service")).unwrap_or_default();
        let version = version(&Path::new(LINKS).join(&name)).await;
        found.insert(name, Installed { version, emulated: emulated(&unit) });
    }
    found
}

/// Runs `PROGRAM --version`: `Kubernetes v1.36.0` as upstream's, or `NAME v1.36.0`.
async fn version(program: &Path) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    said(&String::from_utf8_lossy(&output.stdout))
}

fn said(text: &str) -> Option<String> {
    let is_version = |word: &&str| word.starts_with('v') && word[1..].starts_with(|c: char| c.is_ascii_digit());
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// The flag of a unit file: `--emulated-version=1.35`, or upstream's `--emulated-version=kube=1.35`.
fn emulated(unit: &str) -> Option<String> {
    let value = unit.split_whitespace().find_map(|word| word.strip_prefix("--emulated-version="))?;
    Some(value.strip_prefix("kube=").unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_their_version_in_several_ways() {
        assert_eq!(said("Kubernetes v1.36.2\n").as_deref(), Some("v1.36.2"));
        assert_eq!(said("kube-apiserver v1.36.0+kinit.0.1.0").as_deref(), Some("v1.36.0+kinit.0.1.0"));
        assert_eq!(said("v\nv1.2.3"), None);
        assert_eq!(said(""), None);
        let unit = "ExecStart=/x \\\n    --a=b \\\n    --emulated-version=kube=1.35\nRestart=always";
        assert_eq!(emulated(unit).as_deref(), Some("1.35"));
        assert_eq!(emulated("ExecStart=/x --emulated=1"), None);
    }
}
