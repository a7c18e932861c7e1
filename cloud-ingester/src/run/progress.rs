//! Whether things move: readiness, and how far behind every partition is.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shared::clock::Clock;
use shared::http::Condition;
use shared::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::hops::Looks;
use crate::bronze::stage::Committed;
use crate::source::eventhubs::Held;
use crate::source::flow::Room;
use crate::source::{Stream, Told};

/// How often it is looked.
const LOOKS: Duration = Duration::from_secs(1);

/// What the hub told of its partitions, held against what bronze committed. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    told: Arc<Mutex<BTreeMap<Stream, Told>>>,
    committed: watch::Receiver<Committed>,
    claimed: watch::Receiver<Held>,
}

/// How far behind a partition is that this ingester reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lag {
    pub(super) stream: Stream,
    /// The last number in bronze, as far as this ingester knows; −1 for none.
    pub(super) done: i64,
    /// Events the hub has and bronze has not.
    pub(super) events: i64,
    /// How long ago the hub took the last Event in bronze, if more are to come; unknown before the first commit.
    pub(super) seconds: Option<f64>,
}

impl Streams {
    pub(super) fn new(
        told: Arc<Mutex<BTreeMap<Stream, Told>>>,
        committed: watch::Receiver<Committed>,
        claimed: watch::Receiver<Held>,
    ) -> Self {
        Self { told, committed, claimed }
    }

    /// What the hub told last.
    pub(super) fn told(&self) -> BTreeMap<Stream, Told> {
        self.told.lock().expect("no thread panics while it holds this").clone()
    }

    /// How far behind the partitions are that this ingester reads.
    pub(super) fn lags(&self, now: Timestamp) -> Vec<Lag> {
        let (told, committed, claimed) = (self.told(), self.committed.borrow(), self.claimed.borrow());
        let ours = told.values().filter(|told| claimed.partitions.contains_key(&told.stream.partition));
        ours.map(|told| lag(told, &committed, now)).collect()
    }
}

fn lag(told: &Told, committed: &Committed, now: Timestamp) -> Lag {
    let number = committed.numbers.get(&told.stream).copied();
    let done = number.max(told.begun);
    let events = match done {
        Some(done) => told.last_enqueued - done,
        // What the hub gave up before anything was read was never to be read.
        None => told.last_enqueued + 1 - told.begin.max(0),
    };
    let events = events.max(0);
    let newest = committed.enqueued.get(&told.stream).filter(|_| number == done);
    let seconds = match events {
        0 => Some(0.0),
        _ => newest.map(|at| now.since(*at).as_secs_f64()),
    };
    Lag { stream: told.stream.clone(), done: done.unwrap_or(-1), events, seconds }
}

/// When something moved last.
#[derive(Debug, Default)]
struct Moves {
    position: i64,
    at: Duration,
}

impl Moves {
    /// For how long nothing has moved though there was something to do; `None` while it moves or nothing is to be done.
    fn stalled(&mut self, now: Duration, position: i64, behind: i64) -> Option<Duration> {
        if behind == 0 || position != self.position {
            *self = Self { position, at: now };
            return None;
        }
        Some(now.saturating_sub(self.at))
    }
}

/// Labels of one partition.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Partition {
    hub: String,
    partition: i32,
}

/// What is told of the source.
#[derive(Debug)]
pub(super) struct Metrics {
    lag_events: Family<Partition, Gauge>,
    lag_seconds: Family<Partition, Gauge<f64, AtomicU64>>,
    partitions: Gauge,
    peers: Gauge,
    waiting_bytes: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest_source");
        let metrics = Self {
            lag_events: Family::default(),
            lag_seconds: Family::default(),
            partitions: Gauge::default(),
            peers: Gauge::default(),
            waiting_bytes: Gauge::default(),
        };
        registry.register(
            "lag_events",
            "Events the hub has and bronze has not, of partitions this ingester reads",
            metrics.lag_events.clone(),
        );
        registry.register(
            "lag_seconds",
            "How long ago the hub took the newest Event in bronze, where more are to come",
            metrics.lag_seconds.clone(),
        );
        registry.register("partitions", "Partitions this ingester reads", metrics.partitions.clone());
        registry.register("peers", "Other ingesters that read partitions of this hub", metrics.peers.clone());
        registry.register(
            "waiting_bytes",
            "Bytes of Events between source and bronze; at hub.bytes-ahead the hub waits",
            metrics.waiting_bytes.clone(),
        );
        metrics
    }

    fn show(&self, lags: &[Lag], held: &Held, room: &Room) {
        // Of a partition that another reads, only that one tells.
        self.lag_events.clear();
        self.lag_seconds.clear();
        for lag in lags {
            let labels = Partition { hub: lag.stream.hub.to_string(), partition: lag.stream.partition };
            self.lag_events.get_or_create(&labels).set(lag.events);
            if let Some(seconds) = lag.seconds {
                self.lag_seconds.get_or_create(&labels).set(seconds);
            }
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.partitions.set(count(held.partitions.len()));
        self.peers.set(count(held.others));
        self.waiting_bytes.set(count(room.bytes_waiting()));
    }
}

/// Watches whether things move.
pub(super) struct Progressing {
    pub(super) streams: Streams,
    pub(super) looks: Looks,
    /// Met while bronze moves, or has nothing to do.
    pub(super) bronze: Condition,
    /// Met while it is known who reads which partition; while that is not known, nobody reads any, and none is behind.
    pub(super) claims: Condition,
    /// Met while the hops of this ingester do not fail.
    pub(super) hops: Condition,
    pub(super) stalled_after: Duration,
    pub(super) metrics: Metrics,
    pub(super) room: Room,
}

impl Progressing {
    pub(super) async fn run(self, stop: CancellationToken) {
        let begun = Instant::now();
        let mut moves = Moves::default();
        let mut ticks = tokio::time::interval(LOOKS);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let lags = self.streams.lags(Clock::Real.now());
            let held = self.streams.claimed.borrow().clone();
            self.metrics.show(&lags, &held, &self.room);
            let behind = lags.iter().map(|lag| lag.events).sum();
            // Another set of partitions is another position, as well.
            let position = lags.iter().map(|lag| lag.done + 1).sum::<i64>() + i64::from(held.level_sum());
            match moves.stalled(begun.elapsed(), position, behind) {
                Some(stalled) if self.stalled_after < stalled => self.bronze.unmet(format!(
                    "nothing was committed for {} s, though the hub is {behind} Events ahead",
                    stalled.as_secs()
                )),
                _ => self.bronze.met(),
            }
            match held.blind {
                Some((since, why)) if self.stalled_after < since.elapsed() => self.claims.unmet(format!(
                    "who reads which partition can't be looked at for {} s: {why}",
                    since.elapsed().as_secs()
                )),
                _ => self.claims.met(),
            }
            match self.looks.now().failing {
                Some((since, why)) if self.stalled_after < since.elapsed() => {
                    self.hops.unmet(format!("failing for {} s: {why}", since.elapsed().as_secs()));
                }
                _ => self.hops.met(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bronze::cutter::tests::stream;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn lag_is_counted_from_what_bronze_holds_in_events_and_in_seconds() {
        let mut committed = Committed::default();
        committed.numbers.insert(stream(0), 10);
        committed.enqueued.insert(stream(0), at(100));
        for (begun, begin, last, events, seconds) in [
            (None, 0, 10, 0, Some(0.0)),
            (Some(3), 0, 14, 4, Some(20.0)),
            // Another one read it meanwhile: when is not known.
            (Some(12), 0, 14, 2, None),
        ] {
            let told = Told { stream: stream(0), begin, last_enqueued: last, begun };
            let lag = lag(&told, &committed, at(120));
            assert_eq!((lag.events, lag.seconds), (events, seconds), "{told:?}");
        }
        for (begun, begin, last, events) in [(None, 5, 9, 5), (None, 0, -1, 0), (Some(9), 5, 9, 0)] {
            let told = Told { stream: stream(1), begin, last_enqueued: last, begun };
            assert_eq!(lag(&told, &committed, at(120)).events, events, "{told:?}");
        }
    }

    #[test]
    fn only_what_should_move_and_does_not_is_stalled() {
        let mut moves = Moves::default();
        let mut check = |second, position, behind| {
            moves.stalled(Duration::from_secs(second), position, behind).map(|stalled| stalled.as_secs())
        };
        assert_eq!(check(1, 5, 3), None, "it moved");
        assert_eq!(check(2, 5, 3), Some(1));
        assert_eq!(check(9, 5, 400), Some(8));
        assert_eq!(check(10, 6, 400), None, "it moved");
        assert_eq!(check(11, 6, 0), None, "nothing is to be done");
        assert_eq!(check(99, 6, 1), Some(88));
    }
}
