//! The books of sensors: `edge_sensors_*`, and what the status shows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use shared::config::Span;
use shared::time::Timestamp;

use super::driver::Fault;

/// Which sensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Which {
    sensor: String,
}

/// Which sensor, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    sensor: String,
    reason: &'static str,
}

/// How a sensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not read yet.
    Starting,
    /// The last attempt gave a reading.
    Answering,
    /// It gave none.
    Failing,
}

/// One sensor, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Kind, bus and address.
    pub sensor: String,
    /// The device as which it counts.
    pub device: String,
    /// How often it is read, as it is in force.
    pub every: String,
    /// How it is.
    pub state: State,
    /// Since when.
    pub since: Option<String>,
    /// Readings taken since the start.
    pub read: u64,
    /// Attempts that failed, by reason.
    pub failed: BTreeMap<&'static str, u64>,
    /// Turns that passed without a reading.
    pub missed: u64,
    /// Readings that found no room on their way to the outbox.
    pub dropped: u64,
    /// Why the last attempt that failed did.
    pub last_error: Option<String>,
}

/// Counters and states of all sensors. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    read: Family<Which, Counter>,
    failed: Family<Why, Counter>,
    missed: Family<Which, Counter>,
    dropped: Family<Which, Counter>,
    recovered: Family<Which, Counter>,
    answering: Family<Which, Gauge>,
    all: Mutex<Vec<Status>>,
}

impl Metrics {
    /// Registers everything under `edge_sensors_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let inner = &metrics.inner;
        let at = registry.sub_registry_with_prefix("edge_sensors");
        at.register("read", "Readings taken from sensors on this machine's pins", inner.read.clone());
        at.register("failed", "Attempts that gave no reading, by reason", inner.failed.clone());
        at.register("missed", "Turns that passed without a reading", inner.missed.clone());
        at.register("dropped", "Readings dropped because the outbox took none", inner.dropped.clone());
        at.register("recovered", "Times a sensor answered again", inner.recovered.clone());
        at.register("answering", "1 where the last attempt gave a reading", inner.answering.clone());
        metrics
    }

    /// How all are, in the order of the configuration.
    pub fn statuses(&self) -> Vec<Status> {
        self.inner.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if any gives no readings now.
    pub fn any_fails(&self) -> bool {
        let all = self.inner.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|one| one.state == State::Failing)
    }

    /// The page of one more sensor.
    pub(crate) fn page(&self, sensor: String, device: String, every: Duration) -> Page {
        let status = Status {
            sensor: sensor.clone(),
            device,
            every: Span::new(every).to_string(),
            state: State::Starting,
            since: None,
            read: 0,
            failed: BTreeMap::new(),
            missed: 0,
            dropped: 0,
            last_error: None,
        };
        let which = Which { sensor };
        // They stand at 0 from the start.
        drop(self.inner.read.get_or_create(&which));
        drop(self.inner.answering.get_or_create(&which));
        let mut all = self.inner.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(status);
        Page { metrics: self.clone(), which, index: all.len() - 1 }
    }
}

/// One sensor's page.
#[derive(Debug)]
pub(crate) struct Page {
    metrics: Metrics,
    which: Which,
    index: usize,
}

impl Page {
    fn note(&self, change: impl FnOnce(&mut Status)) {
        let mut all = self.metrics.inner.all.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut all[self.index]);
    }

    /// From now on it is read this often.
    pub(crate) fn paced(&self, every: Duration) {
        self.note(|status| status.every = Span::new(every).to_string());
    }

    pub(crate) fn answered(&self, now: Timestamp, missed: u64) {
        let inner = &self.metrics.inner;
        inner.read.get_or_create(&self.which).inc();
        inner.missed.get_or_create(&self.which).inc_by(missed);
        inner.answering.get_or_create(&self.which).set(1);
        self.note(|status| {
            if status.state == State::Failing {
                inner.recovered.get_or_create(&self.which).inc();
            }
            if status.state != State::Answering {
                (status.state, status.since) = (State::Answering, Some(now.to_string()));
            }
            status.read += 1;
            status.missed += missed;
        });
    }

    /// An attempt failed, or a `reset` was mended.
    pub(crate) fn failed(&self, now: Timestamp, fault: &Fault) {
        let inner = &self.metrics.inner;
        let reason = fault.kind();
        inner.failed.get_or_create(&Why { sensor: self.which.sensor.clone(), reason }).inc();
        inner.answering.get_or_create(&self.which).set(0);
        self.note(|status| {
            if status.state != State::Failing {
                (status.state, status.since) = (State::Failing, Some(now.to_string()));
            }
            *status.failed.entry(reason).or_default() += 1;
            status.last_error = Some(format!("{now}: {fault}"));
        });
    }

    pub(crate) fn dropped(&self) {
        self.metrics.inner.dropped.get_or_create(&self.which).inc();
        self.note(|status| status.dropped += 1);
    }
}
