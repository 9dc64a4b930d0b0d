//! Label selectors of policies, as upstream's `LabelSelectorAsSelector` takes them. No IO.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as Written, LabelSelectorRequirement};
use kinit_apimachinery::selector::{LabelSelector, Op, Requirement};

use super::Labels;

/// The selector that was written; an error says what is wrong with it. Terms are in order, so that selectors that mean
/// the same by the same terms are equal.
pub fn parse(written: &Written) -> Result<LabelSelector, String> {
    let mut terms: Vec<Requirement> = Vec::new();
    for (key, value) in written.match_labels.iter().flatten() {
        terms.push(Requirement { key: key.clone(), op: Op::In(vec![value.clone()]) });
    }
    for term in written.match_expressions.iter().flatten() {
        terms.push(requirement(term)?);
    }
    terms.sort();
    terms.dedup();
    Ok(LabelSelector(terms))
}

fn requirement(term: &LabelSelectorRequirement) -> Result<Requirement, String> {
    let mut values = term.values.clone().unwrap_or_default();
    values.sort();
    values.dedup();
    let (key, operator) = (&term.key, term.operator.as_str());
    if key.is_empty() {
        return Err("a term of matchExpressions has no key".to_owned());
    }
    let op = match operator {
        "In" | "NotIn" if values.is_empty() => return Err(format!("{key}: operator {operator} needs values")),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            return Err(format!("{key}: operator {operator} takes no values"));
        }
        "In" => Op::In(values),
        "NotIn" => Op::NotIn(values),
        "Exists" => Op::Exists,
        "DoesNotExist" => Op::Absent,
        other => return Err(format!("{key}: {other:?} is not a valid label selector operator")),
    };
    Ok(Requirement { key: key.clone(), op })
}

/// Whether an object with these labels is selected.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches(|key| labels.get(key).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn written(selector: Value) -> Result<LabelSelector, String> {
        parse(&serde_json::from_value(selector).unwrap())
    }

    #[test]
    fn selects_as_upstream_does() {
        let labels: Labels = [("app", "web"), ("tier", "front")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let term = |key: &str, op: &str, values: &[&str]| json!({"key": key, "operator": op, "values": values});
        for (selector, selected) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "web"}}), true),
            (json!({"matchLabels": {"app": "web", "tier": "back"}}), false),
            (json!({"matchExpressions": [term("app", "In", &["db", "web"])]}), true),
            (json!({"matchExpressions": [term("app", "NotIn", &["db", "web"])]}), false),
            (json!({"matchExpressions": [term("zone", "NotIn", &["a"])]}), true),
            (json!({"matchExpressions": [term("zone", "Exists", &[])]}), false),
            (json!({"matchExpressions": [term("zone", "DoesNotExist", &[]), term("tier", "Exists", &[])]}), true),
        ] {
            assert_eq!(matches(&written(selector.clone()).unwrap(), &labels), selected, "{selector}");
        }
    }

    #[test]
    fn bad_ones_are_refused_and_equal_ones_are_equal() {
        let term = |key: &str, op: &str, values: &[&str]| {
            written(json!({"matchExpressions": [{"key": key, "operator": op, "values": values}]}))
        };
        for (key, op, values, expected) in [
            ("", "Exists", &[][..], "a term of matchExpressions has no key"),
            ("a", "In", &[], "a: operator In needs values"),
            ("a", "Exists", &["b"], "a: operator Exists takes no values"),
            ("a", "Gt", &["1"], "a: \"Gt\" is not a valid label selector operator"),
        ] {
            assert_eq!(term(key, op, values).unwrap_err(), expected);
        }
        assert_eq!(term("a", "In", &["x", "y"]), term("a", "In", &["y", "x", "y"]));
        assert_eq!(term("a", "In", &["x"]), written(json!({"matchLabels": {"a": "x"}})));
    }
}
