//! Logs and metrics. Logs: one line on standard error for each thing an operator would want to know, with branch and duration.
//!
//! Metrics live beside their subject and are registered here, once, when a node starts; [`Metrics::text`] is what `GET /metrics` answers.
//! To add some, hold `prometheus_client`'s counters, gauges or histograms (atomics, shared by cloning) in the subject, and give it
//!
//! ```ignore
//! pub fn register(&self, metrics: &Metrics) {
//!     metrics.register("offshoot_cache", |registry| {
//!         // On the page: `offshoot_cache_misses_total`.
//!         registry.register("misses", "Frames fetched from the store", self.misses.clone());
//!     });
//! }
//! ```
//!
//! called from `server`. A value that is cheaper to compute when asked for than to keep is a `prometheus_client::collector::Collector`,
//! for `registry.register_collector`. It must neither wait nor ask the store: a scrape is not a request of a user's.
//!
//! `OFFSHOOT_LOG` takes a filter (`info`, `debug`, `offshoot::proxy=debug` …), `OFFSHOOT_LOG_FORMAT=json` one JSON object a line.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::EnvFilter;

/// Starts logging. Called once, by `main`'s command.
pub fn init(default_filter: &str) {
    let filter = EnvFilter::try_from_env("OFFSHOOT_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::env::var("OFFSHOOT_LOG_FORMAT").is_ok_and(|format| format == "json") {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// Everything that one node counts. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `add` register metrics whose names begin with `prefix` and an underscore.
    pub fn register(&self, prefix: &str, add: impl FnOnce(&mut Registry)) {
        let mut registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(registry.sub_registry_with_prefix(prefix));
    }

    /// All of it, now, in the OpenMetrics text format (media type [`Metrics::MEDIA_TYPE`]), which Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing into a string cannot fail");
        text
    }

    pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn what_is_counted_after_it_was_registered_is_shown() {
        let (metrics, misses) = (Metrics::new(), Counter::<u64>::default());
        metrics.register("offshoot_cache", |registry| registry.register("misses", "Frames fetched", misses.clone()));
        misses.inc_by(3);
        assert!(metrics.text().contains("\noffshoot_cache_misses_total 3\n"), "{}", metrics.text());
    }
}
