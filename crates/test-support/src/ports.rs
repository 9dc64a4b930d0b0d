//! Ports for servers of tests that run side by side.

use std::fs::File;
use std::net::TcpListener;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// Below the range from which Linux takes the ports of outgoing connections (`ip_local_port_range`, 32768 and up): a
/// client must not get a port between the moment when it was chosen and the moment when its server listens.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// Locks of this process's ports. They end with the process.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that nobody listens on. It belongs to this process until it ends: no other test gets it.
pub fn free_port() -> Result<u16> {
    let folder = std::env::temp_dir().join("kinit-test-ports");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let mut taken = TAKEN.lock().map_err(|_| anyhow::anyhow!("another test panicked while it chose a port"))?;
    let start = usize::try_from(std::process::id()).unwrap_or(0) * 17;
    for port in RANGE.cycle().skip(start % RANGE.len()).take(RANGE.len()) {
        let path = folder.join(port.to_string());
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        if file.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.push(file);
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", RANGE.start, RANGE.end)
}

#[cfg(test)]
mod tests {
    use super::free_port;

    #[test]
    fn no_port_is_given_twice() {
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| (0..20).map(|_| free_port().unwrap()).collect::<Vec<_>>())).collect();
        let mut ports: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 160);
    }
}
