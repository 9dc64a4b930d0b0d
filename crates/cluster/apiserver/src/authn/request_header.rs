//! The front proxy: identities in headers, believed only from a certificate of its CA with an allowed name.

use hyper::HeaderMap;
use kinit_component_base::serve::Connection;

use super::{User, x509};
use crate::http::info::percent_decode;
use crate::server::Server;

/// The user a trusted front proxy names.
pub fn user(server: &Server, connection: &Connection, headers: &HeaderMap) -> Option<User> {
    let options = &server.options;
    options.requestheader_client_ca_file.as_ref()?;
    let header =
        |names: &[String]| names.iter().find_map(|n| headers.get(n.as_str())?.to_str().ok().map(str::to_owned));
    let name = header(&options.requestheader_username_headers).filter(|n| !n.is_empty())?;
    let leaf = connection.certificates.first()?;
    if !server.trust.is_front_proxy(leaf, &connection.certificates) {
        return None;
    }
    let common_name = x509::common_name(leaf)?;
    let allowed = &options.requestheader_allowed_names;
    if !allowed.is_empty() && !allowed.contains(&common_name) {
        return None;
    }
    let mut groups = Vec::new();
    for group_header in &options.requestheader_group_headers {
        groups.extend(headers.get_all(group_header.as_str()).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned));
    }
    let mut user = User::authenticated(name, groups);
    user.uid = header(&options.requestheader_uid_headers).unwrap_or_default();
    for prefix in &options.requestheader_extra_headers_prefix {
        let prefix = prefix.to_lowercase();
        for (key, value) in headers {
            if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(&prefix), value.to_str()) {
                user.extra.entry(percent_decode(key, false)).or_default().push(value.to_owned());
            }
        }
    }
    Some(user)
}
