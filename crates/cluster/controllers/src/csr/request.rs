//! What a request asks for, and upstream's rules of what a signer may grant.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rcgen::{CertificateSigningRequestParams, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// A parsed request whose signature proved possession of the key.
pub struct Request {
    /// What rcgen signs; its extensions are replaced by ours.
    pub params: CertificateSigningRequestParams,
    /// The subject in DER: what is signed has it byte for byte.
    pub subject: Vec<u8>,
    /// The subject's common name.
    pub common_name: String,
    /// The subject's organizations: groups.
    pub organizations: Vec<String>,
    /// Names the certificate is to serve.
    pub dns: Vec<String>,
    /// Addresses the certificate is to serve.
    pub ips: Vec<IpAddr>,
    /// Whether there are SANs of other kinds.
    pub other_names: bool,
    /// How many of the subject's attributes are neither common name nor organization.
    pub other_attributes: usize,
}

/// Parses the PEM of `spec.request`.
pub fn parse(pem: &[u8]) -> Result<Request> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem).context("the request is not PEM")?;
    let params =
        CertificateSigningRequestParams::from_der(&der).context("the request is not one that can be signed")?;
    let (_, raw) = X509CertificationRequest::from_der(&der).context("the request is not PKCS#10")?;
    let subject = &raw.certification_request_info.subject;
    let text = |v: &x509_parser::x509::AttributeTypeAndValue<'_>| v.as_str().unwrap_or_default().to_owned();
    let common_names: Vec<String> = subject.iter_common_name().map(text).collect();
    let organizations: Vec<String> = subject.iter_organization().map(text).collect();
    // Programs differ in which of several is the user.
    ensure!(common_names.len() <= 1, "the subject has more than one common name");
    let (mut dns, mut ips, mut other_names) = (Vec::new(), Vec::new(), false);
    for san in &params.params.subject_alt_names {
        match san {
            SanType::DnsName(name) => dns.push(name.as_str().to_owned()),
            SanType::IpAddress(ip) => ips.push(*ip),
            _ => other_names = true,
        }
    }
    let known = ["2.5.4.3", "2.5.4.10"];
    let kinds = subject.iter_attributes().map(|a| a.attr_type().to_id_string());
    let other_attributes = kinds.filter(|kind| !known.contains(&kind.as_str())).count();
    let subject = subject.as_raw().to_vec();
    let common_name = common_names.into_iter().next().unwrap_or_default();
    Ok(Request { params, subject, common_name, organizations, dns, ips, other_names, other_attributes })
}

fn usages(spec: &CertificateSigningRequestSpec) -> BTreeSet<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// Whether the request is a kubelet's client certificate (`certificates.ValidateKubeletClientCSR`).
pub fn check_kubelet_client(request: &Request, spec: &CertificateSigningRequestSpec) -> Result<()> {
    ensure!(request.organizations == ["system:nodes"], "organization must be system:nodes alone");
    ensure!(
        request.dns.is_empty() && request.ips.is_empty() && !request.other_names,
        "a kubelet's client certificate has no subject alternative names"
    );
    ensure!(request.common_name.starts_with("system:node:"), "common name must begin with system:node:");
    check_usages(spec, "client auth")
}

/// Whether the request is a kubelet's serving certificate (`certificates.ValidateKubeletServingCSR`).
pub fn check_kubelet_serving(request: &Request, spec: &CertificateSigningRequestSpec) -> Result<()> {
    ensure!(request.organizations == ["system:nodes"], "organization must be system:nodes alone");
    ensure!(!request.dns.is_empty() || !request.ips.is_empty(), "there is neither a DNS name nor an IP address");
    ensure!(!request.other_names, "only DNS names and IP addresses are allowed as alternative names");
    ensure!(request.common_name.starts_with("system:node:"), "common name must begin with system:node:");
    check_usages(spec, "server auth")
}

fn check_usages(spec: &CertificateSigningRequestSpec, purpose: &str) -> Result<()> {
    let usages = usages(spec);
    let with = BTreeSet::from(["digital signature", "key encipherment", purpose]);
    let without = BTreeSet::from(["digital signature", purpose]);
    ensure!(
        usages == with || usages == without,
        "usages must be digital signature, {purpose} and at most key encipherment"
    );
    Ok(())
}

/// Whether the request may become a client certificate (`kube-apiserver-client`).
pub fn check_client(spec: &CertificateSigningRequestSpec) -> Result<()> {
    let usages = usages(spec);
    ensure!(usages.contains("client auth"), "usages must contain client auth");
    let allowed = BTreeSet::from(["digital signature", "key encipherment", "client auth"]);
    ensure!(usages.is_subset(&allowed), "usages may be digital signature, key encipherment and client auth");
    Ok(())
}

/// Users of the programs that kinit runs on every node.
const NODE_COMPONENTS: [&str; 2] = ["system:kube-proxy", "system:kube-netd"];

/// Whether the request is the client certificate of a program that runs on every node, and gives nothing else.
pub fn check_node_component(request: &Request, spec: &CertificateSigningRequestSpec) -> Result<()> {
    ensure!(NODE_COMPONENTS.contains(&request.common_name.as_str()), "common name is of no node component");
    ensure!(
        request.organizations.is_empty()
            && request.dns.is_empty()
            && request.ips.is_empty()
            && !request.other_names
            && request.other_attributes == 0,
        "a node component has a common name and nothing else"
    );
    check_client(spec)
}

/// Whether a serving certificate may be issued to the node: asked for by that node, for names and addresses it has.
pub fn check_serving_node(
    request: &Request,
    spec: &CertificateSigningRequestSpec,
    node_name: &str,
    addresses: &[String],
) -> Result<()> {
    check_kubelet_serving(request, spec)?;
    let user = spec.username.as_deref().unwrap_or_default();
    ensure!(user == request.common_name, "common name {:?} is not the requester {user:?}", request.common_name);
    ensure!(spec.groups.iter().flatten().any(|g| g == "system:nodes"), "the requester is not in group system:nodes");
    ensure!(request.common_name.strip_prefix("system:node:") == Some(node_name), "the node is another one");
    for name in &request.dns {
        let declared = name.eq_ignore_ascii_case(node_name) || addresses.iter().any(|a| a.eq_ignore_ascii_case(name));
        ensure!(declared, "node {node_name} does not declare the name {name}");
    }
    for ip in &request.ips {
        let declared = addresses.iter().any(|a| a.parse::<IpAddr>().is_ok_and(|a| a == *ip));
        ensure!(declared, "node {node_name} does not declare the address {ip}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn pem(cn: &str, org: &str, sans: &[&str]) -> Vec<u8> {
        let sans: Vec<String> = sans.iter().map(|s| (*s).to_owned()).collect();
        let mut params = CertificateParams::new(sans).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cn);
        if !org.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, org);
        }
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap().into_bytes()
    }

    fn spec(usages: &[&str], user: &str) -> CertificateSigningRequestSpec {
        CertificateSigningRequestSpec {
            usages: Some(usages.iter().map(|u| (*u).to_owned()).collect()),
            username: Some(user.into()),
            groups: Some(vec!["system:nodes".into()]),
            ..Default::default()
        }
    }

    #[test]
    fn several_organizations_and_one_common_name() {
        let key = KeyPair::generate().unwrap().serialize_pem();
        let groups = ["system:nodes".to_owned(), "system:masters".to_owned()];
        let request = parse(kinit_pki::user_request(&key, "system:node:a", &groups).unwrap().as_bytes()).unwrap();
        assert_eq!(request.organizations, groups);
        let spec = spec(&["client auth"], "system:node:a");
        assert!(check_kubelet_client(&request, &spec).is_err(), "a second group is one too many");
        assert!(check_node_component(&request, &spec).is_err());
    }

    #[test]
    fn kubelet_client_rules() {
        let good = ["digital signature", "client auth"];
        for (cn, org, sans, usages, ok) in [
            ("system:node:a", "system:nodes", &[][..], &good[..], true),
            ("system:node:a", "system:nodes", &[], &["digital signature", "key encipherment", "client auth"], true),
            ("system:node:a", "system:masters", &[], &good, false),
            ("admin", "system:nodes", &[], &good, false),
            ("system:node:a", "system:nodes", &["evil.example"], &good, false),
            ("system:node:a", "system:nodes", &[], &["digital signature", "server auth"], false),
            ("system:node:a", "system:nodes", &[], &["digital signature", "client auth", "cert sign"], false),
        ] {
            let request = parse(&pem(cn, org, sans)).unwrap();
            assert_eq!(check_kubelet_client(&request, &spec(usages, cn)).is_ok(), ok, "{cn} {org} {sans:?} {usages:?}");
        }
    }

    #[test]
    fn node_components_are_two_names_and_nothing_else() {
        let usages = ["client auth"];
        for (cn, org, sans, usages, ok) in [
            ("system:kube-proxy", "", &[][..], &usages[..], true),
            ("system:kube-netd", "", &[], &["client auth", "digital signature"], true),
            ("system:kube-proxy", "system:masters", &[], &usages, false),
            ("system:kube-scheduler", "", &[], &usages, false),
            ("system:node:a", "", &[], &usages, false),
            ("system:kube-proxy", "", &["evil.example"], &usages, false),
            ("system:kube-proxy", "", &[], &["client auth", "server auth"], false),
        ] {
            let request = parse(&pem(cn, org, sans)).unwrap();
            let result = check_node_component(&request, &spec(usages, "system:bootstrap:abcdef"));
            assert_eq!(result.is_ok(), ok, "{cn} {org} {sans:?} {usages:?}");
        }
    }

    #[test]
    fn serving_names_must_be_the_nodes_own() {
        let usages = ["digital signature", "server auth"];
        let addresses = ["10.0.0.5".to_owned(), "host-a".to_owned()];
        for (user, sans, ok) in [
            ("system:node:a", &["a", "10.0.0.5"][..], true),
            ("system:node:a", &["host-a"], true),
            ("system:node:b", &["a"], false),
            ("system:node:a", &["kubernetes.default"], false),
            ("system:node:a", &["10.0.0.6"], false),
            ("system:node:a", &[], false),
        ] {
            let request = parse(&pem("system:node:a", "system:nodes", sans)).unwrap();
            let result = check_serving_node(&request, &spec(&usages, user), "a", &addresses);
            assert_eq!(result.is_ok(), ok, "{user} {sans:?}: {result:?}");
        }
    }
}
