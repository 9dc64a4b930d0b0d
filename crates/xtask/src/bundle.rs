//! Programs and images in one folder: what hosts get.
//!
//! ```text
//! release()    target/bundle       optimized, stripped programs; the images that a cluster needs for_tests()
//! target/test-bundle  the profile of the tests, so that nothing is compiled twice; the demonstration's image too
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::{Config, File, archive};
use crate::images;
use crate::run::{cargo, root, run as run_program, target_dir};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The image of the demonstration and of end-to-end tests: a shell, a web server, and DNS and web clients.
const DEMO_IMAGE: &str = "kinit.dev/demo:0.1.0";
const DEMO_ARCHIVE: &str = "images/demo.tar";
const DEMO_TOOLS: &[&str] = &[
    "sh", "httpd", "wget", "nslookup", "cat", "ls", "echo", "hostname", "sleep", "mkdir", "nc", "env", "id", "head",
    "touch", "test", "true", "false", "seq", "date", "ip", "grep", "tail", "df", "mount", "stat", "wc", "printf",
    "ping",
];

/// What is built for a bundle, by the names of the packages.
pub const PROGRAMS: &[&str] = &["kinit", "hyperkube", "pause", "kube-dns"];

/// The bundle for real machines; what is up to date is not built again.
pub fn release() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--release"]).args(PROGRAMS.iter().flat_map(|p| ["--package", p]));
    run_program(&mut command)?;
    let dir = target_dir().join("bundle");
    assemble(&target_dir().join(TARGET).join("release"), &dir)?;
    // Earlier builds put it here; init would import it on all hosts.
    match std::fs::remove_file(dir.join(DEMO_ARCHIVE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("remove the demonstration's image");
        }
        _ => {}
    }
    crate::sbom::write(&dir, &root(), PROGRAMS)?;
    describe(&dir)?;
    Ok(dir)
}

/// Writes the bundle's manifest.
fn describe(dir: &Path) -> Result<()> {
    let mut command = std::process::Command::new(dir.join("kinit"));
    command.args(["bundle", "create"]).arg(dir).stdout(std::process::Stdio::null());
    run_program(&mut command)
}

/// Builds `programs` with a profile of cargo's and returns the folder they are in.
pub fn programs(programs: &[&str], profile: &str) -> Result<PathBuf> {
    let mut command = cargo();
    // The whole workspace is selected, so that its crates have the features the tests built them with: nothing is
    // compiled twice.
    command.args(["build", "--quiet", "--workspace", "--profile", profile]);
    command.args(programs.iter().flat_map(|p| ["--bin", p]));
    run_program(&mut command)?;
    // cargo's one exception: the folder of the profile "dev" is "debug".
    Ok(target_dir().join(TARGET).join(if profile == "dev" { "debug" } else { profile }))
}

/// The bundle for tests, the demonstration and benchmarks; what is up to date is not built again.
pub fn for_tests() -> Result<PathBuf> {
    let dir = target_dir().join("test-bundle");
    assemble(&programs(PROGRAMS, "dev")?, &dir)?;
    images::write(&dir.join(DEMO_ARCHIVE), &demo_image()?)?;
    describe(&dir)?;
    Ok(dir)
}

/// Puts `DIR/{kinit,hyperkube,images/*.tar}` together; its manifest is still to be written.
fn assemble(built: &Path, dir: &Path) -> Result<()> {
    let image_dir = dir.join("images");
    std::fs::create_dir_all(&image_dir).with_context(|| format!("create {}", image_dir.display()))?;
    for name in ["kinit", "hyperkube"] {
        let (from, to) = (built.join(name), dir.join(name));
        // A hard link, made anew: the old file may be running.
        std::fs::remove_file(&to).ok();
        std::fs::hard_link(&from, &to)
            .or_else(|_| std::fs::copy(&from, &to).map(drop))
            .with_context(|| format!("copy {name} into the bundle"))?;
    }
    for name in ["pause", "kube-dns"] {
        images::write(&image_dir.join(format!("{name}.tar")), &images::make(name, &built.join(name))?)?;
    }
    Ok(())
}

fn demo_image() -> Result<Vec<u8>> {
    let busybox =
        std::fs::read("/bin/busybox").context("read /bin/busybox; the Debian package busybox-static is needed")?;
    let files = [File { path: "/bin/busybox", mode: 0o755, bytes: &busybox }];
    let links: Vec<(String, &str)> = DEMO_TOOLS.iter().map(|tool| (format!("/bin/{tool}"), "/bin/busybox")).collect();
    let links: Vec<(&str, &str)> = links.iter().map(|(path, target)| (path.as_str(), *target)).collect();
    // Answers every request with the pod's name.
    let serve = "mkdir -p /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";
    archive(
        &files,
        &Config { reference: DEMO_IMAGE, cmd: &["/bin/sh", "-c", serve], links: &links, ..Config::default() },
    )
}
