//! The cache's figures on the metrics page, read when they are asked for.

use super::{CacheFigures, PageCache};
use crate::telemetry::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

impl PageCache {
    /// Adds its figures to `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        let figures = Figures(self.clone());
        metrics.register("offshoot_cache", |registry| registry.register_collector(Box::new(figures)));
    }
}

struct Figures(PageCache);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.figures())
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now: CacheFigures = self.0.figures();
        let counters = [
            ("memory_hits", "Frames found decompressed in memory", now.memory_hits),
            ("disk_hits", "Frames and parts of indexes found on local disk", now.disk_hits),
            ("misses", "Frames and parts of indexes that had to wait for the store", now.misses),
            ("requests", "Range requests to the store", now.requests),
            ("fetched_bytes", "Bytes that they brought", now.fetched_bytes),
            ("fills", "Extents written to local disk", now.fills),
            ("failed_fills", "Extents that could not be written", now.failed_fills),
            ("evictions", "Extents given up to stay within the budget", now.evictions),
            ("forgotten", "Extents dropped because a sum did not match", now.forgotten),
            ("read_ahead_issued", "Extents that read-ahead asked for", now.read_ahead_issued),
            ("read_ahead_used", "Extents of read-ahead that somebody read", now.read_ahead_used),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("disk_bytes", "Bytes of extents on local disk", now.disk_bytes),
            ("memory_bytes", "Bytes of decompressed frames in memory", now.memory_bytes),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
