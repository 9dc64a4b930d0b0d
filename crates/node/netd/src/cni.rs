//! The CNI configuration of this node.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

const FILE: &str = "10-kinit.conflist";
/// The network's name, which the plugins write into the comments of their rules.
pub const NETWORK: &str = "kinit";

/// The configuration: a routed point-to-point link per pod, addresses from the node's network, host ports by nftables.
pub fn conflist(cidr: Ipv4Net, mtu: u32) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": cidr.to_string()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true, "backend": "nftables"},
        ],
    })
}

/// Writes it if it differs from what is there; true when it was written.
pub fn write(directory: &Path, config: &Value) -> Result<bool> {
    let path = directory.join(FILE);
    let text = format!("{config:#}\n");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    // The runtime reads every *.conflist: the temporary name must not look like one.
    let temporary = directory.join(format!(".{FILE}.tmp"));
    let failed = || format!("write {}", temporary.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(failed)?;
    file.write_all(text.as_bytes()).with_context(failed)?;
    file.sync_all().with_context(failed)?;
    std::fs::rename(&temporary, &path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(true)
}

/// Removes it.
pub fn remove(directory: &Path) -> Result<()> {
    let path = directory.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = conflist("10.244.3.0/24".parse().unwrap(), 1500);
        assert!(write(dir.path(), &config).unwrap());
        assert!(!write(dir.path(), &config).unwrap());
        assert!(write(dir.path(), &conflist("10.244.4.0/24".parse().unwrap(), 1500)).unwrap());
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
