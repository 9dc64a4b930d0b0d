//! What a revision keeps: a strategic merge patch that brings the template back. No IO.
//!
//! Upstream's controllers compare it byte by byte with what they would write (`getPatch`): JSON whose objects have
//! their keys in order, without a space, with `"$patch":"replace"` in the template.

use k8s_openapi::DeepMerge;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kinit_apimachinery::complete::complete;
use kinit_apimachinery::encode::to_vec;
use kinit_apimachinery::schema::schema;
use serde_json::{Map, Value, json};

use crate::workload::deployment::safe_encode;

/// The type of what is kept.
const TEMPLATE: &str = "core.v1.PodTemplateSpec";
/// Up to here a `float64` holds every integer.
const EXACT: u64 = 1 << 53;

/// The patch.
pub fn data(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    // What Go writes although it is empty; types that leave out what is null have lost it.
    if let Some(ty) = schema().by_name(TEMPLATE) {
        complete(&mut value, ty);
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("$patch".into(), json!("replace"));
    }
    in_order(json!({"spec": {"template": value}}))
}

/// Objects with their keys in order, as Go writes maps, and numbers as they are after they have been a `float64`, which
/// every number in a Go map of anything is.
fn in_order(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_u64().filter(|n| *n > EXACT) {
            // The shortest digits that mean the same float, then zeros: Go's format and Rust's agree.
            Some(large) => format!("{}", large as f64).parse::<u64>().map_or(Value::Number(number), Value::from),
            None => Value::Number(number),
        },
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().map(|(key, value)| (key, in_order(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(in_order).collect()),
        other => other,
    }
}

/// FNV-1 of the bytes and of the number of collisions (`HashControllerRevision`).
pub fn hash(data: &Value, collisions: i32) -> String {
    let bytes = to_vec(data).unwrap_or_default();
    let salt = collisions.to_string().into_bytes();
    let step = |hash: u32, byte: u8| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte);
    safe_encode(bytes.into_iter().chain(salt).fold(0x811c_9dc5_u32, step))
}

/// The template a revision keeps.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    serde_json::from_value(value).ok()
}

/// Whether the revision keeps this template. Compared as objects: revisions of older releases are written otherwise
/// (`creationTimestamp: null`).
pub fn same(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    let normal = |t: &PodTemplateSpec| {
        let mut base = PodTemplateSpec::default();
        base.merge_from(t.clone());
        serde_json::to_value(base).unwrap_or_default()
    };
    template_of(revision).is_some_and(|kept| normal(&kept) == normal(template))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

    /// The template of upstream's compatibility test (`testdata/compatibility_set_1.34.0.json`).
    pub fn template() -> Value {
        json!({
            "metadata": {"labels": {"app": "foo"}, "annotations": {"test": "value"}},
            "spec": {
                "containers": [{"name": "test", "image": "test", "resources": {}, "imagePullPolicy": "Always",
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30
            }
        })
    }

    #[test]
    fn bytes_are_upstreams() {
        let template: PodTemplateSpec = serde_json::from_value(template()).unwrap();
        let expected = r#"{"spec":{"template":{"$patch":"replace","metadata":{"annotations":{"test":"value"},"labels":{"app":"foo"}},"spec":{"containers":[{"image":"test","imagePullPolicy":"Always","name":"test","resources":{},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30}}}}"#;
        assert_eq!(String::from_utf8(to_vec(&data(&template)).unwrap()).unwrap(), expected);
        assert_eq!(hash(&data(&template), 0), "776999688b");
    }

    /// What `json.Marshal` makes of parts of a template, by the tags of k8s.io/api v0.36: keys in order, structs in
    /// spite of `omitempty`, nil slices without it as null, pointers to empty strings, numbers that were a float64.
    #[test]
    fn parts_are_written_as_go_writes_them() {
        for (spec, want) in [
            (
                json!({"volumes": [{"name": "v", "projected": {"defaultMode": 420}}]}),
                r#""volumes":[{"name":"v","projected":{"defaultMode":420,"sources":null}}]"#,
            ),
            (
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x", "type": ""}}, {"name": "e", "emptyDir": {}}]}),
                r#""volumes":[{"hostPath":{"path":"/x","type":""},"name":"v"},{"emptyDir":{},"name":"e"}]"#,
            ),
            (
                json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]}),
                r#""volumes":[{"ephemeral":{"volumeClaimTemplate":{"metadata":{},"spec":{"accessModes":["ReadWriteOnce"],"resources":{}}}},"name":"v"}]"#,
            ),
            (
                json!({"initContainers": [{"name": "i", "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName", "apiVersion": "v1"}}},
                {"name": "E"}, {"name": "L", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}),
                r#""initContainers":[{"env":[{"name":"N","valueFrom":{"fieldRef":{"apiVersion":"v1","fieldPath":"spec.nodeName"}}},{"name":"E"},{"name":"L","valueFrom":{"resourceFieldRef":{"divisor":"0","resource":"limits.cpu"}}}],"name":"i","resources":{}}]"#,
            ),
            (
                json!({"initContainers": [{"name": "i", "livenessProbe": {"httpGet": {"path": "/h?a=1&b=<2>", "port": "web"}, "periodSeconds": 10},
                "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web"}]}]}),
                r#""initContainers":[{"livenessProbe":{"httpGet":{"path":"/h?a=1\u0026b=\u003c2\u003e","port":"web"},"periodSeconds":10},"name":"i","ports":[{"containerPort":80,"name":"web","protocol":"TCP"}],"resources":{}}]"#,
            ),
            (
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}}}),
                r#""affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"preference":{},"weight":1}]}}"#,
            ),
            (
                json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}]}),
                r#""tolerations":[{"effect":"NoExecute","operator":"Exists","tolerationSeconds":0}]"#,
            ),
            (
                json!({"securityContext": {"runAsUser": 1000660000, "fsGroup": 9007199254740993i64}}),
                r#""securityContext":{"fsGroup":9007199254740992,"runAsUser":1000660000}"#,
            ),
            (
                json!({"terminationGracePeriodSeconds": i64::MAX}),
                r#""terminationGracePeriodSeconds":9223372036854776000"#,
            ),
            (
                json!({"hostNetwork": false, "priority": 0, "priorityClassName": ""}),
                r#""hostNetwork":false,"priority":0,"priorityClassName":"""#,
            ),
        ] {
            let mut full = json!({"containers": []});
            full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let template: PodTemplateSpec = serde_json::from_value(json!({"spec": full})).unwrap();
            let text = String::from_utf8(to_vec(&data(&template)).unwrap()).unwrap();
            assert!(text.contains(want), "{want}\n{text}");
        }
    }

    #[test]
    fn revisions_of_older_releases_are_recognized() {
        let mut older = template();
        older["$patch"] = "replace".into();
        older["metadata"]["creationTimestamp"] = Value::Null;
        let data = Some(RawExtension(json!({"spec": {"template": older}})));
        let revision = ControllerRevision { data, ..Default::default() };
        let mut present: PodTemplateSpec = serde_json::from_value(template()).unwrap();
        assert!(same(&revision, &present));
        present.spec.as_mut().unwrap().termination_grace_period_seconds = Some(1);
        assert!(!same(&revision, &present));
    }
}
