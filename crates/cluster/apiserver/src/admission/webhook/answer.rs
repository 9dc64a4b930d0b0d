//! What a webhook answers (`webhook/request.VerifyAdmissionResponse`, `webhook/errors.ToStatusErr`): pure.

use base64::Engine;
use kinit_apimachinery::meta::{Meta, strings};
use kinit_apimachinery::schema::schema;
use kinit_apimachinery::{ApiError, check};
use serde_json::{Value, json};

/// A verified answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// The `Status` that explains a refusal.
    pub status: Option<Value>,
    /// The operations of a JSON patch; empty when nothing is to change.
    pub patch: Vec<Value>,
    /// For the client.
    pub warnings: Vec<String>,
    /// For the audit log.
    pub annotations: Vec<(String, String)>,
}

/// Reads the answer to the review `uid`.
pub fn verify(review: &Value, uid: &str, mutating: bool) -> Result<Answer, String> {
    let Some(response) = review.get("response").filter(|r| r.is_object()) else {
        return Err("webhook response was absent".into());
    };
    let given = response.str_at(&["uid"]);
    if given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let (version, kind) = (review.str_at(&["apiVersion"]), review.str_at(&["kind"]));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let patch = patch(response, mutating)?;
    let status = match response.get("status").filter(|s| !s.is_null()) {
        Some(status) => Some(conformed(status.clone())?),
        None => None,
    };
    let annotations = response.get("auditAnnotations").and_then(Value::as_object).into_iter().flatten();
    Ok(Answer {
        allowed: response.get("allowed").and_then(Value::as_bool).unwrap_or(false),
        status,
        patch,
        warnings: strings(response.get("warnings")),
        annotations: annotations.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect(),
    })
}

fn patch(response: &Value, mutating: bool) -> Result<Vec<Value>, String> {
    let coded = response.str_at(&["patch"]);
    let kind = response.get("patchType").filter(|t| !t.is_null());
    match (mutating, coded.is_empty(), kind) {
        (_, true, None) => return Ok(Vec::new()),
        (false, false, _) => return Err("validating webhook may not return response.patch".into()),
        (false, _, Some(_)) => return Err("validating webhook may not return response.patchType".into()),
        (true, false, None) => return Err("webhook returned response.patch but not response.patchType".into()),
        (true, true, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
        (true, false, Some(kind)) if kind != "JSONPatch" => return Err(format!("unsupported patch type {kind}")),
        (true, false, Some(_)) => {}
    }
    let undecodable = |why: String| format!("received undecodable patch in webhook response: {why}");
    let text = base64::engine::general_purpose::STANDARD.decode(coded).map_err(|e| undecodable(e.to_string()))?;
    match serde_json::from_slice(&text) {
        Ok(Value::Array(operations)) => Ok(operations),
        Ok(Value::Null) => Ok(Vec::new()),
        Ok(_) => Err(undecodable("a JSON patch is a list of operations".into())),
        Err(error) => Err(undecodable(error.to_string())),
    }
}

/// The fields of a `Status` and no others.
fn conformed(mut status: Value) -> Result<Value, String> {
    if let Some(ty) = schema().by_name("meta.v1.Status") {
        check::conform(&mut status, ty, &mut Vec::new())?;
    }
    Ok(status)
}

/// The refusal as the client sees it: the webhook's status, with its name before the message, and never a code of
/// success.
pub fn denied(hook: &str, status: Option<&Value>) -> ApiError {
    let mut status = status.cloned().unwrap_or_else(|| json!({}));
    let code = status.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
    let code = code.filter(|c| (400..600).contains(c)).unwrap_or(400);
    let by = format!("admission webhook {hook:?} denied the request");
    let message = match (status.str_at(&["message"]), status.str_at(&["reason"])) {
        ("", "") => format!("{by} without explanation"),
        ("", text) | (text, _) => format!("{by}: {text}"),
    };
    let said = match status.str_at(&["status"]) {
        "" | "Success" => "Failure".to_owned(),
        other => other.to_owned(),
    };
    let mut shown = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": said, "message": message});
    for key in ["reason", "details"] {
        if let Some(value) = status.get_mut(key).filter(|v| !v.is_null()) {
            shown[key] = value.take();
        }
    }
    shown["code"] = code.into();
    let retry = shown.at(&["details", "retryAfterSeconds"]).and_then(Value::as_u64);
    let mut error = ApiError::new(code, "", message);
    error.retry_after = retry.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0);
    error.given = Some(Box::new(shown));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers() {
        let patch = base64::engine::general_purpose::STANDARD.encode(r#"[{"op":"remove","path":"/a"}]"#);
        let good = verify(
            &review(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch", "warnings": ["w"],
                "auditAnnotations": {"k": "v"}})),
            "u",
            true,
        )
        .unwrap();
        assert_eq!((good.allowed, good.patch.len(), good.warnings.len()), (true, 1, 1));
        assert_eq!(good.annotations, [("k".to_owned(), "v".to_owned())]);
        for (answer, mutating, want) in [
            (review(json!(null)), true, "webhook response was absent"),
            (review(json!({"uid": "x"})), true, "expected response.uid=\"u\", got \"x\""),
            (
                json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "response": {"uid": "u"}}),
                true,
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview",
            ),
            (
                review(json!({"uid": "u", "patch": patch})),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                review(json!({"uid": "u", "patchType": "JSONPatch"})),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (
                review(json!({"uid": "u", "patch": patch, "patchType": "Merge"})),
                true,
                "unsupported patch type \"Merge\"",
            ),
            (review(json!({"uid": "u", "patch": "?", "patchType": "JSONPatch"})), true, "received undecodable patch"),
            (
                review(json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"})),
                false,
                "validating webhook may not return response.patch",
            ),
            (
                review(json!({"uid": "u", "patchType": "JSONPatch"})),
                false,
                "validating webhook may not return response.patchType",
            ),
            (review(json!({"uid": "u", "status": {"code": "x"}})), false, "json: cannot unmarshal"),
        ] {
            let problem = verify(&answer, "u", mutating).unwrap_err();
            assert!(problem.starts_with(want), "{answer}: {problem}");
        }
    }

    #[test]
    fn refusals_carry_the_status_given() {
        for (status, code, message) in [
            (json!(null), 400, "admission webhook \"h\" denied the request without explanation"),
            (json!({"message": "no", "code": 403}), 403, "admission webhook \"h\" denied the request: no"),
            (
                json!({"reason": "Why", "code": 200, "status": "Success"}),
                400,
                "admission webhook \"h\" denied the request: Why",
            ),
            (json!({"message": "no", "code": 100_000}), 400, "admission webhook \"h\" denied the request: no"),
        ] {
            let error = denied("h", Some(&status).filter(|s| !s.is_null()));
            let shown = error.to_status();
            assert_eq!((error.code, error.message.as_str()), (code, message), "{status}");
            assert_eq!(shown["status"], "Failure");
            assert_eq!((&shown["message"], &shown["code"]), (&json!(message), &json!(code)));
            assert_eq!(shown.get("reason"), status.get("reason"));
        }
    }
}
