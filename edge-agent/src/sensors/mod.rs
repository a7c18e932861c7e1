//! Sensors on this machine's own buses and pins: a third way in.
//!
//! ```text
//! bus --driver--> values --one thread per bus--> 64 --> RawMessage --> presilver, as from any device
//! ```
//!
//! Each sensor is read on a grid of its own; what fails is counted by its reason, told once, and tried again after
//! waits that grow, set up anew each time. A bus that blocks stops its own sensors and nothing else: not intake, and not the
//! end of the program.

mod books;

mod bus; // the kernel's buses and pins, or the simulator's

pub mod config; // [[sensors]]

mod driver; // [p] what goes over a bus, and what it means

mod pace; // [p] when a sensor is read next

mod probe; // one sensor: set up, read

pub mod scan; // what is there, for the technician

mod worker; // one thread per bus

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use self::books::{Metrics, State, Status};
pub(crate) use self::bus::gpio::Output;
pub use self::config::{Place, Sensor};
pub(crate) use self::driver::Fault as Trouble;
use self::pace::Pace;
use self::probe::{Bus, Probe};
use self::worker::{STOP_GRACE, Station, TOPIC_ROOT, Worker};
use crate::intake::RawMessage;
use crate::presilver::mapping::Mapping;

/// Readings that wait while the outbox takes none; above it they are dropped, and counted.
pub const CAPACITY: usize = 64;

/// How often sensors are read, by the device as which they count, where it is not as configured.
pub type Intervals = Arc<BTreeMap<String, Duration>>;

/// How presilver reads what comes from here. It goes before all others.
pub fn mapping() -> Mapping {
    // No time: it is the gateway's, and put right as such. No number: nothing is ever sent twice.
    let text = format!("topic = \"{TOPIC_ROOT}/{{device}}\"\ntime = \"\"\nn = \"\"");
    toml::from_str(&text).expect("a mapping of our own is one")
}

/// Reads all `sensors` until `stop`, at `intervals` where they say so, and hands on what they gave.
pub async fn run(
    sensors: Vec<Sensor>,
    mut intervals: watch::Receiver<Intervals>,
    clock: Clock,
    messages: mpsc::Sender<RawMessage>,
    stop: CancellationToken,
    metrics: Metrics,
) {
    let (out, mut readings) = mpsc::channel(CAPACITY);
    let mut wakes = Vec::new();
    for worker in workers(sensors, &intervals, &clock, &out, &metrics) {
        // One place: who is to look has not looked yet.
        let (wake, woken) = sync_channel(1);
        // Not a task of the runtime's: a thread that hangs in the kernel would keep the program from ending.
        let spawned = std::thread::Builder::new().name("sensors".to_owned()).spawn(move || worker.run(&woken));
        match spawned {
            Ok(_) => wakes.push(wake),
            Err(error) => tracing::error!(%error, "no thread for a bus: its sensors are not read"),
        }
    }
    drop(out);
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => break,
            message = readings.recv() => message,
            () = changed(&mut intervals) => {
                wakes.iter().for_each(wake);
                continue;
            }
        };
        let Some(message) = message else { break };
        if messages.send(message).await.is_err() {
            return; // nobody stores any more
        }
    }
    drop(wakes);
    let rest = async {
        while let Some(message) = readings.recv().await {
            if messages.send(message).await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(STOP_GRACE, rest).await.is_err() {
        tracing::warn!("a bus blocks: its sensors are left");
    }
}

/// Nobody who could change them is left: that is never.
async fn changed(intervals: &mut watch::Receiver<Intervals>) {
    if intervals.changed().await.is_err() {
        std::future::pending().await
    }
}

/// A thread that is to look already need not be told twice, and one that has ended, not at all.
fn wake(thread: &SyncSender<()>) {
    let _ = thread.try_send(());
}

fn workers(
    sensors: Vec<Sensor>,
    intervals: &watch::Receiver<Intervals>,
    clock: &Clock,
    out: &mpsc::Sender<RawMessage>,
    metrics: &Metrics,
) -> Vec<Worker> {
    let began = Instant::now();
    let mut workers: BTreeMap<(bool, Place), Worker> = BTreeMap::new();
    for sensor in sensors {
        let every = worker::every(&sensor, &intervals.borrow());
        let station = Station {
            pace: Pace::new(every, sensor.waits(), began.elapsed()),
            page: metrics.page(sensor.name(), sensor.device.clone(), every),
            probe: Probe::new(sensor.clone()),
        };
        let worker = workers.entry((sensor.kind.is_on_i2c(), sensor.place())).or_insert_with(|| Worker {
            bus: Bus::of(&sensor),
            stations: Vec::new(),
            intervals: intervals.clone(),
            clock: clock.clone(),
            began,
            out: out.clone(),
        });
        worker.stations.push(station);
    }
    workers.into_values().collect()
}
