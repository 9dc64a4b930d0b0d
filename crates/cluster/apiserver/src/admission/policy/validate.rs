//! What a policy and a binding must be (`pkg/apis/admissionregistration/validation`).

use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::status::FieldErrors;
use kinit_cel::Ty;
use serde_json::{Value, json};

use super::parsed::{Names, list};
use crate::admission::conditions;

/// Defaults of policies and bindings.
pub fn default(o: &mut Value) {
    let binding = o.str_at(&["kind"]).ends_with("Binding");
    let key = if binding { "matchResources" } else { "matchConstraints" };
    let Some(spec) = o.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if !binding {
        spec.entry("failurePolicy").or_insert_with(|| "Fail".into());
    }
    let Some(matching) = spec.get_mut(key).and_then(Value::as_object_mut) else { return };
    matching.entry("matchPolicy").or_insert_with(|| "Equivalent".into());
    matching.entry("namespaceSelector").or_insert_with(|| json!({}));
    matching.entry("objectSelector").or_insert_with(|| json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in matching.get_mut(rules).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(rule) = rule.as_object_mut() {
                rule.entry("scope").or_insert_with(|| "*".into());
            }
        }
    }
}

/// Checks a policy, its expressions included.
pub fn policy(o: &Value, errors: &mut FieldErrors) {
    let mut names = Names::of(o);
    let (validations, annotations) = (list(o, &["spec", "validations"]), list(o, &["spec", "auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        let both = "validations or auditAnnotations must contain at least one item";
        errors.required("spec.validations", both);
        errors.required("spec.auditAnnotations", both);
    }
    if list(o, &["spec", "matchConstraints", "resourceRules"]).is_empty() {
        errors.required("spec.matchConstraints.resourceRules", "");
    }
    conditions_and_variables(o, &mut names, errors);
    for (i, validation) in validations.iter().enumerate() {
        check_validation(validation, &format!("spec.validations[{i}]"), &names, errors);
    }
    annotations_of(annotations, &names, errors);
}

/// Checks match conditions and variables, and declares the variables.
pub fn conditions_and_variables(o: &Value, names: &mut Names, errors: &mut FieldErrors) {
    conditions::validate_with(list(o, &["spec", "matchConditions"]), "spec.matchConditions", errors, |expression| {
        names.condition(expression).map(|_| ())
    });
    for (i, variable) in list(o, &["spec", "variables"]).iter().enumerate() {
        let (name, expression) = (variable.str_at(&["name"]), variable.str_at(&["expression"]));
        let at = format!("spec.variables[{i}]");
        if name.is_empty() {
            errors.required(&format!("{at}.name"), "name is not specified");
        }
        if let Err(problem) = names.variable(name, expression) {
            errors.invalid(&format!("{at}.expression"), &expression.into(), &problem);
        }
    }
}

fn annotations_of(annotations: &[Value], names: &Names, errors: &mut FieldErrors) {
    for (i, annotation) in annotations.iter().enumerate() {
        let at = format!("spec.auditAnnotations[{i}]");
        let (key, expression) = (annotation.str_at(&["key"]), annotation.str_at(&["valueExpression"]));
        if key.is_empty() {
            errors.required(&format!("{at}.key"), "");
        }
        let complaint = "must evaluate to string or null";
        if expression.trim().is_empty() {
            errors.required(&format!("{at}.valueExpression"), "valueExpression is not specified");
        } else if let Err(problem) = names.compile(expression, &[Ty::Text, Ty::Null], complaint) {
            errors.invalid(&format!("{at}.valueExpression"), &expression.into(), &problem);
        }
    }
}

fn check_validation(validation: &Value, at: &str, names: &Names, errors: &mut FieldErrors) {
    let expression = validation.str_at(&["expression"]);
    if expression.trim().is_empty() {
        errors.required(&format!("{at}.expression"), "expression is not specified");
    } else if let Err(problem) = names.condition(expression) {
        errors.invalid(&format!("{at}.expression"), &expression.into(), &problem);
    }
    let message = validation.str_at(&["messageExpression"]);
    if !message.is_empty()
        && let Err(problem) = names.compile(message, &[Ty::Text], "must evaluate to string")
    {
        errors.invalid(&format!("{at}.messageExpression"), &message.into(), &problem);
    }
    if validation.str_at(&["message"]).contains('\n') {
        errors.invalid(&format!("{at}.message"), &validation["message"], "message must not contain line breaks");
    }
    let reason = validation.str_at(&["reason"]);
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    if !reason.is_empty() && !reasons.contains(&reason) {
        errors.not_supported(&format!("{at}.reason"), &reason.into(), &reasons);
    }
}

/// Checks a binding.
pub fn binding(o: &Value, errors: &mut FieldErrors) {
    if o.str_at(&["spec", "policyName"]).is_empty() {
        errors.required("spec.policyName", "");
    }
    let actions = strings(o.at(&["spec", "validationActions"]));
    if actions.is_empty() {
        errors.required("spec.validationActions", "");
    }
    for (i, action) in actions.iter().enumerate() {
        let at = format!("spec.validationActions[{i}]");
        if !matches!(action.as_str(), "Audit" | "Deny" | "Warn") {
            errors.not_supported(&at, &action.as_str().into(), &["Audit", "Deny", "Warn"]);
        }
        if actions[..i].contains(action) {
            errors.duplicate(&at, &action.as_str().into());
        }
    }
    if actions.iter().any(|a| a == "Deny") && actions.iter().any(|a| a == "Warn") {
        errors.invalid("spec.validationActions", &actions.into(), "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
    param_reference(o, errors);
}

/// Checks which parameters a binding names.
pub fn param_reference(o: &Value, errors: &mut FieldErrors) {
    let Some(reference) = o.at(&["spec", "paramRef"]).filter(|r| !r.is_null()) else { return };
    let named = !reference.str_at(&["name"]).is_empty();
    let selected = reference.get("selector").is_some_and(|s| !s.is_null());
    if named == selected {
        errors.required("spec.paramRef.name", "one of name or selector must be specified");
    }
    let action = reference.str_at(&["parameterNotFoundAction"]);
    if action.is_empty() {
        errors.required("spec.paramRef.parameterNotFoundAction", "");
    } else if !matches!(action, "Allow" | "Deny") {
        errors.not_supported("spec.paramRef.parameterNotFoundAction", &action.into(), &["Deny", "Allow"]);
    }
}
