//! The built-in resources of v1.36, one line each.

use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::typed::Typed;

use super::descriptor::{Descriptor, Sub};
use super::{faces, fields};
use crate::strategy;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list"];
const GPU: &[&str] = &["get", "patch", "update"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const STREAM: &[&str] = &["create", "get"];
const SCALE: Option<(&str, &str, &str)> = Some(("autoscaling", "v1", "Scale"));

const fn sub(name: &'static str, verbs: &'static [&'static str]) -> Sub {
    Sub { name, verbs, gvk: None }
}
const fn sub_as(
    name: &'static str,
    verbs: &'static [&'static str],
    gvk: Option<(&'static str, &'static str, &'static str)>,
) -> Sub {
    Sub { name, verbs, gvk }
}

struct Row {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static str,
    categories: &'static str,
    verbs: &'static [&'static str],
    subs: &'static [Sub],
}

const N: bool = true;
const C: bool = false;
const NONE: &[Sub] = &[];
const STATUS: &[Sub] = &[sub("status", GPU)];
const STATUS_SCALE: &[Sub] = &[sub_as("scale", GPU, SCALE), sub("status", GPU)];
const NODE_SUBS: &[Sub] = &[sub_as("proxy", PROXY, Some(("", "v1", "NodeProxyOptions"))), sub("status", GPU)];
const SVC_SUBS: &[Sub] = &[sub_as("proxy", PROXY, Some(("", "v1", "ServiceProxyOptions"))), sub("status", GPU)];
const NS_SUBS: &[Sub] = &[sub("finalize", &["update"]), sub("status", GPU)];
const SA_SUBS: &[Sub] = &[sub_as("token", CREATE, Some(("authentication.k8s.io", "v1", "TokenRequest")))];
const CSR_SUBS: &[Sub] = &[sub("approval", GPU), sub("status", GPU)];
const POD_SUBS: &[Sub] = &[
    sub_as("attach", STREAM, Some(("", "v1", "PodAttachOptions"))),
    sub_as("binding", CREATE, Some(("", "v1", "Binding"))),
    sub("ephemeralcontainers", GPU),
    sub_as("eviction", CREATE, Some(("policy", "v1", "Eviction"))),
    sub_as("exec", STREAM, Some(("", "v1", "PodExecOptions"))),
    sub("log", &["get"]),
    sub_as("portforward", STREAM, Some(("", "v1", "PodPortForwardOptions"))),
    sub_as("proxy", PROXY, Some(("", "v1", "PodProxyOptions"))),
    sub("resize", GPU),
    sub("status", GPU),
];

const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const NET: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const DRA: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";

#[allow(clippy::too_many_arguments)]
const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static str,
    categories: &'static str,
    verbs: &'static [&'static str],
    subs: &'static [Sub],
) -> Row {
    Row { group, version, plural, kind, namespaced, short, categories, verbs, subs }
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("", "v1", "bindings", "Binding", N, "", "", CREATE, NONE),
    row("", "v1", "componentstatuses", "ComponentStatus", C, "cs", "", READ, NONE),
    row("", "v1", "configmaps", "ConfigMap", N, "cm", "", ALL, NONE),
    row("", "v1", "endpoints", "Endpoints", N, "ep", "", ALL, NONE),
    row("", "v1", "events", "Event", N, "ev", "", ALL, NONE),
    row("", "v1", "limitranges", "LimitRange", N, "limits", "", ALL, NONE),
    row("", "v1", "namespaces", "Namespace", C, "ns", "", &["create", "delete", "get", "list", "patch", "update", "watch"], NS_SUBS),
    row("", "v1", "nodes", "Node", C, "no", "", ALL, NODE_SUBS),
    row("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", N, "pvc", "", ALL, STATUS),
    row("", "v1", "persistentvolumes", "PersistentVolume", C, "pv", "", ALL, STATUS),
    row("", "v1", "pods", "Pod", N, "po", "all", ALL, POD_SUBS),
    row("", "v1", "podtemplates", "PodTemplate", N, "", "", ALL, NONE),
    row("", "v1", "replicationcontrollers", "ReplicationController", N, "rc", "all", ALL, STATUS_SCALE),
    row("", "v1", "resourcequotas", "ResourceQuota", N, "quota", "", ALL, STATUS),
    row("", "v1", "secrets", "Secret", N, "", "", ALL, NONE),
    row("", "v1", "serviceaccounts", "ServiceAccount", N, "sa", "", ALL, SA_SUBS),
    row("", "v1", "services", "Service", N, "svc", "all", ALL, SVC_SUBS),
    row(ADMISSION, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", C, "", "api-extensions", ALL, NONE),
    row(ADMISSION, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", C, "", "api-extensions", ALL, NONE),
    row(ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", C, "", "api-extensions", ALL, NONE),
    row(ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", C, "", "api-extensions", ALL, STATUS),
    row(ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", C, "", "api-extensions", ALL, NONE),
    row(ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", C, "", "api-extensions", ALL, NONE),
    row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", C, "crd,crds", "api-extensions", ALL, STATUS),
    row("apiregistration.k8s.io", "v1", "apiservices", "APIService", C, "", "api-extensions", ALL, STATUS),
    row("apps", "v1", "controllerrevisions", "ControllerRevision", N, "", "", ALL, NONE),
    row("apps", "v1", "daemonsets", "DaemonSet", N, "ds", "all", ALL, STATUS),
    row("apps", "v1", "deployments", "Deployment", N, "deploy", "all", ALL, STATUS_SCALE),
    row("apps", "v1", "replicasets", "ReplicaSet", N, "rs", "all", ALL, STATUS_SCALE),
    row("apps", "v1", "statefulsets", "StatefulSet", N, "sts", "all", ALL, STATUS_SCALE),
    row(AUTHN, "v1", "selfsubjectreviews", "SelfSubjectReview", C, "", "", CREATE, NONE),
    row(AUTHN, "v1", "tokenreviews", "TokenReview", C, "", "", CREATE, NONE),
    row(AUTHZ, "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", N, "", "", CREATE, NONE),
    row(AUTHZ, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", C, "", "", CREATE, NONE),
    row(AUTHZ, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", C, "", "", CREATE, NONE),
    row(AUTHZ, "v1", "subjectaccessreviews", "SubjectAccessReview", C, "", "", CREATE, NONE),
    row("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", N, "hpa", "all", ALL, STATUS),
    row("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", N, "hpa", "all", ALL, STATUS),
    row("batch", "v1", "cronjobs", "CronJob", N, "cj", "all", ALL, STATUS),
    row("batch", "v1", "jobs", "Job", N, "", "all", ALL, STATUS),
    row("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", C, "csr", "", ALL, CSR_SUBS),
    row("coordination.k8s.io", "v1", "leases", "Lease", N, "", "", ALL, NONE),
    row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", N, "", "", ALL, NONE),
    row("events.k8s.io", "v1", "events", "Event", N, "ev", "", ALL, NONE),
    row("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema", C, "", "", ALL, STATUS),
    row("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", C, "", "", ALL, STATUS),
    row(NET, "v1", "ingressclasses", "IngressClass", C, "", "", ALL, NONE),
    row(NET, "v1", "ingresses", "Ingress", N, "ing", "", ALL, STATUS),
    row(NET, "v1", "ipaddresses", "IPAddress", C, "ip", "", ALL, NONE),
    row(NET, "v1", "networkpolicies", "NetworkPolicy", N, "netpol", "", ALL, NONE),
    row(NET, "v1", "servicecidrs", "ServiceCIDR", C, "", "", ALL, STATUS),
    row("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", C, "", "", ALL, NONE),
    row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", N, "pdb", "", ALL, STATUS),
    row(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", C, "", "", ALL, NONE),
    row(RBAC, "v1", "clusterroles", "ClusterRole", C, "", "", ALL, NONE),
    row(RBAC, "v1", "rolebindings", "RoleBinding", N, "", "", ALL, NONE),
    row(RBAC, "v1", "roles", "Role", N, "", "", ALL, NONE),
    row(DRA, "v1", "deviceclasses", "DeviceClass", C, "", "", ALL, NONE),
    row(DRA, "v1", "resourceclaims", "ResourceClaim", N, "", "", ALL, STATUS),
    row(DRA, "v1", "resourceclaimtemplates", "ResourceClaimTemplate", N, "", "", ALL, NONE),
    row(DRA, "v1", "resourceslices", "ResourceSlice", C, "", "", ALL, NONE),
    row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", C, "pc", "", ALL, NONE),
    row(STORAGE, "v1", "csidrivers", "CSIDriver", C, "", "", ALL, NONE),
    row(STORAGE, "v1", "csinodes", "CSINode", C, "", "", ALL, NONE),
    row(STORAGE, "v1", "csistoragecapacities", "CSIStorageCapacity", N, "", "", ALL, NONE),
    row(STORAGE, "v1", "storageclasses", "StorageClass", C, "sc", "", ALL, NONE),
    row(STORAGE, "v1", "volumeattachments", "VolumeAttachment", C, "", "", ALL, STATUS),
    row(STORAGE, "v1", "volumeattributesclasses", "VolumeAttributesClass", C, "vac", "", ALL, NONE),
];

/// Where upstream keeps what it does not keep under the plural's name.
fn prefix(row: &Row) -> String {
    match (row.group, row.plural) {
        (AUTHN | AUTHZ, _) | ("", "bindings" | "componentstatuses") => String::new(),
        ("", "nodes") => "minions/".into(),
        ("", "services") => "services/specs/".into(),
        ("", "endpoints") => "services/endpoints/".into(),
        ("", "replicationcontrollers") => "controllers/".into(),
        (NET, "ingresses") => "ingress/".into(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", plural) => format!("{}/{plural}/", row.group),
        (_, plural) => format!("{plural}/"),
    }
}

fn name_rule(row: &Row) -> NameRule {
    match (row.group, row.plural) {
        (RBAC | "apiregistration.k8s.io", _) => NameRule::PathSegment,
        ("", "namespaces") => NameRule::Label,
        (NET, "ipaddresses") => NameRule::Address,
        ("", "services") => NameRule::Dns1035,
        _ => NameRule::Subdomain,
    }
}

/// All built-in descriptors.
pub fn builtin() -> Vec<Descriptor> {
    let words = |text: &str| text.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect();
    ROWS.iter()
        .map(|row| Descriptor {
            group: row.group.into(),
            version: row.version.into(),
            plural: row.plural.into(),
            singular: row.kind.to_lowercase(),
            kind: row.kind.into(),
            namespaced: row.namespaced,
            short: words(row.short),
            categories: words(row.categories),
            verbs: row.verbs.to_vec(),
            subresources: row.subs.to_vec(),
            prefix: prefix(row),
            ty: Typed::of_kind(row.group, row.version, row.kind),
            names: name_rule(row),
            selectable: fields::selectable(row.group, row.kind).iter().map(|path| (*path).into()).collect(),
            strategy: strategy::of(row.group, row.kind),
            converter: faces::of(row.group, row.version, row.kind),
            custom: None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_kind_has_a_schema() {
        for d in builtin() {
            assert!(!d.ty.is_unknown(), "{} {}", d.group, d.kind);
        }
    }
}
