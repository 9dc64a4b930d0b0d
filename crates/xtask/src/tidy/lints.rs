//! Lints: every crate has the workspace's; a few may call what is unsafe, and differ in nothing else.

/// Crates that may, each with the reason in its manifest.
const MAY_BE_UNSAFE: &[&str] =
    &["cmd/pause", "crates/lifecycle/agent", "crates/lifecycle/playground", "crates/node/kubelet"];

/// Compares a crate's lints with the workspace's.
pub fn check(dir: &str, manifest: &str, workspace: &str) -> Option<String> {
    if manifest.contains("\n[lints]\nworkspace = true\n") {
        return None;
    }
    if !MAY_BE_UNSAFE.contains(&dir) {
        return Some(format!("{dir}/Cargo.toml: lints are the workspace's"));
    }
    let wanted: Vec<String> = lines(workspace, "[workspace.lints.")
        .map(|l| {
            l.replace("[workspace.lints.", "[lints.").replace("unsafe_code = \"forbid\"", "unsafe_code = \"deny\"")
        })
        .collect();
    let same = lines(manifest, "[lints.").eq(wanted.iter().map(String::as_str));
    (!same).then(|| format!("{dir}/Cargo.toml: lints differ from the workspace's in more than unsafe_code"))
}

/// The lines of the sections that begin so, without comments and empty lines.
fn lines<'a>(manifest: &'a str, section: &'static str) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    manifest.lines().filter(move |line| {
        if line.starts_with('[') {
            inside = line.starts_with(section);
        }
        inside && !line.is_empty() && !line.starts_with('#')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unsafe_code_may_differ() {
        let workspace = "[workspace.lints.rust]\n# Why.\nunsafe_code = \"forbid\"\na = \"deny\"\n\n[workspace.dependencies]\nb = 1\n";
        let own = "[package]\nname = \"x\"\n\n[lints.rust]\nunsafe_code = \"deny\"\na = \"deny\"\n\n[dependencies]\n";
        let reported = |dir, manifest: &str| check(dir, manifest, workspace).unwrap_or_default();
        assert_eq!(reported("crates/x", "[package]\n\n[lints]\nworkspace = true\n"), "");
        assert_eq!(reported("cmd/pause", own), "");
        assert_eq!(reported("crates/x", own), "crates/x/Cargo.toml: lints are the workspace's");
        assert_eq!(reported("crates/x", "[package]\n"), "crates/x/Cargo.toml: lints are the workspace's");
        let less = own.replace("a = \"deny\"\n", "");
        assert!(reported("cmd/pause", &less).contains("differ"));
        assert!(reported("cmd/pause", &own.replace("a = \"deny\"", "a = \"allow\"")).contains("differ"));
    }
}
