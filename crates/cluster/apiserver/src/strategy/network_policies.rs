//! NetworkPolicies: what upstream's `ValidateNetworkPolicySpec` refuses.

use ipnet::IpNet;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of, port};
use super::webhooks::check_selector;

const BAD_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Checks a NetworkPolicy.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let spec = o.get("spec").unwrap_or(&Value::Null);
    check_selector(spec.get("podSelector").unwrap_or(&Value::Null), "spec.podSelector", errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(spec, &[direction]).iter().enumerate() {
            let at = format!("spec.{direction}[{i}]");
            for (j, entry) in items(rule, &["ports"]).iter().enumerate() {
                check_port(entry, &format!("{at}.ports[{j}]"), errors);
            }
            for (j, peer) in items(rule, &[peers]).iter().enumerate() {
                check_peer(peer, &format!("{at}.{peers}[{j}]"), errors);
            }
        }
    }
    let types = items(spec, &["policyTypes"]);
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.invalid("spec.policyTypes", &types.to_vec().into(), detail);
        return;
    }
    for (i, one) in types.iter().enumerate() {
        one_of(one, &format!("spec.policyTypes[{i}]"), &["Egress", "Ingress"], errors);
    }
}

/// `ValidateNetworkPolicyPort`.
fn check_port(entry: &Value, at: &str, errors: &mut FieldErrors) {
    if let Some(protocol) = entry.get("protocol").filter(|p| !p.is_null()) {
        one_of(protocol, &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"], errors);
    }
    let field = format!("{at}.endPort");
    let end = entry.get("endPort").filter(|end| !end.is_null());
    match entry.get("port").filter(|port| !port.is_null()) {
        Some(number @ Value::Number(_)) => {
            port(Some(number), &format!("{at}.port"), errors);
            if let Some(end) = end {
                if end.as_i64() < number.as_i64() {
                    errors.invalid(&field, number, "must be greater than or equal to `port`");
                }
                port(Some(end), &field, errors);
            }
        }
        Some(name) => {
            if let Some(end) = end {
                errors.invalid(&field, end, "may not be specified when `port` is non-numeric");
            }
            if let Some(problem) = port_name(name.as_str().unwrap_or_default()) {
                errors.invalid(&format!("{at}.port"), name, problem);
            }
        }
        None => {
            if let Some(end) = end {
                errors.invalid(&field, end, "may not be specified when `port` is not specified");
            }
        }
    }
}

/// `IsValidPortName`; the first of its messages.
fn port_name(name: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() > 15 {
        return Some("must be no more than 15 characters");
    }
    if name.is_empty() || !name.chars().all(|c| plain(c) || c == '-') {
        return Some("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !name.chars().any(|c| c.is_ascii_lowercase()) {
        return Some("must contain at least one letter (a-z)");
    }
    if name.contains("--") {
        return Some("must not contain consecutive hyphens");
    }
    (name.starts_with('-') || name.ends_with('-')).then_some("must not begin or end with a hyphen")
}

/// `ValidateNetworkPolicyPeer`.
fn check_peer(peer: &Value, at: &str, errors: &mut FieldErrors) {
    let given = |key: &str| peer.get(key).filter(|value| !value.is_null());
    let mut number = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if let Some(value) = given(selector) {
            number += 1;
            check_selector(value, &format!("{at}.{selector}"), errors);
        }
    }
    match given("ipBlock") {
        None if number == 0 => errors.required(at, "must specify a peer"),
        None => {}
        Some(block) => {
            check_block(block, &format!("{at}.ipBlock"), errors);
            if number > 0 {
                errors.forbidden(at, "may not specify both ipBlock and another peer");
            }
        }
    }
}

/// `ValidateIPBlock`.
fn check_block(block: &Value, at: &str, errors: &mut FieldErrors) {
    let field = format!("{at}.cidr");
    let text = block.str_at(&["cidr"]);
    if text.is_empty() {
        errors.required(&field, "");
        return;
    }
    let Ok(cidr) = text.parse::<IpNet>() else {
        errors.invalid(&field, &text.into(), BAD_CIDR);
        return;
    };
    for (i, except) in items(block, &["except"]).iter().enumerate() {
        let field = format!("{at}.except[{i}]");
        match except.as_str().and_then(|text| text.parse::<IpNet>().ok()) {
            None => errors.invalid(&field, except, BAD_CIDR),
            Some(hole) if !cidr.trunc().contains(&hole) || hole.prefix_len() <= cidr.prefix_len() => {
                errors.invalid(&field, except, "must be a strict subset of `cidr`");
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reported(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::default();
        validate(&json!({"spec": spec}), &mut errors);
        errors.0.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn what_is_right_passes() {
        let selector = json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]});
        let from = json!([{"podSelector": {}}, {"namespaceSelector": selector, "podSelector": selector},
                          {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"ipBlock": {"cidr": "fd00::/8"}}]);
        let ports = json!([{}, {"protocol": "SCTP", "port": 80}, {"port": "http"}, {"port": 80, "endPort": 90}]);
        for spec in [
            json!({}),
            json!({"podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": []}),
            json!({"ingress": [{"from": from, "ports": ports}], "egress": [{"to": from, "ports": ports}]}),
        ] {
            assert_eq!(reported(spec.clone()), Vec::<String>::new(), "{spec}");
        }
    }

    /// One of a list, `ports` or `peers`, and what is said of it in both directions.
    fn check(list: &str, cases: &[(Value, &str)]) {
        for (value, expected) in cases {
            for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
                let name = if list == "peers" { peers } else { list };
                let errors = reported(json!({direction: [{name: [value]}]}));
                let path = format!("spec.{direction}[0].{name}[0]");
                assert!(
                    errors.len() == 1 && errors[0].starts_with(&path) && errors[0].contains(expected),
                    "{errors:?}"
                );
            }
        }
    }

    #[test]
    fn wrong_ports_are_told_with_their_paths() {
        let cases = [
            (json!({"protocol": "ICMP"}), ".ports[0].protocol: Unsupported value: \"ICMP\""),
            (json!({"port": 0}), ".ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
            (json!({"port": "Http"}), ".ports[0].port: Invalid value: \"Http\": must contain only alpha-numeric"),
            (json!({"port": "80-"}), "must contain at least one letter"),
            (json!({"port": "a".repeat(16)}), "must be no more than 15 characters"),
            (json!({"port": "a--b"}), "must not contain consecutive hyphens"),
            (json!({"port": "a-"}), "must not begin or end with a hyphen"),
            (json!({"port": 80, "endPort": 79}), ".ports[0].endPort: Invalid value: 80: must be greater than"),
            (json!({"port": 80, "endPort": 70000}), ".ports[0].endPort: Invalid value: 70000: must be between"),
            (json!({"port": "http", "endPort": 79}), "may not be specified when `port` is non-numeric"),
            (json!({"endPort": 79}), "may not be specified when `port` is not specified"),
        ];
        check("ports", &cases);
    }

    #[test]
    fn wrong_peers_are_told_with_their_paths() {
        let cases = [
            (json!({}), "[0]: Required value: must specify a peer"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), "[0]: Forbidden: may not specify both"),
            (json!({"ipBlock": {}}), ".ipBlock.cidr: Required value"),
            (
                json!({"ipBlock": {"cidr": "300.0.0.0/8"}}),
                ".ipBlock.cidr: Invalid value: \"300.0.0.0/8\": must be a valid",
            ),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}), ".ipBlock.except[0]: Invalid value: \"x\""),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}), "must be a strict subset of `cidr`"),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}}), "must be a strict subset of `cidr`"),
            (json!({"podSelector": {"matchLabels": {"a b": "c"}}}), ".podSelector.matchLabels: Invalid value"),
            (
                json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
                ".operator: Invalid value",
            ),
        ];
        check("peers", &cases);
    }

    #[test]
    fn wrong_selectors_and_types_are_told() {
        assert_eq!(reported(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}})).len(), 1);
        assert!(
            reported(json!({"policyTypes": ["Sideways"]}))[0].starts_with("spec.policyTypes[0]: Unsupported value")
        );
        assert!(reported(json!({"policyTypes": ["Ingress", "Egress", "Ingress"]}))[0].contains("more than two"));
    }
}
