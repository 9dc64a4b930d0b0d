//! The certificate tree as a declared list, and the operations on it. No network, no files, no clock of its own.
//!
//! ```text
//! tree    what there is: name, file, issuer, subject, usages, names ── kubeadm's certlist
//!   │
//! issue   key ► request ► certificate      everything but the public key comes from the tree, never from the request
//! check   certificate + what the tree says ► findings (other issuer, missing name, expires soon, ...)
//! inspect certificate ► what is in it, for people
//! subject certificates and requests whose subject has several organizations
//! pair    certificate or public key + private key ► whether they belong together
//! trust   authorities that share a file: which one signed, which one signs
//! ```

mod check;
mod inspect;
mod issue;
mod pair;
mod subject;
mod tree;
mod trust;

pub use check::{Finding, check, expires_at, public_key_hash, renewal_margin};
pub use inspect::{CertificateInfo, inspect};
pub use issue::{
    Error, KeyAlgorithm, Pair, Subject, Usage, issue, new_authority, new_key, new_service_account_pair, public_key_pem,
    request,
};
pub use pair::is_pair;
pub use subject::{certificate_with_names, pem, user_request};
pub use tree::{Authority, Leaf, NodeNames, TreeNames};
pub use trust::{halves, issuer, key_ids, public_key_hashes, signs_first};
