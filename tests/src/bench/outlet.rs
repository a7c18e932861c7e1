//! What one client of Microsoft's reads from the hub's log, beside what it reads from memory, in turn, round by round.

use std::path::Path;

use super::child::{Child, free};
use super::machine::{Cores, Reading};
use super::servers::{Hub, PARTITIONS};
use super::speak::Line;
use super::table::{median, percent, table, whole};
use super::{BenchError, Plan, intake, say};

/// What the issue of the hub wants.
const WANTED: f64 = 0.9;
const BODY: usize = 256;
/// Events before measuring begins: receivers are attached, caches are warm.
const WARM_UP: u64 = 20_000;

/// Events for a hub that has taken none.
const FILL_BYTES: u64 = 250_000_000;

struct Sample {
    rate: f64,
    cores: Cores,
}

/// Measures and prints. The hub must hold many events already.
///
/// # Errors
/// A program does not start, or ends.
pub(super) fn run(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let (mut log, mut memory) = (vec![], vec![]);
    for _ in 0..plan.rounds {
        log.push(read(plan, &hub.service, &hub.amqp.to_string(), hub.child.id())?);
        let listen = free().map_err(BenchError::Disk)?.to_string();
        let args = ["bench", "memory", "--listen", &listen, "--body", &BODY.to_string()];
        let mut sender = Child::start("memory", &plan.directory, &plan.binary, &args)?;
        sender.begun()?;
        memory.push(read(plan, &hub.service, &listen, sender.id())?);
        sender.dismiss();
    }
    say(&format!(
        "out: events/s of {BODY} B to one azure_messaging_eventhubs client, {PARTITIONS} partitions; wanted {} of memory",
        percent(WANTED)
    ));
    let mut rows = vec![
        ["", "median", "lowest", "highest", "its cores", "client's", "others'", "its us/event", "client's"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (name, samples) in [("hub, from its log on disk", &log), ("limit: bare sender, from memory", &memory)] {
        let cores = |which: usize| median(samples.iter().map(|sample| sample.cores.processes[which]));
        let each =
            |which: usize| median(samples.iter().map(|sample| sample.cores.processes[which] / sample.rate * 1e6));
        rows.push(vec![
            name.to_owned(),
            whole(rate(samples)),
            whole(samples.iter().map(|sample| sample.rate).fold(f64::MAX, f64::min)),
            whole(samples.iter().map(|sample| sample.rate).fold(0.0, f64::max)),
            format!("{:.2}", cores(0)),
            format!("{:.2}", cores(1)),
            format!("{:.2}", median(samples.iter().map(|sample| sample.cores.others))),
            format!("{:.1}", each(0)),
            format!("{:.1}", each(1)),
        ]);
    }
    say(&table(&rows));
    say(&format!("  log of memory: {}\n", percent(rate(&log) / rate(&memory))));
    Ok(())
}

/// Gives an empty hub something to read.
///
/// # Errors
/// As [`run`].
pub(super) fn fill(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let mut args = intake::load(&hub.credentials, hub.mqtt, 100, 64, BODY);
    args.extend(["--bytes".to_owned(), FILL_BYTES.to_string()]);
    let mut load = Child::start("load", &plan.directory, &plan.binary, &args)?;
    while !matches!(load.line()?, Line::End { .. }) {}
    load.dismiss();
    Ok(())
}

fn rate(samples: &[Sample]) -> f64 {
    median(samples.iter().map(|sample| sample.rate))
}

fn read(plan: &Plan, service: &Path, addr: &str, server: u32) -> Result<Sample, BenchError> {
    let mut args = reader(service, addr);
    args.extend(["--warm-up".to_owned(), WARM_UP.to_string(), "--measure-s".to_owned(), plan.seconds.to_string()]);
    let mut client = Child::start("reader", &plan.directory, &plan.binary, &args)?;
    client.begun()?;
    let ids = [server, client.id()];
    let before = Reading::take(&ids);
    let Line::End { count, took, .. } = client.line()? else { return Err(BenchError::Order) };
    let cores = before.since(&ids);
    client.dismiss();
    Ok(Sample { rate: count as f64 / took.as_secs_f64(), cores })
}

/// Arguments of a reader.
pub(super) fn reader(service: &Path, addr: &str) -> Vec<String> {
    let service = service.display().to_string();
    let (endpoint, partitions) = (format!("amqp://{addr}"), PARTITIONS.to_string());
    ["bench", "read", "--connection-string", &service, "--endpoint", &endpoint, "--partitions", &partitions]
        .map(str::to_owned)
        .to_vec()
}
