//! Whether kinit brings what serves `metrics.k8s.io`.

use serde::{Deserialize, Serialize};

use crate::types::Arg;

/// The metrics server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsServer {
    /// Whether it runs. `false` leaves `metrics.k8s.io` to somebody else.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// More flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
}

fn yes() -> bool {
    true
}

impl Default for MetricsServer {
    fn default() -> Self {
        Self { enabled: true, extra_args: Vec::new() }
    }
}

impl MetricsServer {
    /// Whether the file says nothing of it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
