//! A cluster file that a test edits, as an operator would.

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Beside the playground's own file, which has all of its machines.
pub struct ClusterFile {
    /// Where it is.
    pub path: String,
    /// What comes before the hosts.
    pub head: String,
    all: String,
}

impl ClusterFile {
    /// With the playground's settings, and no hosts yet.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let all = std::fs::read_to_string(lab.file()).context("read the playground's cluster file")?;
        let (head, _) = all.split_once("  hosts:\n").context("the playground's cluster file has no hosts")?;
        let (path, head) = (lab.dir.join(name).display().to_string(), head.to_owned());
        Ok(Self { path, head, all })
    }

    /// The address of a machine of the playground.
    ///
    /// # Panics
    ///
    /// When there is none of that name.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a part of tests, which fail by panics")]
    pub fn address(&self, host: &str) -> String {
        let rest = self.all.split_once(&format!("name: {host}\n    address: ")).expect("a machine of the playground").1;
        rest.lines().next().unwrap_or_default().to_owned()
    }

    /// Writes these machines with their roles.
    pub fn write(&self, hosts: &[(&str, &str)]) -> Result<()> {
        let line = |(name, roles): &(&str, &str)| {
            format!("  - name: {name}\n    address: {}\n    roles: [{roles}]\n", self.address(name))
        };
        let hosts: String = hosts.iter().map(line).collect();
        std::fs::write(&self.path, format!("{}  hosts:\n{hosts}", self.head)).context("write a cluster file")
    }
}
