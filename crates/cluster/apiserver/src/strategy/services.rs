//! Services, Endpoints, EndpointSlices.

use std::collections::HashSet;

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::names::NameRule;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::tools::{absent, each, empty, items, object, one_of, port};

/// Defaults of a Service.
pub fn default(o: &mut Value) {
    let spec = object(o, "spec");
    empty(spec, "type", "ClusterIP");
    empty(spec, "sessionAffinity", "None");
    if spec.str_at(&["sessionAffinity"]) == "ClientIP" {
        let config = object(object(spec, "sessionAffinityConfig"), "clientIP");
        absent(config, "timeoutSeconds", 10_800);
    } else if let Some(map) = spec.as_object_mut() {
        map.shift_remove("sessionAffinityConfig");
    }
    let kind = spec.str_at(&["type"]).to_owned();
    if kind != "ExternalName" {
        absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        empty(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    for entry in each(spec, "ports") {
        empty(entry, "protocol", "TCP");
        let number = entry.get("port").cloned().unwrap_or_default();
        if !number.is_null() && entry.get("targetPort").is_none_or(|t| t.is_null() || t == 0 || t == "") {
            entry["targetPort"] = number;
        }
    }
    if o.str_at(&["spec", "type"]) == "LoadBalancer"
        && let Some(status) = o.get_mut("status").and_then(|status| status.get_mut("loadBalancer"))
    {
        for point in each(status, "ingress").filter(|point| !point.str_at(&["ip"]).is_empty()) {
            absent(point, "ipMode", "VIP");
        }
    }
    if o.get("status").is_none_or(|s| s.as_object().is_some_and(serde_json::Map::is_empty)) {
        o["status"] = json!({"loadBalancer": {}});
    }
}

/// What a change of type leaves behind goes.
pub fn prepare_update(new: &mut Value, old: &Value) {
    let (before, after) = (old.str_at(&["spec", "type"]).to_owned(), new.str_at(&["spec", "type"]).to_owned());
    let had: Vec<i64> = items(old, &["spec", "ports"]).iter().filter_map(|p| p.get("nodePort")?.as_i64()).collect();
    let Some(spec) = new.get_mut("spec") else { return };
    let exposed = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    if exposed(&before) && !exposed(&after) {
        for entry in each(spec, "ports") {
            if entry.get("nodePort").and_then(Value::as_i64).is_some_and(|p| had.contains(&p))
                && let Some(map) = entry.as_object_mut()
            {
                map.shift_remove("nodePort");
            }
        }
        if let Some(map) = spec.as_object_mut() {
            map.shift_remove("externalTrafficPolicy");
            map.shift_remove("healthCheckNodePort");
        }
    }
    if before == "LoadBalancer"
        && after != before
        && let Some(map) = spec.as_object_mut()
    {
        map.shift_remove("allocateLoadBalancerNodePorts");
        map.shift_remove("loadBalancerClass");
    }
}

/// Checks a Service.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let spec = o.get("spec").unwrap_or(&Value::Null);
    let kind = spec.get("type").cloned().unwrap_or_default();
    one_of(&kind, "spec.type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    one_of(
        &spec.get("sessionAffinity").cloned().unwrap_or_default(),
        "spec.sessionAffinity",
        &["ClientIP", "None"],
        errors,
    );
    let headless = spec.str_at(&["clusterIP"]) == "None";
    let ports = items(o, &["spec", "ports"]);
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    if headless && matches!(kind.as_str(), Some("NodePort" | "LoadBalancer")) {
        errors.invalid(
            "spec.clusterIPs[0]",
            &"None".into(),
            &format!("may not be set to 'None' for {} services", kind.as_str().unwrap_or_default()),
        );
    }
    if kind == "ExternalName" {
        let name = spec.str_at(&["externalName"]);
        for problem in NameRule::Subdomain.check(name.trim_end_matches('.')) {
            errors.invalid("spec.externalName", &name.into(), &problem);
        }
    }
    check_ports(ports, &kind, errors);
    let (single, list) = (spec.str_at(&["clusterIP"]), strings(spec.get("clusterIPs")));
    if let Some(first) = list.first()
        && !single.is_empty()
        && first != single
    {
        errors.invalid("spec.clusterIPs", &json!(list), "first value must match `clusterIP`");
    }
}

/// Each port has a name where there are several, and is there once.
fn check_ports(ports: &[Value], kind: &Value, errors: &mut FieldErrors) {
    let (mut names, mut pairs) = (HashSet::new(), HashSet::new());
    for (i, entry) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let name = entry.str_at(&["name"]);
        if name.is_empty() {
            if ports.len() > 1 {
                errors.required(&format!("{at}.name"), "");
            }
        } else {
            for problem in NameRule::Label.check(name) {
                errors.invalid(&format!("{at}.name"), &name.into(), &problem);
            }
            if !names.insert(name.to_owned()) {
                errors.duplicate(&format!("{at}.name"), &name.into());
            }
        }
        port(entry.get("port"), &format!("{at}.port"), errors);
        one_of(
            &entry.get("protocol").cloned().unwrap_or_default(),
            &format!("{at}.protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
        if let Some(Value::Number(_)) = entry.get("targetPort") {
            port(entry.get("targetPort"), &format!("{at}.targetPort"), errors);
        }
        if !pairs.insert((
            entry.get("port").cloned().unwrap_or_default().to_string(),
            entry.str_at(&["protocol"]).to_owned(),
        )) {
            errors.duplicate(&at, entry);
        }
        if *kind == "ClusterIP" && entry.get("nodePort").and_then(Value::as_i64).unwrap_or(0) > 0 {
            errors.forbidden(&format!("{at}.nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
}

/// The address stays, unless the type lets it go.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let external = |o: &Value| o.str_at(&["spec", "type"]) == "ExternalName";
    if external(new) || external(old) {
        return;
    }
    let (before, after) = (old.str_at(&["spec", "clusterIP"]), new.str_at(&["spec", "clusterIP"]));
    if !before.is_empty() && !after.is_empty() && before != after {
        errors.invalid("spec.clusterIPs[0]", &json!([after]), "may not change once set");
    }
}

/// Defaults of Endpoints.
pub fn default_endpoints(o: &mut Value) {
    for subset in each(o, "subsets") {
        for entry in each(subset, "ports") {
            empty(entry, "protocol", "TCP");
        }
    }
}

/// Defaults of an EndpointSlice.
pub fn default_slice(o: &mut Value) {
    for entry in each(o, "ports") {
        absent(entry, "name", "");
        absent(entry, "protocol", "TCP");
    }
}

/// Checks an EndpointSlice.
pub fn validate_slice(o: &Value, errors: &mut FieldErrors) {
    one_of(&o.get("addressType").cloned().unwrap_or_default(), "addressType", &["FQDN", "IPv4", "IPv6"], errors);
    let endpoints = items(o, &["endpoints"]);
    if endpoints.len() > 1000 {
        errors.0.push(kinit_apimachinery::Cause {
            reason: "FieldValueTooMany".into(),
            message: format!("Too many: {}: must have at most 1000 items", endpoints.len()),
            field: "endpoints".into(),
        });
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        if items(endpoint, &["addresses"]).is_empty() {
            errors.required(&format!("endpoints[{i}].addresses"), "must contain at least 1 address");
        }
    }
}

/// The address type stays.
pub fn validate_slice_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    super::tools::immutable(new, old, &["addressType"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_checks() {
        let mut s = json!({"spec":{"ports":[{"port":80},{"port":80,"protocol":"UDP"}]}});
        default(&mut s);
        assert_eq!(s["spec"]["ports"][0]["targetPort"], 80);
        assert_eq!(s["spec"]["internalTrafficPolicy"], "Cluster");
        let mut errors = FieldErrors::default();
        validate(&s, &mut errors);
        assert_eq!(
            errors.0.iter().map(|c| c.field.as_str()).collect::<Vec<_>>(),
            ["spec.ports[0].name", "spec.ports[1].name"]
        );
    }
}
