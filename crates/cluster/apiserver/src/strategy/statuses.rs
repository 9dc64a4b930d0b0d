//! Updates of the status of kinds that make no pods (`Validate*StatusUpdate` of `pkg/apis/*/validation`). What is not
//! here is not checked upstream either: a PersistentVolume's status, and Deployments and their like are in
//! `workload_status`.

use std::net::IpAddr;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{NameRule, check_qualified_name};
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of};
use super::{nodes, quotas};

/// `ValidateNodeUpdate` is for both.
pub fn node(sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
    if sub == "status" {
        nodes::validate_update(new, old, errors);
    }
}

/// `ValidateServiceStatusUpdate`.
pub fn service(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    let ingress = items(new, &["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && new.str_at(&["spec", "type"]) != "LoadBalancer" {
        return errors.forbidden(INGRESS, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (i, point) in ingress.iter().enumerate() {
        let field = format!("{INGRESS}[{i}].ipMode");
        match (point.get("ipMode").filter(|mode| !mode.is_null()), point.str_at(&["ip"])) {
            (None, "") => {}
            (None, _) => errors.required(&field, "must be specified when `ip` is set"),
            (Some(_), "") => errors.forbidden(&field, "may not be specified when `ip` is not set"),
            (Some(mode), _) => one_of(mode, &field, &["Proxy", "VIP"], errors),
        }
    }
    load_balancer(ingress, errors);
}

/// `ValidateIngressStatusUpdate`.
pub fn ingress(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub == "status" {
        load_balancer(items(new, &["status", "loadBalancer", "ingress"]), errors);
    }
}

const INGRESS: &str = "status.loadBalancer.ingress";

fn load_balancer(ingress: &[Value], errors: &mut FieldErrors) {
    for (i, point) in ingress.iter().enumerate() {
        let (ip, hostname) = (point.str_at(&["ip"]), point.str_at(&["hostname"]));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(&format!("{INGRESS}[{i}].ip"), &ip.into(), detail);
        }
        if hostname.is_empty() {
            continue;
        }
        let field = format!("{INGRESS}[{i}].hostname");
        for problem in NameRule::Subdomain.check(hostname) {
            errors.invalid(&field, &hostname.into(), &problem);
        }
        if hostname.parse::<IpAddr>().is_ok() {
            errors.invalid(&field, &hostname.into(), "must be a DNS name, not an IP address");
        }
    }
}

const RESIZES: &[&str] = &[
    "ControllerResizeFailed",
    "ControllerResizeInProgress",
    "NodeResizeFailed",
    "NodeResizeInProgress",
    "NodeResizePending",
];

/// `ValidatePersistentVolumeClaimStatusUpdate`.
pub fn claim(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    let amounts = |key: &str| new.at(&["status", key]).and_then(Value::as_object).into_iter().flatten();
    let negative =
        |amount: &Value| amount.as_str().and_then(|text| text.parse::<Quantity>().ok()).is_none_or(|q| q.is_negative());
    for (name, amount) in amounts("capacity") {
        if negative(amount) {
            errors.invalid(&format!("status.capacity[{name}]"), amount, "must be a valid resource quantity");
        }
    }
    for (name, state) in amounts("allocatedResourceStatuses") {
        claim_resource(name, "status.allocatedResourceStatus", errors);
        one_of(state, "status.allocatedResourceStatus", RESIZES, errors);
    }
    for (name, amount) in amounts("allocatedResources") {
        claim_resource(name, "status.allocatedResources", errors);
        if negative(amount) {
            errors.invalid(&format!("status.allocatedResources[{name}]"), amount, "must be a valid resource quantity");
        }
    }
}

/// Of the API's own names only `storage` is one of a claim.
fn claim_resource(name: &str, field: &str, errors: &mut FieldErrors) {
    let problems = check_qualified_name(name);
    for problem in &problems {
        errors.invalid(field, &name.into(), problem);
    }
    let native = name.split_once('/').is_none_or(|(domain, _)| domain.contains("kubernetes.io"));
    if problems.is_empty() && native && name != "storage" {
        errors.not_supported(field, &name.into(), &["storage"]);
    }
}

/// `ValidatePodDisruptionBudgetStatusUpdate`.
pub fn budget(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in items(new, &["status", "conditions"]).iter().enumerate() {
        let at = |key: &str| format!("status.conditions[{i}].{key}");
        let kind = condition.str_at(&["type"]);
        if seen.contains(&kind) {
            errors.duplicate(&at("type"), &kind.into());
        }
        seen.push(kind);
        if kind.is_empty() {
            errors.required(&at("type"), "must be set");
        } else {
            check_qualified_name(kind).iter().for_each(|problem| errors.invalid(&at("type"), &kind.into(), problem));
        }
        one_of(&condition["status"], &at("status"), &["False", "True", "Unknown"], errors);
        for (key, missing) in [("lastTransitionTime", "must be set"), ("reason", "must be set")] {
            if condition.str_at(&[key]).is_empty() {
                errors.required(&at(key), missing);
            }
        }
    }
    for key in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        super::tools::not_negative(new, &["status", key], errors);
    }
}

/// `ValidateHorizontalPodAutoscalerStatusUpdate`.
pub fn autoscaler(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub == "status" {
        for key in ["currentReplicas", "desiredReplicas"] {
            super::tools::not_negative(new, &["status", key], errors);
        }
    }
}

/// `ValidateResourceQuotaStatusUpdate`.
pub fn quota(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    if sub != "status" {
        return;
    }
    for key in ["hard", "used"] {
        for (name, amount) in new.at(&["status", key]).and_then(Value::as_object).into_iter().flatten() {
            quotas::limit(&format!("status.{key}"), name, amount, errors);
        }
    }
}

/// `ValidateNamespaceStatusUpdate` and `ValidateNamespaceFinalizeUpdate`.
pub fn namespace(sub: &str, new: &Value, _old: &Value, errors: &mut FieldErrors) {
    match sub {
        "status" => {
            let phase = new.at(&["status", "phase"]).cloned().unwrap_or_default();
            let (wanted, detail) = match new.is_deleting() {
                false => ("Active", "may only be 'Active' if `deletionTimestamp` is empty"),
                true => ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty"),
            };
            if phase != wanted {
                errors.invalid("status.Phase", &phase, detail);
            }
        }
        "finalize" => {
            for (i, finalizer) in items(new, &["spec", "finalizers"]).iter().enumerate() {
                let name = finalizer.as_str().unwrap_or_default();
                let field = format!("spec.finalizers[{i}]");
                check_qualified_name(name).iter().for_each(|problem| errors.invalid(&field, finalizer, problem));
                if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
                    let detail = "name is neither a standard finalizer name nor is it fully qualified";
                    errors.invalid(&field, finalizer, detail);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    type Check = fn(&str, &Value, &Value, &mut FieldErrors);

    fn reported(table: &[(Check, Value, &[&str])]) {
        for (check, object, wanted) in table {
            let mut errors = FieldErrors::default();
            check("status", object, &json!({}), &mut errors);
            assert_told(&errors, wanted, object);
        }
    }

    #[test]
    fn nodes_services_and_ingresses() {
        reported(&[
            (
                node,
                json!({"status": {"capacity": {"cpu": "2", "pods": "110"}, "addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "10.0.0.1"}]}}),
                &[],
            ),
            (
                node,
                json!({"status": {"capacity": {"cpu": "-1"}, "allocatable": {"pods": "1.5", "x.io/gpu": "0.5"}}}),
                &[
                    "status.capacity.cpu: must be greater than or equal to 0",
                    "status.allocatable.pods: must be an integer",
                    "status.allocatable.x.io/gpu: must be an integer",
                ],
            ),
            (
                node,
                json!({"status": {"addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "10.0.0.1"}]}}),
                &["status.addresses[1]: Duplicate value"],
            ),
            (
                service,
                json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}),
                &["status.loadBalancer.ingress: may only be used when `spec.type` is 'LoadBalancer'"],
            ),
            (
                service,
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [
                {"ip": "1.2.3.4", "ipMode": "VIP"}, {"hostname": "a.example.com"}]}}}),
                &[],
            ),
            (
                service,
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [
                {"ip": "1.2.3", "ipMode": "VIP"}, {"ip": "1.2.3.4", "ipMode": "x"}, {"hostname": "1.2.3.4"}, {"ipMode": "VIP"}]}}}),
                &[
                    "status.loadBalancer.ingress[1].ipMode: Unsupported value",
                    "status.loadBalancer.ingress[3].ipMode: may not be specified when `ip` is not set",
                    "status.loadBalancer.ingress[0].ip: must be a valid IP address",
                    "status.loadBalancer.ingress[2].hostname: must be a DNS name, not an IP address",
                ],
            ),
            (
                ingress,
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "x"}, {"hostname": "A"}]}}}),
                &[
                    "status.loadBalancer.ingress[0].ip: must be a valid IP address",
                    "status.loadBalancer.ingress[1].hostname: a lowercase RFC 1123 subdomain",
                ],
            ),
        ]);
    }

    #[test]
    fn claims_and_budgets() {
        reported(&[
            (
                claim,
                json!({"status": {"capacity": {"storage": "1Gi"}, "allocatedResources": {"storage": "2Gi"},
                "allocatedResourceStatuses": {"storage": "NodeResizePending"}}}),
                &[],
            ),
            (
                claim,
                json!({"status": {"capacity": {"storage": "-1"}, "allocatedResources": {"cpu": "1"},
                "allocatedResourceStatuses": {"storage": "Maybe"}}}),
                &[
                    "status.capacity[storage]: must be a valid resource quantity",
                    "status.allocatedResourceStatus: Unsupported value: \"Maybe\"",
                    "status.allocatedResources: Unsupported value: \"cpu\"",
                ],
            ),
            (
                budget,
                json!({"status": {"disruptionsAllowed": 1, "conditions": [{"type": "DisruptionAllowed", "status": "True",
                "reason": "SufficientPods", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}),
                &[],
            ),
            (
                budget,
                json!({"status": {"disruptionsAllowed": -1, "expectedPods": -2, "conditions": [{"status": "maybe"}]}}),
                &[
                    "status.conditions[0].type: must be set",
                    "status.conditions[0].status: Unsupported value",
                    "status.conditions[0].lastTransitionTime: must be set",
                    "status.conditions[0].reason: must be set",
                    "status.disruptionsAllowed: must be greater than or equal to 0",
                    "status.expectedPods: must be greater than or equal to 0",
                ],
            ),
        ]);
    }

    #[test]
    fn autoscalers_quotas_and_namespaces() {
        reported(&[
            (
                autoscaler,
                json!({"status": {"currentReplicas": -1, "desiredReplicas": 3}}),
                &["status.currentReplicas: must be greater than or equal to 0"],
            ),
            (quota, json!({"status": {"hard": {"pods": "1", "cpu": "1.5"}, "used": {"pods": "0"}}}), &[]),
            (
                quota,
                json!({"status": {"hard": {"pods": "1.5"}, "used": {"pods": "-1", "bananas": "1"}}}),
                &[
                    "status.hard[pods]: must be an integer",
                    "status.used[pods]: must be greater than or equal to 0",
                    "status.used[bananas]: must be a standard resource for quota",
                ],
            ),
            (namespace, json!({"status": {"phase": "Active"}}), &[]),
            (namespace, json!({"status": {"phase": "Terminating"}}), &["status.Phase: may only be 'Active'"]),
            (
                namespace,
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Active"}}),
                &["status.Phase: may only be 'Terminating'"],
            ),
        ]);
        let mut errors = FieldErrors::default();
        let finalizers = json!({"spec": {"finalizers": ["kubernetes", "a.example.com/b", "mine"]}});
        namespace("finalize", &finalizers, &json!({}), &mut errors);
        assert_told(&errors, &["spec.finalizers[2]: neither a standard finalizer name"], &finalizers);
    }
}
