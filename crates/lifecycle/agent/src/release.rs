//! Giving up single things: what a host has no more use for, because it lost a role, and keys that are kept elsewhere.

use anyhow::Result;
use kinit_resource::Observed;

use crate::ledger::Ledger;
use crate::{files, systemd};

const UNITS: &str = "/etc/systemd/system/";

/// How a path came to be there.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// kinit made it, or one of its components did.
    Ours,
    /// It was there, and kinit keeps what it was.
    Replaced,
    /// kinit has never touched it.
    Foreign,
}

fn origin(ledger: &Ledger, path: &str) -> Origin {
    if ledger.replaced.contains_key(path) {
        return Origin::Replaced;
    }
    if ledger.is_ours(path) { Origin::Ours } else { Origin::Foreign }
}

/// Whether there is anything to give up.
pub(crate) fn observe(path: &str) -> Result<Observed> {
    let exists = std::fs::symlink_metadata(path).is_ok();
    Ok(match origin(&Ledger::load()?, path) {
        Origin::Replaced => Observed::Differs("is kinit's".to_owned()),
        Origin::Ours if exists => Observed::Differs("is left".to_owned()),
        Origin::Ours | Origin::Foreign => Observed::AsWanted,
    })
}

/// Removes what kinit made, puts back what it replaced, and leaves alone what it never touched.
pub(crate) async fn apply(path: &str) -> Result<()> {
    let ledger = Ledger::load()?;
    match origin(&ledger, path) {
        Origin::Foreign => return Ok(()),
        Origin::Ours => files::remove(path)?,
        Origin::Replaced => {
            if let Some(backup) = ledger.replaced.get(path) {
                files::copy(backup, path)?;
                files::remove(backup)?;
            }
        }
    }
    Ledger::note(|ledger| {
        ledger.created.remove(path);
        ledger.replaced.remove(path);
    })?;
    if path.starts_with(UNITS) { systemd::reload().await } else { Ok(()) }
}

/// Whether there is anything at a path, or a copy of what was there before kinit.
pub(crate) fn observe_erased(path: &str) -> Result<Observed> {
    let copied = Ledger::load()?.replaced.contains_key(path);
    let exists = std::fs::symlink_metadata(path).is_ok();
    Ok(if exists || copied { Observed::Differs("is there".to_owned()) } else { Observed::AsWanted })
}

/// Removes what is at a path, whoever put it there, and the copy of what was there before kinit.
pub(crate) fn erase(path: &str) -> Result<()> {
    if let Some(copy) = Ledger::load()?.replaced.get(path) {
        files::remove(copy)?;
    }
    files::remove(path)?;
    Ledger::note(|ledger| {
        ledger.created.remove(path);
        ledger.replaced.remove(path);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kinit_made_or_replaced_is_given_up() {
        let mut ledger = Ledger::default();
        ledger.created.insert("/nowhere/kubernetes".to_owned());
        ledger.replaced.insert("/nowhere/haproxy.cfg".to_owned(), "/nowhere/backup".to_owned());
        for (path, expected) in [
            ("/nowhere/kubernetes", Origin::Ours),
            ("/nowhere/kubernetes/pki/ca.key", Origin::Ours),
            ("/nowhere/kubernetes2", Origin::Foreign),
            ("/nowhere/haproxy.cfg", Origin::Replaced),
            ("/nowhere", Origin::Foreign),
        ] {
            assert_eq!(origin(&ledger, path), expected, "{path}");
        }
    }
}
