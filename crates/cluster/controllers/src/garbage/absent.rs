//! Owners that are known to be gone, so that a thousand dependents of one owner ask for it once (`absentOwnerCache`).

use std::collections::{HashSet, VecDeque};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// So many are remembered; the oldest is forgotten first.
const MOST: usize = 5000;

/// A bounded set. What is in it was gone and cannot come back: a uid is given once.
#[derive(Debug, Default)]
pub struct Absent {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Absent {
    /// An object of this uid was deleted; a watch said so.
    pub fn deleted(&mut self, uid: &str) {
        self.insert(uid.to_owned());
    }

    /// The API server has no such owner where this reference, on an object of `namespace`, would have it. Another
    /// reference with the same uid may be right.
    pub fn not_found(&mut self, reference: &OwnerReference, namespace: &str) {
        self.insert(key(reference, namespace));
    }

    /// Whether the owner is known to be gone.
    pub fn contains(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.known.contains(&reference.uid) || self.known.contains(&key(reference, namespace))
    }

    fn insert(&mut self, key: String) {
        if !self.known.insert(key.clone()) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn key(reference: &OwnerReference, namespace: &str) -> String {
    let OwnerReference { api_version, kind, name, uid, .. } = reference;
    format!("{namespace}/{api_version}/{kind}/{name}/{uid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered() {
        let reference = |name: &str| OwnerReference { name: name.into(), uid: "u".into(), ..Default::default() };
        let mut absent = Absent::default();
        absent.not_found(&reference("a"), "n");
        assert!(absent.contains(&reference("a"), "n"));
        assert!(!absent.contains(&reference("a"), "other") && !absent.contains(&reference("b"), "n"));
        absent.deleted("u");
        assert!(absent.contains(&reference("b"), "other"), "whatever the reference says, its object is gone");
        (0..MOST).for_each(|i| absent.deleted(&i.to_string()));
        assert!(!absent.contains(&reference("a"), "n"));
        assert_eq!((absent.known.len(), absent.order.len()), (MOST, MOST));
    }
}
