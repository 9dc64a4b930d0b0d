//! Rules in the kernel that the components and their plugins made: only looked for, by the post-check of reset. What
//! takes them away is the components' own `--cleanup`.
//!
//! Numbers and layouts are those of `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// Tables of kube-proxy and kube-netd.
const OUR_TABLES: &[&str] = &["kube-proxy", "kinit-netd"];
/// What the port-map plugin writes into the comments of rules for our network's pods.
const OUR_COMMENT: &[u8] = b"name: \"kinit\" id: \"";
/// The plugin's chain that leads to those rules.
const HOST_PORTS: &str = "CNI-HOSTPORT-DNAT";

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const DUMP: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DATAGRAM: usize = 1 << 18;

/// A line for each table that has something of ours.
pub(crate) fn left() -> Result<Vec<String>> {
    let chains = dump(GETCHAIN).context("list the chains of nftables")?;
    let rules = dump(GETRULE).context("list the rules of nftables")?;
    let tables: BTreeSet<String> = ours(&chains, &rules);
    Ok(tables.into_iter().map(|table| format!("rules in the nftables table {table} are left")).collect())
}

/// Chains of others that drop what no rule of theirs accepts: a name to show, and whether it is for packets to the host
/// (otherwise for those that it passes on).
pub(crate) fn dropping() -> Result<Vec<(String, bool)>> {
    Ok(dump(GETCHAIN).context("list the chains of nftables")?.iter().filter_map(drops).collect())
}

fn drops(chain: &Item) -> Option<(String, bool)> {
    let word = |value: &[u8]| value.try_into().ok().map(u32::from_be_bytes);
    let find = |kind: u16| chain.1.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice());
    // NFTA_CHAIN_POLICY is 5 (NF_DROP is 0); NFTA_CHAIN_HOOK is 4, with NFTA_HOOK_HOOKNUM, 1, within.
    let dropped = word(find(5)?)? == 0;
    let hook = attributes(find(4)?).into_iter().find(|(k, _)| *k == 1).and_then(|(_, value)| word(&value))?;
    // Bridges and interfaces have hooks of other numbers. NF_INET_LOCAL_IN is 1, NF_INET_FORWARD 2.
    let relevant = dropped && [1, 2].contains(&chain.0) && [1, 2].contains(&hook);
    let others = !OUR_TABLES.contains(&text(chain, 1).as_str());
    (relevant && others).then(|| (format!("nftables ({}, chain {})", table(chain), text(chain, 3)), hook == 1))
}

/// A chain or a rule: its family, and its attributes as (type, value). In both the table's name is the first.
type Item = (u8, Vec<(u16, Vec<u8>)>);

/// Tables (family and name) that are ours, or hold a rule of ours, or a chain of the plugin that serves nobody.
fn ours(chains: &[Item], rules: &[Item]) -> BTreeSet<String> {
    // NFTA_CHAIN_NAME is 3, NFTA_RULE_CHAIN 2.
    let in_use: BTreeSet<_> = rules.iter().map(|rule| (table(rule), text(rule, 2))).collect();
    let idle = |chain: &Item| {
        let name = text(chain, 3);
        name == HOST_PORTS && !in_use.contains(&(table(chain), name))
    };
    let whole = |chain: &Item| OUR_TABLES.contains(&text(chain, 1).as_str());
    let marked =
        |rule: &&Item| rule.1.iter().any(|(_, value)| value.windows(OUR_COMMENT.len()).any(|part| part == OUR_COMMENT));
    let by_chain = chains.iter().filter(|chain| whole(chain) || idle(chain));
    by_chain.chain(rules.iter().filter(marked)).map(table).collect()
}

fn table(item: &Item) -> String {
    let family = match item.0 {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => "other",
    };
    format!("{family} {}", text(item, 1))
}

fn text(item: &Item, kind: u16) -> String {
    let value = item.1.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice()).unwrap_or_default();
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Asks for all of a kind, in all families. A kernel without nftables has none.
fn dump(message: u16) -> Result<Vec<Item>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = match socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter) {
        Err(nix::Error::EPROTONOSUPPORT) => return Ok(Vec::new()),
        other => other.context("open a netlink socket")?,
    };
    // Length, type (subsystem 10), flags, sequence, port; then family (any), version, resource.
    let mut request = 20u32.to_ne_bytes().to_vec();
    request.extend((10 << 8 | message).to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    request.extend([0; 12]);
    send(fd.as_raw_fd(), &request, MsgFlags::empty()).context("ask the kernel")?;
    let mut items = Vec::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("hear from the kernel")?;
        if read(buffer.get(..length).unwrap_or_default(), &mut items)? {
            return Ok(items);
        }
    }
}

/// Reads the messages of a datagram; whether the last one was among them.
fn read(mut datagram: &[u8], items: &mut Vec<Item>) -> Result<bool> {
    while let Some((head, _)) = datagram.split_at_checked(16) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(body) = datagram.get(16..length) else { bail!("the kernel's message is cut off") };
        match u16::from_ne_bytes([head[4], head[5]]) {
            DONE => return Ok(true),
            ERROR => match body.get(..4).map(|e| i32::from_ne_bytes([e[0], e[1], e[2], e[3]])) {
                // The subsystem is not there.
                Some(0 | -22) => return Ok(true),
                error => bail!("the kernel refused with error {}", error.unwrap_or_default().saturating_neg()),
            },
            _ => items.push((body.first().copied().unwrap_or_default(), attributes(body.get(4..).unwrap_or_default()))),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((head, _)) = bytes.split_at_checked(4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(value) = bytes.get(4..length) else { break };
        // The upper two bits say how the value is written.
        all.push((u16::from_ne_bytes([head[2], head[3]]) & 0x3fff, value.to_vec()));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a network namespace of the test's own.
    fn with(script: &str) -> Vec<String> {
        within(script, || left().unwrap())
    }

    fn within<T: Send + 'static>(script: &str, look: fn() -> T) -> T {
        let script = script.to_owned();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("needs the right to make a network namespace");
            for line in script.lines() {
                let status = std::process::Command::new("nft").arg(line).status().expect("the nft program");
                assert!(status.success(), "{line}");
            }
            look()
        });
        thread.join().unwrap()
    }

    #[test]
    fn chains_that_drop_by_default_are_found() {
        let script = "add table inet filter\nadd chain inet filter input { type filter hook input priority 0; policy drop; }\n\
                      add chain inet filter forward { type filter hook forward priority 0; policy drop; }\n\
                      add chain inet filter output { type filter hook output priority 0; policy drop; }\n\
                      add chain inet filter other { type filter hook input priority 1; policy accept; }\n\
                      add chain inet filter plain\nadd table ip6 x\n\
                      add chain ip6 x input { type filter hook input priority 0; policy drop; }\n\
                      add table inet kube-proxy\nadd chain inet kube-proxy input { type filter hook input priority 0; policy drop; }";
        let found = within(script, || dropping().unwrap());
        let expected =
            [("nftables (inet filter, chain input)", true), ("nftables (inet filter, chain forward)", false)];
        assert_eq!(found, expected.map(|(name, input)| (name.to_owned(), input)));
        assert!(within("", || dropping().unwrap()).is_empty());
    }

    #[test]
    fn what_is_left_is_seen_and_what_others_have_is_not() {
        assert!(with("").is_empty());
        let others = "add table ip nat\nadd chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; }\n\
                      add chain ip nat CNI-HOSTPORT-DNAT\nadd rule ip nat CNI-HOSTPORT-DNAT counter comment \"another's\"";
        assert!(with(others).is_empty());
        let idle = "add table ip6 nat\nadd chain ip6 nat CNI-HOSTPORT-DNAT";
        let both = [others, idle, "add table inet kube-proxy\nadd chain inet kube-proxy x"].join("\n");
        let expected = ["inet kube-proxy", "ip6 nat"].map(|t| format!("rules in the nftables table {t} are left"));
        assert_eq!(with(&both), expected);
        // Many rules: several datagrams.
        let many: Vec<String> =
            (0..600).map(|n| format!("add rule ip nat CNI-HOSTPORT-DNAT tcp dport {n} counter")).collect();
        assert!(with(&[others, &many.join("; ")].join("\n")).is_empty());
    }

    #[test]
    fn rules_of_our_network_are_known_by_their_comment() {
        let item = |attributes: &[(u16, &[u8])]| (2, attributes.iter().map(|(k, v)| (*k, v.to_vec())).collect());
        let chain = [item(&[(1, b"nat\0"), (3, b"CNI-HOSTPORT-DNAT\0")])];
        let rule = |comment: &[u8]| [item(&[(1, b"nat\0"), (2, b"CNI-HOSTPORT-DNAT\0"), (4, comment)])];
        assert!(ours(&chain, &rule(b"..dnat name: \"podman\" id: \"x\"\0")).is_empty());
        assert_eq!(ours(&chain, &rule(b"..dnat name: \"kinit\" id: \"x\"\0")), BTreeSet::from(["ip nat".to_owned()]));
    }

    #[test]
    fn rubbish_is_read_without_a_panic() {
        let mut items = Vec::new();
        for bytes in [&[1, 2, 3][..], &[255; 40], &[0; 16], &[0; 64]] {
            let read = read(bytes, &mut items);
            assert!(read.is_err() || !read.unwrap(), "{bytes:?}");
        }
        assert!(attributes(&[0; 9]).len() <= 3);
    }
}
