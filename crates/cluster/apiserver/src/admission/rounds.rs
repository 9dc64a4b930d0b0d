//! The mutating part of admission beyond the built-in plugins: policies, then webhooks, and once more the built-in
//! plugins and the willing ones among both when any of them changed the object (`admission.reinvoker`).

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::Value;

use super::Attributes;
use super::policy::mutating::Mutating;
use super::webhook;
use crate::registry::ownership::after_admission;

/// Runs the rounds; whether the object changed.
pub async fn mutate(attributes: &Attributes<'_>, object: &mut Value) -> Result<bool, ApiError> {
    let mut policies = Mutating::of(attributes, object).await?;
    let hooks = webhook::asked(attributes, true).await?;
    if policies.is_none() && hooks.is_empty() {
        return Ok(false);
    }
    let owners = object.at(&["metadata", "managedFields"]).cloned();
    let mut again = webhook::Again::default();
    let mut changed = match &mut policies {
        Some(policies) => policies.first(attributes, object).await?,
        None => false,
    };
    changed |= webhook::round(attributes, &hooks, object, &mut again, 0).await?;
    if !changed {
        return Ok(false);
    }
    let output = object.clone();
    attributes.mutate_built_in(object).await?;
    if let Some(policies) = &mut policies {
        policies.again(attributes, object).await?;
    }
    if *object != output {
        again.changed();
    }
    webhook::round(attributes, &hooks, object, &mut again, 1).await?;
    after_admission(attributes.request, object, owners);
    Ok(true)
}
