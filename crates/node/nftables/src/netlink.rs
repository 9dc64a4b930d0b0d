//! Netlink's bytes: messages, attributes, and how to read them back.

/// Flags and types of `linux/netlink.h`.
pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLM_F_DUMP_INTR: u16 = 0x10;

const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// Messages one after the other.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Messages {
    /// Appends a message with netfilter's header; `body` adds its attributes. Returns its sequence number.
    pub fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Attributes),
    ) -> u32 {
        let start = self.bytes.len();
        self.sequence += 1;
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        let mut attributes = Attributes { bytes: std::mem::take(&mut self.bytes) };
        body(&mut attributes);
        self.bytes = attributes.bytes;
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.sequence
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Attributes of one message.
#[derive(Debug, Default)]
pub struct Attributes {
    bytes: Vec<u8>,
}

impl Attributes {
    /// What was written.
    #[cfg(test)]
    pub fn written(&self) -> &[u8] {
        &self.bytes
    }

    /// Raw bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A big-endian number, as netfilter has them.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A big-endian number.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Text with its end.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Attributes within an attribute.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// A message that was received.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Its type.
    pub kind: u16,
    /// Its flags.
    pub flags: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// The netlink port of who caused it.
    pub port: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The messages of a datagram.
    pub fn all(mut datagram: &'a [u8]) -> Vec<Self> {
        let mut messages = Vec::new();
        while let Some(header) = datagram.get(..HEADER) {
            let length = usize::try_from(u32_at(header, 0)).unwrap_or(0);
            let Some(payload) = datagram.get(HEADER..length) else { break };
            messages.push(Self {
                kind: u16_at(header, 4),
                flags: u16_at(header, 6),
                sequence: u32_at(header, 8),
                port: u32_at(header, 12),
                payload,
            });
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        messages
    }

    /// The error's number of an `NLMSG_ERROR`; 0 is an acknowledgement.
    pub fn error(&self) -> i32 {
        i32::from_ne_bytes(self.payload.get(..4).and_then(|b| b.try_into().ok()).unwrap_or_default()).saturating_neg()
    }

    /// The attributes after netfilter's header.
    pub fn attributes(&self) -> Vec<(u16, &'a [u8])> {
        attributes(self.payload.get(4..).unwrap_or_default())
    }
}

/// Attributes as (type, value).
pub fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let Some(header) = bytes.get(..4) {
        let length = usize::from(u16_at(header, 0));
        let Some(value) = bytes.get(4..length) else { break };
        all.push((u16_at(header, 2) & !NESTED & !0x4000, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// The value of an attribute.
pub fn find<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
}

/// A text's value without its end.
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// A big-endian number.
pub fn be32(value: &[u8]) -> u32 {
    u32::from_be_bytes(value.get(..4).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

/// A big-endian number.
pub fn be64(value: &[u8]) -> u64 {
    u64::from_be_bytes(value.get(..8).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut messages = Messages::default();
        messages.push(7, NLM_F_ACK, 2, 10, |a| {
            a.text(1, "name");
            a.nested(4, |a| a.u32(2, 5));
        });
        messages.push(8, 0, 2, 0, |_| {});
        let received = Received::all(messages.bytes());
        assert_eq!((received.len(), received[0].kind, received[1].sequence), (2, 7, 2));
        let all = received[0].attributes();
        assert_eq!(text(find(&all, 1).unwrap()), "name");
        assert_eq!(be32(find(&attributes(find(&all, 4).unwrap()), 2).unwrap()), 5);
        assert!(Received::all(&[1, 2, 3]).is_empty());
        assert!(attributes(&[255, 0, 1, 0, 9]).is_empty());
    }
}
