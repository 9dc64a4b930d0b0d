//! Packages of a bundle that do not do: told before anything is changed. They are made here; each is empty.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{init, lab, untouched};

const NAMES: [&str; 6] = ["etcd-server", "containerd", "runc", "containernetworking-plugins", "haproxy", "keepalived"];

/// The bundle under test, by links, with packages of its own.
fn bundle(name: &str, release: &str, packages: &[(&str, &str, &str)]) -> (PathBuf, std::process::Output) {
    let own = PathBuf::from(std::env::var_os("KINIT_BUNDLE").unwrap());
    let folder = lab().dir.join(format!("bundle-{name}"));
    let below = folder.join("packages").join(release);
    std::fs::create_dir_all(&below).unwrap();
    std::os::unix::fs::symlink(own.join("images"), folder.join("images")).unwrap();
    for program in ["kinit", "hyperkube"] {
        std::fs::hard_link(own.join(program), folder.join(program))
            .or_else(|_| std::fs::copy(own.join(program), folder.join(program)).map(drop))
            .unwrap();
    }
    for (package, architecture, depends) in packages {
        deb(&below, package, architecture, depends);
    }
    let described = Command::new(own.join("kinit")).args(["bundle", "create"]).arg(&folder).output().unwrap();
    (folder, described)
}

fn deb(folder: &Path, package: &str, architecture: &str, depends: &str) {
    let tree = folder.join("tree");
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    let control = format!(
        "Package: {package}\nVersion: 99-1\nArchitecture: {architecture}\n{depends}Maintainer: tests <tests@kinit.dev>\nDescription: nothing\n"
    );
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    let to = folder.join(format!("{package}.deb"));
    let built = Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&tree, &to]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::remove_dir_all(tree).unwrap();
}

#[test]
fn packages_that_do_not_do_are_named_before_anything_changes() {
    let lab = lab();
    let file = lab.file().display().to_string();
    let all = |depends: &'static str| NAMES.map(|name| (name, "amd64", if name == "runc" { depends } else { "" }));
    let dry = |bundle: &Path| init(&file, &["--dry-run", "--bundle", &bundle.display().to_string()]);
    let (lacking, _) = bundle("lacking", "debian-trixie", &all("no-such-library (>= 2)"));
    let ran = dry(&lacking);
    assert_eq!(ran.code, 5, "{}", ran.err);
    for host in ["cp1", "w1"] {
        let line = ran.err.lines().find(|line| line.contains(&format!("failed: {host}: Packages:")));
        assert!(line.is_some_and(|line| line.contains("runc : Depends: no-such-library (>= 2)")), "{}", ran.err);
    }
    let (without, _) = bundle("without", "debian-trixie", &all("")[1..]);
    let ran = dry(&without);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("failed: cp1: Packages:") && ran.err.contains("there is no package etcd-server"));
    assert!(!ran.err.contains("failed: w1"), "a worker needs no etcd: {}", ran.err);
    let (other, _) = bundle("other", "debian-bookworm", &all(""));
    let ran = dry(&other);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("failed: w1: PackagesRelease: containerd, runc"), "{}", ran.err);
    assert!(ran.err.contains("has packages for debian-bookworm only, not for debian-trixie"), "{}", ran.err);
    let (tampered, _) = bundle("tampered", "debian-trixie", &all(""));
    let deb = tampered.join("packages/debian-trixie/runc.deb");
    let mut bytes = std::fs::read(&deb).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&deb, bytes).unwrap();
    let ran = dry(&tampered);
    assert_eq!(ran.code, 10, "{}", ran.err);
    assert!(ran.err.contains("packages/debian-trixie/runc.deb has other content"), "{}", ran.err);
    let (_, described) = bundle("arm", "debian-trixie", &[("runc", "arm64", "")]);
    let said = String::from_utf8_lossy(&described.stderr).into_owned();
    assert!(!described.status.success() && said.contains("runc.deb: it is for arm64"), "{said}");
    untouched(lab);
}
