//! What the port-map plugin leaves behind: pods that were killed rather than deleted keep their host ports.
//!
//! ```text
//! table ip nat, ip6 nat          (by iptables-nft; a look at them alone makes them)
//!   PREROUTING, OUTPUT ─► CNI-HOSTPORT-DNAT ─► CNI-DN-HASH   a chain a pod; the rule there names the network
//!   POSTROUTING ────────► CNI-HOSTPORT-MASQ        └► CNI-HOSTPORT-SETMARK
//! table ip cni_hostport, ip6 ... (by nftables, from v1.6 on; rules name the container)
//!   prerouting, output ─► hostports, hostip_hostports;  masquerading
//! ```
//!
//! The names are those of `plugins/meta/portmap` of containernetworking/plugins. Others use both tables too: what is
//! not of our network stays, and so does what serves it; a table goes when nothing of anybody is left in it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use kinit_nftables::{Change, Family, Nftables, Survey, SurveyedRule};

use crate::cni::NETWORK;

const IPTABLES: &str = "nat";
const NFTABLES: &str = "cni_hostport";
/// Where jumps to the pods' chains are.
const ENTRIES: &[&str] = &["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SNAT"];
/// Chains for all networks.
const SHARED: &[&str] = &["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];
/// Chains of [`NFTABLES`] with a rule or two a container.
const CONTAINERS: &[&str] = &["hostports", "hostip_hostports", "masquerading"];
/// The ipam plugin's record of who has which address: a file an address, whose first line is the container.
const ADDRESSES: &str = "/var/lib/cni/networks";
/// As often is looked again when others change rules at the same time.
const ATTEMPTS: usize = 20;

/// Removes what the plugin made for pods of our network.
pub async fn remove() -> Result<()> {
    let containers = containers(&Path::new(ADDRESSES).join(NETWORK))?;
    let done = tokio::task::spawn_blocking(move || remove_all(&containers));
    done.await.context("remove the rules of host ports")?.context("remove the rules of host ports")
}

/// The containers that have an address of our network.
fn containers(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", folder.display())),
    };
    let mut containers = BTreeSet::new();
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        // The other files there are a lock, and the last address of each range.
        if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.parse::<std::net::IpAddr>().is_ok()) {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            containers.extend(text.lines().next().map(|line| line.trim().to_owned()).filter(|id| !id.is_empty()));
        }
    }
    Ok(containers)
}

fn remove_all(containers: &BTreeSet<String>) -> Result<(), kinit_nftables::Error> {
    let nftables = Nftables::open()?;
    for family in [Family::Ip, Family::Ip6] {
        remove_from(&nftables, family, IPTABLES, &of_iptables)?;
        remove_from(&nftables, family, NFTABLES, &|survey| of_nftables(survey, containers))?;
    }
    Ok(())
}

fn remove_from(
    nftables: &Nftables,
    family: Family,
    table: &str,
    leftovers: &dyn Fn(&Survey) -> Vec<Change>,
) -> Result<(), kinit_nftables::Error> {
    let mut attempt = 1;
    loop {
        let Some(survey) = nftables.survey(family, table)? else { return Ok(()) };
        match nftables.commit_as_surveyed(&survey, family, table, &leftovers(&survey)) {
            Err(error) if error.is_clash() && attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

/// What is to go of a table of iptables.
fn of_iptables(survey: &Survey) -> Vec<Change> {
    let marker = format!("name: \"{NETWORK}\" id: \"");
    let ours = |rule: &SurveyedRule| rule.comment.as_ref().is_some_and(|comment| comment.contains(&marker));
    let targets = || survey.chains.values().flat_map(|chain| &chain.rules);
    // A chain that nothing jumps to does nothing, whoever made it for a pod.
    let of_a_pod = |name: &str| {
        let jumps = || targets().filter(|rule| rule.target.as_deref() == Some(name));
        name.starts_with("CNI-") && !SHARED.contains(&name) && jumps().all(&ours)
    };
    let mut gone: BTreeSet<&str> = survey.chains.keys().map(String::as_str).filter(|name| of_a_pod(name)).collect();
    let goes = |gone: &BTreeSet<&str>, rule: &SurveyedRule| rule.target.as_deref().is_some_and(|t| gone.contains(t));
    // The shared chains serve other networks, or whoever else jumps there.
    let in_use = survey.chains.iter().filter(|(name, _)| !gone.contains(name.as_str())).any(|(name, chain)| {
        let stays = |rule: &&SurveyedRule| !goes(&gone, rule);
        let to_shared = |rule: &SurveyedRule| rule.target.as_deref().is_some_and(|t| SHARED.contains(&t));
        let mut left = chain.rules.iter().filter(stays);
        match ENTRIES.contains(&name.as_str()) {
            true => left.next().is_some(),
            false => !chain.base && left.any(to_shared),
        }
    });
    if !in_use {
        gone.extend(SHARED.iter().filter(|name| survey.chains.contains_key(**name)));
    }
    without(survey, &gone, &|_, rule| goes(&gone, rule))
}

/// What is to go of the plugin's own table: rules of these containers, and all of it when it has no others.
fn of_nftables(survey: &Survey, containers: &BTreeSet<String>) -> Vec<Change> {
    let ours = |rule: &SurveyedRule| rule.comment.as_ref().is_some_and(|comment| containers.contains(comment));
    let known = |name: &str| CONTAINERS.contains(&name) || ["prerouting", "output"].contains(&name);
    let others = survey
        .chains
        .iter()
        .any(|(name, chain)| !known(name) || (CONTAINERS.contains(&name.as_str()) && !chain.rules.iter().all(ours)));
    if !others && !survey.has_more {
        return vec![Change::DropTable];
    }
    without(survey, &BTreeSet::new(), &|chain, rule| CONTAINERS.contains(&chain) && ours(rule))
}

/// The changes that take chains, and rules of other chains, out of a table; or the table, when nothing is left in it.
fn without(survey: &Survey, chains: &BTreeSet<&str>, goes: &dyn Fn(&str, &SurveyedRule) -> bool) -> Vec<Change> {
    let staying = || survey.chains.iter().filter(|(name, _)| !chains.contains(name.as_str()));
    let empty = staying().all(|(name, chain)| chain.base && !chain.drops && chain.rules.iter().all(|r| goes(name, r)));
    if empty && !survey.has_more {
        return vec![Change::DropTable];
    }
    let mut changes = Vec::new();
    for (name, chain) in staying() {
        let rules = chain.rules.iter().filter(|rule| goes(name, rule));
        changes.extend(rules.map(|rule| Change::DropRule(name.clone(), rule.handle)));
    }
    // No chain goes while another jumps to it.
    changes.extend(chains.iter().map(|name| Change::FlushChain((*name).to_owned())));
    changes.extend(chains.iter().map(|name| Change::DropChain((*name).to_owned())));
    changes
}

#[cfg(test)]
#[path = "portmap_tests.rs"]
mod tests;
