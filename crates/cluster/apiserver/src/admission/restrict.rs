//! Plugins that a cluster may ask for and no cluster has by default: images that are always pulled, and Services
//! without external addresses (`plugin/pkg/admission/{alwayspullimages,denyserviceexternalips}`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::{Attributes, Operation};

const ALWAYS: &str = "Always";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A pod, or the ephemeral containers of one; an update that brings no image is let through, as upstream.
fn brings_images(attributes: &Attributes<'_>, pod: &Value) -> bool {
    if attributes.kind() != ("", "Pod") || !matches!(attributes.subresource, "" | "ephemeralcontainers") {
        return false;
    }
    match (attributes.operation, attributes.old) {
        (Operation::Create, _) => true,
        (Operation::Update, Some(old)) => images(pod).iter().any(|image| !images(old).contains(image)),
        _ => false,
    }
}

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.at(&["spec", list]).and_then(Value::as_array).into_iter().flatten()
}

fn images(pod: &Value) -> Vec<&str> {
    LISTS.iter().flat_map(|list| containers(pod, list)).map(|c| c.str_at(&["image"])).collect()
}

/// Pulls are what checks whether a pod may use an image that another left on its node.
pub fn pull_always(attributes: &Attributes<'_>, pod: &mut Value) {
    if brings_images(attributes, pod) {
        set_always(pod);
    }
}

fn set_always(pod: &mut Value) {
    for list in LISTS {
        let list = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.insert("imagePullPolicy".to_owned(), ALWAYS.into());
        }
    }
    let volumes = pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for image in volumes.into_iter().flatten().filter_map(|v| v.get_mut("image")).filter_map(Value::as_object_mut) {
        image.insert("pullPolicy".to_owned(), ALWAYS.into());
    }
}

/// What a webhook or a policy changed afterwards is refused.
pub fn check_pull_always(attributes: &Attributes<'_>, pod: &Value) -> Result<(), ApiError> {
    if !brings_images(attributes, pod) {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    for list in LISTS {
        for (i, container) in containers(pod, list).enumerate() {
            let policy = container.str_at(&["imagePullPolicy"]);
            if policy != ALWAYS {
                errors.not_supported(&format!("spec.{list}[{i}].imagePullPolicy"), &policy.into(), &[ALWAYS]);
            }
        }
    }
    errors.into_result("", "Pod", pod.name())
}

/// No Service gets external addresses; those that it has it may keep or lose.
pub fn check_external_ips(attributes: &Attributes<'_>, service: &Value) -> Result<(), ApiError> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if attributes.kind() != ("", "Service") || !attributes.subresource.is_empty() || !writes {
        return Ok(());
    }
    let had = attributes.old.map(addresses).unwrap_or_default();
    if addresses(service).iter().all(|address| had.contains(address)) {
        return Ok(());
    }
    Err(ApiError::forbidden("", "services", service.name(), "Use of external IPs is denied by admission control"))
}

fn addresses(service: &Value) -> Vec<&str> {
    let list = service.at(&["spec", "externalIPs"]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}
