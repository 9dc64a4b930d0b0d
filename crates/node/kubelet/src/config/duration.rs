//! Durations of the configuration, as `metav1.Duration` writes them.

use std::time::Duration;

use kinit_component_base::flags::duration;
use serde::{Deserialize, Deserializer, de::Error};

/// Reads a Go duration that is not negative; empty text is none.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(Duration::ZERO) } else { duration(&text).map_err(D::Error::custom) }
}
