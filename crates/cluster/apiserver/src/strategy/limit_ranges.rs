//! LimitRanges (`ValidateLimitRange`).

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::check_qualified_name;
use kinit_apimachinery::quantity::Quantity;
use kinit_apimachinery::status::FieldErrors;
use serde_json::{Map, Value};

use super::tools::items;

const FIELDS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
/// What containers can ask for by the API's own names.
const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// What others have by the API's own names.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Checks a range.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, limit) in items(o, &["spec", "limits"]).iter().enumerate() {
        let kind = limit.str_at(&["type"]);
        let at = Item { path: format!("spec.limits[{i}]"), limit, kind };
        at.kind(seen.contains(&kind), errors);
        seen.push(kind);
        at.names(errors);
        at.amounts(errors);
    }
}

struct Item<'v> {
    path: String,
    limit: &'v Value,
    kind: &'v str,
}

impl<'v> Item<'v> {
    fn map(&self, field: &str) -> Option<&'v Map<String, Value>> {
        self.limit.get(field).and_then(Value::as_object)
    }

    /// Fields that count for this type.
    fn fields(&self) -> impl Iterator<Item = &'static str> {
        let pod = self.kind == "Pod";
        FIELDS.into_iter().filter(move |field| !pod || !field.starts_with("default"))
    }

    fn kind(&self, again: bool, errors: &mut FieldErrors) {
        let (field, value) = (format!("{}.type", self.path), Value::from(self.kind));
        let problems = check_qualified_name(self.kind);
        problems.iter().for_each(|problem| errors.invalid(&field, &value, problem));
        let standard = ["Pod", "Container", "PersistentVolumeClaim"].contains(&self.kind);
        if problems.is_empty() && !self.kind.contains('/') && !standard {
            errors.invalid(&field, &value, "must be a standard limit type or fully qualified");
        }
        if again {
            errors.duplicate(&field, &value);
        }
        if self.kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if self.map(field).is_some_and(|map| !map.is_empty()) {
                    let detail = "may not be specified when `type` is 'Pod'";
                    errors.forbidden(&format!("{}.{field}", self.path), detail);
                }
            }
        }
        let has = |field: &str| self.map(field).is_some_and(|map| map.contains_key("storage"));
        if self.kind == "PersistentVolumeClaim" && !has("min") && !has("max") {
            let detail = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&format!("{}.limits", self.path), detail);
        }
    }

    fn names(&self, errors: &mut FieldErrors) {
        for field in self.fields() {
            for name in self.map(field).into_iter().flatten().map(|(name, _)| name.as_str()) {
                let (at, value) = (format!("{}.{field}[{name}]", self.path), Value::from(name));
                let problems = check_qualified_name(name);
                problems.iter().for_each(|problem| errors.invalid(&at, &value, problem));
                if !problems.is_empty() || name.contains('/') || name.starts_with("hugepages-") {
                    continue;
                }
                if !STANDARD.contains(&name) {
                    errors.invalid(&at, &value, "must be a standard resource type or fully qualified");
                } else if matches!(self.kind, "Pod" | "Container") && !CONTAINER.contains(&name) {
                    errors.invalid(&at, &value, "must be a standard resource for containers");
                }
            }
        }
    }

    fn amounts(&self, errors: &mut FieldErrors) {
        let mut names: Vec<&str> = Vec::new();
        for name in self.fields().flat_map(|field| self.map(field).into_iter().flatten()).map(|(name, _)| name) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.into_iter().for_each(|name| self.amount(name, errors));
    }

    /// One resource: no bound is on the wrong side of another.
    fn amount(&self, name: &str, errors: &mut FieldErrors) {
        let text = |field: &str| self.map(field).and_then(|map| map.get(name)).and_then(Value::as_str);
        let amount = |field: &str| -> Option<(Quantity, &str)> {
            let text = text(field).filter(|_| self.fields().any(|f| f == field))?;
            Some((text.parse().ok()?, text))
        };
        let [min, max, limit, request] = ["min", "max", "default", "defaultRequest"].map(amount);
        let words = |field: &str| match field {
            "min" => "min value",
            "max" => "max value",
            "defaultRequest" => "default request value",
            _ => "default value",
        };
        for (low, low_name, high, high_name, field, shown) in [
            (min, "min", max, "max", "min", min),
            (min, "min", request, "defaultRequest", "defaultRequest", request),
            (request, "defaultRequest", max, "max", "defaultRequest", request),
            (request, "defaultRequest", limit, "default", "defaultRequest", request),
            (min, "min", limit, "default", "default", min),
            (limit, "default", max, "max", "default", max),
        ] {
            if let (Some((a, low)), Some((b, high)), Some((_, shown))) = (low, high, shown)
                && a > b
            {
                let high_words = if (low_name, high_name) == ("defaultRequest", "default") {
                    "default limit value"
                } else {
                    words(high_name)
                };
                let detail = format!("{} {low} is greater than {high_words} {high}", words(low_name));
                errors.invalid(&format!("{}.{field}[{name}]", self.path), &shown.into(), &detail);
            }
        }
        self.ratio(name, amount("maxLimitRequestRatio"), min, max, errors);
        let fixed = name.starts_with("hugepages-") || (name.contains('/') && !name.contains("kubernetes.io/"));
        if let (true, Some((a, limit)), Some((b, request))) = (fixed, limit, request)
            && a != b
        {
            let detail = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            errors.invalid(&format!("{}.defaultRequest[{name}]", self.path), &request.into(), &detail);
        }
    }

    fn ratio(
        &self,
        name: &str,
        ratio: Option<(Quantity, &str)>,
        min: Option<(Quantity, &str)>,
        max: Option<(Quantity, &str)>,
        errors: &mut FieldErrors,
    ) {
        let Some((ratio, shown)) = ratio else { return };
        let field = format!("{}.maxLimitRequestRatio[{name}]", self.path);
        if ratio.thousandths() < 1000 {
            errors.invalid(&field, &shown.into(), &format!("ratio {shown} is less than 1"));
        }
        let (Some((min, _)), Some((max, _))) = (min, max) else { return };
        // In whole numbers: ratio > max / min.
        let product = ratio.thousandths().saturating_mul(min.thousandths());
        if product > max.thousandths().saturating_mul(1000) {
            #[allow(clippy::cast_precision_loss)] // It is for people.
            let most = max.thousandths() as f64 / min.thousandths() as f64;
            errors.invalid(&field, &shown.into(), &format!("ratio {shown} is greater than max/min = {most:.6}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    #[test]
    fn bounds_are_on_their_side() {
        for (limits, wanted) in [
            (
                json!([{"type": "Container", "min": {"cpu": "100m"}, "defaultRequest": {"cpu": "200m"},
                    "default": {"cpu": "300m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "10"}},
                    {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]),
                &[][..],
            ),
            (
                json!([{"type": "Pod", "default": {"cpu": "1"}}, {"type": "Pod"}, {"type": "odd"}]),
                &[
                    "spec.limits[0].default: may not be specified when `type` is 'Pod'",
                    "spec.limits[1].type: Duplicate value",
                    "spec.limits[2].type: must be a standard limit type or fully qualified",
                ],
            ),
            (
                json!([{"type": "PersistentVolumeClaim", "max": {"cpu": "1"}}]),
                &["spec.limits[0].limits: either minimum or maximum storage value is required"],
            ),
            (
                json!([{"type": "Container", "max": {"storage": "1", "bananas": "1", "x.io/y": "1"}}]),
                &[
                    "spec.limits[0].max[storage]: must be a standard resource for containers",
                    "spec.limits[0].max[bananas]: must be a standard resource type or fully qualified",
                ],
            ),
            (
                json!([{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]),
                &["spec.limits[0].min[cpu]: min value 2 is greater than max value 1"],
            ),
            (
                json!([{"type": "Container", "defaultRequest": {"cpu": "3"}, "default": {"cpu": "2"}, "max": {"cpu": "1"}}]),
                &[
                    "spec.limits[0].defaultRequest[cpu]: default request value 3 is greater than max value 1",
                    "spec.limits[0].defaultRequest[cpu]: default request value 3 is greater than default limit value 2",
                    "spec.limits[0].default[cpu]: default value 2 is greater than max value 1",
                ],
            ),
            (
                json!([{"type": "Container", "min": {"memory": "1Gi"}, "max": {"memory": "2Gi"},
                    "maxLimitRequestRatio": {"memory": "3", "cpu": "500m"}}]),
                &[
                    "spec.limits[0].maxLimitRequestRatio[memory]: ratio 3 is greater than max/min = 2.000000",
                    "spec.limits[0].maxLimitRequestRatio[cpu]: ratio 500m is less than 1",
                ],
            ),
            (
                json!([{"type": "Container", "default": {"x.io/gpu": "2"}, "defaultRequest": {"x.io/gpu": "1"}}]),
                &["spec.limits[0].defaultRequest[x.io/gpu]: default value 2 must equal to defaultRequest value 1"],
            ),
        ] {
            let (object, mut errors) = (json!({"spec": {"limits": limits}}), FieldErrors::default());
            validate(&object, &mut errors);
            assert_told(&errors, wanted, &object);
        }
    }
}
