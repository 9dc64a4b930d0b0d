//! What a write to a resource or a subresource can change at all, so that nobody comes to own the rest by it
//! (each strategy's `GetResetFields`).

use kinit_apimachinery::apply::Scope;

use super::Descriptor;

const STATUS: Scope<'static> = Scope::Without(&[&["status"]]);
const SPEC: Scope<'static> = Scope::Without(&[&["spec"]]);
const ONLY_STATUS: Scope<'static> = Scope::Without(&[&["spec"], &["metadata"]]);

/// The scope of a write through a subresource, "" for the resource itself. That of a scale depends on where it is.
pub fn of(desc: &Descriptor, sub: &str) -> Scope<'static> {
    match sub {
        "" if desc.has_status() => STATUS,
        "" => Scope::ALL,
        "status" => of_status(&desc.group, &desc.kind, desc.ty.built_in().is_some()),
        "finalize" => STATUS,
        "approval" => Scope::Without(&[&["spec"], &["status", "certificate"]]),
        "ephemeralcontainers" => Scope::Within(&[&["spec", "ephemeralContainers"]]),
        "resize" => Scope::Within(&[
            &["spec", "containers", "*", "resources"],
            &["spec", "containers", "*", "resizePolicy"],
            &["spec", "initContainers", "*", "resources"],
            &["spec", "initContainers", "*", "resizePolicy"],
            &["spec", "resources"],
        ]),
        _ => Scope::ALL,
    }
}

fn of_status(group: &str, kind: &str, built_in: bool) -> Scope<'static> {
    match (group, kind) {
        ("", "Pod") => {
            Scope::Without(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "Deployment") => Scope::Without(&[&["spec"], &["metadata", "labels"]]),
        ("certificates.k8s.io", _) => Scope::Without(&[&["spec"], &["status", "conditions"]]),
        (
            "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "admissionregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io",
            _,
        )
        | ("storage.k8s.io", "VolumeAttachment") => ONLY_STATUS,
        _ if built_in => SPEC,
        // Custom kinds may have other parts than spec and status.
        _ => Scope::Within(&[&["status"]]),
    }
}
