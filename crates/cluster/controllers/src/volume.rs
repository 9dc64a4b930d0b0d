//! Claims and volumes (`pkg/controller/volume`).
//!
//! ```text
//! ephemeral   pod with an ephemeral volume ─▶ its claim
//! binder      claim ◀─▶ volume; asks a provisioner; releases and reclaims
//! local_path  asked by the binder and told a node by the scheduler ─▶ a volume on that node's disk
//! ```

pub mod binder;
pub mod ephemeral;
pub mod local_path;

use std::fmt;

use kinit_client::events::Recorder;
use kube::Resource;

/// What is due in the binder and the provisioner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Claim(String),
    Volume(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(key) => write!(f, "claim {key}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// An event that a decision asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// A warning, or normal.
    pub warning: bool,
    /// The reason, in upstream's words.
    pub reason: &'static str,
    /// What it says.
    pub message: String,
}

impl Note {
    /// Something that takes its course.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// Something that does not.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }

    /// Publishes it about `object`.
    pub fn publish<K: Resource<DynamicType = ()>>(&self, recorder: &Recorder, object: &K) {
        if self.warning {
            recorder.warning(object, self.reason, self.message.clone());
        } else {
            recorder.normal(object, self.reason, self.message.clone());
        }
    }
}
