//! A pod against a policy: refused or not, what the audit log gets, what the client is told (`EvaluatePod`).

use kinit_apimachinery::status::FieldErrors;

use super::checks::{self, Finding, Pod};
use super::policy::{Policy, Standard};
use crate::registry::Request;

/// The audit annotation with the standard that was enforced.
pub const ENFORCED: &str = "pod-security.kubernetes.io/enforce-policy";
/// The audit annotation with what violates the audited standard.
pub const VIOLATIONS: &str = "pod-security.kubernetes.io/audit-violations";
/// The audit annotation with why a policy could not be had.
pub const ERROR: &str = "pod-security.kubernetes.io/error";

/// What comes of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why the pod is refused.
    pub refused: Option<String>,
    /// For the client; never beside a refusal.
    pub warning: Option<String>,
    /// For the audit log.
    pub annotations: Vec<(&'static str, String)>,
}

impl Verdict {
    /// Leaves the warning and the annotations with the request, and says why the pod is refused.
    pub fn tell(self, request: &Request) -> Option<String> {
        for (key, value) in self.annotations {
            request.annotate(key, value);
        }
        if let Some(warning) = self.warning {
            request.warn(warning);
        }
        self.refused
    }
}

/// Judges a pod, or a template of one (`enforce` is off).
pub fn judge(policy: &Policy, errors: &FieldErrors, pod: Pod<'_>, enforce: bool) -> Verdict {
    let mut out = Verdict::default();
    if !errors.0.is_empty() {
        out.annotations.push((ERROR, format!("Failed to parse policy: {}", aggregate(errors))));
    }
    let violates = |standard: Standard, would: &str| {
        let findings: Vec<Finding> = checks::evaluate(standard, pod);
        (!findings.is_empty()).then(|| format!("{would} PodSecurity \"{standard}\": {}", checks::details(&findings)))
    };
    if enforce {
        out.annotations.push((ENFORCED, policy.enforce.to_string()));
        out.refused = violates(policy.enforce, "violates");
    }
    if let Some(text) = violates(policy.audit, "would violate") {
        out.annotations.push((VIOLATIONS, text));
    }
    if out.refused.is_none() {
        out.warning = violates(policy.warn, "would violate");
    }
    out
}

/// `ErrorList.ToAggregate`.
fn aggregate(errors: &FieldErrors) -> String {
    let texts: Vec<String> = errors.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(labels: &[(&str, &'static str)], enforce: bool) -> Verdict {
        let find = |key: &str| labels.iter().find(|(k, _)| key.ends_with(&format!("/{k}"))).map(|(_, v)| *v);
        let (policy, errors) = Policy::of(find);
        judge(&policy, &errors, Pod::of(&json!({"spec": {"hostPID": true}})), enforce)
    }

    #[test]
    fn modes() {
        let text =
            |would: &str, standard: &str| format!("{would} PodSecurity \"{standard}\": host namespaces (hostPID=true)");
        assert_eq!(
            of(&[("enforce", "baseline"), ("audit", "restricted")], true),
            Verdict {
                refused: Some(text("violates", "baseline:latest")),
                warning: None,
                annotations: vec![
                    (ENFORCED, "baseline:latest".into()),
                    (VIOLATIONS, text("would violate", "restricted:latest"))
                ],
            }
        );
        assert_eq!(
            of(&[("enforce", "baseline"), ("enforce-version", "v1.30")], false),
            Verdict { warning: Some(text("would violate", "baseline:v1.30")), ..Verdict::default() }
        );
        assert_eq!(
            of(&[("warn", "baseline")], true),
            Verdict {
                warning: Some(text("would violate", "baseline:latest")),
                annotations: vec![(ENFORCED, "privileged:latest".into())],
                refused: None,
            }
        );
    }

    #[test]
    fn labels_that_cannot_be_read_are_noted() {
        let verdict = of(&[("enforce", "x"), ("audit", "y")], true);
        assert!(verdict.refused.is_some_and(|text| text.contains("restricted:latest")));
        assert_eq!(
            verdict.annotations[0].1,
            r#"Failed to parse policy: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "x": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/audit]: Invalid value: "y": must be one of privileged, baseline, restricted]"#
        );
    }
}
