//! Endpoints (`ValidateEndpoints`).

use std::net::IpAddr;

use kinit_apimachinery::meta::Meta;
use kinit_apimachinery::names::{NameRule, check_qualified_name};
use kinit_apimachinery::status::FieldErrors;
use serde_json::Value;

use super::tools::{items, one_of};

/// Checks the subsets.
pub fn validate(o: &Value, errors: &mut FieldErrors) {
    for (i, subset) in items(o, &["subsets"]).iter().enumerate() {
        let at = format!("subsets[{i}]");
        let lists = ["addresses", "notReadyAddresses"].map(|key| (key, items(subset, &[key])));
        if lists.iter().all(|(_, list)| list.is_empty()) {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for (key, list) in lists {
            for (j, entry) in list.iter().enumerate() {
                address(entry, &format!("{at}.{key}[{j}]"), errors);
            }
        }
        let ports = items(subset, &["ports"]);
        for (j, entry) in ports.iter().enumerate() {
            port(entry, ports.len() > 1, &format!("{at}.ports[{j}]"), errors);
        }
    }
}

fn address(entry: &Value, at: &str, errors: &mut FieldErrors) {
    let (hostname, node) = (entry.str_at(&["hostname"]), entry.str_at(&["nodeName"]));
    ip(entry.str_at(&["ip"]), &format!("{at}.ip"), errors);
    if !hostname.is_empty() {
        for problem in NameRule::Label.check(hostname) {
            errors.invalid(&format!("{at}.hostname"), &hostname.into(), &problem);
        }
    }
    if !node.is_empty() {
        for problem in NameRule::Subdomain.check(node) {
            errors.invalid(&format!("{at}.nodeName"), &node.into(), &problem);
        }
    }
}

/// `IsValidIP` and `ValidateNonSpecialIP`: whoever writes endpoints must not lead a node to itself.
fn ip(text: &str, field: &str, errors: &mut FieldErrors) {
    let value = Value::from(text);
    let Ok(ip) = text.parse::<IpAddr>() else {
        return errors.invalid(field, &value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    };
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(field, &value, &format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(field, &value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(field, &value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        errors.invalid(field, &value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn port(entry: &Value, needs_name: bool, at: &str, errors: &mut FieldErrors) {
    let (name, protocol) = (entry.str_at(&["name"]), entry.get("appProtocol").and_then(Value::as_str));
    if name.is_empty() && needs_name {
        errors.required(&format!("{at}.name"), "");
    } else if !name.is_empty() {
        for problem in NameRule::Label.check(name) {
            errors.invalid(&format!("{at}.name"), &name.into(), &problem);
        }
    }
    super::tools::port(entry.get("port"), &format!("{at}.port"), errors);
    one_of(&entry["protocol"], &format!("{at}.protocol"), &["SCTP", "TCP", "UDP"], errors);
    for problem in protocol.map(check_qualified_name).into_iter().flatten() {
        errors.invalid(&format!("{at}.appProtocol"), &entry["appProtocol"], &problem);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tools::assert_told;
    use super::*;

    #[test]
    fn addresses_lead_to_others() {
        let port = json!({"port": 80, "protocol": "TCP"});
        for (subset, wanted) in [
            (json!({"addresses": [{"ip": "10.0.0.1", "nodeName": "a"}], "ports": [port]}), &[][..]),
            (json!({"notReadyAddresses": [{"ip": "fd00::1"}]}), &[]),
            (json!({"ports": [port]}), &["subsets[0]: must specify `addresses` or `notReadyAddresses`"]),
            (
                json!({"addresses": [{"ip": "127.0.0.1"}, {"ip": "169.254.169.254"}, {"ip": "::"}, {"ip": "224.0.0.1"},
                    {"ip": "fe80::1"}, {"ip": "x"}, {}]}),
                &[
                    "subsets[0].addresses[0].ip: may not be in the loopback range",
                    "subsets[0].addresses[1].ip: may not be in the link-local range",
                    "subsets[0].addresses[2].ip: may not be unspecified (::)",
                    "subsets[0].addresses[3].ip: may not be in the link-local multicast range",
                    "subsets[0].addresses[4].ip: may not be in the link-local range",
                    "subsets[0].addresses[5].ip: must be a valid IP address",
                    "subsets[0].addresses[6].ip: must be a valid IP address",
                ],
            ),
            (
                json!({"addresses": [{"ip": "10.0.0.1", "hostname": "A"}],
                    "ports": [{"port": 0, "protocol": "TCP", "name": "a"}, {"port": 1, "protocol": "ICMP"}]}),
                &[
                    "subsets[0].addresses[0].hostname: RFC 1123 label",
                    "subsets[0].ports[0].port: must be between 1 and 65535",
                    "subsets[0].ports[1].name: Required value",
                    "subsets[0].ports[1].protocol: Unsupported value",
                ],
            ),
        ] {
            let (object, mut errors) = (json!({"subsets": [subset]}), FieldErrors::default());
            validate(&object, &mut errors);
            assert_told(&errors, wanted, &object);
        }
    }
}
