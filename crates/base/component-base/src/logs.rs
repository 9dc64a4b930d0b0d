//! Logging to stderr, with the two flags upstream's components have.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Upstream's logging flags (`k8s.io/component-base/logs`).
#[derive(clap::Args, Debug, Clone, Default)]
pub struct LoggingArgs {
    /// Log verbosity: 0-1 information, 2-3 more of it, 4-5 debug, 6 and above trace
    #[arg(long = "v", short = 'v', default_value_t = 0, allow_hyphen_values = true)]
    pub v: u8,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub logging_format: LogFormat,
}

/// The forms a log line can take.
#[derive(clap::ValueEnum, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One human-readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// Installs the process's subscriber. `RUST_LOG` overrides the verbosity; a second call is ignored.
pub fn init(args: &LoggingArgs) {
    let level = match args.v {
        0..=3 => "info",
        4..=5 => "info,kinit=debug",
        _ => "debug,kinit=trace",
    };
    // Every crate of ours is named kinit_*; tracing's filters match on that prefix.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let registry = tracing_subscriber::registry().with(filter);
    let done = match args.logging_format {
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal();
            registry.with(fmt::layer().with_ansi(colour).with_writer(std::io::stderr)).try_init()
        }
    };
    if done.is_err() {
        tracing::debug!("a log subscriber was installed already");
    }
}
