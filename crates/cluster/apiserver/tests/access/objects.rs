//! A good object of every kind that is stored.

use kinit_apiserver::resources::Descriptor;
use serde_json::{Value, json};

/// An object of a kind that the server accepts, by a name (as far as the kind lets one choose).
pub fn of(desc: &Descriptor, name: &str) -> Value {
    let mut object = match desc.kind.as_str() {
        kind @ ("Pod"
        | "PodTemplate"
        | "Deployment"
        | "ReplicaSet"
        | "StatefulSet"
        | "DaemonSet"
        | "Job"
        | "CronJob"
        | "ReplicationController") => workload(kind),
        kind @ ("PersistentVolume"
        | "PersistentVolumeClaim"
        | "StorageClass"
        | "VolumeAttachment"
        | "CSINode"
        | "CSIStorageCapacity"
        | "VolumeAttributesClass"
        | "CSIDriver") => volume(kind, name),
        kind => other(kind, &desc.group, name),
    };
    object["metadata"]["name"] = self::name(desc, name).into();
    object
}

/// A name as the kind takes it: addresses are named by addresses.
pub fn name(desc: &Descriptor, name: &str) -> String {
    match desc.kind.as_str() {
        // A definition is named by what it defines.
        "CustomResourceDefinition" => format!("{}s.example.com", name.replace('-', "")),
        // And an APIService by its version and its group.
        "APIService" => format!("v1.{name}.example.com"),
        "IPAddress" => format!("2001:db8::{:x}", name.bytes().map(u32::from).sum::<u32>()),
        _ => name.to_owned(),
    }
}

fn workload(kind: &str) -> Value {
    let containers = json!([{"name": "c", "image": "i"}]);
    let selector = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}});
    let job = json!({"template": {"spec": {"containers": containers, "restartPolicy": "Never"}}});
    match kind {
        "Pod" => json!({"spec": {"containers": containers}}),
        "PodTemplate" => json!({"template": template}),
        "Job" => json!({"spec": job}),
        "CronJob" => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": job}}}),
        "ReplicationController" => json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        "StatefulSet" => json!({"spec": {"selector": selector, "serviceName": "s", "template": template}}),
        _ => json!({"spec": {"selector": selector, "template": template}}),
    }
}

fn volume(kind: &str, name: &str) -> Value {
    match kind {
        "PersistentVolume" => json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/tmp"}}}),
        "PersistentVolumeClaim" => json!({"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}),
        "StorageClass" => json!({"provisioner": "example.com/p"}),
        "VolumeAttachment" => json!({"spec": {"attacher": "example.com", "nodeName": "n",
            "source": {"persistentVolumeName": name}}}),
        "CSINode" => json!({"spec": {"drivers": []}}),
        "CSIStorageCapacity" => json!({"storageClassName": "s"}),
        "VolumeAttributesClass" => json!({"driverName": "example.com", "parameters": {"a": "b"}}),
        _ => json!({"spec": {}}),
    }
}

fn other(kind: &str, group: &str, name: &str) -> Value {
    let hook = json!([{"name": "h.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:9/"},
        "rules": [{"operations": ["CREATE"], "apiGroups": ["none.example.com"], "apiVersions": ["v1"], "resources": ["nones"]}]}]);
    match kind {
        "Event" => event(group),
        "Gadget" | "Realm" => json!({"spec": {"replicas": 1}}),
        "Endpoints" => json!({"subsets": []}),
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "EndpointSlice" => json!({"addressType": "IPv4", "endpoints": []}),
        "LimitRange" => json!({"spec": {"limits": []}}),
        "ResourceQuota" => json!({"spec": {"hard": {"count/nones.example.com": "1"}}}),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => json!({"webhooks": hook}),
        "CertificateSigningRequest" => {
            json!({"spec": {"request": REQUEST, "signerName": "example.com/s", "usages": ["client auth"]}})
        }
        "ControllerRevision" => json!({"revision": 1, "data": {}}),
        "HorizontalPodAutoscaler" => json!({"spec": {"maxReplicas": 3,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}}),
        "PriorityClass" => json!({"value": 5}),
        "RuntimeClass" => json!({"handler": "h"}),
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "IngressClass" => json!({"spec": {"controller": "example.com/c"}}),
        "NetworkPolicy" => json!({"spec": {"podSelector": {}}}),
        "IPAddress" => {
            json!({"spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "s"}}})
        }
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.200.0.0/16"]}}),
        "ClusterRoleBinding" | "RoleBinding" => json!({"subjects": [],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}}),
        "ClusterRole" | "Role" => json!({"rules": []}),
        "PodDisruptionBudget" => json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}}),
        "ResourceClaim" => json!({"spec": {"devices": {}}}),
        "ResourceClaimTemplate" => json!({"spec": {"spec": {"devices": {}}}}),
        "ResourceSlice" => json!({"spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": name,
            "generation": 1, "resourceSliceCount": 1}}}),
        "CustomResourceDefinition" => {
            let name = name.replace('-', "");
            let schema = json!({"openAPIV3Schema": {"type": "object"}});
            json!({"spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": format!("{name}s"), "kind": name},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}})
        }
        "APIService" => {
            let group = format!("{name}.example.com");
            json!({"spec": {"group": group, "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}})
        }
        "FlowSchema" => json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}),
        "PriorityLevelConfiguration" => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        "ValidatingAdmissionPolicy" => json!({"spec": {"validations": [{"expression": "true"}],
            "matchConstraints": {"resourceRules": hook[0]["rules"]}}}),
        "ValidatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        "MutatingAdmissionPolicy" => json!({"spec": {"matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
            "apiGroups": ["example.com"], "apiVersions": ["v1"], "resources": ["nothing"]}]},
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
        "MutatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "p"}}),
        _ => json!({}),
    }
}

fn event(group: &str) -> Value {
    let about = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    if group.is_empty() {
        return json!({"involvedObject": about, "reason": "r", "message": "m", "type": "Normal"});
    }
    json!({"regarding": about, "reason": "r", "action": "a", "note": "n", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "c-1"})
}

/// A certificate request: any that can be read.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlITE1IUUNBUUF3RWpFUU1BNEdBMVVFQXd3SGMyOXRaVzl1WlRCWk1CTUdCeXFHU000OUFnRUdDQ3FHU000OQpBd0VIQTBJQUJGeW9DVUJMT2VrQlI4d1FKTnZQVmx0c0g5bjhPUjhQWXFhdGYrZm1GakNFcytCR3RrZVlUWTJGClplYk9QZ0FWR0hTSjNPazB2STdialgyTUhzWWZlOXVnQURBS0JnZ3Foa2pPUFFRREFnTkhBREJFQWlBMms4VXMKSVhYM3dkUDhiMzVBTHdWa2lvdXg1M1BVLzM0R2FhR3QvQzN0bXdJZ1kxTTlJNDlnL3lMemdPblUwODR6MzFYbQpHRmRZc1JWZkxzZm1jTldXekowPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";
