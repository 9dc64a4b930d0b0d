//! The kubelet's own certificates, which it asks for itself: only whether they come from an authority that is being
//! replaced is kinit's affair.

use anyhow::Result;

use crate::files::{self, read_optional};

const AUTHORITIES: &str = "/etc/kubernetes/pki/ca.crt";

/// Whether a certificate of the pair was signed by an authority that is trusted still but signs no more. `client` is
/// the client certificate's path; the serving one lies beside it.
pub(crate) fn is_outlived(client: &str) -> Result<bool> {
    let Some(authorities) = read_optional(AUTHORITIES)? else { return Ok(false) };
    let outlived = |path: &str| -> Result<bool> {
        let text = read_optional(path)?;
        Ok(text.is_some_and(|text| is_of_former(&text, &authorities)))
    };
    Ok(outlived(client)? || outlived(&serving(client))?)
}

/// Whether another than the first of these authorities signed it.
pub(crate) fn is_of_former(certificate: &str, authorities: &str) -> bool {
    kinit_pki::issuer(certificate, authorities).is_some_and(|place| place > 0)
}

fn serving(client: &str) -> String {
    client.replace("kubelet-client-", "kubelet-server-")
}

/// Takes them away, so that the kubelet asks for others at its next start. The client certificate last: while it is
/// there, the next run sees that this was not finished.
pub(crate) fn forget(client: &str) -> Result<()> {
    files::remove(&serving(client))?;
    files::remove(client)
}

#[cfg(test)]
mod tests {
    use kinit_pki::{KeyAlgorithm, Pair, Subject, Usage};

    use super::*;

    #[test]
    fn only_what_a_former_authority_signed_is_outlived() {
        let now = time::OffsetDateTime::now_utc();
        let kind = KeyAlgorithm::EcdsaP256;
        let authority = || kinit_pki::new_authority("kubernetes", kind, 10, now).unwrap();
        let (old, new, other) = (authority(), authority(), authority());
        let signed = |by: &Pair| {
            let subject = Subject {
                common_name: "system:node:a".into(),
                organization: Some("system:nodes".into()),
                usages: vec![Usage::Client],
                dns: vec![],
                ips: vec![],
                days: 1,
            };
            let request = kinit_pki::request(&kinit_pki::new_key(kind).unwrap(), &subject).unwrap();
            kinit_pki::issue(by, &request, &subject, now).unwrap()
        };
        let both = new.cert.clone() + &old.cert;
        for (by, authorities, expected) in
            [(&old, &both, true), (&new, &both, false), (&other, &both, false), (&old, &old.cert, false)]
        {
            assert_eq!(is_of_former(&signed(by), authorities), expected);
        }
    }
}
