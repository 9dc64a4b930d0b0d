//! What every namespace needs before its first pod: the `default` service account and `kube-root-ca.crt`; and tokens in
//! Secrets.

pub mod default_account;
pub mod root_ca;
pub mod tokens;
