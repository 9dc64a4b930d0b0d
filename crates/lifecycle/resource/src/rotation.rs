//! A shared secret whose successor takes its place, step by step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How far a secret's successor has come. Neighbours work together: what one accepts the other has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationStage {
    /// Only the old one is known.
    Old,
    /// Both are accepted, the old one makes what is new.
    Published,
    /// Both are accepted, the new one makes what is new.
    Signing,
    /// Only the new one is known.
    New,
}

impl RotationStage {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Old, Self::Published, Self::Signing, Self::New];

    /// The one after it.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage > self)
    }

    /// The one before it.
    pub fn previous(self) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|stage| *stage < self)
    }
}

/// What a host knows of the secret's two generations. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationRecord {
    /// Tells this rotation from any other of the same secret.
    pub id: String,
    /// What the host shows at each stage ([`RotationSeen::current`]).
    pub stages: [String; 4],
    /// Since when the host is at [`RotationStage::Signing`], in seconds since 1970.
    pub signing_since: Option<i64>,
    /// The host has been at [`RotationStage::New`].
    pub was_new: bool,
}

/// What was seen of a shared secret on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotationSeen {
    /// SHA-256 of the public half that is in force; of the whole where there is no public half.
    pub current: Option<String>,
    /// The private half belongs to the first of the public ones, as it should.
    pub whole: bool,
    /// How many certificates or public keys are in force.
    pub halves: usize,
    /// The two generations, while there are two.
    pub record: Option<RotationRecord>,
}

/// A volume of a pod that holds what the pod trusts and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCredentials {
    /// The pod's UID.
    pub uid: String,
    /// SHA-256 of its `ca.crt`.
    pub authorities: Option<String>,
    /// When that was written, in seconds since 1970 by the host's clock.
    pub written: i64,
    /// The key that signed its token (`kid`).
    pub token_key: Option<String>,
}

/// What etcd has of the resources that are encrypted at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedValues {
    /// The key that writes: `aesgcm:key2`.
    pub writes: String,
    /// Of each resource how many values each key encrypted; those without a key's name are plain text.
    pub found: BTreeMap<String, BTreeMap<String, u64>>,
}

impl SealedValues {
    /// How many values of a resource another key wrote than the one that writes now.
    pub fn outdated(&self) -> impl Iterator<Item = (&str, u64)> {
        self.found.iter().filter_map(|(resource, keys)| {
            let outdated = keys.iter().filter(|(key, _)| **key != self.writes).map(|(_, count)| count).sum();
            (outdated > 0).then_some((resource.as_str(), outdated))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::RotationStage::{New, Old, Published, Signing};

    #[test]
    fn stages_have_neighbours() {
        assert_eq!(
            [Old, Published, Signing, New].map(super::RotationStage::next),
            [Some(Published), Some(Signing), Some(New), None]
        );
        assert_eq!((Old.previous(), New.previous()), (None, Some(Signing)));
    }
}
