//! The books of intake: `edge_intake_*`.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::broker::Link;

/// Which way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Way {
    way: &'static str,
}

/// A way in and a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Why {
    way: &'static str,
    reason: &'static str,
}

/// Counters and gauges of both ways in. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
    /// `None` without a broker.
    pub(super) broker: Arc<watch::Sender<Option<Link>>>,
}

#[derive(Debug, Default)]
struct Inner {
    received: Family<Way, Counter>,
    received_bytes: Family<Way, Counter>,
    acked: Family<Way, Counter>,
    dropped: Family<Why, Counter>,
    retained: Family<Way, Counter>,
    refused: Family<Why, Counter>,
    barred: Family<Way, Counter>,
    halted: Family<Why, Counter>,
    connections: Family<Way, Gauge>,
    connected: Family<Way, Counter>,
}

impl Metrics {
    /// Registers everything under `edge_intake_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.inner;
        let registry = registry.sub_registry_with_prefix("edge_intake");
        registry.register("received", "Publishes received", inner.received.clone());
        registry.register("received_bytes", "Payload bytes received", inner.received_bytes.clone());
        registry.register("acked", "Publishes acknowledged after the commit", inner.acked.clone());
        registry.register("dropped", "QoS 0 publishes dropped because the way in was full", inner.dropped.clone());
        registry.register(
            "retained",
            "Retained publishes that the broker sent again to a session it knows: acknowledged, not stored",
            inner.retained.clone(),
        );
        registry.register("refused", "Connections refused or closed by us", inner.refused.clone());
        registry.register(
            "barred",
            "Publishes (and wills) refused because no right lets their device publish to their topic",
            inner.barred.clone(),
        );
        registry.register(
            "halted",
            "Times a connection was not read for a while: it was too fast, or what it sent must be stored first",
            inner.halted.clone(),
        );
        registry.register("connections", "Connections now open", inner.connections.clone());
        registry.register("connected", "Connections accepted since the start", inner.connected.clone());
        metrics
    }

    /// The connection to the broker, as it is; `None` without a broker.
    pub fn broker(&self) -> watch::Receiver<Option<Link>> {
        self.broker.subscribe()
    }

    pub(super) fn of(&self, way: &'static str) -> WayMetrics {
        let label = Way { way };
        let inner = &self.inner;
        WayMetrics {
            way,
            received: inner.received.get_or_create(&label).clone(),
            received_bytes: inner.received_bytes.get_or_create(&label).clone(),
            acked: inner.acked.get_or_create(&label).clone(),
            dropped: inner.dropped.get_or_create(&Why { way, reason: "qos0-overflow" }).clone(),
            retained: inner.retained.get_or_create(&label).clone(),
            refused: inner.refused.clone(),
            barred: inner.barred.get_or_create(&label).clone(),
            halted: inner.halted.clone(),
            connections: inner.connections.get_or_create(&label).clone(),
            connected: inner.connected.get_or_create(&label).clone(),
        }
    }
}

/// The metrics of one way in.
#[derive(Debug, Clone)]
pub(super) struct WayMetrics {
    way: &'static str,
    pub(super) received: Counter,
    pub(super) received_bytes: Counter,
    pub(super) acked: Counter,
    pub(super) dropped: Counter,
    pub(super) retained: Counter,
    refused: Family<Why, Counter>,
    barred: Counter,
    halted: Family<Why, Counter>,
    connections: Gauge,
    connected: Counter,
}

impl WayMetrics {
    /// Counts a connection refused or closed by us.
    pub(super) fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&Why { way: self.way, reason }).inc();
    }

    /// Counts a publish to a topic its device has no right to.
    pub(super) fn bar(&self) {
        self.barred.inc();
    }

    /// Counts that a connection is not read for a while.
    pub(super) fn halt(&self, reason: &'static str) {
        self.halted.get_or_create(&Why { way: self.way, reason }).inc();
    }

    /// How often connections were refused or closed for this reason.
    #[cfg(test)]
    pub(super) fn refused(&self, reason: &'static str) -> u64 {
        self.refused.get_or_create(&Why { way: self.way, reason }).get()
    }

    /// How often a connection was not read for a while for this reason.
    #[cfg(test)]
    pub(super) fn halted(&self, reason: &'static str) -> u64 {
        self.halted.get_or_create(&Why { way: self.way, reason }).get()
    }

    /// How many publishes were refused for want of a right.
    #[cfg(test)]
    pub(super) fn barred(&self) -> u64 {
        self.barred.get()
    }

    /// Connections accepted since the start.
    #[cfg(test)]
    pub(super) fn connected(&self) -> u64 {
        self.connected.get()
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn open(&self) -> Open {
        self.connected.inc();
        self.connections.inc();
        Open(self.connections.clone())
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
