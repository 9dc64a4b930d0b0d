//! The detached JWS of cluster-info (`k8s.io/cluster-bootstrap/token/jws`): HS256 with the token's secret, key id the
//! token's id, payload left out.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `HEADER..SIGNATURE` over `content`.
pub fn detached(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}"}}"#));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_jws_that_the_secret_verifies() {
        let jws = detached("content", "abcdef", "0123456789abcdef");
        let [header, payload, signature] = jws.split('.').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        assert_eq!(payload, "");
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"0123456789abcdef");
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode("content"));
        aws_lc_rs::hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    }
}
