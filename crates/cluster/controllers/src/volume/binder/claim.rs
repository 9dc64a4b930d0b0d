//! What is to be done about a claim (`syncUnboundClaim`, `syncBoundClaim`, `provisionClaim`). No IO.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kinit_component_helpers::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, Wish, annotation, claim_ref, class_of_claim, find, is_bound_to,
    misfit, names_class, volume_name, waits_for_consumer,
};

use crate::volume::Note;

/// What a claim is seen beside.
pub struct ClaimView<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// Its class, if there is one of that name.
    pub class: Option<Arc<StorageClass>>,
    /// The default class; only looked for when the claim names none.
    pub default_class: Option<String>,
    /// The volume that it names.
    pub named: Option<Arc<PersistentVolume>>,
    /// Volumes that it could get.
    pub candidates: Vec<Arc<PersistentVolume>>,
    /// A pod that uses it and has no node yet.
    pub waiting_pod: Option<String>,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum ClaimStep {
    /// Bind it to this volume, or finish that.
    Bind(Arc<PersistentVolume>),
    /// It stays as it is until something happens.
    Wait(Option<Note>),
    /// It gets the default class.
    Class(String),
    /// This provisioner is asked for a volume.
    Ask(String),
    /// Its volume is gone for good.
    Lost(Note),
}

/// Decides.
pub fn claim_step(view: ClaimView<'_>) -> ClaimStep {
    let named = !volume_name(view.claim).is_empty();
    match (annotation(view.claim, BIND_COMPLETED).is_some(), named) {
        (true, false) => {
            lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        (true, true) => bound(view),
        (false, true) => requested(view),
        (false, false) => unbound(view),
    }
}

fn lost(reason: &'static str, message: &str) -> ClaimStep {
    ClaimStep::Lost(Note::warning(reason, message))
}

/// It was bound before.
fn bound(view: ClaimView<'_>) -> ClaimStep {
    let Some(volume) = view.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match claim_ref(&volume) {
        // The volume came unbound, or its binding has not been seen yet: both are mended in the same way.
        None => ClaimStep::Bind(volume),
        Some(reference) if reference.uid == view.claim.metadata.uid => ClaimStep::Bind(volume),
        Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    }
}

/// It names a volume, and is not bound to it yet.
fn requested(view: ClaimView<'_>) -> ClaimStep {
    let Some(volume) = view.named else { return ClaimStep::Wait(None) };
    if is_bound_to(&volume, view.claim) {
        return ClaimStep::Bind(volume);
    }
    if claim_ref(&volume).is_some() {
        // Somebody else has it. A user who asked for it waits until it is free.
        let by_controller = annotation(view.claim, BOUND_BY_CONTROLLER).is_some();
        let message = format!("volume {:?} already bound to a different claim.", volume_name(view.claim));
        return ClaimStep::Wait((!by_controller).then(|| Note::warning("FailedBinding", message)));
    }
    match misfit(&volume, view.claim) {
        None => ClaimStep::Bind(volume),
        Some(reason) => {
            let message = format!("Cannot bind to requested volume {:?}: {reason}", volume_name(view.claim));
            ClaimStep::Wait(Some(Note::warning("VolumeMismatch", message)))
        }
    }
}

/// It takes any volume that fits.
fn unbound(view: ClaimView<'_>) -> ClaimStep {
    if let (false, Some(class)) = (names_class(view.claim), view.default_class) {
        return ClaimStep::Class(class);
    }
    let waits = view.class.as_ref().is_some_and(|c| waits_for_consumer(c));
    if let Some(volume) = find(Wish { claim: view.claim, node: None, waits }, &view.candidates) {
        return ClaimStep::Bind(volume.clone());
    }
    if waits && annotation(view.claim, SELECTED_NODE).is_none() {
        return ClaimStep::Wait(Some(match view.waiting_pod {
            Some(pod) => Note::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
            None => Note::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        }));
    }
    let class = class_of_claim(view.claim);
    if class.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return ClaimStep::Wait(Some(Note::normal("FailedBinding", message)));
    }
    let failed = |message: String| ClaimStep::Wait(Some(Note::warning("ProvisioningFailed", message)));
    match view.class {
        None => failed(format!("storageclass.storage.k8s.io {class:?} not found")),
        // None of these are built in here; upstream's own are all gone to drivers of their own, too.
        Some(class) if class.provisioner.starts_with("kubernetes.io/") => {
            failed(format!("no volume plugin matched name: {}", class.provisioner))
        }
        Some(class) => ClaimStep::Ask(class.provisioner.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn class(provisioner: &str, mode: &str) -> Arc<StorageClass> {
        let class = json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode});
        Arc::new(serde_json::from_value(class).unwrap())
    }

    fn claim(class: Option<&str>, volume: &str, annotations: Value) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": "c", "namespace": "n", "uid": "u", "annotations": annotations},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume,
                "resources": {"requests": {"storage": "1Gi"}}}}),
        )
        .unwrap()
    }

    fn volume(name: &str, class: &str, holder: Option<Value>) -> Arc<PersistentVolume> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "capacity": {"storage": "2Gi"}, "claimRef": holder}}))
            .unwrap(),
        )
    }

    fn view(claim: &PersistentVolumeClaim) -> ClaimView<'_> {
        ClaimView { claim, class: None, default_class: None, named: None, candidates: Vec::new(), waiting_pod: None }
    }

    fn reason(step: ClaimStep) -> String {
        match step {
            ClaimStep::Wait(Some(note)) => format!("{}: {}", note.reason, note.message),
            ClaimStep::Lost(note) => format!("lost: {}", note.reason),
            ClaimStep::Bind(volume) => format!("bind {}", volume.metadata.name.as_deref().unwrap()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn claims_that_take_any_volume() {
        let plain = claim(Some("s"), "", json!({}));
        let chosen = claim(Some("s"), "", json!({SELECTED_NODE: "n1"}));
        let none = claim(None, "", json!({}));
        let (later, at_once) = (class("example.com/p", "WaitForFirstConsumer"), class("example.com/p", "Immediate"));
        let free = || vec![volume("v", "s", None)];
        let step = |claim, class: Option<&Arc<StorageClass>>, candidates, pod: Option<&str>| {
            let waiting_pod = pod.map(str::to_owned);
            reason(claim_step(ClaimView { class: class.cloned(), candidates, waiting_pod, ..view(claim) }))
        };
        assert_eq!(step(&plain, Some(&at_once), free(), None), "bind v");
        assert_eq!(step(&plain, Some(&at_once), vec![], None), "Ask(\"example.com/p\")");
        assert_eq!(
            step(&plain, Some(&later), free(), None),
            "WaitForFirstConsumer: waiting for first consumer to be created before binding"
        );
        assert_eq!(
            step(&plain, Some(&later), free(), Some("p")),
            "WaitForPodScheduled: waiting for pod p to be scheduled"
        );
        assert_eq!(
            step(&chosen, Some(&later), free(), None),
            "Ask(\"example.com/p\")",
            "the scheduler found none that fits"
        );
        assert_eq!(step(&plain, None, vec![], None), "ProvisioningFailed: storageclass.storage.k8s.io \"s\" not found");
        assert_eq!(
            step(&plain, Some(&class("kubernetes.io/no-provisioner", "Immediate")), vec![], None),
            "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"
        );
        assert_eq!(
            step(&none, None, vec![], None),
            "FailedBinding: no persistent volumes available for this claim and no storage class is set"
        );
        let reserved = vec![volume("r", "", Some(json!({"name": "c", "namespace": "n"})))];
        assert_eq!(step(&plain, Some(&later), reserved, None), "bind r", "a reserved volume waits for nobody");
        let late = ClaimView { default_class: Some("d".into()), ..view(&none) };
        assert_eq!(claim_step(late), ClaimStep::Class("d".into()));
        let empty = claim(Some(""), "", json!({}));
        let late = ClaimView { default_class: Some("d".into()), ..view(&empty) };
        assert!(reason(claim_step(late)).starts_with("FailedBinding"), "the empty class is a choice");
    }

    #[test]
    fn claims_that_name_a_volume() {
        let plain = claim(Some("s"), "v", json!({}));
        let by_controller = claim(Some("s"), "v", json!({BOUND_BY_CONTROLLER: "yes"}));
        let step = |claim, named: Option<Arc<PersistentVolume>>| reason(claim_step(ClaimView { named, ..view(claim) }));
        let other = json!({"name": "d", "namespace": "n", "uid": "x"});
        assert_eq!(step(&plain, None), "Wait(None)");
        assert_eq!(step(&plain, Some(volume("v", "s", None))), "bind v");
        assert_eq!(
            step(&plain, Some(volume("v", "t", None))),
            "VolumeMismatch: Cannot bind to requested volume \"v\": storageClassName does not match"
        );
        assert_eq!(step(&plain, Some(volume("v", "t", Some(json!({"name": "c", "namespace": "n"}))))), "bind v");
        assert_eq!(
            step(&plain, Some(volume("v", "s", Some(other.clone())))),
            "FailedBinding: volume \"v\" already bound to a different claim."
        );
        assert_eq!(step(&by_controller, Some(volume("v", "s", Some(other)))), "Wait(None)");
    }

    #[test]
    fn claims_that_were_bound() {
        let done = json!({BIND_COMPLETED: "yes"});
        let (named, nameless) = (claim(Some("s"), "v", done.clone()), claim(Some("s"), "", done));
        let step = |claim, named: Option<Arc<PersistentVolume>>| reason(claim_step(ClaimView { named, ..view(claim) }));
        let holder = |uid: &str| Some(json!({"name": "c", "namespace": "n", "uid": uid}));
        assert_eq!(step(&nameless, None), "lost: ClaimLost");
        assert_eq!(step(&named, None), "lost: ClaimLost");
        assert_eq!(step(&named, Some(volume("v", "s", None))), "bind v");
        assert_eq!(step(&named, Some(volume("v", "s", holder("u")))), "bind v");
        assert_eq!(step(&named, Some(volume("v", "s", holder("x")))), "lost: ClaimMisbound");
    }
}
