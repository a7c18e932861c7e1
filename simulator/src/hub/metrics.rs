//! Rates of the hub since it started. What it holds is computed from the log, not counted here.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::gate::Books;

/// Counters of the device side.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    events: Counter,
    bytes: Counter,
    metered_units: Counter,
    dropped: Family<Dropped, Counter>,
    /// Of the connections themselves.
    pub(super) gate: Books,
    said: Family<Said, Counter>,
    twin_requests: Family<TwinRequest, Counter>,
    commands_completed: Counter,
    method_answers: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Said {
    what: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TwinRequest {
    what: &'static str,
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    reason: &'static str,
}

impl Metrics {
    /// Counters in `registry`.
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let hub = registry.sub_registry_with_prefix("hub");
        let metrics = Self { gate: Books::new(hub), ..Self::default() };
        hub.register("events", "Device-to-cloud messages handed to the log", metrics.events.clone());
        hub.register("body_bytes", "Their bodies", metrics.bytes.clone());
        hub.register(
            "metered_units",
            "Blocks that messages let in would be billed for, of the size that `hub.limits.profile` bills by",
            metrics.metered_units.clone(),
        );
        hub.register("dropped", "Messages that were neither stored nor acknowledged", metrics.dropped.clone());
        hub.register("said", "What was sent to devices, each time it was", metrics.said.clone());
        hub.register("twin_requests", "Requests of devices about their twins", metrics.twin_requests.clone());
        let help = "Commands that their devices acknowledged";
        hub.register("commands_completed", help, metrics.commands_completed.clone());
        hub.register("method_answers", "Answers to direct methods that came in time", metrics.method_answers.clone());
        Arc::new(metrics)
    }

    /// A message was let in. It may still be dropped: the service bills what it lets in, too.
    pub(super) fn metered(&self, metered_units: u64) {
        self.metered_units.inc_by(metered_units);
    }

    /// A message was handed to the log.
    pub(super) fn took(&self, body_bytes: u64) {
        self.events.inc();
        self.bytes.inc_by(body_bytes);
    }

    pub(super) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&Dropped { reason }).inc();
    }

    pub(super) fn said(&self, what: &'static str) {
        self.said.get_or_create(&Said { what }).inc();
    }

    pub(super) fn twin_request(&self, what: &'static str, status: u16) {
        self.twin_requests.get_or_create(&TwinRequest { what, status: status.into() }).inc();
    }

    pub(super) fn command_completed(&self) {
        self.commands_completed.inc();
    }

    pub(super) fn method_answered(&self) {
        self.method_answers.inc();
    }

    pub(super) fn metered_units(&self) -> u64 {
        self.metered_units.get()
    }
}
