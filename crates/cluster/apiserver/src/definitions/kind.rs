//! The strategy of custom resources (`pkg/registry/customresource`): what their schema says.

use std::sync::Arc;

use kinit_apimachinery::status::FieldErrors;
use kinit_apimachinery::structural::{Structural, check_embedded};
use serde_json::Value;

use super::rules::Node;
use crate::registry::scale::Paths;
use crate::strategy::{Dependents, Generation, Strategy, Traits};

/// A version of a custom resource.
pub(super) struct CustomKind {
    /// Its schema.
    pub schema: Arc<Structural>,
    /// Its rules in CEL.
    pub rules: Option<Node>,
    /// Whether status is a subresource.
    pub status: bool,
    /// Where its scale is.
    pub scale: Option<Paths>,
}

impl CustomKind {
    fn check(&self, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let before = errors.0.len();
        self.schema.validate(object, old, "", errors);
        check_embedded(object, &self.schema, "", errors);
        self.schema.check_lists(object, "", errors);
        if let Some(old) = old {
            // What was there twice already is forgiven.
            let mut known = FieldErrors::default();
            self.schema.check_lists(old, "", &mut known);
            check_embedded(old, &self.schema, "", &mut known);
            let fresh = errors.0.split_off(before).into_iter().filter(|cause| !known.0.contains(cause));
            errors.0.extend(fresh);
        }
        if let Some(rules) = &self.rules {
            rules.check(object, old, errors);
        }
        if let Some(paths) = &self.scale {
            check_scale(paths, object, errors);
        }
    }
}

/// `ValidateScaleSpec` and `ValidateScaleStatus`.
fn check_scale(paths: &Paths, object: &Value, errors: &mut FieldErrors) {
    for path in [&paths.spec, &paths.status] {
        let found = path.iter().try_fold(object, |value, key| value.get(key)).and_then(Value::as_i64);
        let Some(replicas) = found else { continue };
        let at = format!(".{}", path.join("."));
        if replicas < 0 {
            errors.invalid(&at, &replicas.into(), "should be a non-negative integer");
        }
        if replicas > i64::from(i32::MAX) {
            let detail = format!("should be less than or equal to {}", i32::MAX);
            errors.invalid(&at, &replicas.into(), &detail);
        }
    }
}

impl Strategy for CustomKind {
    /// Defaults follow from the type.
    fn default(&self, _object: &mut Value) {}
    fn prepare_create(&self, _object: &mut Value) {}
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}
    fn validate(&self, _object: &Value, _errors: &mut FieldErrors) {}
    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.check(new, Some(old), errors);
    }
    fn validate_create(&self, object: &Value, errors: &mut FieldErrors) {
        self.check(object, None, errors);
    }
    fn validate_sub(&self, _sub: &str, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.check(new, Some(old), errors);
    }
    fn prepare_delete(&self, _object: &mut Value) {}
    fn traits(&self) -> Traits {
        Traits {
            create_on_update: false,
            unconditional_update: false,
            return_deleted: false,
            generation: if self.status { Generation::Spec } else { Generation::Whole },
            dependents: Dependents::Delete,
        }
    }
}
