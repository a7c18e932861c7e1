//! What `/status` and `edge-agent status` show.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value as Json;
use shared::clock::Clock;
use shared::reading::{Epoch, GatewayId, Seq};
use shared::time::Timestamp;
use tokio::sync::watch;

use crate::config::Config;
use crate::hub::Known;
use crate::outbox::{Books, Outbox};
use crate::presilver::gateway::is_plausible;
use crate::presilver::{self, Metrics};
use crate::remote::{self, StatusOf};
use crate::sensors;
use crate::uplink;

/// The agent's status.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    gateway: GatewayId,
    /// Which hub, and how it is known.
    hub: Known,
    epoch: Epoch,
    /// Highest seq given in this run.
    high: Seq,
    /// Digest of the rules.
    rules: String,
    process: u32,
    started: String,
    now: String,
    /// False where the machine's clock stands in a year that cannot be.
    clock_plausible: bool,
    outbox: OutboxStatus,
    presilver: presilver::Counts,
    uplink: uplink::Status,
    remote: remote::Status,
    /// Sensors on this machine's own pins.
    sensors: Vec<sensors::Status>,
}

/// The outbox's part.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OutboxStatus {
    #[serde(flatten)]
    books: Books,
    bytes: u64,
    bytes_max: u64,
    /// Why nothing can be stored and devices are not acknowledged; null while all is well.
    full: Option<String>,
}

/// Makes statuses of a running agent.
#[derive(Clone)]
pub(crate) struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    hub: watch::Receiver<Known>,
    started: Timestamp,
    bytes_max: u64,
    outbox: Outbox,
    presilver: Metrics,
    uplink: watch::Receiver<uplink::Status>,
    remote: watch::Receiver<remote::Status>,
    sensors: sensors::Metrics,
}

impl Reporter {
    pub(crate) fn new(
        config: &Config,
        hub: watch::Receiver<Known>,
        outbox: &Outbox,
        presilver: &Metrics,
        (uplink, remote, sensors): (watch::Receiver<uplink::Status>, watch::Receiver<remote::Status>, sensors::Metrics),
    ) -> Self {
        let inner = Inner {
            hub,
            started: Clock::Real.now(),
            bytes_max: config.outbox.bytes_max.bytes(),
            outbox: outbox.clone(),
            presilver: presilver.clone(),
            uplink,
            remote,
            sensors,
        };
        Self { inner: Arc::new(inner) }
    }

    fn status(&self) -> Status {
        let inner = &self.inner;
        let (view, now) = (inner.outbox.view(), Clock::Real.now());
        let hub = inner.hub.borrow().clone();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            gateway: hub.gateway.clone(),
            hub,
            epoch: inner.outbox.epoch(),
            high: inner.outbox.high(inner.outbox.epoch()),
            rules: inner.outbox.rules(),
            process: std::process::id(),
            started: inner.started.to_string(),
            now: now.to_string(),
            clock_plausible: is_plausible(now),
            outbox: OutboxStatus { books: view.books, bytes: view.bytes, bytes_max: inner.bytes_max, full: view.full },
            presilver: inner.presilver.counts(),
            uplink: inner.uplink.borrow().clone(),
            remote: inner.remote.borrow().clone(),
            sensors: inner.sensors.statuses(),
        }
    }

    /// For `/status`.
    pub(crate) fn books(&self) -> impl Fn() -> std::future::Ready<Status> + Clone + Send + Sync + 'static {
        let reporter = self.clone();
        move || std::future::ready(reporter.status())
    }

    /// For the socket.
    pub(crate) fn json(&self) -> impl Fn() -> std::future::Ready<Json> + Clone + Send + Sync + 'static {
        let reporter = self.clone();
        move || std::future::ready(serde_json::to_value(reporter.status()).expect("a status is plain data"))
    }
    /// For the method: as `edge-agent status --json` shows it.
    pub(crate) fn of_running(&self) -> StatusOf {
        let reporter = self.clone();
        Arc::new(move || {
            let mut status = serde_json::to_value(reporter.status()).expect("a status is plain data");
            status["running"] = Json::Bool(true);
            status
        })
    }
}
