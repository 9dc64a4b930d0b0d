//! Subjects as they are: with several organizations, and byte for byte as a request has them.
//!
//! rcgen's names hold one value of a kind. What it made is taken apart at the level of DER, given another subject, and
//! signed again.
//!
//! ```text
//! certificate  SEQUENCE { tbs { [0] version, serial, algorithm, issuer, validity, SUBJECT, ... }, algorithm, value }
//! request      SEQUENCE { info { version, SUBJECT, ... }, algorithm, signature }             (RFC 5280, RFC 2986)
//! ```

use rcgen::{CertificateParams, KeyPair, SigningKey};

use crate::issue::{Error, because, read_key};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;
/// 2.5.4.3 and 2.5.4.10, with their headers.
const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x0a];
/// Where the subject is among the parts of what is signed.
const ISSUER_IN_CERTIFICATE: usize = 3;
const IN_CERTIFICATE: usize = 5;
const IN_REQUEST: usize = 1;

/// A certificate with other names, Names in DER, signed anew by the key of its issuer.
pub fn certificate_with_names(
    certificate: &[u8],
    subject: &[u8],
    issuer: &[u8],
    key: &KeyPair,
) -> Result<Vec<u8>, Error> {
    signed_anew(certificate, &[(IN_CERTIFICATE, subject), (ISSUER_IN_CERTIFICATE, issuer)], key)
}

/// A certificate signing request of a user (CN) in groups (each an O), PEM.
pub fn user_request(key_pem: &str, common_name: &str, organizations: &[String]) -> Result<String, Error> {
    let key = read_key(key_pem)?;
    let request =
        CertificateParams::default().serialize_request(&key).map_err(because("make a certificate signing request"))?;
    let der = signed_anew(request.der(), &[(IN_REQUEST, &name(common_name, organizations))], &key)?;
    Ok(pem("CERTIFICATE REQUEST", &der))
}

/// PEM of DER (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// A Name: one set for each value, organizations first.
fn name(common_name: &str, organizations: &[String]) -> Vec<u8> {
    let value = |kind: [u8; 5], text: &str| {
        let pair = [kind.to_vec(), element(UTF8_STRING, text.as_bytes())].concat();
        element(SET, &element(SEQUENCE, &pair))
    };
    let groups = organizations.iter().map(|organization| value(ORGANIZATION, organization));
    let values: Vec<Vec<u8>> = groups.chain([value(COMMON_NAME, common_name)]).collect();
    element(SEQUENCE, &values.concat())
}

fn signed_anew(der: &[u8], names: &[(usize, &[u8])], key: &KeyPair) -> Result<Vec<u8>, Error> {
    let [to_sign, algorithm, _] = parts(der)?[..] else { return Err(Error::Der) };
    let mut inner = parts(to_sign)?;
    for (at, name) in names {
        *inner.get_mut(*at).ok_or(Error::Der)? = name;
    }
    let signed = element(SEQUENCE, &inner.concat());
    let mut signature = vec![0];
    signature.extend(key.sign(&signed).map_err(because("sign again with other names"))?);
    let all = [signed, algorithm.to_vec(), element(BIT_STRING, &signature)];
    Ok(element(SEQUENCE, &all.concat()))
}

/// The elements of a sequence, with their headers.
fn parts(der: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let (header, length) = header(der)?;
    if der.first() != Some(&SEQUENCE) || der.len() != header + length {
        return Err(Error::Der);
    }
    let mut rest = &der[header..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (header, length) = self::header(rest)?;
        let (part, after) = rest.split_at_checked(header + length).ok_or(Error::Der)?;
        out.push(part);
        rest = after;
    }
    Ok(out)
}

/// Lengths of an element's header and of its content.
fn header(der: &[u8]) -> Result<(usize, usize), Error> {
    let short = *der.get(1).ok_or(Error::Der)?;
    if short < 0x80 {
        return Ok((2, usize::from(short)));
    }
    let count = usize::from(short & 0x7f);
    // 3 bytes are 16 MiB.
    let bytes = der.get(2..2 + count).filter(|_| (1..=3).contains(&count)).ok_or(Error::Der)?;
    Ok((2 + count, bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))))
}

/// An element.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::*;

    use super::*;
    use crate::{KeyAlgorithm, new_key};

    #[test]
    fn a_user_in_several_groups() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa2048] {
            let key = new_key(algorithm).unwrap();
            // Long enough for lengths of two bytes.
            let groups = ["dev".to_owned(), "ops".to_owned(), "ünï".to_owned(), "x".repeat(300)];
            let pem = user_request(&key, "jane", &groups).unwrap();
            let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
            let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
            request.verify_signature().unwrap();
            let subject = &request.certification_request_info.subject;
            let texts: Vec<&str> = subject.iter_organization().map(|o| o.as_str().unwrap()).collect();
            assert_eq!(texts, groups);
            assert_eq!(subject.iter_common_name().next().unwrap().as_str().unwrap(), "jane");
        }
    }

    #[test]
    fn a_certificate_gets_names_as_they_are() {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["host".to_owned()]).unwrap().self_signed(&key).unwrap();
        let subject = name("jane", &["a".to_owned(), "b".to_owned()]);
        let issuer = name("authority", &["one".to_owned(), "two".to_owned()]);
        let der = certificate_with_names(certificate.der(), &subject, &issuer, &key).unwrap();
        let (rest, read) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        read.verify_signature(Some(read.public_key())).unwrap();
        assert_eq!((read.subject().as_raw(), read.issuer().as_raw()), (&subject[..], &issuer[..]));
        let (_, before) = X509Certificate::from_der(certificate.der()).unwrap();
        assert_eq!(read.extensions(), before.extensions(), "all else stays");
        assert_eq!(read.raw_serial(), before.raw_serial());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        let key = KeyPair::generate().unwrap();
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0x80],
            &[0x30, 0x84, 1, 0, 0, 0],
            &[0x30, 3, 0x30, 5, 0],
            &[0x31, 0],
            &[0x30, 0, 0],
        ] {
            assert!(certificate_with_names(bad, &[], &[], &key).is_err(), "{bad:?}");
        }
    }
}
