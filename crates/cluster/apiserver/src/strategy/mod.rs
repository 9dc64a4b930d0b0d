//! What is particular to a kind: defaults, validation, what a write may touch. One small file per family of kinds.

pub mod certificates;
pub mod nodes;
mod pod_spec;
mod pod_status;
mod pod_update;
mod pod_validation;
mod pods;
mod quotas;
mod services;
mod simple;
mod tolerations;
mod tools;
mod volumes;
mod webhooks;
mod workload_status;
mod workload_validation;
mod workloads;

use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

/// The hooks of a kind, called by the generic registry in this order.
#[derive(Debug, Clone, Copy)]
pub struct Strategy {
    /// Fills in defaults, on every decode.
    pub default: fn(&mut Value),
    /// Before a create is validated.
    pub prepare_create: fn(&mut Value),
    /// Before an update is validated: (new, old).
    pub prepare_update: fn(&mut Value, &Value),
    /// Checks an object.
    pub validate: fn(&Value, &mut FieldErrors),
    /// Checks a change, on top of `validate`: (new, old).
    pub validate_update: fn(&Value, &Value, &mut FieldErrors),
    /// Checks a new object, on top of `validate`.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// Checks an update of a subresource: (subresource, new, old).
    pub validate_sub: fn(&str, &Value, &Value, &mut FieldErrors),
    /// Whether a PUT creates what is not there.
    pub create_on_update: bool,
    /// Whether a PUT may leave the resource version out.
    pub unconditional_update: bool,
    /// Whether a delete answers with the object.
    pub return_deleted: bool,
    /// Whether a changed spec gets a new generation.
    pub generation: bool,
    /// What becomes of dependents when a delete does not say (`rest.GarbageCollectionDeleteStrategy`).
    pub dependents: Dependents,
}

/// What a kind's deletion means for the objects it owns, when nobody says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependents {
    /// They go.
    Delete,
    /// They are let go: so it was before there was a garbage collector, and so it stays for the oldest kinds.
    Orphan,
}

const PLAIN: Strategy = Strategy {
    default: |_| {},
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    validate_create: |_, _| {},
    validate_sub: |_, _, _, _| {},
    create_on_update: false,
    unconditional_update: true,
    return_deleted: false,
    generation: true,
    dependents: Dependents::Delete,
};

/// Kinds whose objects have no generation upstream.
const NO_GENERATION: Strategy = Strategy { generation: false, ..PLAIN };

/// The strategy of a built-in kind.
pub fn of(group: &str, kind: &str) -> Strategy {
    // Kinds whose updates must name the version they change (`AllowUnconditionalUpdate` is false).
    let versioned = matches!(
        (group, kind),
        ("coordination.k8s.io", "Lease")
            | ("policy", "PodDisruptionBudget")
            | ("node.k8s.io", "RuntimeClass")
            | ("storage.k8s.io", "CSIDriver" | "CSINode" | "VolumeAttachment")
            | ("admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _)
    );
    Strategy { unconditional_update: !versioned, ..family(group, kind) }
}

fn family(group: &str, kind: &str) -> Strategy {
    match (group, kind) {
        ("", _) => core(kind),
        ("apps" | "batch" | "autoscaling", _) => workloads(kind),
        ("certificates.k8s.io", _) => {
            Strategy { validate: certificates::validate, prepare_update: certificates::prepare_update, ..NO_GENERATION }
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            Strategy { create_on_update: true, validate: simple::validate_role, ..NO_GENERATION }
        }
        ("rbac.authorization.k8s.io", _) => Strategy {
            default: simple::default_binding,
            validate: simple::validate_binding,
            validate_update: simple::validate_binding_update,
            create_on_update: true,
            ..NO_GENERATION
        },
        ("networking.k8s.io", "NetworkPolicy") => Strategy { default: simple::default_network_policy, ..PLAIN },
        ("networking.k8s.io", "Ingress") => Strategy { validate: simple::validate_ingress, ..PLAIN },
        ("discovery.k8s.io", _) => Strategy {
            default: services::default_slice,
            validate: services::validate_slice,
            validate_update: services::validate_slice_update,
            ..PLAIN
        },
        ("coordination.k8s.io", _) => {
            Strategy { create_on_update: true, validate: simple::validate_lease, ..NO_GENERATION }
        }
        ("events.k8s.io", _) => Strategy { create_on_update: true, ..NO_GENERATION },
        ("policy", "PodDisruptionBudget") => Strategy { validate: simple::validate_budget, ..PLAIN },
        ("scheduling.k8s.io", _) => Strategy {
            default: simple::default_priority_class,
            validate: simple::validate_priority_class,
            validate_update: simple::validate_priority_class_update,
            ..PLAIN
        },
        ("storage.k8s.io", "StorageClass") => Strategy {
            default: volumes::default_class,
            validate: volumes::validate_class,
            validate_update: volumes::validate_class_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        ("storage.k8s.io", "CSIDriver") => {
            Strategy { default: volumes::default_driver, return_deleted: true, ..NO_GENERATION }
        }
        ("storage.k8s.io", _) => Strategy { return_deleted: true, ..NO_GENERATION },
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            Strategy { default: webhooks::default, validate: webhooks::validate, ..PLAIN }
        }
        _ => PLAIN,
    }
}

fn core(kind: &str) -> Strategy {
    match kind {
        "Pod" => Strategy {
            default: pods::default,
            prepare_create: pods::prepare_create,
            prepare_update: pods::prepare_update,
            validate: pod_validation::validate,
            validate_update: pod_update::validate,
            validate_create: pod_validation::validate_create,
            validate_sub: pod_update::validate_sub,
            return_deleted: true,
            ..PLAIN
        },
        "PodTemplate" => Strategy { default: workloads::default_pod_template, return_deleted: true, ..PLAIN },
        "ReplicationController" => Strategy {
            default: workloads::default_rc,
            validate: workload_validation::validate_rc,
            validate_sub: workload_status::validate,
            dependents: Dependents::Orphan,
            ..PLAIN
        },
        "Service" => Strategy {
            default: services::default,
            prepare_update: services::prepare_update,
            validate: services::validate,
            validate_update: services::validate_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        "Endpoints" => Strategy { default: services::default_endpoints, create_on_update: true, ..NO_GENERATION },
        "Namespace" => Strategy {
            default: simple::default_namespace,
            prepare_create: simple::prepare_namespace,
            prepare_update: simple::prepare_namespace_update,
            ..NO_GENERATION
        },
        "Node" => Strategy {
            default: nodes::default,
            validate: nodes::validate,
            validate_update: nodes::validate_update,
            ..NO_GENERATION
        },
        "Secret" => Strategy {
            default: simple::default_secret,
            validate: simple::validate_secret,
            validate_update: simple::validate_secret_update,
            ..NO_GENERATION
        },
        "ConfigMap" => Strategy {
            validate: simple::validate_config_map,
            validate_update: simple::validate_immutable_data,
            ..NO_GENERATION
        },
        "PersistentVolume" => Strategy {
            default: volumes::default_pv,
            validate: volumes::validate_pv,
            return_deleted: true,
            ..NO_GENERATION
        },
        "PersistentVolumeClaim" => Strategy {
            default: volumes::default_pvc,
            validate: volumes::validate_pvc,
            validate_update: volumes::validate_pvc_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        "LimitRange" => Strategy { default: simple::default_limit_range, create_on_update: true, ..NO_GENERATION },
        "ResourceQuota" => Strategy {
            validate: quotas::validate,
            validate_update: quotas::validate_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        "ServiceAccount" => Strategy { return_deleted: true, ..NO_GENERATION },
        "Event" => Strategy { create_on_update: true, ..NO_GENERATION },
        _ => NO_GENERATION,
    }
}

fn workloads(kind: &str) -> Strategy {
    match kind {
        "Deployment" => Strategy {
            validate_sub: workload_status::validate,
            default: workloads::default_deployment,
            validate: workload_validation::validate_deployment,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "ReplicaSet" => Strategy {
            validate_sub: workload_status::validate,
            default: workloads::default_replica_set,
            validate: workload_validation::validate_replica_set,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "StatefulSet" => Strategy {
            validate_sub: workload_status::validate,
            default: workloads::default_stateful_set,
            validate: workload_validation::validate_stateful_set,
            validate_update: workload_validation::validate_stateful_set_update,
            ..PLAIN
        },
        "DaemonSet" => Strategy {
            validate_sub: workload_status::validate,
            default: workloads::default_daemon_set,
            validate: workload_validation::validate_daemon_set,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "Job" => Strategy {
            default: workloads::default_job,
            prepare_create: workloads::prepare_job,
            validate: workload_validation::validate_job,
            validate_update: workload_validation::validate_job_update,
            dependents: Dependents::Orphan,
            ..PLAIN
        },
        "CronJob" => {
            Strategy { default: workloads::default_cron_job, validate: workload_validation::validate_cron_job, ..PLAIN }
        }
        "HorizontalPodAutoscaler" => Strategy { default: workloads::default_hpa, ..NO_GENERATION },
        "ControllerRevision" => {
            Strategy { validate_update: workload_validation::validate_revision_update, ..NO_GENERATION }
        }
        _ => PLAIN,
    }
}

/// What an update of a subresource takes over from the new object: its own part, and nothing else.
pub fn sub_update(sub: &str, kind: &str, new: Value, old: &Value) -> Value {
    match sub {
        "status" if kind == "CertificateSigningRequest" => certificates::status_update(new, old),
        "status" => status_update(kind, new, old),
        "approval" => certificates::approval_update(&new, old),
        "finalize" => {
            let mut out = old.clone();
            out["spec"]["finalizers"] = new.get("spec").and_then(|s| s.get("finalizers")).cloned().unwrap_or_default();
            if out["spec"]["finalizers"].is_null()
                && let Some(spec) = out["spec"].as_object_mut()
            {
                spec.shift_remove("finalizers");
            }
            out
        }
        "ephemeralcontainers" => pods::ephemeral_update(&new, old),
        "resize" => pods::resize_update(&new, old),
        // binding and scale come from the server itself.
        _ => new,
    }
}

/// What an update of the status subresource takes over: the status, and nothing else but what upstream lets through.
pub fn status_update(kind: &str, new: Value, old: &Value) -> Value {
    let mut out = old.clone();
    let (Some(map), Some(given)) = (out.as_object_mut(), new.as_object()) else { return new };
    match given.get("status") {
        Some(status) => {
            map.insert("status".into(), status.clone());
        }
        None => {
            map.shift_remove("status");
        }
    }
    if let (Some(meta), Some(given)) = (map.get_mut("metadata").and_then(Value::as_object_mut), given.get("metadata")) {
        // Controllers set labels and annotations with the status; the owners of pods stay theirs.
        let keys: &[&str] = match kind {
            "Pod" => &["labels", "annotations", "finalizers", "managedFields"],
            _ => &["labels", "annotations", "finalizers", "ownerReferences", "managedFields"],
        };
        for key in keys {
            match given.get(*key) {
                Some(value) => {
                    meta.insert((*key).to_owned(), value.clone());
                }
                None => {
                    meta.shift_remove(*key);
                }
            }
        }
        meta.shift_remove("resourceVersion");
    }
    out
}
