//! What Go always writes, in the stored objects of every built-in kind.
//!
//! The generated types hold what the API requires as fields that are never left out. What a type writes back of an
//! object that the object itself does not have is a field that Go would have written and we did not.

use k8s_openapi::api::{
    admissionregistration, apps, autoscaling, batch, certificates, coordination, core, discovery, events, flowcontrol,
    networking, node, policy, rbac, resource, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use kinit_apiserver::resources::Descriptor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::{ADMIN, Api, collection};
use crate::objects;

fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed = serde_json::from_value::<T>(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(typed).unwrap()
}

/// The object as its generated type writes it; `None` for kinds without one.
fn written(desc: &Descriptor, object: &Value) -> Option<Value> {
    macro_rules! kinds {
        ($($group:literal / $version:literal $($kind:ident)* => $area:ident :: $module:ident;)*) => {
            match (desc.group.as_str(), desc.version.as_str(), desc.kind.as_str()) {
                $($(($group, $version, kind) if kind == stringify!($kind) => {
                    Some(through::<$area::$module::$kind>(object))
                })*)*
                _ => None,
            }
        };
    }
    kinds! {
        ""/"v1" ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim PersistentVolume Pod PodTemplate
            ReplicationController ResourceQuota Secret ServiceAccount Service => core::v1;
        "admissionregistration.k8s.io"/"v1" MutatingWebhookConfiguration ValidatingAdmissionPolicy
            ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration => admissionregistration::v1;
        "apiextensions.k8s.io"/"v1" CustomResourceDefinition => apiextensions::v1;
        "apiregistration.k8s.io"/"v1" APIService => apiregistration::v1;
        "apps"/"v1" ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet => apps::v1;
        "autoscaling"/"v1" HorizontalPodAutoscaler => autoscaling::v1;
        "autoscaling"/"v2" HorizontalPodAutoscaler => autoscaling::v2;
        "batch"/"v1" CronJob Job => batch::v1;
        "certificates.k8s.io"/"v1" CertificateSigningRequest => certificates::v1;
        "coordination.k8s.io"/"v1" Lease => coordination::v1;
        "discovery.k8s.io"/"v1" EndpointSlice => discovery::v1;
        "events.k8s.io"/"v1" Event => events::v1;
        "flowcontrol.apiserver.k8s.io"/"v1" FlowSchema PriorityLevelConfiguration => flowcontrol::v1;
        "networking.k8s.io"/"v1" IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR => networking::v1;
        "node.k8s.io"/"v1" RuntimeClass => node::v1;
        "policy"/"v1" PodDisruptionBudget => policy::v1;
        "rbac.authorization.k8s.io"/"v1" ClusterRoleBinding ClusterRole RoleBinding Role => rbac::v1;
        "resource.k8s.io"/"v1" DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice => resource::v1;
        "scheduling.k8s.io"/"v1" PriorityClass => scheduling::v1;
        "storage.k8s.io"/"v1" CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
            => storage::v1;
    }
}

/// The paths that `typed` has and `shown` has not.
fn missing(shown: &Value, typed: &Value, at: &str, out: &mut Vec<String>) {
    match (shown, typed) {
        (Value::Object(shown), Value::Object(typed)) => {
            for (key, value) in typed {
                let at = format!("{at}.{key}");
                match shown.get(key) {
                    Some(shown) => missing(shown, value, &at, out),
                    None => out.push(at),
                }
            }
        }
        (Value::Array(shown), Value::Array(typed)) => {
            shown.iter().zip(typed).for_each(|(shown, typed)| missing(shown, typed, at, out));
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_has_the_fields_that_the_api_requires() {
    let api = Api::start().await;
    let (mut wrong, mut seen) = (Vec::new(), 0);
    // Pods need one, and there is no controller here to make it.
    let account = serde_json::json!({"metadata": {"name": "default"}});
    api.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
    for desc in api.server.server.registry.all() {
        if desc.prefix.is_empty() || !desc.verbs.contains(&"create") {
            continue;
        }
        // Two faces of one kind are stored once.
        let name = format!("z-{}", desc.group.replace('.', "-") + &desc.version);
        let (path, name) = (collection(&desc, false), name.trim_end_matches('-').to_owned());
        let created = api.create(&path, &objects::of(&desc, &name)).await;
        let Some(typed) = written(&desc, &created) else {
            continue;
        };
        seen += 1;
        let mut paths = Vec::new();
        missing(&created, &typed, "", &mut paths);
        wrong.extend(paths.into_iter().map(|at| format!("{}/{} {}{at}", desc.group, desc.version, desc.kind)));
        let named = format!("{path}/{}", objects::name(&desc, &name));
        let _ = api.ask(ADMIN, "DELETE", &named, None).await;
    }
    assert!(seen > 55, "only {seen} kinds have a type");
    assert!(wrong.is_empty(), "fields that Go writes: {wrong:#?}");
}
