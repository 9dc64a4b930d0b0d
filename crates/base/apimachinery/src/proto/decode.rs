//! Protobuf into JSON.

use base64::Engine;
use serde_json::{Map, Value};

use super::{MAGIC, MAX_DEPTH};
use crate::schema::{Field, Other, Ty, schema};

/// What an envelope holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// As the sender says.
    pub api_version: String,
    /// As the sender says.
    pub kind: String,
    /// The message itself.
    pub raw: &'a [u8],
}

/// The bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Opens the envelope.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or(Malformed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"))?;
    let mut out = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader(rest);
    while let Some((number, wire)) = reader.next_field()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, wire)) = meta.next_field()? {
                    match (number, wire) {
                        (1, Wire::Bytes(text)) => out.api_version = string(text)?,
                        (2, Wire::Bytes(text)) => out.kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => out.raw = raw,
            _ => {}
        }
    }
    Ok(out)
}

/// Decodes a message of the given type.
pub fn decode(ty: usize, bytes: &[u8]) -> Result<Value, Malformed> {
    Ok(Value::Object(message(ty, bytes, 0)?))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed("unexpected EOF"))?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("integer overflow"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        if length > self.0.len() {
            return Err(Malformed("unexpected EOF"));
        }
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    fn next_field(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed("illegal tag"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(
                self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed("unexpected EOF"))?,
            ),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed("negative length"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(Malformed("illegal wireType")),
        };
        Ok(Some((number, wire)))
    }
}

fn string(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("invalid UTF-8 in a string"))
}

fn message(ty: usize, bytes: &[u8], depth: u32) -> Result<Map<String, Value>, Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed("nested too deeply"));
    }
    let schema = schema();
    let mut out = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next_field()? {
        let Some(field) = schema.get(ty).by_number(number) else { continue };
        match (&field.ty, field.inline) {
            (Ty::Message(inner), true) => {
                if let Wire::Bytes(bytes) = wire {
                    out.extend(message(*inner, bytes, depth + 1)?);
                }
            }
            (Ty::List(inner), _) => list_item(&mut out, field, inner, &wire, depth)?,
            (Ty::Map(inner), _) => {
                let (key, value) = map_entry(inner, &wire, depth)?;
                let entry = out.entry(field.name.clone()).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = entry.as_object_mut() {
                    map.insert(key, value);
                }
            }
            _ => {
                if let Some(value) = single(&field.ty, &wire, depth)?
                    && !is_noise(field, &value)
                {
                    out.insert(field.name.clone(), value);
                }
            }
        }
    }
    Ok(out)
}

/// Go's encoder writes zero values of what is no pointer; JSON would leave them out.
fn is_noise(field: &Field, value: &Value) -> bool {
    if field.pointer {
        return false;
    }
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b && field.omitempty,
        Value::Number(n) => n.as_f64() == Some(0.0) && field.omitempty,
        Value::Object(map) => map.is_empty(),
        Value::Array(_) => false,
    }
}

fn list_item(
    out: &mut Map<String, Value>,
    field: &Field,
    inner: &Ty,
    wire: &Wire<'_>,
    depth: u32,
) -> Result<(), Malformed> {
    let entry = out.entry(field.name.clone()).or_insert_with(|| Value::Array(Vec::new()));
    let Some(items) = entry.as_array_mut() else { return Ok(()) };
    if let (Wire::Bytes(packed), Ty::I32 | Ty::I64 | Ty::Bool) = (wire, inner) {
        let mut packed = Reader(packed);
        while !packed.0.is_empty() {
            let number = packed.varint()?;
            items.extend(single(inner, &Wire::Varint(number), depth)?);
        }
    } else if let Some(value) = single(inner, wire, depth)? {
        items.push(value);
    }
    Ok(())
}

fn map_entry(inner: &Ty, wire: &Wire<'_>, depth: u32) -> Result<(String, Value), Malformed> {
    let Wire::Bytes(bytes) = wire else { return Err(Malformed("a map entry is no message")) };
    let (mut key, mut value, mut reader) = (String::new(), None, Reader(bytes));
    while let Some((number, wire)) = reader.next_field()? {
        match (number, &wire) {
            (1, Wire::Bytes(text)) => key = string(text)?,
            (2, _) => value = single(inner, &wire, depth)?,
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| Value::String(String::new()))))
}

fn single(ty: &Ty, wire: &Wire<'_>, depth: u32) -> Result<Option<Value>, Malformed> {
    Ok(Some(match (ty, wire) {
        (Ty::Str, Wire::Bytes(b)) => string(b)?.into(),
        (Ty::I32 | Ty::I64, Wire::Varint(n)) => n.cast_signed().into(),
        (Ty::Bool, Wire::Varint(n)) => (*n != 0).into(),
        (Ty::F64, Wire::Fixed64(n)) => {
            serde_json::Number::from_f64(f64::from_bits(*n)).map_or(Value::Null, Value::Number)
        }
        (Ty::Bytes, Wire::Bytes(b)) => base64::engine::general_purpose::STANDARD.encode(b).into(),
        (Ty::Quantity, Wire::Bytes(b)) => first_string(b)?.into(),
        (Ty::Raw, Wire::Bytes(b)) | (Ty::Fields, Wire::Bytes(b)) => {
            let raw = first_bytes(b)?;
            if raw.is_empty() {
                return Ok(None);
            }
            serde_json::from_slice(raw).map_err(|_| Malformed("embedded object is not JSON"))?
        }
        (Ty::Strings, Wire::Bytes(b)) => {
            let (mut items, mut reader) = (Vec::new(), Reader(b));
            while let Some((number, wire)) = reader.next_field()? {
                if let (1, Wire::Bytes(text)) = (number, wire) {
                    items.push(Value::String(string(text)?));
                }
            }
            Value::Array(items)
        }
        (Ty::IntOrString, Wire::Bytes(b)) => int_or_string(b)?,
        (Ty::Time | Ty::MicroTime, Wire::Bytes(b)) => match timestamp(b)? {
            Some((seconds, nanos)) => {
                let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| Malformed("time out of range"))?;
                if *ty == Ty::Time { crate::time::format(time) } else { crate::time::format_micro(time) }.into()
            }
            None => Value::Null,
        },
        (Ty::Duration, Wire::Bytes(b)) => {
            let (mut nanos, mut reader) = (0, Reader(b));
            while let Some((number, wire)) = reader.next_field()? {
                if let (1, Wire::Varint(n)) = (number, wire) {
                    nanos = n.cast_signed();
                }
            }
            crate::duration::format(jiff::SignedDuration::from_nanos(nanos)).into()
        }
        (Ty::Message(inner), Wire::Bytes(b)) => Value::Object(message(*inner, b, depth + 1)?),
        (Ty::Or(inner, other), Wire::Bytes(b)) => alternative(inner, *other, b, depth)?,
        _ => return Ok(None),
    }))
}

/// A schema or what stands in its place: `{allows = 1, schema = 2}`, or `{schema = 1, list = 2}`.
fn alternative(inner: &Ty, other: Other, bytes: &[u8], depth: u32) -> Result<Value, Malformed> {
    let (mut schema, mut list, mut allows, mut reader) = (None, Vec::new(), false, Reader(bytes));
    while let Some((number, wire)) = reader.next_field()? {
        match (number, other) {
            (1, Other::Bool) => allows = matches!(wire, Wire::Varint(n) if n != 0),
            (2, Other::Bool) | (1, _) => schema = single(inner, &wire, depth)?,
            (2, Other::List) => list.extend(single(inner, &wire, depth)?),
            (2, Other::Strings) => list.extend(single(&Ty::Str, &wire, depth)?),
            _ => {}
        }
    }
    Ok(match (schema, other) {
        (Some(schema), _) => schema,
        (None, Other::Bool) => allows.into(),
        (None, _) => list.into(),
    })
}

fn first_bytes(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next_field()? {
        if let (1, Wire::Bytes(raw)) = (number, wire) {
            return Ok(raw);
        }
    }
    Ok(&[])
}

fn first_string(bytes: &[u8]) -> Result<String, Malformed> {
    string(first_bytes(bytes)?)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut kind, mut int, mut text, mut reader) = (0, 0i64, String::new(), Reader(bytes));
    while let Some((number, wire)) = reader.next_field()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => kind = n,
            (2, Wire::Varint(n)) => int = n.cast_signed(),
            (3, Wire::Bytes(b)) => text = string(b)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { int.into() } else { text.into() })
}

fn timestamp(bytes: &[u8]) -> Result<Option<(i64, i32)>, Malformed> {
    let (mut seconds, mut nanos, mut any, mut reader) = (0i64, 0i32, false, Reader(bytes));
    while let Some((number, wire)) = reader.next_field()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => {
                seconds = n.cast_signed();
                any = true;
            }
            (2, Wire::Varint(n)) => nanos = i32::try_from(n).map_err(|_| Malformed("time out of range"))?,
            _ => {}
        }
    }
    // Go's zero time travels as a large negative number or not at all.
    Ok((any && seconds > -62_135_596_800).then_some((seconds, nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    }

    /// Numbers above 15 take two bytes.
    fn far_field(number: u16, body: &[u8]) -> Vec<u8> {
        let tag = number << 3 | 2;
        let mut out = vec![(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn schemas_and_what_stands_in_their_place() {
        let text = field(5, b"string");
        let schema = [
            field(5, b"object"),
            far_field(24, &field(1, &text)),
            far_field(30, &[8, 1]),
            far_field(33, &field(2, &text)),
            far_field(36, &field(1, b"[1]")),
        ]
        .concat();
        let ty = crate::schema::schema().by_name("apiextensions.v1.JSONSchemaProps").unwrap();
        let want = json!({"type": "object", "items": {"type": "string"}, "additionalProperties": true,
            "additionalItems": {"type": "string"}, "example": [1]});
        assert_eq!(decode(ty, &schema).unwrap(), want);
        let many = far_field(24, &[field(2, &text), field(2, &text)].concat());
        assert_eq!(decode(ty, &many).unwrap()["items"], json!([{"type": "string"}, {"type": "string"}]));
    }

    #[test]
    fn a_config_map() {
        let meta = [field(1, b"cm"), field(3, b"default")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let raw = [field(1, &meta), field(2, &entry)].concat();
        let type_meta = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let body = [b"k8s\0".to_vec(), field(1, &type_meta), field(2, &raw)].concat();
        let envelope = open(&body).unwrap();
        assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "ConfigMap"));
        let ty = schema().by_kind("", "v1", "ConfigMap").unwrap();
        let value = decode(ty, envelope.raw).unwrap();
        assert_eq!(value, json!({"metadata":{"name":"cm","namespace":"default"},"data":{"k":"v"}}));
    }

    #[test]
    fn garbage_is_refused_not_fatal() {
        let ty = schema().by_kind("", "v1", "Pod").unwrap();
        for bad in [&b"\x0a\xff"[..], b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0b", b"\x0a\x05ab"] {
            assert!(decode(ty, bad).is_err(), "{bad:?}");
        }
        assert!(open(b"{}").is_err());
    }
}
