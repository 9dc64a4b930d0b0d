//! A playground and a cluster on it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kinit_playground::Playground;

use crate::kubectl::Kubectl;

/// A playground of this test process.
pub struct Lab {
    name: String,
    kinit: PathBuf,
    /// Its folder, with cluster.yaml and, after init, admin.conf.
    pub dir: PathBuf,
}

/// What a program said.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    fn from(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Its output, if it succeeded.
    pub fn ok(self, what: &str) -> Result<String> {
        if self.code == 0 { Ok(self.out) } else { bail!("{what}: exit status {}\n{}{}", self.code, self.out, self.err) }
    }
}

impl Lab {
    /// A playground that stands already, for work on a test: `KINIT_LAB` names it.
    #[must_use]
    pub fn standing() -> Option<Self> {
        let name = std::env::var("KINIT_LAB").ok()?;
        let kinit = Path::new(&std::env::var_os("KINIT_BUNDLE")?).join("kinit");
        let dir = Playground::open(&name).ok()?.dir;
        Some(Self { name, kinit, dir })
    }

    /// Boots hosts. The bundle comes from `KINIT_BUNDLE`, which `cargo xtask test` sets.
    pub fn up(name: &str, loadbalancers: u8, control_planes: u8, workers: u8) -> Result<Self> {
        let bundle =
            std::env::var_os("KINIT_BUNDLE").context("KINIT_BUNDLE is not set; run the tests by `cargo xtask test`")?;
        let kinit = Path::new(&bundle).join("kinit");
        let name = format!("{name}-{}", std::process::id());
        let counts = [("--loadbalancers", loadbalancers), ("--control-planes", control_planes), ("--workers", workers)];
        let mut command = Command::new(&kinit);
        command.args(["playground", "up", "--name", &name, "--owner", &std::process::id().to_string()]);
        command.args(counts.iter().flat_map(|(flag, n)| [(*flag).to_owned(), n.to_string()]));
        Ran::from(&command.output().context("start kinit")?).ok("kinit playground up")?;
        let dir = Playground::open(&name)?.dir;
        Ok(Self { name, kinit, dir })
    }

    /// The cluster file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    /// The program under test with these arguments, not started yet.
    pub fn kinit_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kinit);
        command.args(arguments);
        command
    }

    /// Runs the program under test.
    pub fn kinit(&self, arguments: &[&str]) -> Result<Ran> {
        Ok(Ran::from(&self.kinit_command(arguments).output().context("start kinit")?))
    }

    /// `kinit VERB -f cluster.yaml ARGUMENTS`.
    pub fn on_cluster(&self, verb: &str, arguments: &[&str]) -> Result<Ran> {
        let file = self.file().display().to_string();
        self.kinit(&[&[verb, "-f", &file], arguments].concat())
    }

    /// `kinit playground VERB --name NAME ARGUMENTS`.
    pub fn playground(&self, verb: &str, arguments: &[&str]) -> Result<Ran> {
        self.kinit(&[&["playground", verb, "--name", &self.name], arguments].concat())
    }

    /// Runs a shell command on a host.
    pub fn ssh(&self, host: &str, command: &str) -> Result<String> {
        self.playground("ssh", &[host, command])?.ok(&format!("on {host}: {command}"))
    }

    /// Copies the programs and images under test to a folder of a host.
    pub fn copy_bundle(&self, host: &str, folder: &str) -> Result<()> {
        let bundle = self.kinit.parent().context("the program under test has no folder")?;
        let mut files = Command::new("tar");
        files
            .args(["--create", "--directory"])
            .arg(bundle)
            .args(["bundle.yaml", "kinit", "hyperkube", "images"])
            .stdout(Stdio::piped());
        let mut files = files.spawn().context("start tar")?;
        let mut unpack = self.kinit_command(&["playground", "ssh", "--name", &self.name, host]);
        unpack.arg(format!("mkdir -p {folder} && tar --extract --directory {folder}"));
        unpack.stdin(files.stdout.take().context("tar has no output")?);
        let unpacked = Ran::from(&unpack.output().context("start kinit")?).ok("copy the bundle");
        files.wait().context("wait for tar")?;
        unpacked.map(drop)
    }

    /// A kubectl with the cluster administrator's kubeconfig, not started yet.
    pub fn kubectl_command(&self, kubectl: Kubectl, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(kubectl.path()?);
        command.env("KUBECONFIG", self.dir.join("admin.conf")).args(arguments);
        Ok(command)
    }

    /// Runs Debian 13's kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Ran> {
        self.run_kubectl(Kubectl::Trixie, arguments, "")
    }

    /// Runs a kubectl with a manifest on its standard input.
    pub fn run_kubectl(&self, kubectl: Kubectl, arguments: &[&str], input: &str) -> Result<Ran> {
        use std::io::Write;
        let mut command = self.kubectl_command(kubectl, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        // A kubectl that reads nothing may be gone already.
        child.stdin.take().context("kubectl has no input")?.write_all(input.as_bytes()).ok();
        Ok(Ran::from(&child.wait_with_output()?))
    }

    /// Copies the cluster file with a change, under another name.
    pub fn variant(&self, name: &str, change: impl Fn(&str) -> String) -> Result<String> {
        let text = std::fs::read_to_string(self.file()).context("read the cluster file")?;
        let path = self.dir.join(name);
        std::fs::write(&path, change(&text)).context("write a cluster file")?;
        Ok(path.display().to_string())
    }

    /// Takes everything away.
    pub fn down(&self) -> Result<()> {
        self.playground("down", &[])?.ok("kinit playground down").map(drop)
    }
}

/// Tries until it succeeds; what it said last is the error when it does not in time.
pub fn eventually<T>(within: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > within => return Err(error.context(format!("not within {within:?}"))),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
