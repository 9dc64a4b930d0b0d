//! Which pods each autoscaler answers for: two for the same pods would fight (`hpa_selector_store.go`).

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Written;
use kinit_apimachinery::selector::LabelSelector;
use parking_lot::Mutex;

/// Selectors by the autoscaler's key.
#[derive(Default)]
pub struct Selectors(Mutex<HashMap<String, LabelSelector>>);

/// A selector as Go prints it (`LabelSelector.String`), for messages that upstream's users know.
pub fn described(selector: Option<&Written>) -> String {
    let Some(selector) = selector else { return "nil".to_owned() };
    let labels: String = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let terms = selector.match_expressions.iter().flatten().map(|term| {
        let values = term.values.clone().unwrap_or_default().join(" ");
        format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},", term.key, term.operator)
    });
    let terms: String = terms.collect();
    let expressions = format!("[]LabelSelectorRequirement{{{terms}}}");
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:{expressions},}}")
}

/// Whether a pod has the labels.
pub fn selects(selector: &LabelSelector, pod: &Pod) -> bool {
    selector.matches(|key| pod.metadata.labels.as_ref()?.get(key).map(String::as_str))
}

impl Selectors {
    /// Keeps the selector of an autoscaler.
    pub fn put(&self, key: &str, selector: LabelSelector) {
        self.0.lock().insert(key.to_owned(), selector);
    }

    /// Forgets an autoscaler.
    pub fn forget(&self, key: &str) {
        self.0.lock().remove(key);
    }

    /// The autoscalers of a namespace that select any of these pods of it, in order.
    pub fn rivals(&self, namespace: &str, pods: &[&Pod]) -> BTreeSet<String> {
        let start = format!("{namespace}/");
        let all = self.0.lock();
        let of = all.iter().filter(|(key, _)| key.starts_with(&start));
        of.filter(|(_, selector)| pods.iter().any(|pod| selects(selector, pod))).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_in_words() {
        assert_eq!(described(None), "nil");
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"}})).unwrap();
        let expected =
            "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}";
        assert_eq!(described(Some(&selector)), expected);
    }

    #[test]
    fn rivals_are_those_of_the_same_pods() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"app": "web", "tier": "1"}}})).unwrap();
        let all = Selectors::default();
        for (key, text) in [("a/x", "app=web"), ("a/y", "tier in (1,2)"), ("a/z", "app=db"), ("b/x", "app=web")] {
            all.put(key, LabelSelector::parse(text).unwrap());
        }
        let rivals = |all: &Selectors| all.rivals("a", &[&pod]).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(rivals(&all), "a/x a/y");
        all.forget("a/y");
        assert_eq!(rivals(&all), "a/x");
    }
}
