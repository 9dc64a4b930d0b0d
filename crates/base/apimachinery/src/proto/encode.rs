//! JSON text into protobuf, without a value in between.
//!
//! What Go's structs do not have is left out, as a decoder of JSON into them would. Fields come in the order of the
//! text; readers take any. An inlined member may be written in several parts, which readers merge.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::MAGIC;
use crate::schema::{Field, Other, Ty, schema};

/// As deep as JSON is read: whatever is stored can be written.
const DEPTH: u32 = 128;

/// A document that has no protobuf form: its kind is not built in, or the text is not of its kind.
#[derive(Debug, thiserror::Error)]
pub enum NoMessage {
    /// Custom resources, Tables.
    #[error("{api_version} {kind} has no protobuf form")]
    Kind {
        /// `apiVersion`
        api_version: String,
        /// `kind`
        kind: String,
    },
    /// The text does not fit the kind.
    #[error("encode as protobuf: {0}")]
    Text(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default, rename = "apiVersion")]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
}

/// A document in its envelope.
pub fn encode(json: &[u8]) -> Result<Vec<u8>, NoMessage> {
    let mut out = Vec::with_capacity(json.len() + 64);
    envelope(json, &mut out)?;
    Ok(out)
}

/// A frame of a watch: the length in four bytes, and a `WatchEvent` with the object in its envelope.
pub fn encode_event(kind: &str, object: &[u8]) -> Result<Vec<u8>, NoMessage> {
    let mut out = Vec::with_capacity(object.len() + 96);
    out.extend_from_slice(&[0; 4]);
    text(1, kind, &mut out);
    nested(2, &mut out, |out| nested(1, out, |out| envelope(object, out)))?;
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn envelope(json: &[u8], out: &mut Vec<u8>) -> Result<(), NoMessage> {
    let Head { api_version, kind } = serde_json::from_slice(json)?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
    let known = schema().by_kind(group, version, &kind).or_else(|| schema().by_kind("meta.k8s.io", version, &kind));
    let Some(ty) = known else {
        return Err(NoMessage::Kind { api_version: api_version.into_owned(), kind: kind.into_owned() });
    };
    out.extend_from_slice(MAGIC);
    nested(1, out, |out| {
        text(1, &api_version, out);
        text(2, &kind, out);
        Ok::<_, NoMessage>(())
    })?;
    let mut document = serde_json::Deserializer::from_slice(json);
    nested(2, out, |out| Message { ty, out, depth: 0 }.deserialize(&mut document))?;
    document.end()?;
    Ok(())
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire), out);
}

fn bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    tag(number, 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn text(number: u32, text: &str, out: &mut Vec<u8>) {
    bytes(number, text.as_bytes(), out);
}

fn integer(number: u32, value: i64, out: &mut Vec<u8>) {
    tag(number, 0, out);
    varint(value.cast_unsigned(), out);
}

/// A message whose length is known when it is written: room for a short length is left before it.
fn nested<E>(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    tag(number, 2, out);
    let start = out.len();
    out.push(0);
    write(out)?;
    let end = out.len();
    let length = (end - start - 1) as u64;
    let bytes = (64 - (length | 1).leading_zeros() as usize).div_ceil(7);
    if bytes > 1 {
        out.resize(end + bytes - 1, 0);
        out.copy_within(start + 1..end, start + bytes);
    }
    let mut rest = length;
    for (i, byte) in out[start..start + bytes].iter_mut().enumerate() {
        *byte = (rest & 0x7f) as u8 | if i + 1 < bytes { 0x80 } else { 0 };
        rest >>= 7;
    }
    Ok(())
}

/// A JSON object as the fields of a type.
struct Message<'o> {
    ty: usize,
    out: &'o mut Vec<u8>,
    depth: u32,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of {}", schema().get(self.ty).name)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.depth > DEPTH {
            return Err(A::Error::custom("nested too deeply"));
        }
        while let Some(found) = map.next_key_seed(FieldOf(self.ty))? {
            match found {
                Some((members, field)) => map.next_value_seed(Within {
                    members: &members,
                    single: Single { number: field.number, ty: &field.ty, out: self.out, depth: self.depth + 1 },
                })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A key of a JSON object: the field of that name, and the inlined members that it is in, the outermost first.
struct FieldOf(usize);

impl<'de> DeserializeSeed<'de> for FieldOf {
    type Value = Option<(Vec<u32>, &'static Field)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldOf {
    type Value = Option<(Vec<u32>, &'static Field)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }
    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(find(self.0, name).filter(|(_, field)| field.number > 0))
    }
}

fn find(ty: usize, name: &str) -> Option<(Vec<u32>, &'static Field)> {
    let field = schema().field(ty, name)?;
    let own = &schema().get(ty).fields;
    if own.iter().any(|f| std::ptr::eq(f, field)) {
        return Some((Vec::new(), field));
    }
    own.iter().filter(|member| member.inline).find_map(|member| {
        let Ty::Message(inner) = member.ty else { return None };
        let (mut members, field) = find(inner, name)?;
        members.insert(0, member.number);
        Some((members, field))
    })
}

/// A value inside inlined members.
struct Within<'a> {
    members: &'a [u32],
    single: Single<'a>,
}

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self { members, single } = self;
        let Single { number, ty, out, depth } = single;
        match members {
            [] => Single { number, ty, out, depth }.deserialize(deserializer),
            [member, members @ ..] => nested(*member, out, |out| {
                Within { members, single: Single { number, ty, out, depth } }.deserialize(deserializer)
            }),
        }
    }
}

/// One value as a field; null is none.
struct Single<'a> {
    number: u32,
    ty: &'a Ty,
    out: &'a mut Vec<u8>,
    depth: u32,
}

impl<'de> DeserializeSeed<'de> for Single<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.ty {
            // Any JSON: as text, as Go would have written it.
            Ty::Raw | Ty::Fields => {
                let value = Value::deserialize(deserializer)?;
                if value.is_null() {
                    return Ok(());
                }
                let json = crate::encode::to_vec(&value).map_err(D::Error::custom)?;
                nested(self.number, self.out, |out| {
                    bytes(1, &json, out);
                    Ok(())
                })
            }
            Ty::Or(inner, other) => {
                let value = Value::deserialize(deserializer)?;
                self.alternative(inner, *other, &value).map_err(D::Error::custom)
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Single<'_> {
    /// `{allows = 1, schema = 2}`, or `{schema = 1, list = 2}`.
    fn alternative(self, inner: &Ty, other: Other, value: &Value) -> serde_json::Result<()> {
        let depth = self.depth;
        nested(self.number, self.out, |out| match (other, value) {
            (Other::Bool, Value::Bool(allows)) => {
                integer(1, i64::from(*allows), out);
                Ok(())
            }
            (Other::Bool, schema) => {
                integer(1, 1, out);
                Single { number: 2, ty: inner, out, depth }.deserialize(schema)
            }
            (Other::List, Value::Array(items)) => {
                items.iter().try_for_each(|item| Single { number: 2, ty: inner, out, depth }.deserialize(item))
            }
            (Other::Strings, Value::Array(items)) => {
                items.iter().filter_map(Value::as_str).for_each(|item| text(2, item, out));
                Ok(())
            }
            (_, schema) => Single { number: 1, ty: inner, out, depth }.deserialize(schema),
        })
    }

    fn number<E: Error>(self, number: i64) -> Result<(), E> {
        match self.ty {
            Ty::I32 | Ty::I64 => integer(self.number, number, self.out),
            Ty::F64 => self.float(number as f64),
            Ty::IntOrString => nested(self.number, self.out, |out| {
                integer(1, 0, out);
                integer(2, number, out);
                Ok(())
            })?,
            // Go reads quantities from numbers, too.
            Ty::Quantity => nested(self.number, self.out, |out| {
                text(1, &number.to_string(), out);
                Ok(())
            })?,
            _ => return Err(E::custom(format_args!("{number} in the place of {:?}", self.ty))),
        }
        Ok(())
    }

    fn float(self, number: f64) {
        tag(self.number, 1, self.out);
        self.out.extend_from_slice(&number.to_bits().to_le_bytes());
    }

    fn text<E: Error>(self, value: &str) -> Result<(), E> {
        let bad = || E::custom(format_args!("{value:.64} in the place of {:?}", self.ty));
        let fields = |out: &mut Vec<u8>| {
            match self.ty {
                Ty::Quantity => text(1, value, out),
                Ty::IntOrString => {
                    integer(1, 1, out);
                    text(3, value, out);
                }
                Ty::Duration => {
                    let nanos = crate::duration::parse(value).ok_or_else(bad)?.as_nanos();
                    integer(1, i64::try_from(nanos).map_err(|_| bad())?, out);
                }
                Ty::Time | Ty::MicroTime => {
                    let time = crate::time::parse(value).ok_or_else(bad)?;
                    integer(1, time.as_second(), out);
                    // Only whole seconds travel in a `metav1.Time`.
                    let nanos = if *self.ty == Ty::Time { 0 } else { time.subsec_nanosecond() };
                    integer(2, i64::from(nanos), out);
                }
                _ => return Err(bad()),
            }
            Ok(())
        };
        match self.ty {
            Ty::Str => text(self.number, value, self.out),
            Ty::Bytes => bytes(self.number, &STANDARD.decode(value).map_err(|_| bad())?, self.out),
            _ => nested(self.number, self.out, fields)?,
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Single<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of {:?}", self.ty)
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.ty {
            Ty::Bool => integer(self.number, i64::from(value), self.out),
            _ => return Err(E::custom(format_args!("{value} in the place of {:?}", self.ty))),
        }
        Ok(())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(value)
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(i64::try_from(value).map_err(E::custom)?)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.ty {
            Ty::F64 => self.float(value),
            Ty::Quantity => return self.text(&value.to_string()),
            _ => return Err(E::custom(format_args!("{value} in the place of {:?}", self.ty))),
        }
        Ok(())
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.text(value)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.depth;
        match self.ty {
            Ty::List(inner) => {
                while items
                    .next_element_seed(Single { number: self.number, ty: inner, out: self.out, depth })?
                    .is_some()
                {}
                Ok(())
            }
            Ty::Strings => nested(self.number, self.out, |out| {
                while items.next_element_seed(Single { number: 1, ty: &Ty::Str, out, depth })?.is_some() {}
                Ok(())
            }),
            _ => Err(A::Error::custom(format_args!("a list in the place of {:?}", self.ty))),
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let depth = self.depth;
        match self.ty {
            Ty::Message(ty) => nested(self.number, self.out, |out| Message { ty: *ty, out, depth }.visit_map(map)),
            Ty::Map(inner) => {
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    nested(self.number, self.out, |out| {
                        text(1, &key, out);
                        map.next_value_seed(Single { number: 2, ty: inner, out, depth })
                    })?;
                }
                Ok(())
            }
            _ => Err(A::Error::custom(format_args!("an object in the place of {:?}", self.ty))),
        }
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
