//! Header blocks: name-value lists in one zlib stream per direction.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary;

/// More than any request of the protocol needs.
const MAX_BLOCK: usize = 64 << 10;

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY header block: {what}"))
}

/// Writes header blocks, uncompressed: a zlib stream of stored blocks needs no dictionary and every reader takes it.
#[derive(Debug, Default)]
pub struct Writer {
    begun: bool,
}

impl Writer {
    /// Encodes one block.
    pub fn write(&mut self, headers: &[(String, String)]) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name.to_lowercase().as_str(), value.as_str()] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut out = BytesMut::new();
        if !std::mem::replace(&mut self.begun, true) {
            out.put_slice(&[0x78, 0x01]);
        }
        for chunk in plain.chunks(0xffff) {
            let length = chunk.len() as u16;
            out.put_u8(0);
            out.put_u16_le(length);
            out.put_u16_le(!length);
            out.put_slice(chunk);
        }
        // An empty block, as a sync flush ends: Go's reader hands out what it has only when it meets one.
        out.put_slice(&[0, 0, 0, 0xff, 0xff]);
        out.freeze()
    }
}

/// Reads header blocks.
#[derive(Debug)]
pub struct Reader {
    inflate: Decompress,
}

impl Default for Reader {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Reader {
    /// Decodes one block.
    pub fn read(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let mut plain = Vec::with_capacity(1024);
        let mut input = block;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_BLOCK {
                    return Err(bad("too long"));
                }
                plain.reserve(4096);
            }
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            let status = match self.inflate.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary::bytes()).map_err(|_| bad("unknown dictionary"))?;
                    Status::Ok
                }
                Err(_) => return Err(bad("cannot be decompressed")),
            };
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            input = input.get(used..).unwrap_or_default();
            let stuck = used == 0 && plain.len() == before_out && plain.len() < plain.capacity();
            let finished = input.is_empty() && plain.len() < plain.capacity();
            if finished || status == Status::StreamEnd || (stuck && status != Status::Ok) {
                break;
            }
        }
        parse(&plain)
    }
}

fn parse(mut plain: &[u8]) -> io::Result<Vec<(String, String)>> {
    fn number(from: &mut &[u8]) -> io::Result<usize> {
        if from.len() < 4 { Err(bad("cut short")) } else { Ok(from.get_u32() as usize) }
    }
    fn text(from: &mut &[u8]) -> io::Result<String> {
        let length = number(from)?;
        if from.len() < length {
            return Err(bad("cut short"));
        }
        let (head, rest) = from.split_at(length);
        *from = rest;
        String::from_utf8(head.to_vec()).map_err(|_| bad("not text"))
    }
    let count = number(&mut plain)?;
    if count > 1000 {
        return Err(bad("too many headers"));
    }
    (0..count).map(|_| Ok((text(&mut plain)?, text(&mut plain)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    #[test]
    fn reads_what_it_writes_block_after_block() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for i in 0..3 {
            let headers = vec![("streamtype".to_owned(), "error".to_owned()), ("n".to_owned(), i.to_string())];
            assert_eq!(reader.read(&writer.write(&headers)).unwrap(), headers);
        }
    }

    #[test]
    fn reads_blocks_compressed_with_the_dictionary() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&dictionary::bytes()).unwrap();
        let mut reader = Reader::default();
        for port in ["80", "443"] {
            let headers = vec![("streamtype".to_owned(), "data".to_owned()), ("port".to_owned(), port.to_owned())];
            // The plain form, taken from a stored block.
            let block = Writer { begun: true }.write(&headers);
            let plain = block[5..block.len() - 5].to_vec();
            let mut block = Vec::with_capacity(4096);
            deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
            assert_eq!(reader.read(&block).unwrap(), headers);
        }
        assert!(reader.read(b"garbage").is_err());
    }
}
