//! CertificateSigningRequest: what the server sets, and what may not change.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

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

/// The spec never changes; conditions of approval never go.
pub fn prepare_update(new: &mut Value, old: &Value) {
    new["spec"] = old["spec"].clone();
}
