//! The books of what is heard: `edge_remote_*`, and what `/status` shows.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::watch;

use super::ear::Count;

/// What the hub may do here, for `/status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `off`, `away`, `asking`, `hearing`, `refused` or `deaf`.
    pub state: &'static str,
    /// Version of the desired properties; null until they were read.
    pub desired_version: Option<i64>,
    /// Version whose set is in force; null where all is as configured.
    pub settings_version: Option<i64>,
    /// Why what is desired now is not in force.
    pub settings_refused: Option<String>,
    /// What is logged.
    pub log_level: String,
    /// When that ends by itself.
    pub log_level_until: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Desired {
    outcome: &'static str,
}

/// Counters and the status. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    calls: Family<Answered, Counter>,
    calls_dropped: Counter,
    writes: Family<Written, Counter>,
    desired: Family<Desired, Counter>,
    status: watch::Sender<Status>,
}

impl Metrics {
    /// Registers everything under `edge_remote_`.
    pub fn register(registry: &mut Registry) -> Self {
        let inner = Inner {
            calls: Family::default(),
            calls_dropped: Counter::default(),
            writes: Family::default(),
            desired: Family::default(),
            status: watch::Sender::new(Status { state: "off", ..Status::default() }),
        };
        let registry = registry.sub_registry_with_prefix("edge_remote");
        registry.register("calls", "Direct methods answered", inner.calls.clone());
        registry.register(
            "calls_dropped",
            "Direct methods not answered: too many at once",
            inner.calls_dropped.clone(),
        );
        registry.register("writes", "Writes of reported properties answered", inner.writes.clone());
        registry.register("desired", "Desired properties applied or not", inner.desired.clone());
        Self { inner: Arc::new(inner) }
    }

    /// Changes as the state does.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    pub(super) fn count(&self, count: Count) {
        let inner = &self.inner;
        match count {
            Count::Call { name, status } => inner.calls.get_or_create(&Answered { method: name, status }).inc(),
            Count::CallDropped => inner.calls_dropped.inc(),
            Count::Write(status) => inner.writes.get_or_create(&Written { status }).inc(),
            Count::Desired(outcome) => inner.desired.get_or_create(&Desired { outcome }).inc(),
        };
    }

    pub(super) fn show(&self, status: Status) {
        self.inner.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
    }
}
