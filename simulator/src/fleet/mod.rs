//! Many devices that measure, fail in seeded ways, and keep a ledger.
//!
//! ```text
//! waveform --true value--> fault --spoilt or not--> send --Draft--> ledger --Sent--> publisher == MQTT QoS 1 ==> gateway
//!                                              load: when                  <--ack--
//! ```

pub mod waveform; // (seed, device, tick) -> true value

pub mod fault; // what goes wrong, and its fate

pub mod send; // payloads and what should become of them

pub mod load; // when the n-th send is due

pub mod ledger; // what was sent, before it is sent

pub mod broker; // where to: a broker, or the gateway's own listener

pub mod direct; // where to without a gateway: an IoT Hub that knows each device

pub mod dial; // one of both

pub mod counters; // how it gets on

pub(crate) mod publisher; // one device on one connection

pub(crate) mod progress; // the counters, for whoever watches

pub mod cli; // `simulator devices`

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use shared::clock::Clock;
use shared::config::{Mistakes, Span};
use shared::reading::{DeviceId, MetricName};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::broker::BrokerError;
use self::counters::{Counters, Progress};
use self::dial::Dial;
use self::direct::{DirectError, Through};
use self::fault::Rates;
use self::ledger::{Ledger, LedgerError, Sent, Start, VERSION};
use self::load::{Load, Shape};
use self::publisher::{Source, Wire};
use self::send::{Draft, Maker, Route};
use self::waveform::Metric;

/// How far a device may be behind its schedule; older samples are skipped, as no sensor takes them later.
const BEHIND_MAX: Duration = Duration::from_secs(10);
/// What is due within this time is sent together: at high rates, a wake-up of a task for each send costs more than the
/// send.
const GATHER: Duration = Duration::from_millis(5);
/// How often acks noted are written.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// The section `[devices]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// How many.
    pub count: u64,
    /// Values per second of the whole fleet.
    pub rate: f64,
    /// How long; without it until told to stop.
    #[serde(default)]
    pub run_for: Option<Span>,
    /// All that is drawn comes from it.
    pub seed: u64,
    /// Devices are called `<name>-0001` and so on.
    pub name: String,
    /// Where to keep the ledger; without it nothing can be verified or gone on with.
    #[serde(default)]
    pub ledger: Option<PathBuf>,
    /// Most sends of a device without PUBACK.
    pub window: usize,
    /// How long to wait for PUBACKs at the end.
    pub drain: Span,
    /// How the rate moves.
    pub load: Shape,
    /// Devices without a gateway.
    pub direct: direct::Config,
    /// How often what goes wrong.
    pub faults: Rates,
    /// What every device measures.
    pub metrics: Vec<Metric>,
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure((1..=100_000).contains(&self.count), "count", "must be 1 to 100000, write e.g. 10");
        mistakes.ensure(
            self.rate.is_finite() && 0.0 < self.rate,
            "rate",
            "must be above 0, write e.g. 20.0 (values per second)",
        );
        mistakes.ensure((1..=10_000).contains(&self.window), "window", "must be 1 to 10000, write e.g. 64");
        mistakes.within("direct", |mistakes| self.direct.check(mistakes));
        if let Some(fault) = DeviceId::fault(&self.name) {
            mistakes.add("name", fault);
        }
        mistakes.ensure(
            !self.name.contains(['/', '+', '#']),
            "name",
            "must not hold `/`, `+` or `#`: it is a level of the topic",
        );
        mistakes.ensure(
            !self.metrics.is_empty(),
            "metrics",
            "must not be empty; write at least one [[devices.metrics]]",
        );
        for (at, metric) in self.metrics.iter().enumerate() {
            if let Some(fault) = MetricName::fault(&metric.name) {
                mistakes.add(format!("metrics[{at}].name"), fault);
            }
            let reserved = ["ts", "n"].contains(&metric.name.as_str());
            mistakes.ensure(!reserved, format!("metrics[{at}].name"), "`ts` and `n` are the payload's time and number");
        }
        for (name, _, rate) in self.faults.all() {
            mistakes.ensure(
                (0.0..=1.0).contains(&rate),
                format!("faults.{name}"),
                "must be 0 to 1, write e.g. 0.01 for one send in a hundred",
            );
        }
        let sum: f64 = self.faults.all().iter().map(|(_, _, rate)| rate).sum();
        mistakes.ensure(sum <= 1.0, "faults", "add up to more than 1; a send has at most one fault");
        if let Shape::Burst { part, .. } = self.load {
            mistakes.ensure(0.0 < part && part <= 1.0, "load.part", "must be above 0 and at most 1, write e.g. 0.2");
        }
    }

    /// What device number `device` (from 0) is called.
    pub(crate) fn name_of(&self, device: u64) -> String {
        let width = self.count.to_string().len().max(4);
        format!("{}-{:0width$}", self.name, device + 1)
    }
}

/// Why a fleet or a replay stopped early.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The broker cannot be dialled at all.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The hub cannot be dialled at all.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A device's task died.
    #[error("run a device: {0}")]
    Device(String),
}

/// Runs the fleet until its time is over or `stop` is cancelled, and then until everything is acknowledged or the
/// drain time is over: what is unacknowledged then is in the progress returned, and in the ledger.
///
/// # Errors
/// See [`FleetError`].
pub async fn run(
    config: &Config,
    dial: Dial,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<Progress, FleetError> {
    let (kind, names, route) = match &dial {
        Dial::Broker(_) => ("devices", (0..config.count).map(|at| config.name_of(at)).collect(), Route::Gateway),
        Dial::Hub(hub) => {
            let best_effort = hub.through() == Through::AzureIotSdk;
            ("direct devices", hub.names().to_vec(), Route::Hub { run: new_run(), best_effort })
        }
    };
    let start = Start { version: VERSION, kind: kind.into(), source: format!("seed {}", config.seed), shift: 0 };
    let (ledger, recovered) = Ledger::open(config.ledger.as_deref(), start)?;
    let mut unacked: HashMap<String, Vec<Sent>> = HashMap::new();
    for sent in recovered.unacked.into_values() {
        unacked.entry(sent.device.clone()).or_default().push(sent);
    }
    let wire = Wire { dial: Arc::new(dial), ledger: Arc::new(ledger), counters, window: config.window, stop };
    let (metrics, faults) = (config.metrics.clone(), config.faults.clone());
    let maker = Arc::new(Maker { seed: config.seed, metrics, faults, route });
    let load = Load::new(config.load.clone(), config.rate / config.metrics.len() as f64);
    let started = Instant::now();
    let count = names.len() as u64;
    let mut tasks = JoinSet::new();
    for (device, name) in (0..).zip(names) {
        let source = Device {
            n: recovered.n_last.get(&name).copied().unwrap_or(0),
            name: name.clone(),
            device,
            count,
            round: 0,
            maker: Arc::clone(&maker),
            load: load.clone(),
            started,
            run_for: config.run_for.map(Span::duration),
            counters: Arc::clone(&wire.counters),
        };
        let left = unacked.remove(&name).unwrap_or_default();
        let wire = wire.clone();
        #[cfg(feature = "azure-iot-sdk")]
        if let Some(identity) = wire.dial.best_effort(&name) {
            tasks.spawn(async move {
                // What an earlier run left was promised: that has to be acknowledged first.
                publisher::run(wire.clone(), &name, left, Nothing).await?;
                direct::best_effort::run(wire, identity, source).await
            });
            continue;
        }
        tasks.spawn(async move { publisher::run(wire, &name, left, source).await });
    }
    for (name, left) in unacked {
        // Devices of an earlier, larger run: they finish what they began.
        if !wire.dial.knows(&name) {
            Counters::add(&wire.counters.unacked, left.len() as u64);
            wire.counters.trouble(format!("there is no connection string of {name}, which the ledger knows"));
            continue;
        }
        let wire = wire.clone();
        tasks.spawn(async move { publisher::run(wire, &name, left, Nothing).await });
    }
    let ends = config.run_for.map(|span| started + span.duration());
    finish(tasks, &wire, ends, config.drain.duration()).await
}

/// Begins the message ids of a run.
fn new_run() -> String {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    format!("{:08x}", u32::from_le_bytes(bytes))
}

/// Waits for all devices; once told to stop (or past `ends`), not longer than `drain`.
pub(crate) async fn finish(
    mut tasks: JoinSet<Result<(), LedgerError>>,
    wire: &Wire,
    ends: Option<Instant>,
    drain: Duration,
) -> Result<Progress, FleetError> {
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    let over = async {
        let ended = async {
            match ends {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wire.stop.cancelled() => {}
            () = ended => {}
        }
        tokio::time::sleep(drain).await;
    };
    tokio::pin!(over);
    loop {
        tokio::select! {
            done = tasks.join_next() => match done {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return Err(error.into()),
                Some(Err(error)) => return Err(FleetError::Device(error.to_string())),
                None => break,
            },
            _ = flush.tick() => wire.ledger.flush()?,
            () = &mut over => {
                let _ = timeout(Duration::from_secs(1), tasks.shutdown()).await;
                break;
            }
        }
    }
    wire.ledger.flush()?;
    Ok(wire.counters.progress())
}

/// One device of the fleet and its schedule.
struct Device {
    name: String,
    device: u64,
    count: u64,
    /// Its next send is the `round * count + device`-th of the fleet.
    round: u64,
    n: i64,
    maker: Arc<Maker>,
    load: Load,
    started: Instant,
    run_for: Option<Duration>,
    counters: Arc<Counters>,
}

impl Device {
    fn due(&self) -> Duration {
        self.load.due(self.round * self.count + self.device)
    }

    fn is_over(&self, due: Duration) -> bool {
        self.run_for.is_some_and(|end| end <= due)
    }

    fn make(&mut self) -> Draft {
        self.round += 1;
        self.n += 1;
        self.maker.make(&self.name, self.device, self.n, Clock::Real.now())
    }
}

impl Source for Device {
    async fn next(&mut self) -> Option<Draft> {
        while self.due() + BEHIND_MAX < self.started.elapsed() && !self.is_over(self.due()) {
            self.round += 1;
            Counters::add(&self.counters.skipped, 1);
        }
        let due = self.due();
        if self.is_over(due) {
            return None;
        }
        let now = self.started.elapsed();
        if now < due {
            // A device that is due again within the blink of an eye waits for the whole of it, and then sends all.
            sleep_until(self.started + due.max(now + GATHER)).await;
        }
        Some(self.make())
    }

    fn ready(&mut self) -> Option<Draft> {
        let due = self.due();
        let ready = due <= self.started.elapsed() && self.started.elapsed() < due + BEHIND_MAX && !self.is_over(due);
        ready.then(|| self.make())
    }
}

/// No sends.
pub(crate) struct Nothing;

impl Source for Nothing {
    async fn next(&mut self) -> Option<Draft> {
        None
    }
}
