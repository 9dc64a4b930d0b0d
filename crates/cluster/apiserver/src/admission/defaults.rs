//! Small plugins: new nodes are tainted, default classes, finalizers of volumes, signers of certificates.

use kinit_apimachinery::ApiError;
use kinit_apimachinery::meta::Meta;
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::authz::{self, Ask};

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

fn default_of(attributes: &Attributes<'_>, prefix: &str, mark: &str) -> Option<String> {
    let all = attributes.request.server.store.cache(prefix)?.list("", |_| true).0;
    let mut found: Vec<Value> = all.iter().map(|e| e.value()).filter(|c| c.annotation(mark) == Some("true")).collect();
    // The newest wins, then the first by name, as upstream.
    found.sort_by(|a, b| {
        let at = |v: &Value| v.str_at(&["metadata", "creationTimestamp"]).to_owned();
        at(b).cmp(&at(a)).then_with(|| a.name().cmp(b.name()))
    });
    found.first().map(|c| c.name().to_owned())
}

/// DefaultStorageClass.
pub fn storage_class(attributes: &Attributes<'_>, claim: &mut Value) {
    if !creates(attributes, "", "PersistentVolumeClaim") || claim.at(&["spec", "storageClassName"]).is_some() {
        return;
    }
    if claim.annotation("volume.beta.kubernetes.io/storage-class").is_some() {
        return;
    }
    if let Some(name) = default_of(attributes, "storageclasses/", "storageclass.kubernetes.io/is-default-class") {
        claim["spec"]["storageClassName"] = name.into();
    }
}

/// DefaultIngressClass.
pub fn ingress_class(attributes: &Attributes<'_>, ingress: &mut Value) {
    if !creates(attributes, "networking.k8s.io", "Ingress")
        || ingress.at(&["spec", "ingressClassName"]).is_some()
        || ingress.annotation("kubernetes.io/ingress.class").is_some()
    {
        return;
    }
    if let Some(name) = default_of(attributes, "ingressclasses/", "ingressclass.kubernetes.io/is-default-class") {
        ingress["spec"]["ingressClassName"] = name.into();
    }
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

/// CertificateApproval, CertificateSigning, CertificateSubjectRestriction.
pub async fn signers(attributes: &Attributes<'_>, csr: &Value) -> Result<(), ApiError> {
    if attributes.kind() != ("certificates.k8s.io", "CertificateSigningRequest") {
        return Ok(());
    }
    let request = attributes.request;
    let signer = csr.str_at(&["spec", "signerName"]);
    if attributes.operation == Operation::Create {
        return crate::strategy::certificates::restrict_subject(csr, signer);
    }
    let verb = match attributes.subresource {
        "approval" => "approve",
        "status"
            if attributes
                .old
                .is_some_and(|o| o.at(&["status", "certificate"]) != csr.at(&["status", "certificate"])) =>
        {
            "sign"
        }
        _ => return Ok(()),
    };
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let ask = Ask::resource(verb, "certificates.k8s.io", "v1", "signers", "", "", &name);
        if authz::decide(&request.server, &request.user, &ask).await.allowed {
            return Ok(());
        }
    }
    let cause = format!("user not permitted to {verb} requests with signerName \"{signer}\"");
    Err(ApiError::forbidden("certificates.k8s.io", "certificatesigningrequests", csr.name(), &cause))
}
