//! What names, labels and paths look like. Everything that reaches a unit file, a template or a certificate passes here
//! first.

use std::net::IpAddr;

/// RFC 1123 label.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// RFC 1123 subdomain; an IPv4 address is one too.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// An IPv4 address, or a name that is not a mistyped one (RFC 3696: the last label of a name is not all digits).
pub(crate) fn is_name_or_ipv4(text: &str) -> bool {
    let numeric = |label: &str| label.chars().all(|c| c.is_ascii_digit());
    text.parse::<std::net::Ipv4Addr>().is_ok() || (is_subdomain(text) && !text.rsplit('.').next().is_some_and(numeric))
}

/// Where SSH may connect to: an address of either family, or a name as resolvers take it (`_` too).
pub(crate) fn is_ssh_address(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.parse::<IpAddr>().is_ok()
        || ((1..=253).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-'))
}

/// A user as sshd takes it, a directory's too (`DOMAIN\\user`, `user@domain`): one word that is no flag.
pub(crate) fn is_ssh_user(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.@\\+$".contains(c);
    (1..=128).contains(&text.len()) && text.chars().all(inner) && !text.starts_with('-')
}

/// `[USER@]HOST[:PORT]`, `ssh://` before it or not, as in ssh_config(5), ProxyJump; IPv6 with a port in brackets.
pub(crate) fn is_jump(text: &str) -> bool {
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let (user, place) = text.rsplit_once('@').map_or((None, text), |(user, place)| (Some(user), place));
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|p| p > 0);
    let is_place = match (place.strip_prefix('['), place.split_once(':')) {
        (Some(rest), _) => rest.split_once(']').is_some_and(|(host, port)| {
            host.parse::<IpAddr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        }),
        (None, Some((host, port))) if !port.contains(':') => is_ssh_address(host) && is_port(port),
        (None, _) => is_ssh_address(place),
    };
    is_place && user.is_none_or(is_ssh_user)
}

/// `[PREFIX/]NAME`, as labels and taints are keyed (upstream `validation.IsQualifiedName`).
pub(crate) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_bare_name(name),
        None => is_bare_name(text),
    }
}

/// The value of a label or a taint (upstream `validation.IsValidLabelValue`).
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_bare_name(text)
}

fn is_bare_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len()) && text.chars().all(inner) && text.starts_with(edge) && text.ends_with(edge)
}

/// A folder's absolute path in plain characters, without `.` and `..`, below the root.
pub(crate) fn is_plain_path(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    text.len() <= 200
        && text.chars().all(inner)
        && text.strip_prefix('/').is_some_and(|rest| rest.trim_end_matches('/').split('/').all(part))
}

/// `TYPE BASE64 [COMMENT]`, a public key as in an OpenSSH `.pub` file.
pub(crate) fn is_public_key(text: &str) -> bool {
    let mut words = text.split(' ');
    let kind = words.next().is_some_and(|w| ["ssh-", "ecdsa-", "sk-"].iter().any(|p| w.starts_with(p)));
    // Every kind's blob starts with the length of its name, whose first two bytes are zero.
    kind && words.next().is_some_and(|w| w.starts_with("AAAA")) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        type Shape = fn(&str) -> bool;
        let cases: &[(Shape, &[&str], &[&str])] = &[
            (is_name_or_ipv4, &["a", "k8s.example.org", "10.0.0.1"], &["", "10.0.0.300", "1.2.3", "a_b", "a b", "ä"]),
            (is_ssh_address, &["h_1.lan", "10.0.0.1", "fd00::1"], &["", "-oProxyCommand", "a b", "a\nb", "a;b"]),
            (is_ssh_user, &["root", "AD\\me", "me@ad"], &["", "-l", "a b", "a;b", "a'b", "ä"]),
            (
                is_jump,
                &["b", "me@b:22", "ssh://me@ad@b", "[fd00::1]:22", "fd00::1"],
                &["", "@b", "b:", "b:0", "b:x", "[b]", "a b", "-J", "x@-b", "b;c", "[fd00::1"],
            ),
            (is_qualified_name, &["disk", "example.org/disk_1"], &["", "/", "a/b/c", "a b", "a\nb", "-a", "a/", "ä"]),
            (is_label_value, &["", "ssd", "a.B-c_1"], &["a b", "a\nb", "$(x)", "a,b=c", "-", "é"]),
            (
                is_plain_path,
                &["/var/lib/etcd", "/data/"],
                &["", "/", "//", "etcd", "/var/../etc", "/var//x", "/a b", "/a\nb", "/a%h"],
            ),
            (is_public_key, &["ssh-ed25519 AAAAC3Nz me"], &["", "ssh-ed25519", "AAAA ssh-rsa", "ssh-rsa AAAA\nx"]),
        ];
        for (number, (shape, right, wrong)) in cases.iter().enumerate() {
            right.iter().for_each(|t| assert!(shape(t), "{number}: {t:?}"));
            wrong.iter().for_each(|t| assert!(!shape(t), "{number}: {t:?}"));
        }
    }
}
