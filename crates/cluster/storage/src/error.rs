//! What storage can answer besides an object.

use kinit_etcd_connect::etcd_client;

/// Errors of the store; what they mean to an API client is the API server's affair.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// etcd cannot be reached, or does not answer in time.
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
    /// The revision asked for is compacted away.
    #[error("the requested revision has been compacted")]
    Compacted,
    /// The revision asked for has not happened yet.
    #[error("the requested revision {wanted} is in the future, now is {current}")]
    Future {
        /// Asked for.
        wanted: u64,
        /// Where the store is.
        current: u64,
    },
    /// The key exists already.
    #[error("the key exists already")]
    Exists,
    /// The request is larger than etcd takes.
    #[error("etcd: request is too large")]
    TooLarge,
    /// What is stored cannot be read.
    #[error("the stored object \"{resource}{key}\" cannot be read: {reason}")]
    Corrupt {
        /// Prefix of its resource, as `pods/`; empty where that is not known.
        resource: String,
        /// The object's key below its resource: `namespace/name` or `name`.
        key: String,
        /// Why; holds no data of the object.
        reason: String,
    },
    /// The object cannot be encrypted.
    #[error("encrypt the object: {0}")]
    Encrypt(String),
    /// Anything else etcd said.
    #[error("etcd: {0}")]
    Etcd(String),
}

impl Error {
    /// etcd gave no answer within our limit; etcd's own words for it.
    pub(crate) fn timed_out() -> Self {
        Self::Unavailable("etcdserver: request timed out".into())
    }

    /// The same of an object of this resource.
    pub(crate) fn of(self, prefix: &str) -> Self {
        match self {
            Self::Corrupt { key, reason, .. } => Self::Corrupt { resource: prefix.to_owned(), key, reason },
            other => other,
        }
    }

    /// Why an object cannot be read, without naming it.
    pub(crate) fn reason(self) -> String {
        match self {
            Self::Corrupt { reason, .. } => reason,
            other => other.to_string(),
        }
    }

    /// Whether the request never left: trying it elsewhere cannot do it twice.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unavailable(text) if text.contains("connect error") || text.contains("no leader"))
    }
}

impl From<etcd_client::Error> for Error {
    fn from(error: etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = &error else {
            return Self::Unavailable(error.to_string());
        };
        let message = status.message();
        // tonic's code type is not re-exported; its number is the gRPC code.
        match status.code() as i32 {
            _ if message.contains("required revision has been compacted") => Self::Compacted,
            _ if message.contains("request is too large") || message.contains("larger than max") => Self::TooLarge,
            _ if message.contains("future revision") => Self::Future { wanted: 0, current: 0 },
            1 | 4 | 14 => Self::Unavailable(message.to_owned()),
            _ => Self::Etcd(message.to_owned()),
        }
    }
}

impl From<kinit_etcd_connect::Error> for Error {
    fn from(error: kinit_etcd_connect::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}
