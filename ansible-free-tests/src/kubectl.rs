//! Debian's kubectls, fetched once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use kinit_playground::Cache;

/// An unmodified kubectl of the distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kubectl {
    /// 1.32 of Debian 13
    Trixie,
    /// 1.36 of Debian unstable
    Sid,
}

static FETCHING: Mutex<()> = Mutex::new(());

impl Kubectl {
    fn suite(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    /// The program, downloaded and unpacked on first use, kept beside the playground's cache.
    pub fn path(self) -> Result<PathBuf> {
        // A failed test must not keep others from fetching.
        let _one = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cache = Cache::system();
        let dir = cache.root().with_extension(format!("kubectl-{}", self.suite()));
        let program = dir.join("usr/bin/kubectl");
        if program.exists() {
            return Ok(program);
        }
        cache.ensure(&|_| ())?;
        let unfinished = dir.with_extension("new");
        std::fs::remove_dir_all(&unfinished).ok();
        std::fs::create_dir_all(unfinished.join("lists/partial"))?;
        self.download(&cache.root(), &unfinished).with_context(|| format!("fetch kubectl of {}", self.suite()))?;
        std::fs::remove_dir_all(unfinished.join("lists"))?;
        std::fs::rename(&unfinished, &dir).context("keep kubectl")?;
        Ok(program)
    }

    fn download(self, root: &Path, into: &Path) -> Result<()> {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new("apt-get");
            command.current_dir(into).arg(format!("-oDir={}", root.display()));
            command.arg(format!("-oDir::State::status={}/var/lib/dpkg/status", root.display()));
            if self == Self::Sid {
                command.arg(format!("-oDir::Etc::sourcelist={}/sources.list", into.display()));
                command.arg("-oDir::Etc::sourceparts=/dev/null");
                command.arg(format!("-oDir::State::lists={}/lists", into.display()));
            }
            command.args(["-oDir::Cache::pkgcache=", "-oDir::Cache::srcpkgcache=", "-oAPT::Sandbox::User=root"]);
            run(command.args(["-oDebug::NoLocking=1", "-oAcquire::Languages=none", "-qq"]).args(arguments))
        };
        if self == Self::Sid {
            let sources = std::fs::read_to_string(root.join("etc/apt/sources.list")).context("read the mirror")?;
            let main = sources.lines().find(|l| l.ends_with(" trixie main")).context("the tree names no mirror")?;
            std::fs::write(into.join("sources.list"), main.replace(" trixie main", " sid main\n"))?;
            apt(&["update"])?;
        }
        apt(&["download", "kubectl"])?;
        let packages: Vec<PathBuf> = std::fs::read_dir(into)?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "deb"))
            .collect();
        let [package] = packages.as_slice() else { bail!("apt-get downloaded {} packages", packages.len()) };
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(into))?;
        std::fs::remove_file(package).context("remove the package")
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
