//! The table, kept as Services change: what a change costs follows the Service, not the cluster. No IO.
//!
//! ```text
//! set(Service, ports) ─▶ who has which front (claims)        ─┐
//!                     ─▶ how many need a chain (shared)       ├─▶ Draft ─▶ changes()  one transaction
//!                     ─▶ how many need an address (members)   │
//!                     ─▶ chains and sets of its own          ─┘
//!                     ─▶ UDP fronts that lost an endpoint ─▶ take_flows()
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kinit_nftables::{Change, Data, Draft, Table, join};

use crate::flows::{Place, Udp};
use crate::fronts::{Element, Front, Piece, Role, fronts, keep_places, piece};
use crate::own::Own;
use crate::ruleset::{CLUSTER_IPS, HAIRPIN, Options, frame};
use crate::services::{Protocol, ServicePort};
use crate::shared::Shared;

/// A port that wants a front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    role: Role,
    port: Arc<str>,
    service: Arc<str>,
}

/// An element of a set that says no more than that it is there.
type Member = (&'static str, Vec<u8>);

/// See the module.
pub struct Planner {
    options: Options,
    draft: Draft,
    services: HashMap<Arc<str>, Vec<Arc<ServicePort>>>,
    /// Who wants each front, in the order of their right to it: the first has it.
    claims: HashMap<Front, Vec<Claim>>,
    /// How many fronts and chains lead to each shared chain.
    shared: BTreeMap<Shared, usize>,
    /// How many ports need each member.
    members: HashMap<Member, usize>,
    /// Services that have a health port.
    with_health: BTreeSet<Arc<str>>,
    /// UDP fronts of which an endpoint went, or that have their first.
    udp: BTreeSet<Front>,
}

/// Elements to take out and to put in.
#[derive(Default)]
struct Edit {
    out: Vec<Piece>,
    into: Vec<Piece>,
}

impl Planner {
    /// Without Services; the table is to be told whole.
    pub fn new(options: Options) -> Self {
        let mut draft = Draft::new(frame(&options));
        draft.tell_whole();
        Self {
            options,
            draft,
            services: HashMap::new(),
            claims: HashMap::new(),
            shared: BTreeMap::new(),
            members: HashMap::new(),
            with_health: BTreeSet::new(),
            udp: BTreeSet::new(),
        }
    }

    /// The table as it is to be.
    pub fn table(&self) -> &Table {
        self.draft.table()
    }

    /// Whether the kernel has to get the whole table, not only changes.
    pub fn is_whole(&self) -> bool {
        self.draft.is_to_be_told_whole()
    }

    /// The kernel is not known to have what was told.
    pub fn tell_whole(&mut self) {
        self.draft.tell_whole();
    }

    /// The kernel has the whole table.
    pub fn reported(&mut self) {
        self.draft.reported();
    }

    /// What changed since the kernel was told.
    pub fn changes(&mut self) -> Vec<Change> {
        self.draft.changes()
    }

    /// Names of the Services that have ports here.
    pub fn services(&self) -> Vec<Arc<str>> {
        self.services.keys().cloned().collect()
    }

    /// How many Services have ports here.
    pub fn count(&self) -> usize {
        self.services.len()
    }

    /// The ports with a health port.
    pub fn health_ports(&self) -> impl Iterator<Item = &ServicePort> {
        let ports = self.with_health.iter().filter_map(|service| self.services.get(service));
        ports.flatten().map(Arc::as_ref)
    }

    /// Makes these the ports of a Service; none when it is gone. Says whether anything changed.
    pub fn set(&mut self, service: &str, mut ports: Vec<ServicePort>) -> bool {
        let old = self.services.get(service).cloned().unwrap_or_default();
        for port in &mut ports {
            if let Some(before) = old.iter().find(|o| o.id == port.id) {
                port.cluster = keep_places(&before.cluster, &port.cluster);
                port.on_node = keep_places(&before.on_node, &port.on_node);
            }
        }
        // A port that stays as it is need not be looked at.
        let new: Vec<Arc<ServicePort>> = ports
            .into_iter()
            .map(|port| old.iter().find(|o| ***o == port).cloned().unwrap_or_else(|| Arc::new(port)))
            .collect();
        let differing = |all: &[Arc<ServicePort>], others: &[Arc<ServicePort>]| -> Vec<Arc<ServicePort>> {
            all.iter().filter(|port| !others.iter().any(|o| Arc::ptr_eq(o, port))).cloned().collect()
        };
        let (gone, come) = (differing(&old, &new), differing(&new, &old));
        if gone.is_empty() && come.is_empty() {
            return false;
        }
        let before = self.endpoints_of_fronts(&gone);
        let mut edit = Edit::default();
        gone.iter().for_each(|port| self.give_up(port, &mut edit));
        self.keep(service, new);
        come.iter().for_each(|port| self.claim(port, &mut edit));
        self.edit(edit);
        self.members(&gone, &come);
        self.own(&gone, &come);
        self.note_udp(&gone, &come, &before);
        true
    }

    fn keep(&mut self, service: &str, ports: Vec<Arc<ServicePort>>) {
        let Some(name) = ports.first().map(|port| port.service.clone()) else {
            self.services.remove(service);
            self.with_health.remove(service);
            return;
        };
        if ports.iter().any(|port| port.health_port.is_some()) {
            self.with_health.insert(name.clone());
        } else {
            self.with_health.remove(service);
        }
        self.services.insert(name, ports);
    }

    /// The port that has this front now.
    fn owner(&self, front: Front) -> Option<(&ServicePort, Role)> {
        let claim = self.claims.get(&front)?.first()?;
        let port = self.services.get(&claim.service)?.iter().find(|port| port.id == claim.port)?;
        Some((port, claim.role))
    }

    fn piece(&self, front: Front) -> Option<Piece> {
        self.owner(front).map(|(port, role)| piece(port, front, role))
    }

    fn give_up(&mut self, port: &ServicePort, edit: &mut Edit) {
        for front in fronts(port).into_keys() {
            let before = self.piece(front);
            let Some(claims) = self.claims.get_mut(&front) else { continue };
            let had_it = claims.first().is_some_and(|claim| claim.port == port.id);
            claims.retain(|claim| claim.port != port.id);
            if claims.is_empty() {
                self.claims.remove(&front);
            }
            if had_it {
                edit.out.extend(before);
                edit.into.extend(self.piece(front));
            }
        }
    }

    fn claim(&mut self, port: &ServicePort, edit: &mut Edit) {
        for (front, role) in fronts(port) {
            let claim = Claim { role, port: port.id.clone(), service: port.service.clone() };
            let claims = self.claims.entry(front).or_insert_with(|| Vec::with_capacity(1));
            let at = claims.partition_point(|other| *other < claim);
            let before = if at == 0 { self.piece(front) } else { None };
            if let Some(claims) = self.claims.get_mut(&front) {
                claims.insert(at, claim);
            }
            if at == 0 {
                edit.out.extend(before);
                edit.into.extend(self.piece(front));
            }
        }
    }

    fn edit(&mut self, edit: Edit) {
        // What is needed again is not let go in between.
        edit.into.iter().filter_map(|piece| piece.shared).for_each(|shared| self.need(shared));
        edit.out.iter().filter_map(|piece| piece.shared).for_each(|shared| self.let_go(shared));
        let elements = |pieces: Vec<Piece>| -> Vec<Element> {
            let mut all: Vec<Element> = pieces.into_iter().flat_map(|piece| piece.elements).collect();
            all.sort_unstable();
            all
        };
        let (mut out, mut into) = (elements(edit.out), elements(edit.into));
        cancel(&mut out, &mut into);
        for element in out {
            self.draft.take(element.map, &element.key);
        }
        for element in into {
            self.draft.put(element.map, element.key, element.data);
        }
    }

    fn need(&mut self, shared: Shared) {
        let count = self.shared.entry(shared).or_default();
        *count += 1;
        if *count == 1 {
            self.draft.set_chain(&shared.name(), shared.chain(&self.options));
            shared.needs().into_iter().for_each(|next| self.need(next));
        }
    }

    fn let_go(&mut self, shared: Shared) {
        let Some(count) = self.shared.get_mut(&shared) else { return };
        *count -= 1;
        if *count == 0 {
            self.shared.remove(&shared);
            self.draft.remove_chain(&shared.name());
            shared.needs().into_iter().for_each(|next| self.let_go(next));
        }
    }

    fn members(&mut self, gone: &[Arc<ServicePort>], come: &[Arc<ServicePort>]) {
        for member in come.iter().flat_map(|port| members(port)) {
            let count = self.members.entry(member.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.draft.put(member.0, member.1, Data::None);
            }
        }
        for member in gone.iter().flat_map(|port| members(port)) {
            let Some(count) = self.members.get_mut(&member) else { continue };
            *count -= 1;
            if *count == 0 {
                self.draft.take(member.0, &member.1);
                self.members.remove(&member);
            }
        }
    }

    /// A set that stays is changed element by element: what it has learned stays with it.
    fn own(&mut self, gone: &[Arc<ServicePort>], come: &[Arc<ServicePort>]) {
        let all = |ports: &[Arc<ServicePort>]| {
            let mut own = Own::default();
            for port in ports {
                let Own { chains, sets } = Own::of(port, &self.options);
                own.chains.extend(chains);
                own.sets.extend(sets);
            }
            own
        };
        let (old, new) = (all(gone), all(come));
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            self.draft.remove_chain(name);
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            self.draft.remove_set(name);
        }
        for (name, set) in new.sets {
            match old.sets.get(&name) {
                Some(before) if before.same_shape(&set) => {
                    before.elements.keys().filter(|key| !set.elements.contains_key(*key)).for_each(|key| {
                        self.draft.take(&name, key);
                    });
                    set.elements.into_iter().for_each(|(key, data)| self.draft.put(&name, key, data));
                }
                _ => self.draft.add_set(&name, set),
            }
        }
        for (name, chain) in new.chains {
            self.draft.set_chain(&name, chain);
        }
    }

    fn endpoints_of_fronts(&self, ports: &[Arc<ServicePort>]) -> BTreeMap<Front, BTreeSet<Place>> {
        let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
        udp.flat_map(|port| fronts(port).into_keys()).map(|front| (front, self.places(front))).collect()
    }

    /// Where flows to a front may go: nowhere, when nobody has it.
    fn places(&self, front: Front) -> BTreeSet<Place> {
        let endpoints = self.owner(front).into_iter().flat_map(|(port, _)| port.cluster.iter().chain(&port.on_node));
        endpoints.map(|endpoint| (endpoint.ip, endpoint.port)).collect()
    }

    /// Flows are remembered wrongly where an endpoint went, and where there was none before: those went elsewhere.
    fn note_udp(
        &mut self,
        gone: &[Arc<ServicePort>],
        come: &[Arc<ServicePort>],
        before: &BTreeMap<Front, BTreeSet<Place>>,
    ) {
        let udp = gone.iter().chain(come).filter(|port| port.protocol == Protocol::Udp);
        let touched: BTreeSet<Front> = udp.flat_map(|port| fronts(port).into_keys()).collect();
        let none = BTreeSet::new();
        for front in touched {
            let (old, new) = (before.get(&front).unwrap_or(&none), self.places(front));
            if !old.is_subset(&new) || (old.is_empty() && !new.is_empty()) {
                self.udp.insert(front);
            }
        }
    }

    /// Where flows to UDP fronts may go, of those fronts of which that changed since the last call.
    pub fn take_flows(&mut self) -> Udp {
        let touched = std::mem::take(&mut self.udp);
        Udp::new(touched.into_iter().map(|front| (front, self.places(front))))
    }

    /// The flows of a call of [`Planner::take_flows`] were not seen to.
    pub fn owe_flows(&mut self, udp: &Udp) {
        self.udp.extend(udp.fronts());
    }
}

/// Takes out of both what is in both; both are sorted.
fn cancel(out: &mut Vec<Element>, into: &mut Vec<Element>) {
    let mut stays: Vec<Element> = Vec::new();
    let mut coming = std::mem::take(into).into_iter().peekable();
    let mut going = Vec::with_capacity(out.len());
    for element in std::mem::take(out) {
        while let Some(next) = coming.next_if(|next| *next < element) {
            stays.push(next);
        }
        if coming.next_if_eq(&element).is_none() {
            going.push(element);
        }
    }
    stays.extend(coming);
    (*out, *into) = (going, stays);
}

/// What a port adds to sets that say no more than that something is there.
fn members(port: &ServicePort) -> BTreeSet<Member> {
    let here: BTreeSet<Ipv4Addr> =
        port.cluster.iter().chain(&port.on_node).filter(|e| e.local).map(|endpoint| endpoint.ip).collect();
    let hairpins = here.iter().map(|ip| (HAIRPIN, join(&[&ip.octets(), &ip.octets()])));
    hairpins.chain([(CLUSTER_IPS, port.cluster_ip.octets().to_vec())]).collect()
}
