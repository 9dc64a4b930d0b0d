//! Names: what is allowed, and how `generateName` is completed (`k8s.io/apimachinery/pkg/util/validation`).

use std::net::IpAddr;

use rand::Rng;

/// Upstream's text for a wrong DNS-1123 label.
pub const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
/// Upstream's text for a wrong DNS-1123 subdomain.
pub const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
/// Upstream's text for a wrong DNS-1035 label.
pub const DNS1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// Upstream's text for a wrong label value.
pub const VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// Upstream's text for a wrong name part of a qualified name.
pub const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What kind of name a resource wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// DNS-1123 subdomain, 253 characters.
    Subdomain,
    /// DNS-1123 label, 63 characters.
    Label,
    /// DNS-1035 label (services).
    Dns1035,
    /// A path segment (RBAC).
    PathSegment,
    /// An IP address in its canonical form (`ValidateIPAddressName`).
    Address,
}

impl NameRule {
    /// The messages for what is wrong; empty when the name is good.
    pub fn check(self, name: &str) -> Vec<String> {
        let mut out = Vec::new();
        match self {
            Self::Subdomain => {
                if name.len() > 253 {
                    out.push("must be no more than 253 characters".into());
                }
                if !is_subdomain(name) {
                    out.push(SUBDOMAIN_MESSAGE.into());
                }
            }
            Self::Label => {
                if name.len() > 63 {
                    out.push("must be no more than 63 characters".into());
                }
                if !is_label(name) {
                    out.push(LABEL_MESSAGE.into());
                }
            }
            Self::Dns1035 => {
                if name.len() > 63 {
                    out.push("must be no more than 63 characters".into());
                }
                if !is_label(name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
                    out.push(DNS1035_MESSAGE.into());
                }
            }
            Self::Address => match name.parse::<IpAddr>() {
                Err(_) => out.push(format!("ParseAddr({name:?}): unable to parse IP")),
                Ok(address) if address.to_string() != name => out.push("must be a canonical format IP address".into()),
                Ok(_) => {}
            },
            Self::PathSegment => {
                if name == "." || name == ".." {
                    out.push(format!("may not be '{name}'"));
                }
                for bad in ["/", "%"] {
                    if name.contains(bad) {
                        out.push(format!("may not contain '{bad}'"));
                    }
                }
            }
        }
        out
    }
}

fn is_label(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let b = name.as_bytes();
    !b.is_empty() && b.iter().all(|c| edge(*c) || *c == b'-') && edge(b[0]) && edge(b[b.len() - 1])
}

/// Whether `name` is a DNS-1123 subdomain (length aside).
pub fn is_subdomain(name: &str) -> bool {
    !name.is_empty() && name.split('.').all(is_label)
}

/// Upstream's text for a wrong name of a kernel parameter.
pub const SYSCTL_MESSAGE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Whether `name` can be the name of a kernel parameter (`IsValidSysctlName`): parts between dots or slashes.
pub fn is_sysctl(name: &str) -> bool {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        let b = part.as_bytes();
        !b.is_empty() && b.iter().all(|c| edge(*c) || b"-_".contains(c)) && edge(b[0]) && edge(b[b.len() - 1])
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

fn is_value(text: &str) -> bool {
    let edge = |c: u8| c.is_ascii_alphanumeric();
    let b = text.as_bytes();
    b.is_empty() || (b.iter().all(|c| edge(*c) || b"-_.".contains(c)) && edge(b[0]) && edge(b[b.len() - 1]))
}

/// What is wrong with a label's value.
pub fn check_label_value(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > 63 {
        out.push("must be no more than 63 characters".into());
    }
    if !is_value(value) {
        out.push(VALUE_MESSAGE.into());
    }
    out
}

/// What is wrong with a label's or annotation's key.
pub fn check_qualified_name(key: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if let Some(prefix) = prefix {
        if prefix.is_empty() {
            out.push("prefix part must be non-empty".into());
        } else if !is_subdomain(prefix) || prefix.len() > 253 {
            out.push(format!("prefix part {SUBDOMAIN_MESSAGE}"));
        }
    }
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 characters".into());
    }
    if !is_value(name) || name.is_empty() {
        out.push(QUALIFIED_MESSAGE.into());
    }
    out
}

/// `base` and five random characters from upstream's alphabet (no vowels, no look-alikes); `base` is cut to fit 63.
pub fn generate(base: &str) -> String {
    let keep = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= 58).last().unwrap_or(0);
    format!("{}{}", &base[..keep], random_suffix(5))
}

/// Random characters from upstream's alphabet (`k8s.io/apimachinery/pkg/util/rand`).
pub fn random_suffix(length: usize) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (rule, name, good) in [
            (NameRule::Subdomain, "a.b-c.9", true),
            (NameRule::Subdomain, "A", false),
            (NameRule::Subdomain, "a..b", false),
            (NameRule::Label, "a.b", false),
            (NameRule::Dns1035, "9a", false),
            (NameRule::PathSegment, "system:node", true),
            (NameRule::PathSegment, "a/b", false),
        ] {
            assert_eq!(rule.check(name).is_empty(), good, "{rule:?} {name}");
        }
        assert!(check_qualified_name("app.kubernetes.io/name").is_empty());
        assert!(!check_qualified_name("a/b/c").is_empty());
        assert!(!check_label_value("a b").is_empty());
        assert_eq!(generate(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn addresses_and_kernel_parameters() {
        for (name, good) in
            [("10.0.0.1", true), ("2001:db8::1", true), ("2001:DB8::1", false), ("2001:db8:0::1", false), ("a", false)]
        {
            assert_eq!(NameRule::Address.check(name).is_empty(), good, "{name}");
        }
        for (name, good) in [
            ("kernel.shm_rmid_forced", true),
            ("net/ipv4/conf/eth0.1/forwarding", true),
            ("foo-", false),
            ("kernel.shmmax_", false),
            ("safe-and-unsafe", true),
            ("bar..", false),
            ("a B", false),
            ("", false),
        ] {
            assert_eq!(is_sysctl(name), good, "{name}");
        }
    }
}
