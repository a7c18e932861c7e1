//! Rates of the service since it started.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::gate::Books;

/// Counters and gauges.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    registrations: Family<Ended, Counter>,
    refused: Family<Code, Counter>,
    polls: Counter,
    /// Of the connections themselves.
    pub(super) gate: Books,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u32,
}

impl Metrics {
    /// Counters in `registry`.
    pub(super) fn new(registry: &mut Registry) -> Arc<Self> {
        let dps = registry.sub_registry_with_prefix("dps");
        let metrics = Self { gate: Books::new(dps), ..Self::default() };
        dps.register("registrations", "Registrations that ended, by how", metrics.registrations.clone());
        dps.register("refused", "Requests that were refused, by error code", metrics.refused.clone());
        dps.register("polls", "Questions about an operation", metrics.polls.clone());
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
}
