//! Label selectors.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Selector;

/// A workload's selector. One that is absent or empty is an error, as upstream treats it: it would select everything.
pub fn of_workload(selector: Option<&LabelSelector>) -> Result<Selector> {
    let selector = selector.context("the object has no selector")?;
    anyhow::ensure!(
        selector.match_labels.as_ref().is_some_and(|l| !l.is_empty())
            || selector.match_expressions.as_ref().is_some_and(|e| !e.is_empty()),
        "the object's selector is empty and would match everything"
    );
    Selector::try_from(selector.clone()).context("the object's selector is malformed")
}

/// A map selector, as Services have it: all labels must be there.
pub fn map_matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
