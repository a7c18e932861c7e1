//! The books of presilver: `edge_presilver_*`.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::judge::Judged;
use crate::outbox::HeldItem;

/// The kind of a reason: what stands before its colon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Why {
    reason: String,
}

/// Why something of a message is no value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LeftOut {
    why: &'static str,
}

/// What a person was told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Noticed {
    kind: &'static str,
}

/// Counters of presilver. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    received: Counter,
    readings: Counter,
    rejected: Counter,
    reasons: Family<Why, Counter>,
    left_out: Family<LeftOut, Counter>,
    notices: Family<Noticed, Counter>,
    asks: Counter,
    asks_dropped: Counter,
}

/// Counts since the start, for `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Messages judged.
    pub received: u64,
    /// Readings made of them.
    pub readings: u64,
    /// Refusals made of them.
    pub rejected: u64,
}

impl Metrics {
    /// Registers everything under `edge_presilver_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.inner;
        let at = registry.sub_registry_with_prefix("edge_presilver");
        at.register("received", "Messages judged", inner.received.clone());
        at.register("readings", "Readings made of them", inner.readings.clone());
        at.register("rejected", "Refusals made of them", inner.rejected.clone());
        at.register("reasons", "Reasons of refusals, by kind", inner.reasons.clone());
        let left_out = "Parts of messages that are no values, or that the mapping leaves out, by why";
        at.register("left_out", left_out, inner.left_out.clone());
        at.register("notices", "What was noticed of senders, such as gaps in their numbers", inner.notices.clone());
        at.register("asks", "Requests to senders, such as for a rebirth", inner.asks.clone());
        at.register("asks_dropped", "Requests to senders that found no way to them", inner.asks_dropped.clone());
        metrics
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        let inner = &self.inner;
        Counts { received: inner.received.get(), readings: inner.readings.get(), rejected: inner.rejected.get() }
    }

    /// Counts a request to a sender.
    pub(super) fn asked(&self, found_a_way: bool) {
        if found_a_way {
            self.inner.asks.inc()
        } else {
            self.inner.asks_dropped.inc()
        };
    }

    pub(super) fn judged(&self, judged: &Judged) {
        self.inner.received.inc();
        for left_out in &judged.left_out {
            self.inner.left_out.get_or_create(&LeftOut { why: left_out.why }).inc();
        }
        for note in &judged.notes {
            self.inner.notices.get_or_create(&Noticed { kind: note.kind }).inc();
        }
        for verdict in &judged.verdicts {
            match &verdict.item {
                HeldItem::Reading(_) => {
                    self.inner.readings.inc();
                }
                HeldItem::Rejected { rejected, .. } => {
                    self.inner.rejected.inc();
                    for reason in &rejected.reasons {
                        let kind = reason.split(':').next().unwrap_or_default();
                        self.inner.reasons.get_or_create(&Why { reason: kind.to_owned() }).inc();
                    }
                }
            }
        }
    }
}
