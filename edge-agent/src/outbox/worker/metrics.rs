//! The books of the outbox: `edge_outbox_*`.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::outbox::Books;

/// Counters, gauges and times of the outbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    stored: Counter,
    duplicates: Counter,
    sent: Counter,
    keys_dropped: Counter,
    damaged: Counter,
    held: Gauge,
    given_up: Gauge,
    gaps: Gauge,
    closings: Gauge,
    bytes: Gauge,
    bytes_max: Gauge,
    full: Gauge,
    commit_seconds: Histogram,
    commit_rows: Histogram,
}

impl Metrics {
    /// Registers everything under `edge_outbox_`.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            stored: Counter::default(),
            duplicates: Counter::default(),
            sent: Counter::default(),
            keys_dropped: Counter::default(),
            damaged: Counter::default(),
            held: Gauge::default(),
            given_up: Gauge::default(),
            gaps: Gauge::default(),
            closings: Gauge::default(),
            bytes: Gauge::default(),
            bytes_max: Gauge::default(),
            full: Gauge::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            commit_rows: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
        };
        let at = registry.sub_registry_with_prefix("edge_outbox");
        at.register("stored", "Rows stored since the start", inner.stored.clone());
        at.register("duplicates", "Repeats recognised since the start", inner.duplicates.clone());
        at.register("sent", "Rows acknowledged by the hub since the start", inner.sent.clone());
        at.register("held", "Rows to be sent or in flight", inner.held.clone());
        at.register("given_up", "Rows given up, in all", inner.given_up.clone());
        at.register("gaps_held", "Gaps without acknowledgement", inner.gaps.clone());
        at.register("closings_held", "Ended epochs without acknowledged closing", inner.closings.clone());
        at.register("bytes", "Bytes of database, write-ahead log and shared memory", inner.bytes.clone());
        at.register("damaged", "Stored rows that could not be read and were given up", inner.damaged.clone());
        at.register(
            "keys_dropped",
            "Keys of rows that have left, forgotten before their time: no room even for them",
            inner.keys_dropped.clone(),
        );
        at.register("bytes_max", "The limit of these bytes", inner.bytes_max.clone());
        at.register("full", "1 while nothing can be stored and devices are not acknowledged", inner.full.clone());
        at.register("commit_seconds", "Duration of one group commit", inner.commit_seconds.clone());
        at.register("commit_rows", "Rows in one group commit", inner.commit_rows.clone());
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn committed(&self, stored: usize, sent: u64, took: Duration) {
        self.inner.stored.inc_by(u64::try_from(stored).unwrap_or(0));
        self.inner.sent.inc_by(sent);
        self.inner.commit_seconds.observe(took.as_secs_f64());
        self.inner.commit_rows.observe(f64::from(u32::try_from(stored).unwrap_or(u32::MAX)));
    }

    pub(super) fn damaged(&self, count: u64) {
        self.inner.damaged.inc_by(count);
    }

    pub(super) fn keys_dropped(&self, count: u64) {
        self.inner.keys_dropped.inc_by(count);
    }

    pub(super) fn duplicates(&self, count: usize) {
        self.inner.duplicates.inc_by(u64::try_from(count).unwrap_or(0));
    }

    pub(super) fn full(&self, full: bool) {
        self.inner.full.set(i64::from(full));
    }

    pub(super) fn books(&self, books: &Books, bytes: u64, bytes_max: u64) {
        let gauge = |gauge: &Gauge, count: u64| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        gauge(&self.inner.held, books.held);
        gauge(&self.inner.given_up, books.given_up);
        gauge(&self.inner.gaps, books.gaps_held);
        gauge(&self.inner.closings, books.closings_held);
        gauge(&self.inner.bytes, bytes);
        gauge(&self.inner.bytes_max, bytes_max);
    }
}
