//! Client certificates: CN is the user, each O a group (`authentication/request/x509`).

use kinit_component_base::serve::Connection;
use x509_parser::prelude::*;

use super::User;
use crate::server::Server;

/// The user of a verified client certificate. The handshake verified the chain against all CAs we know; a front proxy's
/// certificate names no user, unless the same CA is the clients' too.
pub fn user(server: &Server, connection: &Connection) -> Option<User> {
    let leaf = connection.certificates.first()?;
    if !server.trust.is_client(leaf, &connection.certificates) {
        return None;
    }
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    let mut user = User::authenticated(name, groups);
    use sha2::Digest;
    let digest = hex::encode(sha2::Sha256::digest(leaf.as_ref()));
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![format!("X509SHA256={digest}")]);
    Some(user)
}

/// The common name of a certificate.
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    cert.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned)
}
