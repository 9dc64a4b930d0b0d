//! Changes as netlink messages.

use crate::diff::Change;
use crate::model::{Base, ChainType, Data, Family, Rule, Set};
use crate::netlink::{Attributes, Messages, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};

pub const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`.
const BATCH_GENERATION: u16 = 1;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const DELSET: u16 = 11;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const INTERVAL_END: u32 = 1;
/// Elements in a message: an attribute is at most 64 KiB long.
const CHUNK: usize = 400;

/// `NFNL_SUBSYS_NFTABLES << 8 | message`.
pub fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// One batch that does all of it, or nothing; the latter too when the ruleset is not of this generation any more.
pub fn batch(family: Family, table: &str, changes: &[Change], generation: Option<u32>) -> Messages {
    let mut messages = Messages::default();
    messages.push(BATCH_BEGIN, 0, 0, SUBSYSTEM, |a| {
        if let Some(generation) = generation {
            a.u32(BATCH_GENERATION, generation);
        }
    });
    let mut sets = 0;
    for change in changes {
        let mut encoder = Encoder { messages: &mut messages, family: family.number(), table };
        encoder.change(change, &mut sets);
    }
    messages.push(BATCH_END, NLM_F_ACK, 0, SUBSYSTEM, |_| {});
    messages
}

struct Encoder<'a> {
    messages: &'a mut Messages,
    family: u8,
    table: &'a str,
}

impl Encoder<'_> {
    fn push(&mut self, message: u16, flags: u16, body: impl FnOnce(&mut Attributes)) {
        let table = self.table;
        // The acknowledgement of each message would fill the receive buffer: only errors are answered.
        self.messages.push(kind(message), flags, self.family, 0, |a| {
            a.text(1, table);
            body(a);
        });
    }

    fn change(&mut self, change: &Change, sets: &mut u32) {
        match change {
            Change::AddTable => self.push(NEWTABLE, NLM_F_CREATE, |_| {}),
            Change::DropTable => self.push(DELTABLE, 0, |_| {}),
            Change::AddChain(name, base) => self.push(NEWCHAIN, NLM_F_CREATE, |a| {
                a.text(3, name);
                if let Some(base) = base {
                    base_chain(a, base);
                }
            }),
            Change::AddSet(name, set) => {
                *sets += 1;
                let id = *sets;
                self.push(NEWSET, NLM_F_CREATE, |a| new_set(a, name, set, id));
            }
            Change::AddElements(name, set) => self.elements(NEWSETELEM, NLM_F_CREATE, name, set),
            Change::DeleteElements(name, set) => self.elements(DELSETELEM, 0, name, set),
            Change::FlushChain(name) => self.push(DELRULE, 0, |a| a.text(2, name)),
            Change::AddRule(chain, rule) => {
                self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |a| new_rule(a, chain, rule))
            }
            Change::DropRule(chain, handle) => self.push(DELRULE, 0, |a| {
                a.text(2, chain);
                a.u64(3, *handle);
            }),
            Change::DropSet(name) => self.push(DELSET, 0, |a| a.text(2, name)),
            Change::DropChain(name) => self.push(DELCHAIN, 0, |a| a.text(3, name)),
        }
    }

    fn elements(&mut self, message: u16, flags: u16, name: &str, set: &Set) {
        let all: Vec<_> = set.elements.iter().collect();
        for chunk in all.chunks(CHUNK) {
            self.push(message, flags, |a| {
                a.text(2, name);
                a.nested(3, |list| chunk.iter().for_each(|(key, data)| element(list, key, data, 0)));
            });
        }
        let ranges: Vec<_> = set.ranges.iter().collect();
        for chunk in ranges.chunks(CHUNK / 2) {
            self.push(message, flags, |a| {
                a.text(2, name);
                a.nested(3, |list| {
                    for (first, end) in chunk {
                        element(list, first, &Data::None, 0);
                        if !end.is_empty() {
                            element(list, end, &Data::None, INTERVAL_END);
                        }
                    }
                });
            });
        }
    }
}

fn base_chain(a: &mut Attributes, base: &Base) {
    a.nested(4, |hook| {
        hook.u32(1, base.hook as u32);
        hook.bytes(2, &base.priority.to_be_bytes());
    });
    a.u32(5, u32::from(!base.drop_by_default));
    let kind = match base.kind {
        ChainType::Filter => "filter",
        ChainType::Nat => "nat",
        ChainType::Route => "route",
    };
    a.text(7, kind);
}

fn new_set(a: &mut Attributes, name: &str, set: &Set, id: u32) {
    let width = |fields| u32::try_from(Set::width(fields)).unwrap_or(u32::MAX);
    let is_map = set.verdicts || !set.data.is_empty();
    let mut flags = 0;
    flags |= if set.intervals { SET_INTERVAL } else { 0 };
    flags |= if is_map { SET_MAP } else { 0 };
    flags |= if set.learned.is_some() { SET_TIMEOUT | SET_EVAL } else { 0 };
    a.text(2, name);
    a.u32(3, flags);
    a.u32(4, Set::number(&set.key));
    a.u32(5, width(&set.key));
    if set.verdicts {
        a.u32(6, TYPE_VERDICT);
        a.u32(7, 0);
    } else if is_map {
        a.u32(6, Set::number(&set.data));
        a.u32(7, width(&set.data));
    }
    a.u32(10, id);
    if let Some(life) = set.learned {
        a.u64(11, u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
    }
}

fn element(list: &mut Attributes, key: &[u8], data: &Data, flags: u32) {
    list.nested(1, |e| {
        if flags != 0 {
            e.u32(3, flags);
        }
        e.nested(1, |k| k.bytes(1, key));
        match data {
            Data::None => {}
            Data::Value(value) => e.nested(2, |d| d.bytes(1, value)),
            Data::Verdict(verdict) => e.nested(2, |d| verdict.encode(d)),
        }
    });
}

fn new_rule(a: &mut Attributes, chain: &str, rule: &Rule) {
    a.text(2, chain);
    a.nested(4, |list| rule.exprs.iter().for_each(|expr| expr.encode(list)));
    if let Some(comment) = &rule.comment {
        // libnftnl's user data: type 0 (comment), length, text with its end.
        let mut text: Vec<u8> = comment.bytes().take(120).collect();
        text.push(0);
        let mut data = vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)];
        data.extend(text);
        a.bytes(7, &data);
    }
}
