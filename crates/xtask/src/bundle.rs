//! Binaries and images in one folder, from the one profile that serves tests and hosts alike.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::{Config, File, archive};
use crate::images;
use crate::run::{cargo, run as run_program, target_dir};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The image of the demonstration and of end-to-end tests: a shell, a web server, and DNS and web clients.
const DEMO_IMAGE: &str = "kinit.dev/demo:0.1.0";
const DEMO_TOOLS: &[&str] = &[
    "sh", "httpd", "wget", "nslookup", "cat", "ls", "echo", "hostname", "sleep", "mkdir", "nc", "env", "id", "head",
    "touch", "test", "true", "false", "seq", "date", "ip", "grep", "tail", "df", "mount", "stat", "wc", "printf",
    "ping",
];

/// Builds `programs` with a profile of cargo's and returns the folder they are in.
pub fn programs(programs: &[&str], profile: &str) -> Result<PathBuf> {
    let mut command = cargo();
    // The whole workspace is selected, so that its crates have the features the tests built them with: nothing is compiled twice.
    command.args(["build", "--quiet", "--workspace", "--profile", profile]);
    command.args(programs.iter().flat_map(|p| ["--bin", p]));
    run_program(&mut command)?;
    // cargo's one exception: the folder of the profile "dev" is "debug".
    Ok(target_dir().join(TARGET).join(if profile == "dev" { "debug" } else { profile }))
}

/// Puts `TARGET_DIR/bundle/{kinit,hyperkube,images/*.tar}` together and returns the folder.
fn assemble(built: &Path) -> Result<PathBuf> {
    let dir = target_dir().join("bundle");
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
    images::write(&image_dir.join("demo.tar"), &demo_image()?)?;
    Ok(dir)
}

/// Builds everything; what is up to date is not built again.
pub fn run() -> Result<PathBuf> {
    assemble(&programs(&["kinit", "hyperkube", "pause", "kube-dns"], "dev")?)
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
