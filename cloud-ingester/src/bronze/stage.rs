//! Events in, commits out; nothing is dropped, and nothing is committed twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use shared::clock::Clock;
use shared::notify::Pulse;
use shared::time::Timestamp;
use tokio::sync::watch;

use super::cutter::{Cut, Cutter, Limits, Pushed};
use super::rows;
use crate::lake::{Kind, Lake, LakeError, Steps, Table, TableCommit, Txn};
use crate::source::flow::Receiver;
use crate::source::{Arrival, Event, Stream};

/// How often a cut that another writer overtook is cut again before this process gives way.
const OVERTAKEN_MAX: u32 = 10;

/// Files whose commit fails are tried again for so long.
const WRITTEN_MAX: Duration = Duration::from_secs(3_600);

/// The stage shows that it is alive at least this often, however little comes.
const IDLE_ROUND: Duration = Duration::from_secs(1);

/// What the stage has committed, for whoever waits for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The newest version of bronze.messages this process knows of.
    pub version: i64,
    /// The last number of every stream met.
    pub numbers: BTreeMap<Stream, i64>,
    /// When the hub took the last of them.
    pub enqueued: BTreeMap<Stream, Timestamp>,
}

/// The stage's books.
#[derive(Clone, Debug)]
pub struct Metrics {
    received: Counter,
    sent: Counter,
    duplicates: Counter,
    given_up: Counter,
    let_go: Counter,
    failed: Counter,
    held: Gauge,
    held_bytes: Gauge,
    lag_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    batch_seconds: Histogram,
}

impl Metrics {
    /// Books that nobody asks for.
    #[must_use]
    pub fn unheard() -> Self {
        Self::register(&mut Registry::default())
    }

    /// Books under `ingest_bronze`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest_bronze");
        let metrics = Self {
            received: Counter::default(),
            sent: Counter::default(),
            duplicates: Counter::default(),
            given_up: Counter::default(),
            let_go: Counter::default(),
            failed: Counter::default(),
            held: Gauge::default(),
            held_bytes: Gauge::default(),
            lag_seconds: Gauge::default(),
            batch_seconds: Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]),
        };
        registry.register("received", "Events from the hub", metrics.received.clone());
        registry.register("sent", "Events committed", metrics.sent.clone());
        registry.register("duplicates", "Events that were there already", metrics.duplicates.clone());
        registry.register(
            "given_up",
            "Numbers the hub did not hold any more when they were to be read; rows of silver.gaps name them",
            metrics.given_up.clone(),
        );
        registry.register(
            "let_go",
            "Events that another ingester reads, because it has their partition now",
            metrics.let_go.clone(),
        );
        registry.register("held_bytes", "Bytes of the Events waiting for a commit", metrics.held_bytes.clone());
        registry.register("failed", "Commits that failed and were tried again", metrics.failed.clone());
        registry.register("held", "Events waiting for a commit", metrics.held.clone());
        registry.register("lag_seconds", "Age of the newest Event when it was committed", metrics.lag_seconds.clone());
        registry.register("batch_seconds", "Duration of a commit", metrics.batch_seconds.clone());
        metrics
    }
}

/// The committer.
pub struct Stage {
    /// Where to.
    pub lake: Arc<Lake>,
    /// When to cut.
    pub limits: Limits,
    /// What time it is.
    pub clock: Clock,
    /// Told after each commit.
    pub committed: watch::Sender<Committed>,
    /// Its books.
    pub metrics: Metrics,
    /// Its sign of life.
    pub pulse: Pulse,
}

impl Stage {
    /// Commits what comes until `arrivals` ends, then the rest.
    ///
    /// # Errors
    /// [`LakeError::Fenced`] when another writer keeps overtaking. Storage that fails is waited for.
    pub async fn run(self, mut arrivals: Receiver<Arrival>) -> Result<(), LakeError> {
        let mut cutter = Cutter::new(self.limits);
        loop {
            let open = tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(Arrival::Event(event)) => {
                        self.take(&mut cutter, event).await;
                        true
                    }
                    Some(Arrival::Lost(stream)) => {
                        self.metrics.let_go.inc_by(cutter.forget(&stream) as u64);
                        true
                    }
                    None => false,
                },
                () = self.clock.sleep_until(cutter.deadline()) => true,
                () = tokio::time::sleep(IDLE_ROUND) => true,
            };
            let cut = if open { cutter.tick(self.clock.now()) } else { cutter.cut() };
            if let Some(cut) = cut {
                self.commit(cut).await?;
            }
            self.metrics.held.set(i64::try_from(cutter.held()).unwrap_or(i64::MAX));
            self.metrics.held_bytes.set(i64::try_from(cutter.bytes()).unwrap_or(i64::MAX));
            self.pulse.beat();
            if !open {
                return Ok(());
            }
        }
    }

    async fn take(&self, cutter: &mut Cutter, event: Event) {
        self.metrics.received.inc();
        if !cutter.knows(&event.stream) {
            let app = event.stream.app_id();
            let committed = self.patiently("read the progress", || self.lake.txn(Table::BronzeMessages, &app)).await;
            cutter.learn(&event.stream, committed);
        }
        let given_up = event.given_up().unwrap_or(0);
        match cutter.push(self.clock.now(), rows::unpack(event)) {
            Pushed::Repeat => self.metrics.duplicates.inc(),
            Pushed::Taken => self.metrics.given_up.inc_by(given_up),
        };
    }

    async fn commit(&self, mut cut: Cut) -> Result<(), LakeError> {
        let begun = self.clock.now();
        let mut overtaken = 0;
        let mut written: Option<(TableCommit, Timestamp)> = None;
        let version = loop {
            if cut.spans.is_empty() {
                break None;
            }
            let now = self.clock.now();
            // What waits long is written anew: files that nobody names go some day.
            let ready = match written.take().filter(|(_, at)| now.since(*at) < WRITTEN_MAX) {
                Some(ready) => Ok(ready),
                None => {
                    let writing = self.lake.written(table_commit(&cut, now));
                    Steps::default().of(writing, || self.pulse.beat()).await.map(|commit| (commit, now))
                }
            };
            let done = match ready {
                Ok(ready) => {
                    let commit = written.insert(ready).0.clone();
                    Steps::default().of(self.lake.commit(commit, None), || self.pulse.beat()).await
                }
                Err(error) => Err(error),
            };
            match done {
                Ok(landed) => break Some(landed.version()),
                Err(error @ LakeError::Fenced { .. }) => {
                    written = None;
                    overtaken += 1;
                    if overtaken == OVERTAKEN_MAX {
                        return Err(error);
                    }
                    tracing::warn!(%error, "another writer was faster; cutting again what it left");
                    self.trim(&mut cut).await;
                }
                Err(error) => {
                    self.metrics.failed.inc();
                    self.pulse.beat();
                    tracing::warn!(%error, "bronze can't be written; trying again");
                    self.clock.sleep_until(Some(self.clock.now().plus(Duration::from_secs(2)))).await;
                }
            }
        };
        let now = self.clock.now();
        self.metrics.sent.inc_by(cut.events.len() as u64);
        self.metrics.batch_seconds.observe(now.since(begun).as_secs_f64());
        let newest = cut.events.iter().filter_map(|event| event.enqueued_time).max();
        if let Some(newest) = newest {
            self.metrics.lag_seconds.set(now.since(newest).as_secs_f64());
        }
        tracing::debug!(events = cut.events.len(), version, "bronze committed");
        self.committed.send_modify(|committed| {
            committed.version = version.unwrap_or(committed.version).max(committed.version);
            for span in cut.spans {
                committed.numbers.insert(span.stream, span.upto);
            }
            for event in cut.events {
                if let Some(at) = event.enqueued_time {
                    let newest = committed.enqueued.entry(event.stream).or_insert(at);
                    *newest = at.max(*newest);
                }
            }
        });
        Ok(())
    }

    async fn trim(&self, cut: &mut Cut) {
        let streams: Vec<Stream> = cut.spans.iter().map(|span| span.stream.clone()).collect();
        for stream in streams {
            let app = stream.app_id();
            let committed = self.patiently("read the progress", || self.lake.txn(Table::BronzeMessages, &app)).await;
            let trimmed = cut.trim(&stream, committed);
            self.metrics.duplicates.inc_by(trimmed as u64);
        }
    }

    /// Storage that fails is waited for: the hub keeps what is not read yet.
    async fn patiently<T, F: Future<Output = Result<T, LakeError>> + Send>(
        &self,
        act: &str,
        attempt: impl Fn() -> F,
    ) -> T {
        loop {
            match Steps::default().of(attempt(), || self.pulse.beat()).await {
                Ok(done) => return done,
                Err(error) => {
                    self.metrics.failed.inc();
                    self.pulse.beat();
                    tracing::warn!(%error, act, "the lake does not answer; trying again");
                    self.clock.sleep_until(Some(self.clock.now().plus(Duration::from_secs(2)))).await;
                }
            }
        }
    }
}

/// The one commit of a cut: all its rows, and the progress of every stream in it.
fn table_commit(cut: &Cut, now: Timestamp) -> TableCommit {
    let txns = cut.spans.iter().map(|span| Txn { app: span.stream.app_id(), expected: span.after, version: span.upto });
    TableCommit {
        table: Table::BronzeMessages,
        kind: Kind::Append,
        batches: vec![rows::batch(&cut.events, now)],
        txns: txns.collect(),
        metadata: vec![],
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
