//! Rates of the service since it started.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters and gauges.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    registrations: Family<Ended, Counter>,
    refused: Family<Code, Counter>,
    polls: Counter,
    closed: Family<Closed, Counter>,
    connections: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Closed {
    reason: &'static str,
}

/// A connection that counts until it is dropped.
pub(super) struct Connected(Gauge);

impl Metrics {
    /// Counters in `registry`.
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self::default();
        let dps = registry.sub_registry_with_prefix("dps");
        dps.register("registrations", "Registrations that ended, by how", metrics.registrations.clone());
        dps.register("refused", "Requests that were refused, by error code", metrics.refused.clone());
        dps.register("polls", "Questions about an operation", metrics.polls.clone());
        dps.register("closed", "Device connections ended by the service", metrics.closed.clone());
        dps.register("connections", "Device connections open", metrics.connections.clone());
        Arc::new(metrics)
    }

    pub(super) fn registered(&self, outcome: &'static str) {
        self.registrations.get_or_create(&Ended { outcome }).inc();
    }

    pub(super) fn refused(&self, code: u32) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    pub(super) fn polled(&self) {
        self.polls.inc();
    }

    pub(super) fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&Closed { reason }).inc();
    }

    pub(super) fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    pub(super) fn connections(&self) -> i64 {
        self.connections.get()
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
