//! From a pod's spec to the runtime's messages.

pub mod container;
pub mod env;
pub mod env_file;
pub mod sandbox;
pub mod security;
pub mod service_env;
