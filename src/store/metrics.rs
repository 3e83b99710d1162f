//! What the store was asked, counted: for `GET /metrics`, and as a cheap snapshot for tests and benchmarks.
//!
//! Counters are atomics that a request adds to; nothing is looked up by label on the way. One attempt is one request: a retry and a hedge
//! count as requests too, and once more as what they are.

use super::hedge::Witness;
use super::requests::RequestKind;
use crate::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use std::time::Duration;

/// Upper bounds in seconds: around FACTS.md's 22 ms median, 42 ms 90th percentile and 200–800 ms tail; then the attempts' limits.
const BUCKETS_S: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0, 8.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
}

type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// One store's counters.
pub(super) struct StoreMetrics {
    requests: Counters,
    failures: Counters,
    retries: Counters,
    hedges: Counters,
    hedges_won: Counters,
    received: Counters,
    sent: Counters,
    seconds: Histograms,
    /// The same counters, by [`RequestKind`].
    by_kind: [KindMetrics; 6],
}

struct KindMetrics {
    requests: Counter,
    failures: Counter,
    retries: Counter,
    hedges: Counter,
    hedges_won: Counter,
    received: Counter,
    sent: Counter,
    seconds: Histogram,
}

impl Witness for &KindMetrics {
    fn second(&self) {
        self.requests.inc();
        self.hedges.inc();
    }

    fn second_won(&self) {
        self.hedges_won.inc();
    }
}

/// What a store was asked since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub gets: u64,
    pub ranges: u64,
    pub creates: u64,
    pub conditional_puts: u64,
    pub lists: u64,
    pub deletes: u64,
    /// Attempts after the first of a request; among the above.
    pub retries: u64,
    /// Reads sent a second time; among the above.
    pub hedges: u64,
    /// Attempts without an answer: errors, refusals, limits that passed. Conflicts and missing objects are answers.
    pub failures: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

impl Requests {
    /// Requests of every kind.
    pub fn total(&self) -> u64 {
        self.gets + self.ranges + self.creates + self.conditional_puts + self.lists + self.deletes
    }
}

impl StoreMetrics {
    pub(super) fn new() -> StoreMetrics {
        let new_histogram: fn() -> Histogram = || Histogram::new(BUCKETS_S);
        let (requests, failures, retries) = (Counters::default(), Counters::default(), Counters::default());
        let (hedges, hedges_won) = (Counters::default(), Counters::default());
        let (received, sent) = (Counters::default(), Counters::default());
        let seconds = Histograms::new_with_constructor(new_histogram);
        let by_kind = RequestKind::ALL.map(|kind| {
            let labels = Labels { kind: kind.name() };
            KindMetrics {
                requests: requests.get_or_create_owned(&labels),
                failures: failures.get_or_create_owned(&labels),
                retries: retries.get_or_create_owned(&labels),
                hedges: hedges.get_or_create_owned(&labels),
                hedges_won: hedges_won.get_or_create_owned(&labels),
                received: received.get_or_create_owned(&labels),
                sent: sent.get_or_create_owned(&labels),
                seconds: seconds.get_or_create_owned(&labels),
            }
        });
        StoreMetrics { requests, failures, retries, hedges, hedges_won, received, sent, seconds, by_kind }
    }

    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register("offshoot_store", |registry| {
            registry.register(
                "requests",
                "Requests sent to the store, retries and hedges included",
                self.requests.clone(),
            );
            registry.register("failures", "Requests without an answer", self.failures.clone());
            registry.register("retries", "Requests sent again after a failure", self.retries.clone());
            registry.register("hedges", "Reads sent a second time because the first was slow", self.hedges.clone());
            registry.register("hedges_won", "Second reads that answered first", self.hedges_won.clone());
            registry.register("received_bytes", "Bytes of objects read", self.received.clone());
            registry.register("sent_bytes", "Bytes of objects sent, again with each retry", self.sent.clone());
            registry.register("request_seconds", "Time of one attempt, its transfer included", self.seconds.clone());
        });
    }

    fn of(&self, kind: RequestKind) -> &KindMetrics {
        &self.by_kind[kind as usize]
    }

    pub(super) fn asked(&self, kind: RequestKind) {
        self.of(kind).requests.inc();
    }

    pub(super) fn answered(&self, kind: RequestKind, took: Duration, failed: bool) {
        self.of(kind).seconds.observe(took.as_secs_f64());
        if failed {
            self.of(kind).failures.inc();
        }
    }

    pub(super) fn retried(&self, kind: RequestKind) {
        self.of(kind).retries.inc();
    }

    /// For reads of `kind` that may be sent twice.
    pub(super) fn witness(&self, kind: RequestKind) -> impl Witness + '_ {
        self.of(kind)
    }

    pub(super) fn received(&self, kind: RequestKind, bytes: u64) {
        self.of(kind).received.inc_by(bytes);
    }

    pub(super) fn sent(&self, kind: RequestKind, bytes: u64) {
        self.of(kind).sent.inc_by(bytes);
    }

    pub(super) fn snapshot(&self) -> Requests {
        let count = |kind: RequestKind| self.of(kind).requests.get();
        let sum = |counter: fn(&KindMetrics) -> &Counter| self.by_kind.iter().map(|kind| counter(kind).get()).sum();
        Requests {
            gets: count(RequestKind::Get),
            ranges: count(RequestKind::Range),
            creates: count(RequestKind::Create),
            conditional_puts: count(RequestKind::ConditionalPut),
            lists: count(RequestKind::List),
            deletes: count(RequestKind::Delete),
            retries: sum(|kind| &kind.retries),
            hedges: sum(|kind| &kind.hedges),
            failures: sum(|kind| &kind.failures),
            bytes_received: sum(|kind| &kind.received),
            bytes_sent: sum(|kind| &kind.sent),
        }
    }
}
