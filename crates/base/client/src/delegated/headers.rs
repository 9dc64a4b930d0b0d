//! The user in a front proxy's headers (`k8s.io/apiserver/pkg/authentication/request/headerrequest`).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use http::HeaderMap;

use super::User;

/// Names of the headers, and of the proxies that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    /// Common names of proxies' certificates; every one of the CA's when empty.
    pub allowed: Vec<String>,
    user: Vec<String>,
    uid: Vec<String>,
    group: Vec<String>,
    /// Prefixes, in lower case.
    extra: Vec<String>,
}

impl Default for Headers {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed: Vec::new(),
            user: one("x-remote-user"),
            uid: one("x-remote-uid"),
            group: one("x-remote-group"),
            extra: one("x-remote-extra-"),
        }
    }
}

impl Headers {
    /// As ConfigMap `kube-system/extension-apiserver-authentication` has them: lists as JSON.
    pub fn published(data: &BTreeMap<String, String>) -> Result<Self> {
        let list = |key: &str| -> Result<Vec<String>> {
            let Some(text) = data.get(key).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
            serde_json::from_str(text).with_context(|| format!("read {key} as a list of texts"))
        };
        let lower = |key: &str| Ok::<_, anyhow::Error>(list(key)?.iter().map(|n| n.to_ascii_lowercase()).collect());
        Ok(Self {
            allowed: list("requestheader-allowed-names")?,
            user: lower("requestheader-username-headers")?,
            uid: lower("requestheader-uid-headers")?,
            group: lower("requestheader-group-headers")?,
            extra: lower("requestheader-extra-headers-prefix")?,
        })
    }

    /// Whether a proxy with this common name is believed.
    pub fn believes(&self, name: &str) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|allowed| allowed == name)
    }

    /// The user that the headers name.
    pub fn user(&self, headers: &HeaderMap) -> Option<User> {
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            values.filter_map(|v| std::str::from_utf8(v.as_bytes()).ok().map(str::to_owned)).collect()
        };
        let first = |names: &[String]| all(names).into_iter().find(|text| !text.is_empty());
        let name = first(&self.user)?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = self.extra.iter().find_map(|prefix| header.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, std::str::from_utf8(value.as_bytes())) {
                extra.entry(decoded(key)).or_default().push(value.to_owned());
            }
        }
        Some(User { name, uid: first(&self.uid).unwrap_or_default(), groups: all(&self.group), extra })
    }
}

/// Percent-encoding of what may not stand in a header's name is undone; what is none stays.
fn decoded(key: &str) -> String {
    let (mut out, mut bytes) = (Vec::with_capacity(key.len()), key.as_bytes());
    while let [first, rest @ ..] = bytes {
        let hex = rest.get(..2).filter(|_| *first == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                bytes = &rest[2..];
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_user_in_headers() {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &'static str| {
            headers.append(name, HeaderValue::from_static(value));
        };
        add("x-remote-group", "g1");
        add("x-remote-group", "g2");
        assert_eq!(Headers::default().user(&headers), None, "groups without a user are nobody");
        headers.append("x-remote-user", HeaderValue::from_static("jane"));
        headers.append("x-remote-uid", HeaderValue::from_static("7"));
        headers.append("x-remote-extra-example.com%2fscopes", HeaderValue::from_static("a"));
        let user = Headers::default().user(&headers).unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups.as_slice()),
            ("jane", "7", &["g1".into(), "g2".into()][..])
        );
        assert_eq!(user.extra["example.com/scopes"], ["a"]);
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }

    #[test]
    fn names_are_those_of_the_map() {
        let data = |allowed: &str| {
            let pairs = [("requestheader-allowed-names", allowed), ("requestheader-username-headers", "[\"X-Who\"]")];
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let headers = Headers::published(&data("[\"front-proxy-client\"]")).unwrap();
        assert!(headers.believes("front-proxy-client") && !headers.believes("other"));
        assert!(Headers::published(&data("")).unwrap().believes("other"));
        assert!(Headers::published(&data("front-proxy-client")).is_err());
        let mut sent = HeaderMap::new();
        sent.insert("x-remote-user", HeaderValue::from_static("jane"));
        assert_eq!(headers.user(&sent), None);
        sent.insert("x-who", HeaderValue::from_static("jim"));
        assert_eq!(headers.user(&sent).unwrap().name, "jim");
    }
}
