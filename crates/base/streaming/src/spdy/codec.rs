//! Frames.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::headers::{Reader, Writer};

const FIN: u8 = 1;
const MAX_FRAME: usize = 16 << 20;

/// A frame, as far as it means something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    Open {
        /// Its id.
        id: u32,
        /// The opener will send nothing more.
        fin: bool,
        /// Its headers, names in lower case.
        headers: Vec<(String, String)>,
    },
    /// Accepts a stream.
    Reply {
        /// Its id.
        id: u32,
        /// The accepter will send nothing.
        fin: bool,
    },
    /// Bytes of a stream.
    Data {
        /// Its id.
        id: u32,
        /// The last ones.
        fin: bool,
        /// Bytes.
        bytes: Bytes,
    },
    /// Ends a stream both ways.
    Reset {
        /// Its id.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Asks for the same back.
    Ping {
        /// Number.
        id: u32,
    },
    /// No new streams.
    GoAway {
        /// The last stream that was taken.
        last: u32,
    },
    /// A frame that means nothing here (settings, window updates).
    Other,
}

/// Reads and writes frames; holds the compression state of both directions.
#[derive(Debug, Default)]
pub struct Codec {
    reader: Reader,
    writer: Writer,
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> io::Result<Option<Frame>> {
        if from.len() < 8 {
            return Ok(None);
        }
        let word = u32::from_be_bytes([from[0], from[1], from[2], from[3]]);
        let flags = from[4];
        let length = u32::from_be_bytes([0, from[5], from[6], from[7]]) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "SPDY frame too long"));
        }
        if from.len() < 8 + length {
            from.reserve(8 + length - from.len());
            return Ok(None);
        }
        from.advance(8);
        let mut payload = from.split_to(length).freeze();
        let fin = flags & FIN != 0;
        if word >> 31 == 0 {
            return Ok(Some(Frame::Data { id: word, fin, bytes: payload }));
        }
        let mut number = |least: usize| -> io::Result<u32> {
            if payload.len() < least {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "SPDY frame cut short"));
            }
            Ok(payload.get_u32() & 0x7fff_ffff)
        };
        let frame = match word & 0xffff {
            1 => {
                let id = number(10)?;
                let headers = self.reader.read(&payload[6..])?;
                Frame::Open { id, fin, headers }
            }
            2 => {
                let id = number(4)?;
                // Nobody looks at them, but the compression state must follow.
                self.reader.read(&payload)?;
                Frame::Reply { id, fin }
            }
            3 => {
                let id = number(8)?;
                Frame::Reset { id, status: number(4)? }
            }
            6 => {
                // All 32 bits count, the first one included.
                if payload.len() < 4 {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "SPDY frame cut short"));
                }
                Frame::Ping { id: payload.get_u32() }
            }
            7 => Frame::GoAway { last: number(4)? },
            8 => {
                number(4)?;
                self.reader.read(&payload)?;
                Frame::Other
            }
            _ => Frame::Other,
        };
        Ok(Some(frame))
    }
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, to: &mut BytesMut) -> io::Result<()> {
        let mut control = |kind: u16, fin: bool, payload: &[u8]| {
            to.put_u16(0x8003);
            to.put_u16(kind);
            to.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | payload.len() as u32);
            to.put_slice(payload);
        };
        match frame {
            Frame::Open { id, fin, headers } => {
                let mut payload = BytesMut::new();
                payload.put_u32(id);
                payload.put_u32(0);
                payload.put_u16(0);
                payload.put_slice(&self.writer.write(&headers));
                control(1, fin, &payload);
            }
            Frame::Reply { id, fin } => {
                let mut payload = BytesMut::new();
                payload.put_u32(id);
                payload.put_slice(&self.writer.write(&[]));
                control(2, fin, &payload);
            }
            Frame::Data { id, fin, bytes } => {
                to.put_u32(id & 0x7fff_ffff);
                to.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | bytes.len() as u32);
                to.put_slice(&bytes);
            }
            Frame::Reset { id, status } => {
                control(3, false, &[id.to_be_bytes(), status.to_be_bytes()].concat());
            }
            Frame::Ping { id } => control(6, false, &id.to_be_bytes()),
            Frame::GoAway { last } => control(7, false, &[last.to_be_bytes(), 0u32.to_be_bytes()].concat()),
            Frame::Other => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_in_pieces() {
        let frames = [
            Frame::Open { id: 1, fin: false, headers: vec![("streamtype".into(), "stdin".into())] },
            Frame::Reply { id: 1, fin: false },
            Frame::Data { id: 1, fin: true, bytes: Bytes::from_static(b"hello") },
            Frame::Reset { id: 1, status: 5 },
            Frame::Ping { id: 0x8000_0001 },
            Frame::GoAway { last: 1 },
        ];
        let (mut one, mut two) = (Codec::default(), Codec::default());
        let mut wire = BytesMut::new();
        frames.iter().for_each(|f| one.encode(f.clone(), &mut wire).unwrap());
        let (mut got, mut buffer) = (Vec::new(), BytesMut::new());
        for byte in wire {
            buffer.put_u8(byte);
            got.extend(two.decode(&mut buffer).unwrap());
        }
        assert_eq!(got, frames);
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        for bytes in [
            &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0][..],
            &[0x80, 3, 0, 6, 0, 0, 0, 0][..],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..],
        ] {
            let mut buffer = BytesMut::from(bytes);
            assert!(!matches!(Codec::default().decode(&mut buffer), Ok(Some(_))), "{bytes:?}");
        }
    }
}
