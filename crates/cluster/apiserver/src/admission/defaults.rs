//! Small plugins: new nodes are tainted, default classes, finalizers of volumes, signers of certificates.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::authz;
use crate::registry::cached;

fn creates(attributes: &Attributes<'_>, group: &str, kind: &str) -> bool {
    attributes.kind() == (group, kind) && attributes.operation == Operation::Create && attributes.subresource.is_empty()
}

/// TaintNodesByCondition: a node starts as not ready.
pub fn taint_new_nodes(attributes: &Attributes<'_>, node: &mut Value) {
    if !creates(attributes, "", "Node") {
        return;
    }
    let mut taints = node.at(&["spec", "taints"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let has = taints
        .iter()
        .any(|t| t.str_at(&["key"]) == "node.kubernetes.io/not-ready" && t.str_at(&["effect"]) == "NoSchedule");
    if !has {
        taints.push(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}));
        node["spec"]["taints"] = taints.into();
    }
}

fn default_of(attributes: &Attributes<'_>, prefix: &str, mark: &str) -> Result<Option<String>, ApiError> {
    let all = cached::all(&attributes.request.server, prefix, "")?;
    let mut found: Vec<Value> = all.iter().map(|e| e.value()).filter(|c| c.annotation(mark) == Some("true")).collect();
    // The newest wins, then the first by name, as upstream.
    found.sort_by(|a, b| {
        let at = |v: &Value| v.str_at(&["metadata", "creationTimestamp"]).to_owned();
        at(b).cmp(&at(a)).then_with(|| a.name().cmp(b.name()))
    });
    Ok(found.first().map(|c| c.name().to_owned()))
}

/// DefaultStorageClass.
pub fn storage_class(attributes: &Attributes<'_>, claim: &mut Value) -> Result<(), ApiError> {
    if !creates(attributes, "", "PersistentVolumeClaim") || claim.at(&["spec", "storageClassName"]).is_some() {
        return Ok(());
    }
    if claim.annotation("volume.beta.kubernetes.io/storage-class").is_some() {
        return Ok(());
    }
    if let Some(name) = default_of(attributes, "storageclasses/", "storageclass.kubernetes.io/is-default-class")? {
        claim["spec"]["storageClassName"] = name.into();
    }
    Ok(())
}

/// DefaultIngressClass.
pub fn ingress_class(attributes: &Attributes<'_>, ingress: &mut Value) -> Result<(), ApiError> {
    if !creates(attributes, "networking.k8s.io", "Ingress")
        || ingress.at(&["spec", "ingressClassName"]).is_some()
        || ingress.annotation("kubernetes.io/ingress.class").is_some()
    {
        return Ok(());
    }
    if let Some(name) = default_of(attributes, "ingressclasses/", "ingressclass.kubernetes.io/is-default-class")? {
        ingress["spec"]["ingressClassName"] = name.into();
    }
    Ok(())
}

/// StorageObjectInUseProtection: volumes and claims go when nobody uses them.
pub fn storage_in_use(attributes: &Attributes<'_>, object: &mut Value) {
    let finalizer = if creates(attributes, "", "PersistentVolume") {
        "kubernetes.io/pv-protection"
    } else if creates(attributes, "", "PersistentVolumeClaim") {
        "kubernetes.io/pvc-protection"
    } else {
        return;
    };
    let mut list = object.finalizers();
    if !list.iter().any(|f| f == finalizer) {
        list.push(finalizer.into());
        object["metadata"]["finalizers"] = list.into_iter().collect();
    }
}

/// What a write of a CertificateSigningRequest has to pass: the plugin, and the verb on the signer that it asks for.
/// None for `CertificateSubjectRestriction`, which looks at the request itself.
fn guard(
    operation: Operation,
    subresource: &str,
    certificate_changed: bool,
) -> Option<(&'static str, Option<&'static str>)> {
    match subresource {
        _ if operation == Operation::Create => Some(("CertificateSubjectRestriction", None)),
        "approval" => Some(("CertificateApproval", Some("approve"))),
        "status" if certificate_changed => Some(("CertificateSigning", Some("sign"))),
        _ => None,
    }
}

/// CertificateApproval, CertificateSigning, CertificateSubjectRestriction.
pub async fn signers(attributes: &Attributes<'_>, csr: &Value) -> Result<(), ApiError> {
    if attributes.kind() != ("certificates.k8s.io", "CertificateSigningRequest") {
        return Ok(());
    }
    let request = attributes.request;
    let signer = csr.str_at(&["spec", "signerName"]);
    let certificate = |o: &Value| o.at(&["status", "certificate"]).cloned();
    let changed = attributes.old.is_some_and(|old| certificate(old) != certificate(csr));
    let guard =
        guard(attributes.operation, attributes.subresource, changed).filter(|(plugin, _)| attributes.has(plugin));
    let verb = match guard {
        None => return Ok(()),
        Some((_, None)) => return crate::strategy::certificates::restrict_subject(csr, signer),
        Some((_, Some(verb))) => verb,
    };
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = authz::Attributes::resource(verb, "certificates.k8s.io", "v1", "signers", "", "", &name);
        if authz::decide(&request.server, &request.user, &attributes).await.allowed {
            return Ok(());
        }
    }
    let cause = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(ApiError::forbidden("certificates.k8s.io", "certificatesigningrequests", csr.name(), &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_write_of_a_certificate_request_has_its_plugin() {
        for (operation, subresource, changed, expected) in [
            (Operation::Create, "", false, Some(("CertificateSubjectRestriction", None))),
            (Operation::Update, "", false, None),
            (Operation::Update, "approval", false, Some(("CertificateApproval", Some("approve")))),
            (Operation::Update, "status", true, Some(("CertificateSigning", Some("sign")))),
            (Operation::Update, "status", false, None),
        ] {
            assert_eq!(guard(operation, subresource, changed), expected, "{operation:?} {subresource} {changed}");
            assert!(expected.is_none_or(|(plugin, _)| crate::options::PLUGINS.contains(&plugin)));
        }
    }
}
