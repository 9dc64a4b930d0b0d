//! The pools of addresses: `--cloud-config`.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinit_apimachinery::address_range::AddressRange;
use serde::Deserialize;

const API_VERSION: &str = "kinit.dev/v1alpha1";
const KIND: &str = "LoadBalancerPools";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    pools: Vec<FilePool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FilePool {
    name: String,
    addresses: Vec<String>,
    #[serde(default = "yes")]
    auto_assign: bool,
}

fn yes() -> bool {
    true
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name, which Services may ask for.
    pub name: String,
    /// Its addresses.
    pub ranges: Vec<AddressRange>,
    /// Whether Services that ask for no pool get addresses of it.
    pub auto_assign: bool,
}

impl Pool {
    /// Whether the address is one of its.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// How many addresses it has.
    pub fn size(&self) -> u64 {
        self.ranges.iter().map(AddressRange::size).sum()
    }

    /// Addresses that may be given to who asks for none in particular. Those that end in .0 or .255 are not: some
    /// routers and clients take them for a network's own (MetalLB's `avoidBuggyIPs`).
    pub fn candidates(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.ranges.iter().flat_map(AddressRange::addresses).filter(|a| !matches!(a.octets()[3], 0 | 255))
    }
}

/// Reads the file.
pub fn read(path: &Path) -> Result<Vec<Pool>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read the pools from {}", path.display()))?;
    parse(&text).with_context(|| format!("use the pools of {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Pool>> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (version, kind) = (&file.api_version, &file.kind);
    ensure!(
        version == API_VERSION && kind == KIND,
        "apiVersion {version} and kind {kind}: this program reads {API_VERSION} and {KIND}"
    );
    let mut pools: Vec<Pool> = Vec::new();
    for pool in file.pools {
        let name = pool.name;
        ensure!(!name.is_empty(), "a pool needs a name");
        ensure!(pools.iter().all(|p| p.name != name), "two pools have the name {name}");
        let mut ranges: Vec<AddressRange> = Vec::new();
        for text in &pool.addresses {
            let range: AddressRange = text.parse().with_context(|| format!("pool {name}"))?;
            let others = pools.iter().flat_map(|p| p.ranges.iter().map(|r| (p.name.as_str(), r)));
            let own = ranges.iter().map(|r| (name.as_str(), r));
            if let Some((pool, other)) = others.chain(own).find(|(_, other)| other.overlaps(&range)) {
                bail!("pool {name}: {range} overlaps {other} of pool {pool}");
            }
            ranges.push(range);
        }
        ensure!(!ranges.is_empty(), "pool {name} has no addresses");
        pools.push(Pool { name, ranges, auto_assign: pool.auto_assign });
    }
    Ok(pools)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kinit.dev/v1alpha1\nkind: LoadBalancerPools\npools:\n";

    pub fn pools(lines: &str) -> Vec<Pool> {
        parse(&format!("{HEAD}{lines}")).unwrap()
    }

    #[test]
    fn a_file_is_read_strictly() {
        let read = pools(
            "- {name: a, addresses: [192.0.2.0/30, 192.0.2.9]}\n- {name: b, addresses: [198.51.100.7], autoAssign: false}",
        );
        assert_eq!((read[0].size(), read[0].auto_assign, read[1].auto_assign), (5, true, false));
        let candidates: Vec<String> = read[0].candidates().map(|a| a.to_string()).collect();
        assert_eq!(candidates, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.9"], "not .0");
        for (text, expected) in [
            ("apiVersion: v1\nkind: ConfigMap\npools: []", "this program reads"),
            (&format!("{HEAD}- {{name: a, addresses: [x]}}"), "pool a"),
            (&format!("{HEAD}- {{name: a, addresses: []}}"), "pool a has no addresses"),
            (&format!("{HEAD}- {{name: a, addresses: [192.0.2.1], more: 1}}"), "more"),
            (
                &format!("{HEAD}- {{name: a, addresses: [192.0.2.1]}}\n- {{name: b, addresses: [192.0.2.0/29]}}"),
                "pool b: 192.0.2.0-192.0.2.7 overlaps 192.0.2.1 of pool a",
            ),
            (
                &format!("{HEAD}- {{name: a, addresses: [192.0.2.1]}}\n- {{name: a, addresses: [192.0.2.2]}}"),
                "two pools have the name a",
            ),
            ("[", ""),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{expected} is missing in: {error}");
        }
    }
}
