//! SPDY/3.1, as far as `moby/spdystream` speaks it: streams, no flow control.

mod codec;
mod dictionary;
mod headers;
mod session;

pub use codec::{Codec, Frame};
pub use session::{Incoming, Sender, Session, Stream};
