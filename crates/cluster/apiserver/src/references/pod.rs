//! The references of a pod.

use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::{Kind, Reference};

/// Containers of every kind.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Volume sources that name a secret, and the path to the name.
const SECRETS: [(&str, &[&str]); 10] = [
    ("secret", &["secretName"]),
    ("azureFile", &["secretName"]),
    ("cephfs", &["secretRef", "name"]),
    ("cinder", &["secretRef", "name"]),
    ("csi", &["nodePublishSecretRef", "name"]),
    ("flexVolume", &["secretRef", "name"]),
    ("iscsi", &["secretRef", "name"]),
    ("rbd", &["secretRef", "name"]),
    ("scaleIO", &["secretRef", "name"]),
    ("storageos", &["secretRef", "name"]),
];

/// Volume sources that name no object of the API beyond what [`SECRETS`] finds in them.
const FREE: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    // A volume without a source is an emptyDir.
    "name",
];

fn list<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.at(path).and_then(Value::as_array).into_iter().flatten()
}

/// Every object that a pod names, in no particular order; an object named twice is listed twice.
pub fn of_pod(pod: &Value) -> Vec<Reference> {
    let mut out = Vec::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            out.push(Reference { kind, name: name.to_owned() });
        }
    };
    add(Kind::ServiceAccount, pod.str_at(&["spec", "serviceAccountName"]));
    list(pod, &["spec", "imagePullSecrets"]).for_each(|s| add(Kind::Secret, s.str_at(&["name"])));
    for container in CONTAINERS.iter().flat_map(|kind| list(pod, &["spec", kind])) {
        for source in list(container, &["envFrom"]) {
            add(Kind::Secret, source.str_at(&["secretRef", "name"]));
            add(Kind::ConfigMap, source.str_at(&["configMapRef", "name"]));
        }
        for variable in list(container, &["env"]) {
            add(Kind::Secret, variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
            add(Kind::ConfigMap, variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    list(pod, &["spec", "volumes"]).for_each(|v| volume(pod, v, &mut add));
    resource_claims(pod, &mut add);
    out
}

fn volume(pod: &Value, volume: &Value, add: &mut impl FnMut(Kind, &str)) {
    for (source, path) in SECRETS {
        if let Some(source) = volume.get(source) {
            add(Kind::Secret, source.str_at(path));
        }
    }
    add(Kind::ConfigMap, volume.str_at(&["configMap", "name"]));
    for source in list(volume, &["projected", "sources"]) {
        add(Kind::Secret, source.str_at(&["secret", "name"]));
        add(Kind::ConfigMap, source.str_at(&["configMap", "name"]));
    }
    add(Kind::Claim, volume.str_at(&["persistentVolumeClaim", "claimName"]));
    if is_set(volume, "ephemeral") {
        add(Kind::Claim, &format!("{}-{}", pod.name(), volume.str_at(&["name"])));
    }
}

/// A claim is named in the spec, or made from a template and named in the status (`resourceclaim.Name`).
fn resource_claims(pod: &Value, add: &mut impl FnMut(Kind, &str)) {
    for claim in list(pod, &["spec", "resourceClaims"]) {
        add(Kind::ResourceClaim, claim.str_at(&["resourceClaimName"]));
        if claim.str_at(&["resourceClaimTemplateName"]).is_empty() {
            continue;
        }
        list(pod, &["status", "resourceClaimStatuses"])
            .filter(|s| s.str_at(&["name"]) == claim.str_at(&["name"]))
            .for_each(|s| add(Kind::ResourceClaim, s.str_at(&["resourceClaimName"])));
    }
    add(Kind::ResourceClaim, pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]));
}

fn is_set(value: &Value, key: &str) -> bool {
    value.get(key).is_some_and(|v| !v.is_null())
}

/// The first object of the API that a pod's spec needs, by the name of its resource: static pods, and so their mirrors,
/// may need none (`HasAPIObjectReference`). The order is upstream's. A volume of an unknown kind counts.
pub fn first_of(pod: &Value) -> Option<String> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Some("serviceaccounts".to_owned());
    }
    if list(pod, &["spec", "imagePullSecrets"]).next().is_some() || mentions(pod, "secretRef", "secretKeyRef") {
        return Some("secrets".to_owned());
    }
    let volumes = || list(pod, &["spec", "volumes"]);
    let projects = |kind: &str| volumes().flat_map(|v| list(v, &["projected", "sources"])).any(|s| is_set(s, kind));
    if volumes().any(needs_secret) || projects("secret") {
        return Some("secrets".to_owned());
    }
    if mentions(pod, "configMapRef", "configMapKeyRef")
        || volumes().any(|v| is_set(v, "configMap"))
        || projects("configMap")
    {
        return Some("configmaps".to_owned());
    }
    if list(pod, &["spec", "resourceClaims"]).next().is_some() {
        return Some("resourceclaims".to_owned());
    }
    volumes().find_map(needs)
}

/// Whether a container takes its environment from an object of a kind, even one without a name.
fn mentions(pod: &Value, from: &str, key: &str) -> bool {
    CONTAINERS.iter().flat_map(|kind| list(pod, &["spec", kind])).any(|container| {
        list(container, &["envFrom"]).any(|e| is_set(e, from))
            || list(container, &["env"]).any(|e| e.get("valueFrom").is_some_and(|v| is_set(v, key)))
    })
}

fn needs_secret(volume: &Value) -> bool {
    SECRETS.iter().any(|(source, path)| match volume.get(source) {
        Some(given) if *source == "secret" => !given.is_null(),
        Some(given) => given.at(&path[..1]).is_some_and(|v| !v.is_null() && v != ""),
        None => false,
    })
}

fn needs(volume: &Value) -> Option<String> {
    let sources = volume.as_object().into_iter().flatten();
    let mut sources = sources.filter(|(k, v)| !v.is_null() && !FREE.contains(&k.as_str())).map(|(k, _)| k.as_str());
    Some(match sources.next()? {
        "csi" => "csidrivers (via CSI volumes)".to_owned(),
        "glusterfs" => "endpoints (via glusterFS volumes)".to_owned(),
        "persistentVolumeClaim" => "persistentvolumeclaims".to_owned(),
        "ephemeral" => "persistentvolumeclaims (via ephemeral volumes)".to_owned(),
        "azureFile" => "secrets (via azureFile volumes)".to_owned(),
        "projected" => return list(volume, &["projected", "sources"]).find_map(|s| projected(s, volume)),
        _ => format!("something unknown (via volume \"{}\")", volume.str_at(&["name"])),
    })
}

fn projected(source: &Value, volume: &Value) -> Option<String> {
    if is_set(source, "serviceAccountToken") {
        return Some("serviceaccounts (via projected volumes)".to_owned());
    }
    if is_set(source, "clusterTrustBundle") {
        return Some("clustertrustbundles".to_owned());
    }
    if is_set(source, "podCertificate") {
        return Some("podcertificates".to_owned());
    }
    let known = is_set(source, "downwardAPI");
    (!known).then(|| format!("something unknown (via projected volume \"{}\")", volume.str_at(&["name"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A part of a pod's spec, the first thing it needs, and what it names.
    type Case = (Value, &'static str, Option<(Kind, &'static str)>);

    fn environment(containers: &str) -> Vec<Case> {
        let container = |c: Value| json!({containers: [c]});
        let key = |k: &str| json!({"env": [{"name": "E", "valueFrom": {k: {"name": "x", "key": "k"}}}]});
        let (secret, map) = (Some((Kind::Secret, "x")), Some((Kind::ConfigMap, "x")));
        vec![
            (container(json!({"envFrom": [{"secretRef": {"name": "x"}}]})), "secrets", secret),
            (container(json!({"envFrom": [{"configMapRef": {"name": "x"}}]})), "configmaps", map),
            (container(key("secretKeyRef")), "secrets", secret),
            (container(key("configMapKeyRef")), "configmaps", map),
        ]
    }

    fn table() -> Vec<Case> {
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = "v".into();
            json!({"volumes": [volume]})
        };
        let secret = Some((Kind::Secret, "x"));
        let map = Some((Kind::ConfigMap, "x"));
        let named = json!({"name": "x"});
        let mut out = vec![
            (json!({"serviceAccountName": "x"}), "serviceaccounts", Some((Kind::ServiceAccount, "x"))),
            (json!({"imagePullSecrets": [named]}), "secrets", secret),
            (volume(json!({"secret": {"secretName": "x"}})), "secrets", secret),
            (volume(json!({"azureFile": {"secretName": "x", "shareName": "s"}})), "secrets", secret),
            (volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": named}})), "secrets", secret),
            (volume(json!({"csi": {"driver": "d"}})), "csidrivers (via CSI volumes)", None),
            (volume(json!({"projected": {"sources": [{"secret": named}]}})), "secrets", secret),
            (volume(json!({"projected": {"sources": [{"downwardAPI": {}}, {"configMap": named}]}})), "configmaps", map),
            (volume(json!({"configMap": named})), "configmaps", map),
            (
                volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
                "serviceaccounts (via projected volumes)",
                None,
            ),
            (
                volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}})),
                "clustertrustbundles",
                None,
            ),
            (volume(json!({"projected": {"sources": [{"podCertificate": {}}]}})), "podcertificates", None),
            (
                volume(json!({"persistentVolumeClaim": {"claimName": "x"}})),
                "persistentvolumeclaims",
                Some((Kind::Claim, "x")),
            ),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {}}})),
                "persistentvolumeclaims (via ephemeral volumes)",
                Some((Kind::Claim, "p-v")),
            ),
            (volume(json!({"glusterfs": {"endpoints": "e"}})), "endpoints (via glusterFS volumes)", None),
            (volume(json!({"new": {}})), "something unknown (via volume \"v\")", None),
            (
                volume(json!({"projected": {"sources": [{"new": {}}]}})),
                "something unknown (via projected volume \"v\")",
                None,
            ),
            (
                json!({"resourceClaims": [{"name": "c", "resourceClaimName": "x"}]}),
                "resourceclaims",
                Some((Kind::ResourceClaim, "x")),
            ),
        ];
        CONTAINERS.iter().for_each(|kind| out.extend(environment(kind)));
        out
    }

    #[test]
    fn every_source_with_a_secret() {
        for source in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            let pod = json!({"spec": {"volumes": [{"name": "v", source: {"secretRef": {"name": "x"}}}]}});
            assert_eq!(first_of(&pod).as_deref(), Some("secrets"), "{source}");
            assert_eq!(of_pod(&pod), [Reference { kind: Kind::Secret, name: "x".into() }], "{source}");
        }
    }

    #[test]
    fn every_place_of_a_pod_is_looked_at() {
        for (spec, first, reference) in table() {
            let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
            assert_eq!(first_of(&pod).as_deref(), Some(first), "{spec}");
            let want: Vec<Reference> =
                reference.into_iter().map(|(kind, name)| Reference { kind, name: name.to_owned() }).collect();
            assert_eq!(of_pod(&pod), want, "{spec}");
        }
    }

    #[test]
    fn what_needs_nothing_of_the_api() {
        let volumes: Vec<Value> = FREE
            .iter()
            .map(|source| if *source == "name" { json!({"name": "v"}) } else { json!({"name": "v", *source: {}}) })
            .chain([json!({"name": "d", "projected": {"sources": [{"downwardAPI": {}}]}})])
            .collect();
        let pod = json!({"spec": {"volumes": volumes, "nodeName": "n", "containers": [
            {"name": "c", "env": [{"name": "A", "value": "b"}, {"name": "F", "valueFrom": {"fieldRef": {}}}]}]}});
        assert_eq!((first_of(&pod), of_pod(&pod)), (None, vec![]));
    }

    #[test]
    fn claims_from_templates_are_in_the_status() {
        let pod = json!({"metadata": {"name": "p"},
            "spec": {"resourceClaims": [{"name": "a", "resourceClaimTemplateName": "t"}, {"name": "b", "resourceClaimName": "y"}]},
            "status": {"resourceClaimStatuses": [{"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimName": "z"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "e"}}});
        let names: Vec<String> = of_pod(&pod).into_iter().map(|r| r.name).collect();
        assert_eq!(names, ["x", "y", "e"], "the status of a claim that the spec names counts for nothing");
    }
}
