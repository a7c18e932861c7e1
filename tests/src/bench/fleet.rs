//! What `simulator devices --direct` sends: whether one process of it is load enough for the benchmarks of others.

use std::fs;
use std::time::{Duration, Instant};

use super::child::Child;
use super::machine::{Cores, Reading};
use super::servers::Hub;
use super::table::{median, percent, table, whole};
use super::{BenchError, Plan, disk, say};

/// What the issue of the hub wants, in readings/s.
const WANTED: f64 = 50_000.0;
const CONNECTIONS: usize = 100;
/// Metrics of the default fleet: a send holds a reading of each.
const READINGS_PER_SEND: f64 = 4.0;
/// Far more than can be sent: devices send whenever their window lets them.
const NO_BOUND: f64 = 4e6;
/// Connections are made one after the other, each with its handshake.
const PATIENCE: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

struct Sample {
    rate: f64,
    cores: Cores,
}

/// Measures and prints.
///
/// # Errors
/// The fleet does not start, or nothing of it arrives.
pub(super) fn run(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let (mut wanted, mut unbounded) = (vec![], vec![]);
    for _ in 0..plan.rounds {
        wanted.push(measure(plan, hub, WANTED)?);
        unbounded.push(measure(plan, hub, NO_BOUND)?);
    }
    say(&format!(
        "fleet: readings/s of one `simulator devices --direct` at QoS 1 over TLS, {CONNECTIONS} connections, {READINGS_PER_SEND} readings \
         a message, as the hub stored them; wanted {}",
        whole(WANTED)
    ));
    let mut rows = vec![
        ["", "median", "lowest", "highest", "of wanted", "its cores", "hub's", "others'", "its us/reading"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, samples) in [("told to send what is wanted", &wanted), ("limit: told to send all it can", &unbounded)] {
        let rates = || samples.iter().map(|sample| sample.rate);
        let cores = |which: usize| median(samples.iter().map(|sample| sample.cores.processes[which]));
        rows.push(vec![
            name.to_owned(),
            whole(median(rates())),
            whole(rates().fold(f64::MAX, f64::min)),
            whole(rates().fold(0.0, f64::max)),
            percent(median(rates()) / WANTED),
            format!("{:.2}", cores(0)),
            format!("{:.2}", cores(1)),
            format!("{:.2}", median(samples.iter().map(|sample| sample.cores.others))),
            format!("{:.1}", median(samples.iter().map(|sample| sample.cores.processes[0] / sample.rate * 1e6))),
        ]);
    }
    say(&table(&rows));
    Ok(())
}

fn measure(plan: &Plan, hub: &Hub, rate: f64) -> Result<Sample, BenchError> {
    let config = plan.directory.join("fleet.toml");
    // Without faults, each message holds a reading of each metric.
    let text = format!(
        "[devices]\nwindow = 256\n[devices.direct]\nhost = \"{}\"\nport = {}\n[devices.faults]\nout-of-range = 0\n\
         missing-field = 0\ngarbled = 0\nlate = 0\ntwice = 0\nwrong-clock = 0\n",
        hub.mqtt.ip(),
        hub.mqtt.port()
    );
    fs::write(&config, text).map_err(BenchError::Disk)?;
    disk::settle(&plan.directory).map_err(BenchError::Disk)?;
    let before = stored(hub)?;
    let (config, credentials) = (config.display().to_string(), hub.credentials.display().to_string());
    let (devices, rate) = (CONNECTIONS.to_string(), rate.to_string());
    let args = ["--as", "simulator", "--config", &config, "devices", "--json", "--direct", &credentials];
    let args = args.into_iter().chain(["--devices", &devices, "--rate", &rate]).collect::<Vec<_>>();
    let fleet = Child::start("fleet", &plan.directory, &plan.binary, &args)?;
    let begun = Instant::now();
    while stored(hub)? == before {
        if begun.elapsed() > PATIENCE {
            return Err(fleet.ended());
        }
        std::thread::sleep(LOOK);
    }
    // What is measured is what comes in so long: here time is the condition.
    std::thread::sleep(WARM_UP);
    let ids = [fleet.id(), hub.child.id()];
    let (clock, before, from) = (Reading::take(&ids), stored(hub)?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(plan.seconds));
    let (after, took) = (stored(hub)?, from.elapsed());
    let cores = clock.since(&ids);
    Ok(Sample { rate: after.saturating_sub(before) as f64 * READINGS_PER_SEND / took.as_secs_f64(), cores })
}

fn stored(hub: &Hub) -> Result<u64, BenchError> {
    hub.stored().ok_or(BenchError::Order)
}
