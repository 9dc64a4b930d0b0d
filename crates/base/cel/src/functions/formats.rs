//! `kubernetes.NamedFormat`.

use std::sync::Arc;

use kinit_apimachinery::names;

use super::{Row, args};
use crate::eval::{Meter, Outcome};
use crate::value::Value;

/// Says what is wrong with a text.
type Check = fn(&str) -> Vec<String>;

/// The formats.
const FORMATS: [(&str, Check); 15] = [
    ("dns1123Label", |text| label(text, false)),
    ("dns1123Subdomain", |text| subdomain(text)),
    ("dns1035Label", |text| label(text, true)),
    ("qualifiedName", names::check_qualified_name),
    ("dns1123LabelPrefix", |text| label(&masked(text), false)),
    ("dns1123SubdomainPrefix", |text| subdomain(&masked(text))),
    ("dns1035LabelPrefix", |text| label(&masked(text), true)),
    ("labelValue", names::check_label_value),
    ("uri", |text| reported(url::Url::parse(text).is_ok() || text.starts_with('/'), "invalid URI")),
    ("uuid", |text| reported(is_uuid(text), "does not match the UUID format")),
    ("byte", |text| {
        use base64::Engine as _;
        reported(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64")
    }),
    ("date", |text| reported(crate::value::timestamp(&format!("{text}T00:00:00Z")).is_some(), "invalid date")),
    ("datetime", |text| reported(crate::value::timestamp(text).is_some(), "invalid datetime")),
    ("ip", |text| reported(text.parse::<std::net::IpAddr>().is_ok(), "invalid IP address")),
    ("cidr", |text| reported(text.parse::<ipnet::IpNet>().is_ok(), "invalid CIDR")),
];

pub(super) const ROWS: &[Row] = &[
    ("format::named(string) optional<format>", |_, args| {
        args!(args, [Value::Text(name)] => {
            Ok(find(name).map_or(Value::NONE, |name| Value::some(Value::Format(name))))
        })
    }),
    ("format::dns1123Label() format", |_, _| Ok(Value::Format("dns1123Label"))),
    ("format::dns1123Subdomain() format", |_, _| Ok(Value::Format("dns1123Subdomain"))),
    ("format::dns1035Label() format", |_, _| Ok(Value::Format("dns1035Label"))),
    ("format::qualifiedName() format", |_, _| Ok(Value::Format("qualifiedName"))),
    ("format::dns1123LabelPrefix() format", |_, _| Ok(Value::Format("dns1123LabelPrefix"))),
    ("format::dns1123SubdomainPrefix() format", |_, _| Ok(Value::Format("dns1123SubdomainPrefix"))),
    ("format::dns1035LabelPrefix() format", |_, _| Ok(Value::Format("dns1035LabelPrefix"))),
    ("format::labelValue() format", |_, _| Ok(Value::Format("labelValue"))),
    ("format::uri() format", |_, _| Ok(Value::Format("uri"))),
    ("format::uuid() format", |_, _| Ok(Value::Format("uuid"))),
    ("format::byte() format", |_, _| Ok(Value::Format("byte"))),
    ("format::date() format", |_, _| Ok(Value::Format("date"))),
    ("format::datetime() format", |_, _| Ok(Value::Format("datetime"))),
    ("format.validate(string) optional<list<string>>", validate),
];

fn find(name: &str) -> Option<&'static str> {
    FORMATS.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// Whether `format.NAME()` is a function.
pub fn is_format(name: &str) -> bool {
    name == "named" || (find(name).is_some() && !matches!(name, "ip" | "cidr"))
}

fn validate<'a>(meter: &mut Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    args!(args, [Value::Format(name), Value::Text(text)] => {
        meter.charge_text(text.len())?;
        let check = FORMATS.iter().find(|(known, _)| known == name).map(|(_, check)| check(text));
        let problems = check.unwrap_or_default();
        if problems.is_empty() {
            return Ok(Value::NONE);
        }
        let list = Value::list(problems.iter().map(Value::text).collect());
        Ok(Value::Optional(Some(Arc::new(list))))
    })
}

fn reported(fits: bool, problem: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![problem.to_owned()] }
}

/// A prefix may end in the dash that the rest follows.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(short) if !short.is_empty() => format!("{short}a"),
        _ => text.to_owned(),
    }
}

fn label(text: &str, letter_first: bool) -> Vec<String> {
    let rule = if letter_first { names::NameRule::Dns1035 } else { names::NameRule::Label };
    rule.check(text)
}

fn subdomain(text: &str) -> Vec<String> {
    names::NameRule::Subdomain.check(text)
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| part.chars().all(|c| c.is_ascii_hexdigit()))
}
