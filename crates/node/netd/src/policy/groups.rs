//! Chains that isolated pods share: one for each set of policies that some pods of this node have in common. No IO.

use std::collections::{BTreeSet, HashMap};

use kinit_nftables::Draft;

use super::Direction;
use super::address::Version;
use super::allow::{self, Allow, Named, What};
use super::parse::Policy;
use super::sets::{SetKey, Sets};

/// What decides over a chain's rules. Pods for which all of this is equal share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// Which connections it judges.
    pub direction: Direction,
    /// Of which version.
    pub version: Version,
    /// The policies, as their generations: a changed policy makes another chain, and all of it is swapped at once.
    pub policies: Vec<u64>,
    /// What the pods call their ports, as far as the policies ask.
    pub named: Named,
}

struct Group {
    chain: String,
    users: usize,
    sets: BTreeSet<SetKey>,
}

/// All of them.
#[derive(Default)]
pub struct Groups {
    by_key: HashMap<GroupKey, Group>,
    made: u64,
}

impl Groups {
    /// The chain of a group that is in use.
    pub fn chain(&self, key: &GroupKey) -> Option<&str> {
        self.by_key.get(key).map(|group| group.chain.as_str())
    }

    /// One more pod. Returns the sets that were made for it and wait for their pods.
    pub fn acquire(&mut self, key: &GroupKey, policies: &[&Policy], sets: &mut Sets, draft: &mut Draft) -> Vec<SetKey> {
        if let Some(group) = self.by_key.get_mut(key) {
            group.users += 1;
            return Vec::new();
        }
        let allows = allow::allows(key.direction, key.version, policies, &key.named);
        let used: BTreeSet<SetKey> = allows.iter().flat_map(keys).cloned().collect();
        let made = used.iter().filter(|set| sets.acquire(set, draft)).cloned().collect();
        self.made += 1;
        let chain = format!("{}-{}", key.direction.name(), self.made);
        draft.set_chain(&chain, allow::chain(key.direction, key.version, &allows, |set| sets.name(set)));
        self.by_key.insert(key.clone(), Group { chain, users: 1, sets: used });
        made
    }

    /// One pod fewer; nothing may lead to the chain any more when it was the last. Returns the sets that went with it.
    pub fn release(&mut self, key: &GroupKey, sets: &mut Sets, draft: &mut Draft) -> Vec<SetKey> {
        let Some(group) = self.by_key.get_mut(key) else { return Vec::new() };
        group.users = group.users.saturating_sub(1);
        if group.users > 0 {
            return Vec::new();
        }
        let Some(group) = self.by_key.remove(key) else { return Vec::new() };
        draft.remove_chain(&group.chain);
        group.sets.into_iter().filter(|set| sets.release(set, draft)).collect()
    }
}

fn keys(allow: &Allow) -> impl Iterator<Item = &SetKey> {
    let listed = if let What::Listed(_, ports) = &allow.what { Some(ports) } else { None };
    allow.who.iter().chain(listed)
}
