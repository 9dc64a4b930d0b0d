//! Bundles of other versions, made of the one under test. Their programs differ in what they say of themselves: what is
//! tested is how a cluster gets from one version to another. A minor version is emulated, which changes what is served.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What the programs under test say, and as long a text for others.
const OWN: &[u8] = b"v1.36.0+kinit.";

/// Makes bundles below a folder.
pub struct Bundles {
    /// The one under test.
    own: PathBuf,
    folder: PathBuf,
}

impl Bundles {
    pub fn below(folder: &Path) -> Result<Self> {
        let own = std::env::var_os("KINIT_BUNDLE").context("KINIT_BUNDLE is not set")?;
        Ok(Self { own: own.into(), folder: folder.to_owned() })
    }

    /// The one under test.
    pub fn own(&self) -> String {
        self.own.display().to_string()
    }

    /// One whose programs say that they are of another version, such as v1.36.1.
    pub fn of_version(&self, version: &str) -> Result<String> {
        let folder = self.copy(version)?;
        let program = folder.join("hyperkube");
        let mut bytes = std::fs::read(&program)?;
        let new = format!("{version}+kinit.");
        ensure!(new.len() == OWN.len(), "{new} is not as long as what it replaces");
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(OWN.len()).position(|window| window == OWN) {
            at += found;
            bytes[at..at + OWN.len()].copy_from_slice(new.as_bytes());
        }
        ensure!(at > 0, "the program does not say its version");
        std::fs::remove_file(&program)?;
        std::fs::write(&program, bytes)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        self.describe(&folder, &[])
    }

    /// The one under test, with a control plane that serves an earlier minor.
    pub fn emulating(&self, minor: &str) -> Result<String> {
        let folder = self.copy(&format!("emulating-{minor}"))?;
        self.describe(&folder, &["--emulated-version", minor])
    }

    /// One of a later version whose controller manager ends at its start.
    pub fn broken(&self) -> Result<String> {
        let folder = PathBuf::from(self.of_version("v1.36.2")?);
        let program = folder.join("kube-controller-manager");
        let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo Kubernetes v1.36.2 && exit 0\necho 'this program is broken on purpose' >&2\nexit 1\n";
        std::fs::write(&program, script)?;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755))?;
        self.describe(&folder, &[])
    }

    fn copy(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!("bundle-{name}"));
        std::fs::create_dir_all(folder.join("images"))?;
        for entry in std::fs::read_dir(self.own.join("images"))? {
            let entry = entry?;
            std::fs::copy(entry.path(), folder.join("images").join(entry.file_name()))?;
        }
        for program in ["kinit", "hyperkube"] {
            std::fs::copy(self.own.join(program), folder.join(program))?;
        }
        Ok(folder)
    }

    fn describe(&self, folder: &Path, arguments: &[&str]) -> Result<String> {
        let made =
            Command::new(self.own.join("kinit")).args(["bundle", "create"]).arg(folder).args(arguments).output()?;
        ensure!(made.status.success(), "kinit bundle create: {}", String::from_utf8_lossy(&made.stderr));
        Ok(folder.display().to_string())
    }
}
