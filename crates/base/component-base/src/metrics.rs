//! The process's metrics, in the text form Prometheus scrapes.

use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
pub use prometheus_client;
use prometheus_client::registry::{Metric, Registry};

static GLOBAL: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// A registry of metrics that can be cloned and added to from anywhere.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Adds a metric; `metric` is a handle that shares its state, so keep a clone to change it.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric + Clone) {
        self.0.lock().register(name, help, metric);
    }

    /// The exposition text (OpenMetrics).
    pub fn render(&self) -> String {
        let mut text = String::new();
        if let Err(error) = prometheus_client::encoding::text::encode(&mut text, &self.0.lock()) {
            tracing::error!(%error, "encode metrics");
        }
        text
    }
}

/// The process-wide registry.
pub fn global() -> Metrics {
    GLOBAL.clone()
}

/// Media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
