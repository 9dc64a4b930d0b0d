//! A typed nftables ruleset, the difference between two, and one atomic transaction; spoken to the kernel over netlink.
//!
//! ```text
//! Table { chains: [rules: [Expr]], sets: {elements} }   (model, expr)
//!        wanted ─┐
//!                ├─ diff ─▶ [Change] ─ encode ─▶ one batch ─ socket ─▶ kernel
//!     last known ┘                                             ◀─ read ─ what is there
//!     Draft: a wanted table that knows what changed since it was last applied: no comparison of the whole
//! monitor: somebody else changed a table
//! survey: what is in a table that somebody else made, for taking some of it away
//! conntrack: entries of connections that point to what is no longer there
//! ```
//!
//! A batch is applied whole or not at all, and no packet sees half of it. The facts are those of
//! `linux/netfilter/nf_tables.h`.

pub mod conntrack;
mod diff;
mod draft;
mod encode;
pub mod expr;
mod model;
mod monitor;
mod netlink;
mod read;
mod socket;
mod survey;

pub use diff::{Change, diff};
pub use draft::Draft;
pub use expr::{Expr, Verdict};
pub use model::{Base, Chain, ChainType, Data, Family, Hook, Rule, Set, Table, Type, join};
pub use monitor::{Monitor, Vouched};
pub use read::Observed;
pub use socket::{Error, Nftables};
pub use survey::{Survey, SurveyedChain, SurveyedRule};
