//! The books of the uplink: `edge_uplink_*`, and what `/status` shows.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

/// Where the uplink stands, for `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `offline`, `dialing`, `catching-up`, `live` or `renewing`.
    pub link: &'static str,
    /// By which way: `mqtt` or `websocket`.
    pub way: &'static str,
    /// Envelopes without PUBACK.
    pub envelopes_in_flight: usize,
    /// Rows in them.
    pub rows_in_flight: usize,
    /// Envelopes acknowledged since the start.
    pub envelopes_acked: u64,
    /// Why the last connection ended or did not come about; `None` since the last one that came about.
    pub last_error: Option<String>,
}

/// Why a connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Why {
    pub(super) reason: &'static str,
}

/// Counters, gauges and the status. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) sent: Counter,
    pub(super) resent: Counter,
    pub(super) acked: Counter,
    pub(super) rows_sent: Counter,
    pub(super) rows_acked: Counter,
    pub(super) bytes: Counter,
    pub(super) units: Counter,
    pub(super) connected: Counter,
    pub(super) lost: Family<Why, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) up: Gauge,
    pub(super) puback_seconds: Histogram,
    status: watch::Sender<Status>,
}

impl Metrics {
    /// Registers everything under `edge_uplink_`.
    pub fn register(registry: &mut Registry) -> Self {
        // From a hub on the same machine to one behind a bad link that is about to be given up.
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let inner = Inner {
            sent: Counter::default(),
            resent: Counter::default(),
            acked: Counter::default(),
            rows_sent: Counter::default(),
            rows_acked: Counter::default(),
            bytes: Counter::default(),
            units: Counter::default(),
            connected: Counter::default(),
            lost: Family::default(),
            in_flight: Gauge::default(),
            up: Gauge::default(),
            puback_seconds: Histogram::new(buckets),
            status: watch::Sender::new(Status { link: "offline", way: "mqtt", ..Status::default() }),
        };
        let registry = registry.sub_registry_with_prefix("edge_uplink");
        registry.register("sent", "Envelopes published for the first time", inner.sent.clone());
        registry.register("resent", "Envelopes published again on a new connection", inner.resent.clone());
        registry.register("acked", "Envelopes acknowledged by the hub", inner.acked.clone());
        registry.register("rows_sent", "Rows published for the first time", inner.rows_sent.clone());
        registry.register("rows_acked", "Rows acknowledged by the hub", inner.rows_acked.clone());
        registry.register("bytes", "Bytes published, counted as the hub does", inner.bytes.clone());
        registry.register("units", "Metering units of 4 KB published", inner.units.clone());
        registry.register("connected", "Connections made", inner.connected.clone());
        registry.register("lost", "Connections lost or not made", inner.lost.clone());
        registry.register("in_flight", "Envelopes without PUBACK", inner.in_flight.clone());
        registry.register("up", "1 while connected", inner.up.clone());
        registry.register("puback_seconds", "From publish to PUBACK", inner.puback_seconds.clone());
        Self { inner: Arc::new(inner) }
    }

    /// Where the uplink stands; changes as it does.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Publishes a change of the status; does nothing where nothing changed.
    pub(super) fn show(&self, change: impl FnOnce(&mut Status)) {
        self.inner.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}
