//! Tables that other programs made: whose rules are whose, and how to take some of them away.

use std::collections::BTreeMap;

use crate::diff::Change;
use crate::encode::{self, kind};
use crate::model::Family;
use crate::netlink::{Messages, NLM_F_DUMP, Received, attributes, be32, be64, find, text};
use crate::read::{GETCHAIN, GETRULE, GETSET};
use crate::socket::{Error, Nftables};

const GETOBJ: u16 = 19;
const GETFLOWTABLE: u16 = 23;
/// A set that belongs to its rule, and goes with it.
const SET_ANONYMOUS: u32 = 1;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// A table as somebody else made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Its chains by name.
    pub chains: BTreeMap<String, SurveyedChain>,
    /// Whether it has named sets, maps, stateful objects or flow tables.
    pub has_more: bool,
    /// The generation of the ruleset that this is of.
    pub generation: u32,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurveyedChain {
    /// Whether the kernel calls it, rather than another chain.
    pub base: bool,
    /// Whether what reaches the end of a base chain is dropped.
    pub drops: bool,
    /// Its rules, in their order.
    pub rules: Vec<SurveyedRule>,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SurveyedRule {
    /// What the kernel calls it.
    pub handle: u64,
    /// The chain it jumps or goes to.
    pub target: Option<String>,
    /// Its comment: nftables' own, or that of iptables' match `comment`.
    pub comment: Option<String>,
}

impl Nftables {
    /// Looks at a table; `None` when it is not there.
    pub fn survey(&self, family: Family, table: &str) -> Result<Option<Survey>, Error> {
        let generation = self.generation()?;
        if !self.has_table(family, table)? {
            return Ok(None);
        }
        let mut survey = Survey { chains: BTreeMap::new(), has_more: false, generation };
        self.each_of(GETCHAIN, family, table, &mut |all| {
            if let Some(name) = find(all, 3) {
                let drops = find(all, 5).is_some_and(|policy| be32(policy) != ACCEPT);
                let chain = survey.chains.entry(text(name)).or_default();
                (chain.base, chain.drops) = (find(all, 4).is_some(), drops);
            }
        })?;
        self.each_of(GETRULE, family, table, &mut |all| {
            if let Some(chain) = find(all, 2) {
                survey.chains.entry(text(chain)).or_default().rules.push(rule(all));
            }
        })?;
        self.each_of(GETSET, family, table, &mut |all| {
            survey.has_more |= find(all, 3).is_none_or(|flags| be32(flags) & SET_ANONYMOUS == 0);
        })?;
        for message in [GETOBJ, GETFLOWTABLE] {
            self.each_of(message, family, table, &mut |_| survey.has_more = true)?;
        }
        Ok(Some(survey))
    }

    /// Sends one transaction about a surveyed table. When anybody changed the ruleset since, nothing is done, and the
    /// error [is a clash](Error::is_clash): what the changes were concluded from may not hold any more.
    pub fn commit_as_surveyed(
        &self,
        survey: &Survey,
        family: Family,
        table: &str,
        changes: &[Change],
    ) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let batch = encode::batch(family, table, changes, Some(survey.generation));
        self.send_batch(batch.bytes(), changes)
    }

    /// Calls `each` with the attributes of everything of a kind that is in the table. For all kinds the first one names
    /// the table.
    fn each_of(
        &self,
        message: u16,
        family: Family,
        table: &str,
        each: &mut dyn FnMut(&[Attribute<'_>]),
    ) -> Result<(), Error> {
        let mut messages = Messages::default();
        messages.push(kind(message), NLM_F_DUMP, family.number(), 0, |a| a.text(1, table));
        self.dump(messages.bytes(), &mut |m: &Received<'_>| {
            let all = m.attributes();
            if find(&all, 1).is_some_and(|name| text(name) == table) {
                each(&all);
            }
        })
    }
}

/// The type of a netlink attribute, and its bytes.
type Attribute<'a> = (u16, &'a [u8]);

fn rule(all: &[Attribute<'_>]) -> SurveyedRule {
    let mut rule = SurveyedRule {
        handle: find(all, 3).map(be64).unwrap_or_default(),
        target: None,
        comment: find(all, 7).and_then(own_comment),
    };
    for (_, expression) in attributes(find(all, 4).unwrap_or_default()) {
        let parts = attributes(expression);
        let data = attributes(find(&parts, 2).unwrap_or_default());
        match find(&parts, 1).map(text).as_deref() {
            // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN.
            Some("immediate") => {
                let verdict = find(&data, 2).map(attributes).and_then(|d| find(&d, 2).map(attributes));
                rule.target = verdict.and_then(|v| find(&v, 2).map(text)).or(rule.target);
            }
            // NFTA_MATCH_NAME, NFTA_MATCH_INFO.
            Some("match") if find(&data, 1).map(text).as_deref() == Some("comment") => {
                rule.comment = find(&data, 3).map(text).or(rule.comment);
            }
            _ => {}
        }
    }
    rule
}

/// The comment in libnftnl's user data: (type, length, bytes) one after the other; type 0 is the comment.
fn own_comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(text(value));
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Expr, Verdict};

    /// As iptables-nft 1.8 writes `-m comment --comment hello -j CHAIN`.
    #[test]
    fn a_comment_of_iptables_is_read() {
        let mut all = crate::netlink::Attributes::default();
        all.text(1, "nat");
        all.text(2, "OUTPUT");
        all.u64(3, 77);
        all.nested(4, |list| {
            list.nested(1, |e| {
                e.text(1, "match");
                e.nested(2, |data| {
                    data.text(1, "comment");
                    data.u32(2, 0);
                    let mut info = b"hello".to_vec();
                    info.resize(256, 0);
                    data.bytes(3, &info);
                });
            });
            Expr::Counter.encode(list);
            Expr::Verdict(Verdict::Jump("CHAIN".into())).encode(list);
        });
        let expected = SurveyedRule { handle: 77, target: Some("CHAIN".into()), comment: Some("hello".into()) };
        assert_eq!(rule(&attributes(all.written())), expected);
    }

    #[test]
    fn user_data_is_read_whatever_is_in_it() {
        assert_eq!(own_comment(b"\x01\x02ab\x00\x03hi\0").as_deref(), Some("hi"));
        for nothing in [&b""[..], b"\x00", b"\x00\x05hi\0", b"\x01\x02ab", b"\x01\xffab"] {
            assert_eq!(own_comment(nothing), None, "{nothing:?}");
        }
    }
}
