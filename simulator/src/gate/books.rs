//! Rates of a gate since it opened.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    closed: Family<Closed, Counter>,
    connections: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    reason: &'static str,
}

/// A connection that counts until it is dropped.
pub(crate) struct Connected(Gauge);

impl Books {
    /// Counters in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let books = Self::default();
        registry.register("closed", "Connections ended on this side, by reason", books.closed.clone());
        registry.register("connections", "Connections open", books.connections.clone());
        books
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&Closed { reason }).inc();
    }

    pub(crate) fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    pub(crate) fn connections(&self) -> i64 {
        self.connections.get()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
