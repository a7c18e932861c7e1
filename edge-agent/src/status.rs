//! What `/status`, the page and `edge-agent status` show.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value as Json;
use shared::clock::Clock;
use shared::reading::{Epoch, GatewayId, Seq};
use shared::telemetry::Recent;
use shared::time::Timestamp;
use tokio::sync::watch;

use crate::config::Config;
use crate::history::{Counts, History, Hour, Outlook, Rates};
use crate::hub::Known;
use crate::intake::broker::Link;
use crate::machine::{self, Disk};
use crate::outbox::{Books, Outbox};
use crate::presilver::gateway::is_plausible;
use crate::presilver::{self, Metrics};
use crate::remote::{self, StatusOf};
use crate::sensors;
use crate::uplink;

/// How often the disk and our memory are looked at.
const MACHINE_EVERY: Duration = Duration::from_secs(10);

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
    /// Seconds since the start, by a clock that is never set.
    uptime_s: u64,
    /// False where the machine's clock stands in a year that cannot be.
    clock_plausible: bool,
    outbox: OutboxStatus,
    /// Each second, over the last ten.
    rates: Rates,
    /// What becomes of the backlog.
    outlook: Outlook,
    /// Where the outbox lies; null where the system does not tell.
    disk: Option<Disk>,
    /// Bytes of memory of this process.
    memory: Option<u64>,
    /// The connection to the broker; null without one.
    broker: Option<Link>,
    presilver: presilver::Counts,
    uplink: uplink::Status,
    remote: remote::Status,
    /// Sensors on this machine's own pins.
    sensors: Vec<sensors::Status>,
    /// The last warnings and errors, the newest first.
    errors: Vec<Error>,
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

/// A warning or an error, as it stood in the log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Error {
    /// `warn` or `error`.
    level: &'static str,
    text: String,
    /// How often.
    times: u64,
    /// When last.
    at: String,
    /// Seconds since then, by this machine's clock.
    ago_s: u64,
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
    broker: watch::Receiver<Option<Link>>,
    presilver: Metrics,
    uplink: watch::Receiver<uplink::Status>,
    remote: watch::Receiver<remote::Status>,
    sensors: sensors::Metrics,
    /// Since the start, by a clock that is never set.
    begun: Instant,
    outbox_path: PathBuf,
    recent: Recent,
    history: Mutex<History>,
    machine: Mutex<Machine>,
}

/// The machine, as it was looked at last.
#[derive(Debug, Default)]
struct Machine {
    metrics: machine::Metrics,
    at: Option<Instant>,
    disk: Option<Disk>,
    memory: Option<u64>,
}

impl Reporter {
    pub(crate) fn new(
        config: &Config,
        hub: watch::Receiver<Known>,
        outbox: &Outbox,
        (broker, presilver): (watch::Receiver<Option<Link>>, &Metrics),
        (uplink, remote, sensors): (watch::Receiver<uplink::Status>, watch::Receiver<remote::Status>, sensors::Metrics),
        (recent, machine, started): (Recent, machine::Metrics, Timestamp),
    ) -> Self {
        let inner = Inner {
            hub,
            started,
            bytes_max: config.outbox.bytes_max.bytes(),
            outbox: outbox.clone(),
            broker,
            presilver: presilver.clone(),
            uplink,
            remote,
            sensors,
            begun: Instant::now(),
            outbox_path: config.outbox.path.clone(),
            recent,
            history: Mutex::default(),
            machine: Mutex::new(Machine { metrics: machine, ..Machine::default() }),
        };
        let reporter = Self { inner: Arc::new(inner) };
        reporter.look();
        reporter
    }

    /// To be called once a second: counts for the last hour, and now and then the machine.
    pub(crate) fn look(&self) {
        let inner = &self.inner;
        let (now, view, judged) = (Instant::now(), inner.outbox.view(), inner.presilver.counts());
        let counts = Counts {
            messages: judged.received,
            refused: judged.rejected,
            stored: view.books.stored,
            sent: view.books.acked,
            held: view.books.held,
            bytes: view.bytes,
            up: matches!(inner.uplink.borrow().link, "live" | "catching-up" | "renewing"),
        };
        held(&inner.history).look(now, counts);
        let mut machine = held(&inner.machine);
        if machine.at.is_none_or(|at| MACHINE_EVERY <= now.saturating_duration_since(at)) {
            machine.at = Some(now);
            (machine.disk, machine.memory) = (machine::disk(&inner.outbox_path), machine::resident());
            machine.metrics.show(machine.disk, machine.memory);
        }
    }

    fn errors(&self, now: Timestamp) -> Vec<Error> {
        let error = |said: shared::telemetry::recent::Said| Error {
            level: said.level,
            text: said.text,
            times: said.times,
            at: said.at.to_string(),
            ago_s: now.since(said.at).as_secs(),
        };
        self.inner.recent.newest_first().into_iter().map(error).collect()
    }

    fn status(&self) -> Status {
        let inner = &self.inner;
        let (view, now) = (inner.outbox.view(), Clock::Real.now());
        let hub = inner.hub.borrow().clone();
        let uplink = inner.uplink.borrow().clone();
        let (rates, outlook) = {
            let history = held(&inner.history);
            (history.rates(), history.outlook(view.books.held, uplink.link, view.full.is_some(), inner.bytes_max))
        };
        let (disk, memory) = {
            let machine = held(&inner.machine);
            (machine.disk, machine.memory)
        };
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
            uptime_s: inner.begun.elapsed().as_secs(),
            clock_plausible: is_plausible(now),
            outbox: OutboxStatus { books: view.books, bytes: view.bytes, bytes_max: inner.bytes_max, full: view.full },
            rates,
            outlook,
            disk,
            memory,
            broker: inner.broker.borrow().clone(),
            presilver: inner.presilver.counts(),
            uplink,
            remote: inner.remote.borrow().clone(),
            sensors: inner.sensors.statuses(),
            errors: self.errors(now),
        }
    }

    /// For `/status`.
    pub(crate) fn books(&self) -> impl Fn() -> std::future::Ready<Status> + Clone + Send + Sync + 'static {
        let reporter = self.clone();
        move || std::future::ready(reporter.status())
    }

    /// For the plots.
    pub(crate) fn hour(&self) -> Hour {
        held(&self.inner.history).hour()
    }

    /// For the socket: the last hour comes with it, under `hour`.
    pub(crate) fn json(&self) -> impl Fn() -> std::future::Ready<Json> + Clone + Send + Sync + 'static {
        let reporter = self.clone();
        move || {
            let mut status = serde_json::to_value(reporter.status()).expect("a status is plain data");
            status["hour"] = serde_json::json!(reporter.hour());
            std::future::ready(status)
        }
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

/// Nobody panics while he holds one of these, and if he did, old numbers are better than none.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
