//! Who gets what, and what is noted of it: attacks on a running server that it has to withstand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod client;
mod dry_run;
mod front_proxy;
mod nodes;
mod objects;
mod rights;
mod watch_paths;
mod zeros;
