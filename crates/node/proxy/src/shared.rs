//! Chains that all Services share: one per number of endpoints. No IO.
//!
//! A chain knows how many endpoints there are, not whose: the packet itself says which Service is meant, and the map of
//! endpoints has that and a number below the chain's as its key. So a Service costs elements, and no chain of its own.

use kinit_nftables::expr::{Reg, destination, destination_port, protocol};
use kinit_nftables::{Chain, Expr, Verdict};

use crate::ruleset::{
    ENDPOINTS, LOCAL_ENDPOINTS, MARK, Options, PORT_ENDPOINTS, PORT_LOCAL_ENDPOINTS, from_here, from_net, goto, jump,
};

/// What a connection is recognized by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum By {
    /// Address, protocol and port.
    Address,
    /// Protocol and port, on addresses of this node.
    NodePort,
}

/// Which endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// All that may be used.
    All,
    /// Those that external policy Local leaves.
    OnNode,
}

/// A chain that Services share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shared {
    /// To one of this many endpoints.
    Endpoints(By, Pool, u32),
    /// The same for connections from outside, which are masqueraded.
    External(By, u32),
    /// From outside with policy Local: this many endpoints for pods and this host, this many for all others.
    ExternalLocal(By, u32, u32),
}

impl By {
    fn prefix(self) -> &'static str {
        match self {
            Self::Address => "",
            Self::NodePort => "nodeport-",
        }
    }

    /// Loads what the connection is recognized by into the first registers; how many these are.
    fn key(self) -> (Vec<Expr>, u8) {
        match self {
            Self::Address => (vec![destination(0), protocol(1), destination_port(2)], 3),
            Self::NodePort => (vec![protocol(0), destination_port(1)], 2),
        }
    }

    /// The map of these endpoints.
    pub fn map(self, pool: Pool) -> &'static str {
        match (self, pool) {
            (Self::Address, Pool::All) => ENDPOINTS,
            (Self::Address, Pool::OnNode) => LOCAL_ENDPOINTS,
            (Self::NodePort, Pool::All) => PORT_ENDPOINTS,
            (Self::NodePort, Pool::OnNode) => PORT_LOCAL_ENDPOINTS,
        }
    }
}

impl Shared {
    /// The chain's name.
    pub fn name(self) -> String {
        match self {
            Self::Endpoints(by, Pool::All, count) => format!("{}endpoints-{count}", by.prefix()),
            Self::Endpoints(by, Pool::OnNode, count) => format!("{}local-endpoints-{count}", by.prefix()),
            Self::External(by, count) => format!("{}external-{count}", by.prefix()),
            Self::ExternalLocal(by, all, on_node) => format!("{}external-{all}-local-{on_node}", by.prefix()),
        }
    }

    /// Goes there.
    pub fn verdict(self) -> Verdict {
        Verdict::Goto(self.name())
    }

    /// The chains that it leads to.
    pub fn needs(self) -> Vec<Self> {
        let some = |by, pool, count| (count > 0).then_some(Self::Endpoints(by, pool, count));
        match self {
            Self::Endpoints(..) => Vec::new(),
            Self::External(by, count) => some(by, Pool::All, count).into_iter().collect(),
            Self::ExternalLocal(by, all, on_node) => {
                some(by, Pool::All, all).into_iter().chain(some(by, Pool::OnNode, on_node)).collect()
            }
        }
    }

    /// Its rules.
    pub fn chain(self, options: &Options) -> Chain {
        let mut chain = Chain::default();
        match self {
            Self::Endpoints(by, pool, count) => {
                chain.rule(pick(by, pool, count));
                if count > 1 {
                    // While a Service loses an endpoint, a packet can have come here by the old number and find the new
                    // one's elements. The first is there in both.
                    chain.rule(pick(by, pool, 1));
                }
            }
            Self::External(by, count) => {
                chain.rule([jump(MARK)]);
                chain.rule([goto(&Self::Endpoints(by, Pool::All, count).name())]);
            }
            Self::ExternalLocal(by, all, on_node) => {
                let name = |pool, count| Self::Endpoints(by, pool, count).name();
                let all = (all > 0).then(|| name(Pool::All, all));
                let on_node = (on_node > 0).then(|| name(Pool::OnNode, on_node));
                external_local(&mut chain, all.as_deref(), on_node.as_deref(), options);
            }
        }
        chain
    }
}

/// From outside with policy Local: pods reach all endpoints, and so does this host; all others those here. Without any
/// here what comes from outside is dropped, so that balancers look elsewhere.
pub fn external_local(chain: &mut Chain, all: Option<&str>, on_node: Option<&str>, options: &Options) {
    if let Some(all) = all {
        if let Some(cidr) = options.cluster_cidr {
            chain.rule(from_net(cidr, true).into_iter().chain([goto(all)]));
        }
        chain.rule(from_here().into_iter().chain([jump(MARK)]));
        chain.rule(from_here().into_iter().chain([goto(all)]));
    }
    chain.rule([on_node.map_or(Expr::Verdict(Verdict::Drop), goto)]);
}

/// `dnat to KEY . numgen random mod COUNT map @ENDPOINTS`
fn pick(by: By, pool: Pool, count: u32) -> Vec<Expr> {
    let (mut rule, index) = by.key();
    rule.extend([
        Expr::Random { to: Reg(index), modulus: count },
        Expr::MapLookup { map: by.map(pool).into(), key: Reg(0), to: Reg(4) },
        Expr::Dnat { address: Reg(4), port: Some(Reg(5)), v6: false },
    ]);
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Two that are not the same must not have one name: they would share one's rules.
    #[test]
    fn names_tell_them_apart() {
        let mut all = Vec::new();
        for by in [By::Address, By::NodePort] {
            for count in [1, 2, 11, 21, 112] {
                all.extend([Pool::All, Pool::OnNode].map(|pool| Shared::Endpoints(by, pool, count)));
                all.push(Shared::External(by, count));
                all.extend([0, 1, 12].map(|local| Shared::ExternalLocal(by, count, local)));
            }
        }
        let names: BTreeSet<String> = all.iter().map(|shared| shared.name()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn what_a_chain_leads_to_is_what_it_needs() {
        let options = Options { cluster_cidr: Some("10.244.0.0/16".parse().unwrap()), mark: 0x4000 };
        for shared in [
            Shared::Endpoints(By::Address, Pool::All, 3),
            Shared::External(By::NodePort, 3),
            Shared::ExternalLocal(By::Address, 3, 2),
            Shared::ExternalLocal(By::Address, 3, 0),
            Shared::ExternalLocal(By::NodePort, 0, 2),
        ] {
            let chain = shared.chain(&options);
            let led: BTreeSet<String> = chain
                .rules
                .iter()
                .flat_map(|rule| &rule.exprs)
                .filter_map(|expr| match expr {
                    Expr::Verdict(Verdict::Goto(name) | Verdict::Jump(name)) if name != MARK => Some(name.clone()),
                    _ => None,
                })
                .collect();
            assert_eq!(led, shared.needs().into_iter().map(Shared::name).collect(), "{shared:?}");
        }
    }
}
