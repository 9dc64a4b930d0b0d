//! The built-in kinds and their hooks.

use super::{
    Dependents, Hooks, NO_GENERATION, PLAIN, autoscalers, certificates, definitions, endpoints, events, flow,
    job_status, limit_ranges, network_policies, nodes, persistent_volumes, pod_update, pod_validation, pods, quotas,
    services, simple, statuses, volumes, webhooks, workload_status, workload_validation, workloads,
};
use crate::admission::policy::{validate as policy, validate_mutating as mutating_policy};
use crate::aggregation::validate as api_service;

/// What a built-in kind does.
pub(super) fn family(group: &str, kind: &str) -> Hooks {
    match (group, kind) {
        ("", _) => core(kind),
        ("apps" | "batch" | "autoscaling", _) => workloads(kind),
        ("certificates.k8s.io", _) => {
            Hooks { validate: certificates::validate, prepare_update: certificates::prepare_update, ..NO_GENERATION }
        }
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            Hooks { create_on_update: true, validate: simple::validate_role, ..NO_GENERATION }
        }
        ("rbac.authorization.k8s.io", _) => Hooks {
            default: simple::default_binding,
            validate: simple::validate_binding,
            validate_update: simple::validate_binding_update,
            create_on_update: true,
            ..NO_GENERATION
        },
        ("networking.k8s.io", _) => networking(kind),
        ("discovery.k8s.io", _) => Hooks {
            default: services::default_slice,
            validate: services::validate_slice,
            validate_update: services::validate_slice_update,
            ..PLAIN
        },
        ("coordination.k8s.io", _) => {
            Hooks { create_on_update: true, validate: simple::validate_lease, ..NO_GENERATION }
        }
        ("events.k8s.io", _) => Hooks {
            validate_create: events::validate_create,
            validate_update: events::validate_update,
            create_on_update: true,
            ..NO_GENERATION
        },
        ("policy", "PodDisruptionBudget") => {
            Hooks { validate: simple::validate_budget, validate_sub: statuses::budget, ..PLAIN }
        }
        ("scheduling.k8s.io", _) => Hooks {
            default: simple::default_priority_class,
            validate: simple::validate_priority_class,
            validate_update: simple::validate_priority_class_update,
            ..PLAIN
        },
        ("storage.k8s.io", _) => storage(kind),
        ("apiextensions.k8s.io", _) => definitions::HOOKS,
        ("apiregistration.k8s.io", _) => Hooks {
            default: api_service::default,
            prepare_create: api_service::prepare_create,
            validate: api_service::validate,
            validate_sub: api_service::validate_status,
            ..NO_GENERATION
        },
        ("admissionregistration.k8s.io", _) => admission(kind),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            Hooks { default: flow::default_schema, validate: flow::validate_schema, ..PLAIN }
        }
        ("flowcontrol.apiserver.k8s.io", _) => {
            Hooks { default: flow::default_level, validate: flow::validate_level, ..PLAIN }
        }
        _ => PLAIN,
    }
}

fn networking(kind: &str) -> Hooks {
    match kind {
        "NetworkPolicy" => {
            Hooks { default: simple::default_network_policy, validate: network_policies::validate, ..PLAIN }
        }
        "Ingress" => Hooks { validate: simple::validate_ingress, validate_sub: statuses::ingress, ..PLAIN },
        _ => PLAIN,
    }
}

fn storage(kind: &str) -> Hooks {
    match kind {
        "StorageClass" => Hooks {
            default: volumes::default_class,
            validate: volumes::validate_class,
            validate_update: volumes::validate_class_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        "CSIDriver" => Hooks { default: volumes::default_driver, return_deleted: true, ..NO_GENERATION },
        _ => Hooks { return_deleted: true, ..NO_GENERATION },
    }
}

fn admission(kind: &str) -> Hooks {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            Hooks { default: webhooks::default, validate: webhooks::validate, ..PLAIN }
        }
        "ValidatingAdmissionPolicy" => Hooks { default: policy::default, validate: policy::policy, ..PLAIN },
        "ValidatingAdmissionPolicyBinding" => Hooks { default: policy::default, validate: policy::binding, ..PLAIN },
        "MutatingAdmissionPolicy" => {
            Hooks { default: mutating_policy::default, validate: mutating_policy::policy, ..PLAIN }
        }
        "MutatingAdmissionPolicyBinding" => {
            Hooks { default: mutating_policy::default, validate: mutating_policy::binding, ..PLAIN }
        }
        _ => PLAIN,
    }
}

fn core(kind: &str) -> Hooks {
    match kind {
        "Pod" => Hooks {
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
        "PodTemplate" => Hooks {
            default: workloads::default_pod_template,
            validate: workload_validation::validate_pod_template,
            return_deleted: true,
            ..PLAIN
        },
        "ReplicationController" => Hooks {
            default: workloads::default_rc,
            validate: workload_validation::validate_rc,
            validate_sub: workload_status::validate,
            dependents: Dependents::Orphan,
            ..PLAIN
        },
        "Service" => Hooks {
            default: services::default,
            prepare_update: services::prepare_update,
            validate: services::validate,
            validate_update: services::validate_update,
            validate_sub: statuses::service,
            return_deleted: true,
            ..NO_GENERATION
        },
        "Endpoints" => Hooks {
            default: services::default_endpoints,
            validate: endpoints::validate,
            create_on_update: true,
            ..NO_GENERATION
        },
        "Namespace" => Hooks {
            default: simple::default_namespace,
            prepare_create: simple::prepare_namespace,
            prepare_update: simple::prepare_namespace_update,
            validate_sub: statuses::namespace,
            ..NO_GENERATION
        },
        "Node" => Hooks {
            default: nodes::default,
            validate: nodes::validate,
            validate_create: nodes::validate_create,
            validate_update: nodes::validate_update,
            validate_sub: statuses::node,
            ..NO_GENERATION
        },
        _ => core_data(kind),
    }
}

/// Kinds of the core group that hold data, storage and bounds.
fn core_data(kind: &str) -> Hooks {
    match kind {
        "Secret" => Hooks {
            default: simple::default_secret,
            validate: simple::validate_secret,
            validate_update: simple::validate_secret_update,
            ..NO_GENERATION
        },
        "ConfigMap" => Hooks {
            validate: simple::validate_config_map,
            validate_update: simple::validate_immutable_data,
            ..NO_GENERATION
        },
        "PersistentVolume" => Hooks {
            default: volumes::default_pv,
            validate: persistent_volumes::validate,
            validate_update: persistent_volumes::validate_update,
            return_deleted: true,
            ..NO_GENERATION
        },
        "PersistentVolumeClaim" => Hooks {
            default: volumes::default_pvc,
            validate: volumes::validate_pvc,
            validate_update: volumes::validate_pvc_update,
            validate_sub: statuses::claim,
            return_deleted: true,
            ..NO_GENERATION
        },
        "LimitRange" => Hooks {
            default: simple::default_limit_range,
            validate: limit_ranges::validate,
            create_on_update: true,
            ..NO_GENERATION
        },
        "ResourceQuota" => Hooks {
            validate: quotas::validate,
            validate_update: quotas::validate_update,
            validate_sub: statuses::quota,
            return_deleted: true,
            ..NO_GENERATION
        },
        "ServiceAccount" => Hooks { return_deleted: true, ..NO_GENERATION },
        "Event" => Hooks { validate: events::validate_core, create_on_update: true, ..NO_GENERATION },
        _ => NO_GENERATION,
    }
}

fn workloads(kind: &str) -> Hooks {
    match kind {
        "Deployment" => Hooks {
            validate_sub: workload_status::validate,
            default: workloads::default_deployment,
            validate: workload_validation::validate_deployment,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "ReplicaSet" => Hooks {
            validate_sub: workload_status::validate,
            default: workloads::default_replica_set,
            validate: workload_validation::validate_replica_set,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "StatefulSet" => Hooks {
            validate_sub: workload_status::validate,
            default: workloads::default_stateful_set,
            validate: workload_validation::validate_stateful_set,
            validate_update: workload_validation::validate_stateful_set_update,
            ..PLAIN
        },
        "DaemonSet" => Hooks {
            validate_sub: workload_status::validate,
            default: workloads::default_daemon_set,
            validate: workload_validation::validate_daemon_set,
            validate_update: workload_validation::validate_selector_update,
            ..PLAIN
        },
        "Job" => Hooks {
            default: workloads::default_job,
            prepare_create: workloads::prepare_job,
            validate: workload_validation::validate_job,
            validate_update: workload_validation::validate_job_update,
            validate_sub: job_status::validate,
            dependents: Dependents::Orphan,
            ..PLAIN
        },
        "CronJob" => {
            Hooks { default: workloads::default_cron_job, validate: workload_validation::validate_cron_job, ..PLAIN }
        }
        "HorizontalPodAutoscaler" => Hooks {
            default: workloads::default_hpa,
            validate: autoscalers::validate,
            validate_sub: statuses::autoscaler,
            ..NO_GENERATION
        },
        "ControllerRevision" => {
            Hooks { validate_update: workload_validation::validate_revision_update, ..NO_GENERATION }
        }
        _ => PLAIN,
    }
}
