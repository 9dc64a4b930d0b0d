//! Two generations of a shared secret on this host, while one takes the other's place.
//!
//! ```text
//! /etc/kubernetes/pki/rotation/ca.json   both pairs; written once, removed at the end     (0600)
//! /etc/kubernetes/pki/ca.crt, ca.key     what is in force: made from the two, for a stage
//! ```
//!
//! A stage says all of what is in force, so that it can be set again, forwards and backwards, whatever was interrupted.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use kinit_pki::{KeyAlgorithm, Pair};
use kinit_resource::{RotationRecord, RotationSeen, RotationStage, SealedValues, Shared, sha256};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::apply::note_parents;
use crate::encryption;
use crate::files::{self, read_optional};
use crate::shared::Store;

const FOLDER: &str = "/etc/kubernetes/pki/rotation";

/// What a desk asks of this host's part of a rotation.
#[derive(Serialize, Deserialize)]
pub enum RotationRequest {
    /// What there is of each of these.
    Look(Vec<Shared>),
    /// Make the successor, and keep both.
    Begin {
        /// Of which.
        shared: Shared,
        /// The kind of its key.
        algorithm: KeyAlgorithm,
        /// The life of an authority, in days.
        days: u32,
    },
    /// Read both generations, for another control plane.
    Read(Shared),
    /// Keep both generations that another control plane made.
    Keep {
        /// Of which.
        shared: Shared,
        /// What [`RotationRequest::Read`] answered.
        record: String,
    },
    /// Put a stage in force.
    Set {
        /// Of which.
        shared: Shared,
        /// Which.
        stage: RotationStage,
    },
    /// Forget the generation that is not in force.
    End(Shared),
    /// What pods of this host have mounted.
    Pods,
    /// What etcd has of the resources that are encrypted, by the key that each value is encrypted with.
    Sealed,
}

impl RotationRequest {
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self, Self::Look(_) | Self::Pods | Self::Sealed)
    }

    /// How the journal names it, if it is a step.
    pub(crate) fn step(&self) -> Option<String> {
        match self {
            Self::Begin { shared, .. } => Some(format!("make the successor of {}", shared.name())),
            Self::Keep { shared, .. } => Some(format!("keep the successor of {}", shared.name())),
            Self::Set { shared, stage } => Some(format!("{}: {stage:?}", shared.name())),
            Self::End(shared) => Some(format!("end the rotation of {}", shared.name())),
            _ => None,
        }
    }
}

/// Both generations. There is no `Debug`.
#[derive(Serialize, Deserialize)]
struct Generations {
    old: Pair,
    new: Pair,
    /// Since when the new one makes what is new on this host.
    #[serde(default)]
    signing_since: Option<i64>,
    /// The old one was given up here, if only for a time.
    #[serde(default)]
    was_new: bool,
}

/// Where both generations of a secret are.
pub(crate) fn path(shared: Shared) -> String {
    format!("{FOLDER}/{}.json", shared.name())
}

/// Does what is asked for; answers in JSON.
pub(crate) async fn answer(request: RotationRequest) -> Result<String> {
    let store = Store::host();
    match request {
        RotationRequest::Look(all) => {
            let seen: Vec<RotationSeen> = all.into_iter().map(|shared| look(&store, shared)).collect::<Result<_>>()?;
            serde_json::to_string(&seen).context("encode what was seen")
        }
        RotationRequest::Begin { shared, algorithm, days } => {
            begin(&store, shared, algorithm, days).map(|()| String::new())
        }
        RotationRequest::Read(shared) => {
            read_optional(&path(shared))?.with_context(|| format!("no rotation of {} is under way", shared.name()))
        }
        RotationRequest::Keep { shared, record } => keep(shared, &record).map(|()| String::new()),
        RotationRequest::Set { shared, stage } => set(&store, shared, stage).map(|()| String::new()),
        RotationRequest::End(shared) => end(&store, shared).map(|()| String::new()),
        RotationRequest::Pods => {
            serde_json::to_string(&crate::pod_credentials::all()?).context("encode what pods have")
        }
        RotationRequest::Sealed => serde_json::to_string(&sealed(&store).await?).context("encode what etcd has"),
    }
}

async fn sealed(store: &Store) -> Result<SealedValues> {
    let halves = store.halves(Shared::EncryptionConfig)?;
    let yaml = halves.and_then(|(_, secret)| secret).context("this host has no encryption.yaml")?;
    let (resources, writes) = encryption::writes(&yaml)?;
    let mut found = std::collections::BTreeMap::new();
    for resource in resources {
        let values = crate::etcd::sealed(&format!("/registry/{resource}/")).await?;
        found.insert(resource, values);
    }
    Ok(SealedValues { writes, found })
}

fn read(shared: Shared) -> Result<Option<Generations>> {
    let Some(text) = read_optional(&path(shared))? else { return Ok(None) };
    // A parser's message could quote a key.
    serde_json::from_str(&text).map(Some).map_err(|_| anyhow::anyhow!("{} cannot be read", path(shared)))
}

fn write(shared: Shared, generations: &Generations) -> Result<()> {
    let path = path(shared);
    note_parents(&path)?;
    files::directory(FOLDER, 0o700, "root:root")?;
    let text = serde_json::to_string(generations).context("encode both generations")?;
    files::write_private(&path, text.as_bytes())
}

/// What is in force at a stage.
fn in_force(shared: Shared, generations: &Generations, stage: RotationStage) -> Result<Pair> {
    let (old, new) = (&generations.old, &generations.new);
    let both = |first: &Pair, second: &Pair| -> Result<Pair> {
        Ok(match shared {
            Shared::EncryptionConfig => {
                Pair { cert: String::new(), key: encryption::with_both(&first.key, &second.key)? }
            }
            _ => Pair { cert: lines(&first.cert) + &lines(&second.cert), key: first.key.clone() },
        })
    };
    match stage {
        RotationStage::Old => Ok(old.clone()),
        RotationStage::Published => both(old, new),
        RotationStage::Signing => both(new, old),
        RotationStage::New => Ok(new.clone()),
    }
}

fn lines(pem: &str) -> String {
    if pem.ends_with('\n') { pem.to_owned() } else { format!("{pem}\n") }
}

/// What tells a pair from others and is no secret.
fn fingerprint(shared: Shared, pair: &Pair) -> String {
    let text = if shared == Shared::EncryptionConfig { &pair.key } else { &pair.cert };
    sha256(text.as_bytes())
}

fn look(store: &Store, shared: Shared) -> Result<RotationSeen> {
    let record = match read(shared)? {
        None => None,
        Some(both) => {
            let mut stages = [const { String::new() }; 4];
            for (place, stage) in stages.iter_mut().zip(RotationStage::ALL) {
                *place = fingerprint(shared, &in_force(shared, &both, stage)?);
            }
            let id =
                sha256(format!("{} {}", fingerprint(shared, &both.old), fingerprint(shared, &both.new)).as_bytes());
            Some(RotationRecord { id, stages, signing_since: both.signing_since, was_new: both.was_new })
        }
    };
    let Some((public, private)) = store.halves(shared)? else {
        return Ok(RotationSeen { record, ..RotationSeen::default() });
    };
    let halves = kinit_pki::halves(&public);
    let (text, whole) = match (shared, private) {
        (Shared::EncryptionConfig, private) => (private.unwrap_or_default(), true),
        (_, Some(key)) => {
            let whole = kinit_pki::signs_first(&public, &key).unwrap_or(false);
            (public, whole)
        }
        (_, None) => (public, false),
    };
    Ok(RotationSeen { current: Some(sha256(text.as_bytes())), whole, halves, record })
}

fn begin(store: &Store, shared: Shared, algorithm: KeyAlgorithm, days: u32) -> Result<()> {
    ensure!(read(shared)?.is_none(), "a rotation of {} is under way on this host", shared.name());
    let old = store.read(shared, false)?;
    let now = OffsetDateTime::now_utc();
    let new = match shared {
        Shared::EncryptionConfig => Pair { cert: String::new(), key: encryption::successor(&old.key)? },
        _ => {
            let halves = kinit_pki::halves(&old.cert);
            ensure!(halves == 1, "{} holds {halves} certificates or keys and not one", shared.name());
            match shared {
                Shared::Authority(authority) => kinit_pki::new_authority(authority.common_name(), algorithm, days, now)
                    .context("make an authority")?,
                _ => kinit_pki::new_service_account_pair(algorithm).context("make a pair of keys")?,
            }
        }
    };
    write(shared, &Generations { old, new, signing_since: None, was_new: false })
}

fn keep(shared: Shared, record: &str) -> Result<()> {
    let mut both: Generations =
        serde_json::from_str(record).map_err(|_| anyhow::anyhow!("what was sent is no pair of generations"))?;
    if let Some(own) = read(shared)? {
        ensure!(
            own.old == both.old && own.new == both.new,
            "another rotation of {} is under way on this host",
            shared.name()
        );
        return Ok(());
    }
    both.signing_since = None;
    write(shared, &both)
}

fn set(store: &Store, shared: Shared, stage: RotationStage) -> Result<()> {
    let Some(mut both) = read(shared)? else { bail!("no rotation of {} is under way on this host", shared.name()) };
    let signs = stage >= RotationStage::Signing;
    let is_new = stage == RotationStage::New;
    if signs != both.signing_since.is_some() || (is_new && !both.was_new) {
        // Before the change: a clock that started too early would let the old key go too early, so it is set again.
        let since = both.signing_since.unwrap_or_else(|| OffsetDateTime::now_utc().unix_timestamp());
        both.signing_since = signs.then_some(since);
        both.was_new |= is_new;
        write(shared, &both)?;
    }
    crate::shared::note(shared, false)?;
    store.replace(shared, &in_force(shared, &both, stage)?)
}

fn end(store: &Store, shared: Shared) -> Result<()> {
    if let Some(both) = read(shared)? {
        let now = look(store, shared)?;
        let ends = [&both.old, &both.new].map(|pair| Some(fingerprint(shared, pair)));
        ensure!(
            now.whole && ends.contains(&now.current),
            "two generations of {} are in force on this host",
            shared.name()
        );
    }
    files::remove(&path(shared))?;
    crate::ledger::Ledger::forget(&[path(shared)])?;
    if Path::new(FOLDER).read_dir().is_ok_and(|mut entries| entries.next().is_none()) {
        files::remove(FOLDER)?;
        crate::ledger::Ledger::forget(&[FOLDER.to_owned()])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kinit_pki::Authority;

    use super::*;

    const KIND: KeyAlgorithm = KeyAlgorithm::EcdsaP256;

    #[test]
    fn neighbouring_stages_accept_what_each_other_makes() {
        let now = OffsetDateTime::now_utc();
        let pair = || kinit_pki::new_authority("kubernetes", KIND, 10, now).unwrap();
        let ca = Shared::Authority(Authority::Kubernetes);
        let both = Generations { old: pair(), new: pair(), signing_since: None, was_new: false };
        let at = |stage| in_force(ca, &both, stage).unwrap();
        for stage in RotationStage::ALL {
            let own = at(stage);
            assert!(kinit_pki::signs_first(&own.cert, &own.key).unwrap(), "{stage:?}");
            for neighbour in [stage.next(), stage.previous()].into_iter().flatten() {
                assert!(kinit_pki::is_pair(&at(neighbour).cert, &own.key).unwrap(), "{neighbour:?} accepts {stage:?}");
            }
        }
        let shown: std::collections::BTreeSet<String> =
            RotationStage::ALL.into_iter().map(|stage| fingerprint(ca, &at(stage))).collect();
        assert_eq!(shown.len(), 4, "what a host shows tells its stage");
    }
}
