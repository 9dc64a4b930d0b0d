//! CertificateSigningRequest: what the server sets, and what may not change.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use crate::authn::User;

/// CertificateSubjectRestriction: nobody asks for `system:masters` from the client signer.
pub fn restrict_subject(csr: &Value, signer: &str) -> Result<(), ApiError> {
    if signer != "kubernetes.io/kube-apiserver-client" {
        return Ok(());
    }
    let organizations = organizations(csr.str_at(&["spec", "request"]));
    if organizations.iter().any(|o| o == "system:masters") {
        let cause = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
        return Err(ApiError::forbidden("certificates.k8s.io", "certificatesigningrequests", csr.name(), cause));
    }
    Ok(())
}

fn der(request: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    let pem = base64::engine::general_purpose::STANDARD.decode(request).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    (pem.label == "CERTIFICATE REQUEST").then_some(pem.contents)
}

fn organizations(request: &str) -> Vec<String> {
    use x509_parser::prelude::FromDer;
    let Some(der) = der(request) else { return Vec::new() };
    let Ok((_, csr)) = x509_parser::certification_request::X509CertificationRequest::from_der(&der) else {
        return Vec::new();
    };
    let subject = &csr.certification_request_info.subject;
    subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect()
}

/// Checks the request, signer and usages.
pub fn validate(csr: &Value, errors: &mut FieldErrors) {
    let request = csr.str_at(&["spec", "request"]);
    if der(request).is_none() {
        errors.invalid("spec.request", &"<not shown>".into(), "PEM block type must be CERTIFICATE REQUEST");
    }
    let signer = csr.str_at(&["spec", "signerName"]);
    if signer.is_empty() {
        errors.required("spec.signerName", "");
    } else if !signer.contains('/') {
        errors.invalid(
            "spec.signerName",
            &signer.into(),
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
    }
    if csr.at(&["spec", "usages"]).and_then(Value::as_array).is_none_or(Vec::is_empty) {
        errors.required("spec.usages", "usages must be provided");
    }
    if let Some(seconds) = csr.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64)
        && seconds < 600
    {
        errors.invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

/// Who asks is what the server knows, not what the request says.
pub fn stamp(csr: &mut Value, user: &User) {
    let Some(spec) = csr.object_at(&["spec"]) else { return };
    let info = user.to_info();
    for (key, from) in [("username", "username"), ("uid", "uid"), ("groups", "groups"), ("extra", "extra")] {
        match info.get(from) {
            Some(value) => {
                spec.insert(key.into(), value.clone());
            }
            None => {
                spec.shift_remove(key);
            }
        }
    }
}

fn conditions(csr: &Value, pick: impl Fn(&str) -> bool) -> Vec<Value> {
    let list = csr.at(&["status", "conditions"]).and_then(Value::as_array);
    list.into_iter().flatten().filter(|c| pick(c.str_at(&["type"]))).cloned().collect()
}

fn decides(kind: &str) -> bool {
    matches!(kind, "Approved" | "Denied")
}

fn stamped(mut list: Vec<Value>) -> Value {
    let now = kinit_apimachinery::time::format(jiff::Timestamp::now());
    for condition in &mut list {
        for key in ["lastUpdateTime", "lastTransitionTime"] {
            super::tools::empty(condition, key, now.clone());
        }
        super::tools::empty(condition, "status", "True");
    }
    list.into()
}

/// `approval`: the conditions and the metadata; neither what is asked for nor the certificate.
pub fn approval_update(new: &Value, old: &Value) -> Value {
    let mut out = new.clone();
    let decided = stamped(conditions(new, |_| true));
    for key in ["spec", "status"] {
        out[key] = old.get(key).cloned().unwrap_or_default();
    }
    if let Some(status) = out.object_at(&["status"]) {
        status.insert("conditions".into(), decided);
    }
    out
}

/// `status`: everything but the approval, which has its own subresource.
pub fn status_update(new: Value, old: &Value) -> Value {
    let mut list = conditions(old, decides);
    list.extend(conditions(&new, |kind| !decides(kind)));
    let mut out = super::status_update("CertificateSigningRequest", new, old);
    if !list.is_empty() {
        out["status"]["conditions"] = stamped(list);
    }
    out
}

/// The spec never changes; conditions of approval never go.
pub fn prepare_update(new: &mut Value, old: &Value) {
    new["spec"] = old["spec"].clone();
}
