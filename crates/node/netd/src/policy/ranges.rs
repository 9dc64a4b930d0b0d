//! Ranges of addresses and of ports: unions and differences, and how a set of intervals holds them. No IO.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::address::Version;

/// First and last number of a range, both part of it.
pub type Range = (u128, u128);

/// Addresses of `cidr` that are in none of `except`.
pub fn block(cidr: &IpNet, except: &[IpNet]) -> Vec<Range> {
    let mut holes: Vec<Range> = except.iter().filter(|net| same_version(cidr, net)).map(whole).collect();
    holes = union(holes);
    let (mut first, last) = whole(cidr);
    let mut left = Vec::new();
    for (hole_first, hole_last) in holes {
        if hole_last < first || hole_first > last {
            continue;
        }
        if hole_first > first {
            left.push((first, hole_first - 1));
        }
        match hole_last.checked_add(1) {
            Some(next) if next <= last => first = next,
            _ => return left,
        }
    }
    left.push((first, last));
    left
}

/// The fewest ranges that hold what these hold: in order, apart from each other, and not touching.
pub fn union(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match out.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

/// As a set of intervals holds them: first number to the one after the last, empty for "to the end".
pub fn intervals(ranges: &[Range], bits: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let bytes = |number: u128| {
        let all = number.to_be_bytes();
        all.get(all.len() - usize::try_from(bits / 8).unwrap_or(0)..).unwrap_or_default().to_vec()
    };
    let end = |last: u128| match last.checked_add(1) {
        Some(next) if bits >= 128 || next < 1 << bits => bytes(next),
        _ => Vec::new(),
    };
    ranges.iter().map(|(first, last)| (bytes(*first), end(*last))).collect()
}

/// Networks of one version, as ranges.
pub fn networks(nets: &[IpNet], version: Version) -> Vec<Range> {
    union(nets.iter().filter(|net| Version::of(&net.addr()) == version).map(whole).collect())
}

fn same_version(a: &IpNet, b: &IpNet) -> bool {
    Version::of(&a.addr()) == Version::of(&b.addr())
}

fn whole(net: &IpNet) -> Range {
    (number(net.network()), number(net.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ranges: &[Range]) -> String {
        let v4 = |n: u128| std::net::Ipv4Addr::from(u32::try_from(n).unwrap());
        ranges.iter().map(|(a, b)| format!("{}-{}", v4(*a), v4(*b))).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn blocks_have_holes() {
        for (cidr, except, expected) in [
            ("172.17.0.0/16", &[][..], "172.17.0.0-172.17.255.255"),
            // Upstream's example.
            ("172.17.0.0/16", &["172.17.1.0/24"], "172.17.0.0-172.17.0.255 172.17.2.0-172.17.255.255"),
            ("10.0.0.0/30", &["10.0.0.0/32", "10.0.0.1/32"], "10.0.0.2-10.0.0.3"),
            ("10.0.0.0/30", &["10.0.0.2/31"], "10.0.0.0-10.0.0.1"),
            ("10.0.0.0/24", &["10.0.0.0/24"], ""),
            ("10.0.0.0/24", &["10.0.0.0/8"], ""),
            ("10.0.0.0/24", &["11.0.0.0/24", "9.0.0.0/24", "fd00::/8"], "10.0.0.0-10.0.0.255"),
            ("0.0.0.0/0", &["0.0.0.0/1"], "128.0.0.0-255.255.255.255"),
            ("0.0.0.0/0", &["128.0.0.0/1", "127.0.0.0/8"], "0.0.0.0-126.255.255.255"),
        ] {
            let except: Vec<IpNet> = except.iter().map(|net| net.parse().unwrap()).collect();
            assert_eq!(shown(&block(&cidr.parse().unwrap(), &except)), expected, "{cidr} but {except:?}");
        }
        let all = block(&"::/0".parse().unwrap(), &["8000::/1".parse().unwrap()]);
        assert_eq!(all, [(0, u128::MAX >> 1)]);
        assert_eq!(block(&"::/0".parse().unwrap(), &["::/1".parse().unwrap()]), [(1 << 127, u128::MAX)]);
    }

    #[test]
    fn unions_are_apart() {
        assert_eq!(union(vec![(5, 6), (1, 2), (3, 3), (6, 9), (11, 11)]), [(1, 3), (5, 9), (11, 11)]);
        assert_eq!(union(vec![(0, u128::MAX), (7, 7), (u128::MAX, u128::MAX)]), [(0, u128::MAX)]);
    }

    #[test]
    fn intervals_end_before_the_next_number() {
        let port = |ranges: &[Range]| intervals(ranges, 16).into_iter().collect::<Vec<_>>();
        assert_eq!(port(&[(80, 80)]), [(vec![0, 80], vec![0, 81])]);
        assert_eq!(port(&[(1024, 65535)]), [(vec![4, 0], vec![])]);
        assert_eq!(intervals(&[(0, u128::MAX)], 128)[&vec![0; 16]], Vec::<u8>::new());
        assert_eq!(intervals(&[(10 << 24, (11 << 24) - 1)], 32)[&vec![10, 0, 0, 0]], vec![11, 0, 0, 0]);
    }
}
