//! HTTP in and out: what a request asks for, which form the answer takes.

pub mod body;
pub mod encoding;
pub mod info;
pub mod joined;
pub mod negotiate;
pub mod respond;
pub mod watch_socket;
pub mod yaml;

pub use body::read_limited;
pub use info::RequestInfo;
pub use negotiate::{Accepted, Encoding, View};
pub use respond::{ApiResponse, Body};
