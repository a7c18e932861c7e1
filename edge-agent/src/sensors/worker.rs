//! One thread for each bus: reads what is due, waits for what is due next. A bus that blocks holds up its own sensors
//! and nobody else.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};
use shared::clock::Clock;
use tokio::sync::{mpsc, watch};

use super::Intervals;
use super::books::Page;
use super::config::Sensor;
use super::driver::{Fault, Measured};
use super::pace::Pace;
use super::probe::{Bus, Probe};
use crate::intake::{Ack, RawMessage};

/// The topic under which presilver gets readings of our own. No device's come on it: the listener refuses what begins
/// with `$`, and the broker's filters may not name it.
pub(super) const TOPIC_ROOT: &str = "$sensors";

/// A sensor with its timetable and its page in the books.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) probe: Probe,
    pub(super) pace: Pace,
    pub(super) page: Page,
}

/// The sensors of one bus.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) bus: Bus,
    pub(super) stations: Vec<Station>,
    pub(super) intervals: watch::Receiver<Intervals>,
    pub(super) clock: Clock,
    pub(super) began: Instant,
    pub(super) out: mpsc::Sender<RawMessage>,
}

impl Worker {
    /// Reads until whoever holds the other end of `woken` drops it, and looks at the intervals when told to through it;
    /// looked at before each reading.
    pub(super) fn run(mut self, woken: &Receiver<()>) {
        while let Some(next) = self.stations.iter_mut().min_by_key(|station| station.pace.due()) {
            let wait = next.pace.due().saturating_sub(self.began.elapsed());
            match woken.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => next.turn(&mut self.bus, &self.clock, self.began, &self.out),
                Ok(()) => self.set_intervals(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn set_intervals(&mut self) {
        let intervals = Intervals::clone(&self.intervals.borrow_and_update());
        let now = self.began.elapsed();
        for station in &mut self.stations {
            let every = every(station.probe.sensor(), &intervals);
            station.pace.set_every(every, now);
            station.page.paced(every);
        }
    }
}

/// How often a sensor is read: as the twin has it for its device, or as configured.
pub(super) fn every(sensor: &Sensor, intervals: &Intervals) -> Duration {
    intervals.get(&sensor.device).copied().unwrap_or_else(|| sensor.every())
}

impl Station {
    fn turn(&mut self, bus: &mut Bus, clock: &Clock, began: Instant, out: &mpsc::Sender<RawMessage>) {
        let mut reset = false;
        let read = self.probe.read(bus, &mut reset);
        let (now, at) = (clock.now(), began.elapsed());
        let name = || self.probe.sensor().name();
        if reset {
            self.page.failed(now, &Fault::Reset);
            tracing::warn!(sensor = name(), "the sensor was without power since it was set up: set up anew");
        }
        let measured = match read {
            Ok(measured) => measured,
            Err(fault) => {
                let told = self.pace.failed(at, fault.kind());
                self.page.failed(now, &fault);
                if told.changed {
                    tracing::warn!(sensor = name(), reason = fault.kind(), "the sensor gives no readings: {fault}");
                }
                return;
            }
        };
        let told = self.pace.answered(at);
        self.page.answered(now, told.missed);
        if told.changed {
            tracing::info!(sensor = name(), missed = told.missed, "the sensor answers again");
        }
        let message = RawMessage {
            topic: format!("{TOPIC_ROOT}/{}", self.probe.sensor().device),
            payload: payload(&measured),
            cut: None,
            received: now,
            again: false,
            ack: Ack::none(),
        };
        match out.try_send(message) {
            Ok(()) => self.probe.told(),
            // Nobody could repeat it: it is gone. (A counter's edges are in its next one.)
            Err(_) => self.page.dropped(),
        }
    }
}

/// As a device would have sent it.
fn payload(measured: &[Measured]) -> Bytes {
    let members: Map<String, Json> = measured
        .iter()
        .map(|one| {
            let value = match &one.unit {
                Some(unit) => json!({"v": one.value, "u": unit}),
                None => json!(one.value),
            };
            (one.metric.clone(), value)
        })
        .collect();
    Json::Object(members).to_string().into()
}

/// So long the threads may take to see that they are to stop.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);
