//! Discovery of the service account issuer (`/.well-known/openid-configuration`, `/openid/v1/jwks`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::http::{ApiResponse, respond};
use crate::server::Server;

/// The configuration document.
pub fn configuration(server: &Server) -> ApiResponse {
    let issuer = server.options.issuer();
    let address =
        format!("https://{}:{}", bracketed(&server.options.advertised().to_string()), server.options.secure_port);
    respond::json(
        200,
        &json!({"issuer": issuer, "jwks_uri": format!("{address}/openid/v1/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms(server)}),
    )
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn algorithms(server: &Server) -> Vec<String> {
    let mut out: Vec<String> = keys_of(server).iter().filter_map(|k| k["alg"].as_str().map(str::to_owned)).collect();
    out.sort();
    out.dedup();
    out
}

/// The keys.
pub fn keys(server: &Server) -> ApiResponse {
    let text = json!({"keys": keys_of(server)}).to_string();
    respond::bytes(200, "application/jwk-set+json", text)
}

fn keys_of(server: &Server) -> Vec<Value> {
    server.keys.public.iter().filter_map(|(id, spki)| jwk(id, spki)).collect()
}

fn jwk(id: &str, spki: &[u8]) -> Option<Value> {
    let (_, info) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let code = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match info.parsed().ok()? {
        PublicKey::RSA(key) => {
            let strip = |b: &[u8]| b.iter().skip_while(|x| **x == 0).copied().collect::<Vec<u8>>();
            Some(json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256",
                "n": code(&strip(key.modulus)), "e": code(&strip(key.exponent))}))
        }
        PublicKey::EC(point) => {
            let data = point.data().strip_prefix(&[4])?;
            let (x, y) = data.split_at(data.len() / 2);
            let (curve, algorithm) = if x.len() == 32 { ("P-256", "ES256") } else { ("P-384", "ES384") };
            Some(
                json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": algorithm, "x": code(x), "y": code(y)}),
            )
        }
        _ => None,
    }
}
