//! `v4.channel.k8s.io` and `v5.channel.k8s.io` (`k8s.io/apimachinery/pkg/util/remotecommand`): a binary message's first byte
//! is its channel.

use bytes::Bytes;

/// Sub-protocols of exec and attach, best first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
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

/// Reads one message; `None` for an empty one, which means nothing.
pub fn read(message: &Bytes) -> Option<Input> {
    let (channel, rest) = message.split_first()?;
    match (*channel, rest) {
        (CLOSE, [ended, ..]) => Some(Input::End(*ended)),
        (CLOSE, []) => None,
        (channel, _) => Some(Input::Data(channel, message.slice(1..))),
    }
}

/// Writes one message.
pub fn write(channel: u8, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 1);
    out.push(channel);
    out.extend_from_slice(data);
    out.into()
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
        assert_eq!(read(&Bytes::from_static(b"\x00hi")), Some(Input::Data(STDIN, Bytes::from_static(b"hi"))));
        assert_eq!(read(&Bytes::from_static(b"\xff\x00")), Some(Input::End(STDIN)));
        assert_eq!(read(&Bytes::new()), None);
        assert_eq!(&write(STDOUT, b"x")[..], b"\x01x");
        assert_eq!(choose(["v4.channel.k8s.io, v5.channel.k8s.io"].into_iter(), &PROTOCOLS), Some("v5.channel.k8s.io"));
        assert_eq!(choose(["x"].into_iter(), &PROTOCOLS), None);
    }
}
