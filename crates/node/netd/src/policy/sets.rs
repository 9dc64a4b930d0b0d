//! Sets that rules of policies share: each is made once, whoever uses it, and goes with its last user. No IO.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kinit_nftables::{Data, Draft, Set, Type, join};

use super::Labels;
use super::address::{Version, octets};
use super::parse::{PodPeer, Scope};
use super::pods::Pod;
use super::ranges::{Range, intervals};
use super::selector::matches;

/// What a set holds, and so which rules share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKey {
    /// Addresses of the pods that a peer selects, or (address, protocol, port) of their ports of a name.
    Selected(Arc<Selected>),
    /// Ranges of addresses.
    Addresses(Version, Vec<Range>),
    /// Ranges of ports.
    Ports(Vec<Range>),
}

/// Pods, and which of their addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selected {
    peer: PodPeer,
    version: Version,
    port: Option<(u8, String)>,
}

impl SetKey {
    /// Addresses of a peer's pods.
    pub fn pods(peer: &PodPeer, version: Version) -> Self {
        Self::Selected(Arc::new(Selected { peer: peer.clone(), version, port: None }))
    }

    /// Ports of this name of a peer's pods.
    pub fn endpoints(peer: &PodPeer, version: Version, protocol: u8, name: &str) -> Self {
        let port = Some((protocol, name.to_owned()));
        Self::Selected(Arc::new(Selected { peer: peer.clone(), version, port }))
    }

    fn prefix(&self) -> &'static str {
        match self {
            Self::Selected(selected) if selected.port.is_none() => "pods",
            Self::Selected(_) => "endpoints",
            Self::Addresses(..) => "block",
            Self::Ports(_) => "ports",
        }
    }

    /// Without the pods, which come one by one.
    fn set(&self) -> Set {
        let ranged = |key: Type, ranges: &[Range], bits| Set {
            intervals: true,
            ranges: intervals(ranges, bits),
            ..Set::new(&[key])
        };
        match self {
            Self::Selected(selected) if selected.port.is_none() => Set::new(&[selected.version.key()]),
            Self::Selected(selected) => Set::new(&[selected.version.key(), Type::Protocol, Type::Port]),
            Self::Addresses(version, ranges) => ranged(version.key(), ranges, version.bits()),
            Self::Ports(ranges) => ranged(Type::Port, ranges, 16),
        }
    }
}

impl Selected {
    /// Whether pods of this namespace can be among them. The labels of a namespace that is not known yet are not
    /// guessed: nothing selects it.
    pub fn reaches(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        match &self.peer.namespaces {
            Scope::Only(name) => name == namespace,
            Scope::Selected(selector) => labels.is_some_and(|labels| matches(selector, labels)),
        }
    }

    /// The elements that a pod of a namespace which is reached adds.
    fn elements(&self, pod: &Pod) -> BTreeSet<Vec<u8>> {
        if pod.addresses.is_empty() || !matches(&self.peer.pods, &pod.labels) {
            return BTreeSet::new();
        }
        let addresses = pod.addresses.iter().filter(|a| Version::of(a) == self.version).map(octets);
        let Some((protocol, name)) = &self.port else { return addresses.collect() };
        let endpoint = |address: &[u8], number: u16| join(&[address, &[*protocol], &number.to_be_bytes()]);
        addresses.flat_map(|a| pod.numbers(*protocol, name).map(|n| endpoint(&a, n)).collect::<Vec<_>>()).collect()
    }
}

struct Shared {
    name: String,
    users: usize,
    /// How many pods have each element: two may say that they have an address while one of them goes.
    counts: HashMap<Vec<u8>, usize>,
}

/// All of them.
#[derive(Default)]
pub struct Sets {
    by_key: HashMap<SetKey, Shared>,
    made: u64,
}

impl Sets {
    /// The name of a set that is in use.
    pub fn name(&self, key: &SetKey) -> Option<String> {
        self.by_key.get(key).map(|shared| shared.name.clone())
    }

    /// One more user. True when the set was made by this and waits for its pods.
    pub fn acquire(&mut self, key: &SetKey, draft: &mut Draft) -> bool {
        if let Some(shared) = self.by_key.get_mut(key) {
            shared.users += 1;
            return false;
        }
        // Names are not made of what users write: two of them cannot meet in one.
        self.made += 1;
        let name = format!("{}-{}", key.prefix(), self.made);
        draft.add_set(&name, key.set());
        self.by_key.insert(key.clone(), Shared { name, users: 1, counts: HashMap::new() });
        true
    }

    /// One user fewer. True when that was the last, and the set is gone.
    pub fn release(&mut self, key: &SetKey, draft: &mut Draft) -> bool {
        let Some(shared) = self.by_key.get_mut(key) else { return false };
        shared.users = shared.users.saturating_sub(1);
        if shared.users > 0 {
            return false;
        }
        draft.remove_set(&shared.name);
        self.by_key.remove(key);
        true
    }

    /// Sets of pods.
    pub fn selected(&self) -> impl Iterator<Item = &Arc<Selected>> {
        self.by_key.keys().filter_map(|key| if let SetKey::Selected(selected) = key { Some(selected) } else { None })
    }

    /// A pod of a namespace that `selected` reaches was one thing and is another.
    pub fn pod_changed(&mut self, selected: &Arc<Selected>, old: Option<&Pod>, new: Option<&Pod>, draft: &mut Draft) {
        let elements = |pod: Option<&Pod>| pod.map(|pod| selected.elements(pod)).unwrap_or_default();
        let (before, after) = (elements(old), elements(new));
        if before == after {
            return;
        }
        let Some(shared) = self.by_key.get_mut(&SetKey::Selected(selected.clone())) else { return };
        for element in after.difference(&before) {
            let count = shared.counts.entry(element.clone()).or_default();
            *count += 1;
            if *count == 1 {
                draft.put(&shared.name, element.clone(), Data::None);
            }
        }
        for element in before.difference(&after) {
            let Some(count) = shared.counts.get_mut(element) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                shared.counts.remove(element);
                draft.take(&shared.name, element);
            }
        }
    }
}
