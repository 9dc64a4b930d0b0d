//! `channel.k8s.io` and its versions 4 and 5 (`k8s.io/apimachinery/pkg/util/remotecommand`, `.../httpstream/wsstream`):
//! a message's first byte is its channel. In the base64 forms messages are text: the channel is a digit, the rest is
//! encoded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message;

/// Sub-protocols of exec and attach, best first.
pub const PROTOCOLS: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// Sub-protocol of a WebSocket that carries SPDY for port-forward.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Channel numbers.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// A `Status` as JSON at the end.
pub const ERROR: u8 = 3;
/// Terminal sizes as JSON.
pub const RESIZE: u8 = 4;
/// Version 5: the channel in the payload has ended.
pub const CLOSE: u8 = 255;

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The client has nothing more to say on a channel.
    End(u8),
}

impl Input {
    /// Bytes it takes to keep.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(_, bytes) => bytes.len(),
            Self::End(_) => 0,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a client speaks. The default is that of clients which name no sub-protocol: `channel.k8s.io`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocol {
    base64: bool,
    /// The end of the command is a `Status`; before version 4 it is words, and only when it failed.
    has_status: bool,
    /// Channels can be ended one by one.
    has_close: bool,
}

impl Protocol {
    /// The sub-protocol of this name.
    pub fn named(name: &str) -> Option<Self> {
        let (version, base64) = match name.strip_suffix("base64.channel.k8s.io") {
            Some(version) => (version, true),
            None => (name.strip_suffix("channel.k8s.io")?, false),
        };
        let (has_status, has_close) = match version {
            "" => (false, false),
            "v4." => (true, false),
            "v5." if !base64 => (true, true),
            _ => return None,
        };
        Some(Self { base64, has_status, has_close })
    }

    /// Reads one message; `None` for one that means nothing.
    pub fn read(self, message: &Message) -> Option<Input> {
        let bytes = match message {
            Message::Binary(bytes) => bytes.clone(),
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return None,
        };
        let (first, rest) = bytes.split_first()?;
        if self.base64 {
            let channel = first.checked_sub(b'0').filter(|c| *c <= 9)?;
            return Some(Input::Data(channel, STANDARD.decode(rest).ok()?.into()));
        }
        match (*first, rest) {
            (CLOSE, [ended, ..]) if self.has_close => Some(Input::End(*ended)),
            (CLOSE, _) => None,
            (channel, _) => Some(Input::Data(channel, bytes.slice(1..))),
        }
    }

    /// Writes one message.
    pub fn write(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::Text(format!("{channel}{}", STANDARD.encode(data)).into());
        }
        let mut out = Vec::with_capacity(data.len() + 1);
        out.push(channel);
        out.extend_from_slice(data);
        Message::Binary(out.into())
    }

    /// What tells the client that the connection is up, where its version expects that.
    pub fn greeting(self, lowest: u8) -> Option<Message> {
        (!self.has_close).then(|| self.write(lowest, &[]))
    }

    /// The end of a command; `status` is the runtime's `Status` as JSON.
    pub fn end(self, status: &[u8]) -> Option<Message> {
        if self.has_status {
            return Some(self.write(ERROR, status));
        }
        let parsed: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
        match parsed["status"].as_str() {
            Some("Success") => None,
            Some(_) => Some(self.write(ERROR, parsed["message"].as_str().unwrap_or_default().as_bytes())),
            // Not a Status: a runtime's own words, or nothing at all.
            None => Some(status).filter(|s| !s.is_empty()).map(|words| self.write(ERROR, words)),
        }
    }
}

/// Chooses among the sub-protocols a client offers (`Sec-WebSocket-Protocol` values).
pub fn choose<'a>(offered: impl Iterator<Item = &'a str> + Clone, known: &[&'static str]) -> Option<&'static str> {
    known.iter().copied().find(|k| offered.clone().flat_map(|o| o.split(',')).any(|o| o.trim() == *k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let text = |t: &str| Message::Text(t.into());
        let binary = |b: &'static [u8]| Message::Binary(Bytes::from_static(b));
        let hi = Some(Input::Data(STDIN, Bytes::from_static(b"hi")));
        for (name, message, read) in [
            ("v5.channel.k8s.io", binary(b"\x00hi"), hi.clone()),
            ("v5.channel.k8s.io", binary(b"\xff\x00"), Some(Input::End(STDIN))),
            ("v4.channel.k8s.io", binary(b"\xff\x00"), None),
            ("channel.k8s.io", binary(b"\x00hi"), hi.clone()),
            ("channel.k8s.io", text("\0hi"), hi.clone()),
            ("channel.k8s.io", binary(b""), None),
            ("base64.channel.k8s.io", text("0aGk="), hi.clone()),
            ("v4.base64.channel.k8s.io", text("0aGk="), hi),
            ("base64.channel.k8s.io", text("0%%"), None),
            ("base64.channel.k8s.io", text("xaGk="), None),
        ] {
            assert_eq!(Protocol::named(name).unwrap().read(&message), read, "{name} {message:?}");
        }
        assert_eq!(Protocol::default().write(STDOUT, b"x"), binary(b"\x01x"));
        assert_eq!(Protocol::named("base64.channel.k8s.io").unwrap().write(STDOUT, b"hi"), text("1aGk="));
        for name in PROTOCOLS {
            assert!(Protocol::named(name).is_some(), "{name}");
        }
        assert_eq!(Protocol::named("v5.base64.channel.k8s.io"), None);
        assert_eq!(Protocol::named("x"), None);
    }

    #[test]
    fn ends_of_commands() {
        let good = br#"{"status":"Success"}"#;
        let bad = br#"{"status":"Failure","message":"exit code 1"}"#;
        let old = Protocol::default();
        assert_eq!((old.end(good), old.end(b"")), (None, None));
        assert_eq!(old.end(bad), Some(old.write(ERROR, b"exit code 1")));
        let new = Protocol::named("v4.channel.k8s.io").unwrap();
        assert_eq!(new.end(good), Some(new.write(ERROR, good)));
    }

    #[test]
    fn the_best_protocol_is_chosen() {
        assert_eq!(choose(["v4.channel.k8s.io, v5.channel.k8s.io"].into_iter(), &PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose(["x"].into_iter(), &PROTOCOLS), None);
    }
}
