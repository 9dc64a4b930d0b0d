//! Nodes: address ranges of pods in their two forms, and what is set once (`ValidateNode`, `ValidateNodeUpdate`).

use ipnet::IpNet;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{check_label_value, check_qualified_name};
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Value, json};

use super::tools::{absent, items, object, one_of};

/// What can be given out is everything there is, unless the kubelet says otherwise.
///
/// The single range and the list are one fact; where they differ the single one counts, for older clients
/// (`Convert_v1_NodeSpec_To_core_NodeSpec`).
pub fn default(node: &mut Value) {
    if let Some(capacity) = node.at(&["status", "capacity"]).cloned() {
        absent(object(node, "status"), "allocatable", capacity);
    }
    let spec = object(node, "spec");
    let first = items(spec, &["podCIDRs"]).first().and_then(Value::as_str).unwrap_or_default().to_owned();
    let single = spec.str_at(&["podCIDR"]).to_owned();
    match (single.as_str(), first.as_str()) {
        ("", "") => {}
        ("", first) => spec["podCIDR"] = first.into(),
        (single, first) if single != first => spec["podCIDRs"] = json!([single]),
        _ => {}
    }
}

/// Checks a new node, on top of `validate`.
pub fn validate_create(node: &Value, errors: &mut FieldErrors) {
    validate_parts(node, errors);
}

/// Ranges are ranges, one of each family.
pub fn validate(node: &Value, errors: &mut FieldErrors) {
    let mut seen = [false; 2];
    for (i, range) in items(node, &["spec", "podCIDRs"]).iter().enumerate() {
        match range.as_str().unwrap_or_default().parse::<IpNet>() {
            Err(_) => errors.invalid(
                &format!("spec.podCIDRs[{i}]"),
                range,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            Ok(net) => {
                if std::mem::replace(&mut seen[usize::from(net.addr().is_ipv6())], true) {
                    let all = node.at(&["spec", "podCIDRs"]).cloned().unwrap_or_default();
                    errors.invalid("spec.podCIDRs", &all, "may specify no more than one CIDR for each IP family");
                }
            }
        }
    }
}

/// Amounts are amounts (`ValidateNodeResources`), taints are told apart (`validateNodeTaints`, whose field is this).
fn validate_parts(node: &Value, errors: &mut FieldErrors) {
    for key in ["capacity", "allocatable"] {
        for (name, amount) in node.at(&["status", key]).and_then(Value::as_object).into_iter().flatten() {
            quantity(&format!("status.{key}.{name}"), name, amount, errors);
        }
    }
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(node, &["spec", "taints"]).iter().enumerate() {
        let at = |part: &str| format!("metadata.taints[{i}]{part}");
        let [key, value, effect] = ["key", "value", "effect"].map(|part| taint.str_at(&[part]));
        check_qualified_name(key).iter().for_each(|problem| errors.invalid(&at(".key"), &key.into(), problem));
        for problem in check_label_value(value) {
            errors.invalid(&at(".value"), &value.into(), &problem);
        }
        match effect {
            "" => errors.required(&at(".effect"), ""),
            _ => one_of(&effect.into(), &at(".effect"), &["NoExecute", "NoSchedule", "PreferNoSchedule"], errors),
        }
        if seen.contains(&(key, effect)) {
            errors.duplicate(&at(""), taint);
        }
        seen.push((key, effect));
    }
}

/// `ValidateResourceQuantityValue`: of pods and of what extends the API's resources there are no fractions.
fn quantity(field: &str, name: &str, amount: &Value, errors: &mut FieldErrors) {
    let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) else { return };
    if quantity.is_negative() {
        errors.invalid(field, amount, "must be greater than or equal to 0");
    }
    let extended = name.split_once('/').is_some_and(|(domain, _)| !domain.contains("kubernetes.io"));
    if (name == "pods" || extended) && quantity != quantity.rounded_up() {
        errors.invalid(field, amount, "must be an integer");
    }
}

/// A node's ranges and its provider's name for it are set once. The same rules are for its status.
pub fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    validate_parts(new, errors);
    let addresses = items(new, &["status", "addresses"]);
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            errors.duplicate(&format!("status.addresses[{i}]"), address);
        }
    }
    let had = items(old, &["spec", "podCIDRs"]);
    if !had.is_empty() && had != items(new, &["spec", "podCIDRs"]) {
        errors.forbidden("spec.podCIDRs", "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = old.str_at(&["spec", "providerID"]);
    if !provider.is_empty() && provider != new.str_at(&["spec", "providerID"]) {
        errors.forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(spec: Value) -> Value {
        let mut node = json!({"spec": spec});
        default(&mut node);
        node
    }

    #[test]
    fn both_forms_of_the_ranges_agree() {
        for (given, wanted) in [
            (json!({"podCIDR": "10.0.0.0/24"}), json!(["10.0.0.0/24"])),
            (json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}), json!(["10.0.0.0/24", "fd00::/64"])),
            (
                json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}),
                json!(["10.0.0.0/24", "fd00::/64"]),
            ),
            (json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.1.0.0/24"]}), json!(["10.0.0.0/24"])),
        ] {
            let node = node(given);
            assert_eq!((&node["spec"]["podCIDRs"], &node["spec"]["podCIDR"]), (&wanted, &wanted[0]));
        }
    }

    #[test]
    fn ranges_are_set_once_and_together() {
        let check = |new: Value, old: Value| {
            let mut errors = FieldErrors::default();
            validate(&node(new.clone()), &mut errors);
            validate_update(&node(new), &node(old), &mut errors);
            errors.0.len()
        };
        let both = json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]});
        assert_eq!(check(both.clone(), json!({})), 0);
        assert_eq!(check(json!({"podCIDRs": ["10.0.0.0/24"]}), both.clone()), 0);
        assert_eq!(check(json!({"podCIDR": "10.1.0.0/24"}), both.clone()), 1);
        assert_eq!(check(json!({}), both), 1);
        assert_eq!(check(json!({"podCIDRs": ["x", "10.0.0.0/24", "10.1.0.0/24"]}), json!({})), 2);
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let good = [taint("a", "NoSchedule"), taint("a", "NoExecute"), taint("b.io/c", "PreferNoSchedule")];
        assert_eq!(check(json!({"taints": good}), json!({})), 0);
        let bad = [
            taint("a", "NoSchedule"),
            taint("a", "NoSchedule"),
            taint("-", "NoExecute"),
            taint("c", "x"),
            taint("d", ""),
        ];
        assert_eq!(check(json!({"taints": bad}), json!({})), 4);
    }
}
