//! `net.IP` and `net.CIDR`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Row, args};
use crate::eval::{EvalError, Outcome, fail};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    ("ip(string) ip", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            address(text).map(Value::Ip)
        })
    }),
    ("isIP(string) bool", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bool(address(text).is_ok()))
        })
    }),
    ("ip::isCanonical(string) bool", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bool(address(text)?.to_string() == **text))
        })
    }),
    ("ip.family() int", |_, args| args!(args, [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })))),
    ("ip.isUnspecified() bool", |_, args| test(args, IpAddr::is_unspecified)),
    ("ip.isLoopback() bool", |_, args| test(args, IpAddr::is_loopback)),
    ("ip.isLinkLocalMulticast() bool", |_, args| test(args, is_link_local_multicast)),
    ("ip.isLinkLocalUnicast() bool", |_, args| test(args, is_link_local)),
    ("ip.isGlobalUnicast() bool", |_, args| test(args, is_global_unicast)),
    ("cidr(string) cidr", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            network(text).map(Value::Cidr)
        })
    }),
    ("isCIDR(string) bool", |meter, args| {
        args!(args, [Value::Text(text)] => {
            meter.charge_text(text.len())?;
            Ok(Value::Bool(network(text).is_ok()))
        })
    }),
    ("cidr.containsIP(ip) bool", contains_ip),
    ("cidr.containsIP(string) bool", contains_ip),
    ("cidr.containsCIDR(cidr) bool", contains_cidr),
    ("cidr.containsCIDR(string) bool", contains_cidr),
    ("cidr.ip() ip", |_, args| args!(args, [Value::Cidr(cidr)] => Ok(Value::Ip(cidr.addr())))),
    ("cidr.masked() cidr", |_, args| args!(args, [Value::Cidr(cidr)] => Ok(Value::Cidr(cidr.trunc())))),
    (
        "cidr.prefixLength() int",
        |_, args| args!(args, [Value::Cidr(cidr)] => Ok(Value::Int(i64::from(cidr.prefix_len())))),
    ),
];

/// An address as upstream takes one: no zone, no IPv4 within IPv6.
fn address(text: &str) -> Result<IpAddr, EvalError> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            fail(format!("IPv4-mapped IPv6 address is not allowed: {text:.64}"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => fail(format!("IP Address {text:.64} parse error during conversion from string")),
    }
}

fn network(text: &str) -> Result<IpNet, EvalError> {
    match text.parse::<IpNet>() {
        Ok(IpNet::V6(v6)) if v6.addr().to_ipv4_mapped().is_some() => {
            fail(format!("IPv4-mapped IPv6 address is not allowed: {text:.64}"))
        }
        Ok(cidr) => Ok(cidr),
        Err(_) => fail(format!("network address parse error during conversion from string: {text:.64}")),
    }
}

fn test<'a>(args: &[Value<'a>], holds: impl Fn(&IpAddr) -> bool) -> Outcome<'a> {
    args!(args, [Value::Ip(ip)] => Ok(Value::Bool(holds(ip))))
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => matches!(v4.octets(), [224, 0, 0, _]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

/// As Go's `IsGlobalUnicast`: private addresses are among them.
fn is_global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local(ip) || broadcast)
}

fn contains_ip<'a>(_: &mut crate::eval::Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (cidr, ip) = match args {
        [Value::Cidr(cidr), Value::Ip(ip)] => (cidr, *ip),
        [Value::Cidr(cidr), Value::Text(text)] => (cidr, address(text)?),
        _ => return fail("no such overload"),
    };
    Ok(Value::Bool(cidr.contains(&ip)))
}

fn contains_cidr<'a>(_: &mut crate::eval::Meter<'_>, args: &[Value<'a>]) -> Outcome<'a> {
    let (cidr, other) = match args {
        [Value::Cidr(cidr), Value::Cidr(other)] => (cidr, *other),
        [Value::Cidr(cidr), Value::Text(text)] => (cidr, network(text)?),
        _ => return fail("no such overload"),
    };
    Ok(Value::Bool(cidr.contains(&other)))
}
