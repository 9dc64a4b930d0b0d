
pub mod informer;
pub mod queue;
