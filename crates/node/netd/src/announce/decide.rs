//! What a node does about one address. No IO, no clock.

use std::time::Duration;

use super::heart::RESPECT;

/// The first in rank acts at once, the next a little later, so that a hundred nodes do not write at the same time; and
/// should the first be dead itself, the next is not far.
const STAGGER: Duration = Duration::from_millis(150);

/// Who has the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, for so long.
    Nobody(Duration),
    /// This node; whether it has taken the Lease itself since it was last alive to others.
    Me(bool),
    /// Another node, whose sign of life was seen so long ago.
    Other(Duration),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing; look again after this, if nothing changes before.
    Rest(Option<Duration>),
    /// Take the Lease, then answer.
    Acquire,
    /// Answer no more, then give the Lease up.
    Release,
    /// Empty the holder's sign of life.
    DeclareDead,
}

/// The step, by this node's rank among those that may have the address (the holder aside, where that is another);
/// `None` when it may not, or cannot.
pub fn step(holder: Holder, rank: Option<usize>) -> Step {
    let Some(rank) = rank else {
        return if let Holder::Me(_) = holder { Step::Release } else { Step::Rest(None) };
    };
    let turn = STAGGER.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX));
    let (so_far, due, then) = match holder {
        Holder::Me(true) => return Step::Rest(None),
        Holder::Me(false) => return Step::Acquire,
        Holder::Nobody(since) => (since, turn, Step::Acquire),
        Holder::Other(silent) => (silent, RESPECT.saturating_add(turn), Step::DeclareDead),
    };
    if so_far >= due { then } else { Step::Rest(Some(due - so_far)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_what() {
        let ms = Duration::from_millis;
        for (holder, rank, expected) in [
            (Holder::Nobody(ms(0)), Some(0), Step::Acquire),
            (Holder::Nobody(ms(0)), Some(2), Step::Rest(Some(ms(300)))),
            (Holder::Nobody(ms(300)), Some(2), Step::Acquire),
            (Holder::Nobody(ms(9999)), None, Step::Rest(None)),
            (Holder::Me(true), Some(4), Step::Rest(None)),
            (Holder::Me(false), Some(4), Step::Acquire),
            (Holder::Me(true), None, Step::Release),
            (Holder::Me(false), None, Step::Release),
            (Holder::Other(ms(500)), Some(0), Step::Rest(Some(ms(1500)))),
            (Holder::Other(ms(2000)), Some(0), Step::DeclareDead),
            (Holder::Other(ms(2000)), Some(1), Step::Rest(Some(ms(150)))),
            (Holder::Other(ms(2150)), Some(1), Step::DeclareDead),
            (Holder::Other(ms(9999)), None, Step::Rest(None)),
        ] {
            assert_eq!(step(holder, rank), expected, "{holder:?} {rank:?}");
        }
    }
}
