//! The certificate tree as a declared list, and the operations on it. No network, no files, no clock of its own.
//!
//! ```text
//! tree    what there is: name, file, issuer, subject, usages, names ── kubeadm's certlist
//!   │
//! issue   key ► request ► certificate      everything but the public key comes from the tree, never from the request
//! check   certificate + what the tree says ► findings (other issuer, missing name, expires soon, ...)
//! pair    certificate or public key + private key ► whether they belong together
//! ```

mod check;
mod issue;
mod pair;
mod tree;

pub use check::{Finding, check, expires_at, public_key_hash, renewal_margin};
pub use issue::{
    Error, KeyAlgorithm, Pair, Subject, Usage, issue, new_authority, new_key, new_service_account_pair, public_key_pem,
    request,
};
pub use pair::is_pair;
pub use tree::{Authority, Leaf, NodeNames, TreeNames};
