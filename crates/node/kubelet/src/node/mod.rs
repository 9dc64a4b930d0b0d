//! This machine as the API sees it.

pub mod facts;
