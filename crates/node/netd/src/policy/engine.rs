//! From pods, namespaces and policies to the table, change by change. No IO, no clock.
//!
//! A pod's change costs a look at the selectors that reach its namespace, and for a pod of this node at the policies of
//! its namespace. What no pod of this node is isolated by has no chain and no set.
//!
//! **No open moment.** A pod has an address, and runs, before the API says which. An address of this node's pod network
//! that no pod is known to have may be that of an isolated pod: as long as some pod of this node, started or not, is
//! isolated in a direction, such addresses begin (accept) no connections. That is upstream's "isolated before they are
//! started", with allow rules "applied eventually". Where no pod of the node is isolated, nothing is held up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use kinit_nftables::{Change, Data, Draft, Table, Verdict, join};

use super::address::{Version, octets};
use super::allow::{self, Named};
use super::base::{self, FORGED, ITSELF, KNOWN, OWN, chain_if_closed, unknown};
use super::groups::{GroupKey, Groups};
use super::parse::Policy;
use super::pods::Pod;
use super::ranges::{intervals, networks};
use super::selector::matches;
use super::sets::{Selected, SetKey, Sets};
use super::{Direction, Id, Labels};

/// See the module.
pub struct Engine {
    namespaces: HashMap<String, Namespace>,
    sets: Sets,
    groups: Groups,
    /// Pods of this node.
    local: HashMap<Id, Local>,
    /// Which pods of this node say that they have an address; the last one is believed.
    claims: HashMap<IpAddr, Vec<Id>>,
    draft: Draft,
    generation: u64,
}

#[derive(Default)]
struct Namespace {
    /// None until it is known itself.
    labels: Option<Labels>,
    pods: BTreeMap<String, Pod>,
    policies: BTreeMap<String, (u64, Policy)>,
    /// Sets in use that can have pods of this namespace.
    sets: BTreeSet<Arc<Selected>>,
}

/// A pod of this node, as it is in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Local {
    addresses: Vec<IpAddr>,
    /// In which directions it is isolated.
    isolated: BTreeSet<Direction>,
    /// Its chains.
    groups: BTreeSet<GroupKey>,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Policies of the cluster.
    pub policies: usize,
    /// Those that have something wrong.
    pub faulty: usize,
    /// Pods of this node that are isolated for ingress.
    pub ingress: usize,
    /// Pods of this node that are isolated for egress.
    pub egress: usize,
    /// Elements of sets and maps.
    pub elements: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            namespaces: HashMap::new(),
            sets: Sets::default(),
            groups: Groups::default(),
            local: HashMap::new(),
            claims: HashMap::new(),
            draft: Draft::new(base::table()),
            generation: 0,
        }
    }
}

impl Engine {
    /// The table as it is to be.
    pub fn table(&self) -> &Table {
        self.draft.table()
    }

    /// What changed since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        self.draft.changes()
    }

    /// The networks of this node's pods.
    pub fn set_own(&mut self, own: &[IpNet]) {
        for version in Version::ALL {
            let ranges = intervals(&networks(own, version), version.bits());
            self.draft.set_ranges(&version.named(OWN), ranges);
        }
    }

    /// A namespace is there with these labels, or gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let selected: Vec<Arc<Selected>> = self.sets.selected().cloned().collect();
        let namespace = self.namespaces.entry(name.to_owned()).or_default();
        namespace.labels = labels;
        for set in selected {
            let (was, is) = (namespace.sets.contains(&set), set.reaches(name, namespace.labels.as_ref()));
            if was == is {
                continue;
            }
            for pod in namespace.pods.values() {
                let (old, new) = if is { (None, Some(pod)) } else { (Some(pod), None) };
                self.sets.pod_changed(&set, old, new, &mut self.draft);
            }
            if is {
                namespace.sets.insert(set)
            } else {
                namespace.sets.remove(&set)
            };
        }
        self.forget_if_empty(name);
    }

    /// A pod is there, or gone.
    pub fn set_pod(&mut self, id: &Id, pod: Option<Pod>) {
        let namespace = self.namespace(&id.namespace);
        let old = match &pod {
            Some(pod) => namespace.pods.insert(id.name.clone(), pod.clone()),
            None => namespace.pods.remove(&id.name),
        };
        if old != pod {
            let sets = self.namespaces.get(&id.namespace).into_iter().flat_map(|namespace| &namespace.sets);
            for set in sets {
                self.sets.pod_changed(set, old.as_ref(), pod.as_ref(), &mut self.draft);
            }
            if [&old, &pod].into_iter().flatten().any(|pod| pod.local) {
                self.refresh(id);
            }
        }
        self.forget_if_empty(&id.namespace);
    }

    /// A policy is there, or gone. False when that was known.
    pub fn set_policy(&mut self, id: &Id, policy: Option<Policy>) -> bool {
        let namespace = self.namespace(&id.namespace);
        if namespace.policies.get(&id.name).map(|(_, policy)| policy) == policy.as_ref() {
            self.forget_if_empty(&id.namespace);
            return false;
        }
        self.generation += 1;
        let generation = self.generation;
        let namespace = self.namespace(&id.namespace);
        match policy {
            Some(policy) => drop(namespace.policies.insert(id.name.clone(), (generation, policy))),
            None => drop(namespace.policies.remove(&id.name)),
        }
        let names = namespace.pods.iter().filter(|(_, pod)| pod.local).map(|(name, _)| name);
        let local: Vec<Id> = names.map(|name| Id::new(&id.namespace, name)).collect();
        local.iter().for_each(|id| self.refresh(id));
        self.forget_if_empty(&id.namespace);
        true
    }

    /// Whether a pod of this node is in the namespace.
    pub fn concerns(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|n| n.pods.values().any(|pod| pod.local))
    }

    /// How much there is. Looks at all of it.
    pub fn counts(&self) -> Counts {
        let policies = || self.namespaces.values().flat_map(|n| n.policies.values());
        let isolated = |d: Direction| self.local.values().filter(|l| l.isolated.contains(&d)).count();
        Counts {
            policies: policies().count(),
            faulty: policies().filter(|(_, policy)| !policy.problems.is_empty()).count(),
            ingress: isolated(Direction::Ingress),
            egress: isolated(Direction::Egress),
            elements: self.table().sets.values().map(|s| s.elements.len() + s.ranges.len()).sum(),
        }
    }

    fn namespace(&mut self, name: &str) -> &mut Namespace {
        let sets = &self.sets;
        self.namespaces.entry(name.to_owned()).or_insert_with(|| {
            // Its pods are known before itself: sets that name it can have them.
            let sets = sets.selected().filter(|set| set.reaches(name, None)).cloned().collect();
            Namespace { sets, ..Namespace::default() }
        })
    }

    fn forget_if_empty(&mut self, name: &str) {
        let empty = |n: &Namespace| n.labels.is_none() && n.pods.is_empty() && n.policies.is_empty();
        if self.namespaces.get(name).is_some_and(empty) {
            self.namespaces.remove(name);
        }
    }

    /// Makes the table right for a pod that is or was one of this node's.
    fn refresh(&mut self, id: &Id) {
        let old = self.local.get(id).cloned().unwrap_or_default();
        let new = self.acquire(id);
        let is_local = self.namespaces.get(&id.namespace).and_then(|n| n.pods.get(&id.name)).is_some_and(|p| p.local);
        if is_local {
            self.local.insert(id.clone(), new.clone())
        } else {
            self.local.remove(id)
        };
        for address in old.addresses.iter().filter(|a| !new.addresses.contains(a)) {
            if let Some(claims) = self.claims.get_mut(address) {
                claims.retain(|claimer| claimer != id);
            }
        }
        for address in new.addresses.iter().filter(|a| !old.addresses.contains(a)) {
            self.claims.entry(*address).or_default().push(id.clone());
        }
        let touched: BTreeSet<IpAddr> = old.addresses.iter().chain(&new.addresses).copied().collect();
        touched.iter().for_each(|address| self.write(address));
        old.groups.iter().for_each(|key| self.release(key));
        if old.isolated != new.isolated {
            self.close_or_open();
        }
    }

    /// What a pod of this node should have in the table; it is a user of its groups from now on.
    fn acquire(&mut self, id: &Id) -> Local {
        let Some(namespace) = self.namespaces.get(&id.namespace) else { return Local::default() };
        let Some(pod) = namespace.pods.get(&id.name).filter(|pod| pod.local) else { return Local::default() };
        let mut local = Local { addresses: pod.addresses.clone(), ..Local::default() };
        let selects = |p: &Policy| p.subject.as_ref().is_some_and(|subject| matches(subject, &pod.labels));
        let mut fresh: Vec<SetKey> = Vec::new();
        for direction in Direction::ALL {
            let isolates = |p: &Policy| p.allowances(direction).is_some() && selects(p);
            let selecting: Vec<&(u64, Policy)> = namespace.policies.values().filter(|(_, p)| isolates(p)).collect();
            if selecting.is_empty() {
                continue;
            }
            local.isolated.insert(direction);
            let policies: Vec<&Policy> = selecting.iter().map(|(_, policy)| policy).collect();
            let generations: Vec<u64> = selecting.iter().map(|(generation, _)| *generation).collect();
            let named = named(direction, &policies, pod);
            for version in pod.addresses.iter().map(Version::of).collect::<BTreeSet<_>>() {
                let key = GroupKey { direction, version, policies: generations.clone(), named: named.clone() };
                fresh.extend(self.groups.acquire(&key, &policies, &mut self.sets, &mut self.draft));
                local.groups.insert(key);
            }
        }
        fresh.iter().for_each(|key| self.fill(key));
        local
    }

    /// Puts the pods into a set that was just made.
    fn fill(&mut self, key: &SetKey) {
        let SetKey::Selected(set) = key else { return };
        for (name, namespace) in &mut self.namespaces {
            if !set.reaches(name, namespace.labels.as_ref()) {
                continue;
            }
            for pod in namespace.pods.values() {
                self.sets.pod_changed(set, None, Some(pod), &mut self.draft);
            }
            namespace.sets.insert(set.clone());
        }
    }

    fn release(&mut self, key: &GroupKey) {
        for gone in self.groups.release(key, &mut self.sets, &mut self.draft) {
            let SetKey::Selected(set) = gone else { continue };
            for namespace in self.namespaces.values_mut() {
                namespace.sets.remove(&set);
            }
        }
    }

    /// Makes the elements of an address those of the pod that has it.
    fn write(&mut self, address: &IpAddr) {
        let version = Version::of(address);
        let key = octets(address);
        let owner = self.claims.get(address).and_then(|claims| claims.last()).and_then(|id| self.local.get(id));
        let draft = &mut self.draft;
        let mut element = |set: &str, key: Vec<u8>, data: Option<Data>| match data {
            Some(data) => draft.put(&version.named(set), key, data),
            None => draft.take(&version.named(set), &key),
        };
        element(KNOWN, key.clone(), owner.map(|_| Data::None));
        element(ITSELF, join(&[&key, &key]), owner.filter(|local| !local.isolated.is_empty()).map(|_| Data::None));
        for direction in Direction::ALL {
            let group = owner.and_then(|local| {
                local.groups.iter().find(|group| (group.direction, group.version) == (direction, version))
            });
            let chain = group.and_then(|group| self.groups.chain(group));
            let jump = chain.map(|chain| Data::Verdict(Verdict::Jump(chain.to_owned())));
            element(direction.name(), key.clone(), jump);
        }
        if self.claims.get(address).is_some_and(Vec::is_empty) {
            self.claims.remove(address);
        }
    }

    /// See the module, "No open moment"; and while somebody is isolated, nobody is to pass for somebody else.
    fn close_or_open(&mut self) {
        let anybody = self.local.values().any(|local| !local.isolated.is_empty());
        self.draft.set_chain(FORGED, chain_if_closed(anybody));
        for direction in Direction::ALL {
            let closed = self.local.values().any(|local| local.isolated.contains(&direction));
            self.draft.set_chain(&unknown(direction), chain_if_closed(closed));
        }
    }
}

/// The numbers that the pod gives to the names in its policies' ingress rules.
fn named(direction: Direction, policies: &[&Policy], pod: &Pod) -> Named {
    if direction == Direction::Egress {
        return Named::new();
    }
    let names = allow::names(direction, policies).into_iter();
    names
        .map(|(protocol, name)| {
            let numbers = pod.numbers(protocol, &name).collect();
            ((protocol, name), numbers)
        })
        .collect()
}
