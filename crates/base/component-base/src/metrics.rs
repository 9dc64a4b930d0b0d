//! The process's metrics, in the text form Prometheus scrapes.

use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
pub use prometheus_client;
use prometheus_client::registry::{Metric, Registry};

mod process;

static GLOBAL: LazyLock<Metrics> = LazyLock::new(|| {
    let metrics = Metrics::default();
    process::register(&metrics);
    metrics
});

/// A registry of metrics that can be cloned and added to from anywhere.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>, Arc<Mutex<Vec<Update>>>);

/// Sets gauges to what they are now.
type Update = Box<dyn Fn() + Send>;

impl Metrics {
    /// Adds a metric; `metric` is a handle that shares its state, so keep a clone to change it.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric + Clone) {
        self.0.lock().register(name, help, metric);
    }

    /// Calls `update` before each rendering, to set gauges that follow the clock.
    pub fn before_render(&self, update: impl Fn() + Send + 'static) {
        self.1.lock().push(Box::new(update));
    }

    /// The exposition text (OpenMetrics).
    pub fn render(&self) -> String {
        self.1.lock().iter().for_each(|update| update());
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
