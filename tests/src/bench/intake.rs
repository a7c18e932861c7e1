//! What the hub takes from devices, beside its peers and its limits, in turn, round by round.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::child::{Child, free};
use super::machine::{Cores, Reading};
use super::servers::{self, Hub, PARTITIONS};
use super::speak::Line;
use super::table::{median, percent, table, whole};
use super::{BenchError, Plan, disk, say};

/// What the issue of the hub wants.
const WANTED: f64 = 50_000.0;
const CONNECTIONS: usize = 100;
const WINDOW: usize = 64;
const BODY: usize = 256;
const WARM_UP_S: f64 = 1.0;

/// Who takes the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Hub,
    HubWithoutFsync,
    Mosquitto,
    MosquittoKeeps,
    Sink,
}

const TAKERS: [Taker; 5] = [Taker::Hub, Taker::HubWithoutFsync, Taker::Mosquitto, Taker::MosquittoKeeps, Taker::Sink];

impl Taker {
    const fn as_str(self) -> &'static str {
        match self {
            Taker::Hub => "hub, PUBACK after the fsync",
            Taker::HubWithoutFsync => "hub, `fsync = false`",
            Taker::Mosquitto => "Mosquitto, nobody subscribes",
            Taker::MosquittoKeeps => "Mosquitto, kept for one who is away",
            Taker::Sink => "limit: PUBACKs and nothing else",
        }
    }
}

/// One measurement.
struct Sample {
    taker: Taker,
    rate: f64,
    cores: Cores,
    /// Of a hub: what it acknowledged, from the first to the last, and what it says it has stored.
    books: Option<(u64, u64)>,
}

/// Measures and prints.
///
/// # Errors
/// A program does not start, or ends.
pub(super) fn run(plan: &Plan, hub: &Hub, without_fsync: &Hub) -> Result<(), BenchError> {
    let (mut samples, mut one, mut all) = (vec![], vec![], vec![]);
    for _ in 0..plan.rounds {
        for taker in TAKERS {
            samples.push(measure(plan, taker, hub, without_fsync)?);
        }
        let syncs = |writers| {
            disk::settle(&plan.directory).map_err(BenchError::Disk)?;
            let length = Duration::from_secs_f64(plan.seconds / 2.0);
            disk::syncs_per_second(&plan.directory, writers, length).map_err(BenchError::Disk)
        };
        one.push(syncs(1)?);
        all.push(syncs(PARTITIONS)?);
    }
    say(&format!(
        "in: messages/s of {BODY} B at QoS 1 over TLS, {CONNECTIONS} connections, {WINDOW} unacknowledged each; wanted {}",
        whole(WANTED)
    ));
    let limit = rate(&samples, Taker::Sink);
    let mut rows = vec![
        ["", "median", "lowest", "highest", "of limit", "waits ms", "its cores", "load's", "others'", "its us/message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for taker in TAKERS {
        let of = || samples.iter().filter(move |sample| sample.taker == taker);
        let rates = || of().map(|sample| sample.rate);
        let middle = rate(&samples, taker);
        let cores = |which: usize| format!("{:.2}", median(of().map(|sample| sample.cores.processes[which])));
        rows.push(vec![
            taker.as_str().to_owned(),
            whole(middle),
            whole(rates().fold(f64::MAX, f64::min)),
            whole(rates().fold(0.0, f64::max)),
            percent(middle / limit),
            // By Little's law: what is under way, over the rate.
            format!("{:.0}", (CONNECTIONS * WINDOW) as f64 / middle * 1e3),
            cores(0),
            cores(1),
            format!("{:.2}", median(of().map(|sample| sample.cores.others))),
            format!("{:.1}", median(of().map(|sample| sample.cores.processes[0] / sample.rate * 1e6))),
        ]);
    }
    say(&table(&rows));
    let books = || samples.iter().filter_map(|sample| sample.books);
    let (acknowledged, stored) = (books().map(|books| books.0).sum::<u64>(), books().map(|books| books.1).sum::<u64>());
    let megabytes = |syncs: f64| syncs * disk::WRITE_BYTES as f64 / 1e6;
    let (one, all) = (median(one), median(all));
    say(&format!(
        "  disk: {} writes of 64 KiB + fdatasync per second by one writer ({:.0} MB/s), {} by {PARTITIONS} ({:.0} MB/s)\n  \
         hub of what is wanted: {}; of itself without fsync: {}; of Mosquitto: {}; of Mosquitto that keeps: {}\n  \
         acknowledged by the hubs in all: {}; stored, as their books say: {}\n",
        whole(one),
        megabytes(one),
        whole(all),
        megabytes(all),
        percent(rate(&samples, Taker::Hub) / WANTED),
        percent(rate(&samples, Taker::Hub) / rate(&samples, Taker::HubWithoutFsync)),
        percent(rate(&samples, Taker::Hub) / rate(&samples, Taker::Mosquitto)),
        percent(rate(&samples, Taker::Hub) / rate(&samples, Taker::MosquittoKeeps)),
        whole(acknowledged as f64),
        whole(stored as f64),
    ));
    Ok(())
}

fn rate(samples: &[Sample], taker: Taker) -> f64 {
    median(samples.iter().filter(|sample| sample.taker == taker).map(|sample| sample.rate))
}

fn measure(plan: &Plan, taker: Taker, hub: &Hub, without_fsync: &Hub) -> Result<Sample, BenchError> {
    let free = || free().map_err(BenchError::Disk);
    let (server, addr) = match taker {
        Taker::Hub => (None, hub.mqtt),
        Taker::HubWithoutFsync => (None, without_fsync.mqtt),
        Taker::Mosquitto | Taker::MosquittoKeeps => {
            let (child, addr) = servers::mosquitto(&plan.directory, hub.certificate())?;
            (Some(child), addr)
        }
        Taker::Sink => {
            let addr = free()?;
            (Some(sink(plan, hub, addr)?), addr)
        }
    };
    let hub = if taker == Taker::HubWithoutFsync { without_fsync } else { hub };
    let server_id = server.as_ref().unwrap_or(&hub.child).id();
    let mut args = load(&hub.credentials, addr, CONNECTIONS, WINDOW, BODY);
    args.extend(["--warm-up-s".to_owned(), WARM_UP_S.to_string(), "--measure-s".to_owned(), plan.seconds.to_string()]);
    if taker == Taker::MosquittoKeeps {
        args.push("--subscriber-away".to_owned());
    }
    disk::settle(&plan.directory).map_err(BenchError::Disk)?;
    let held = server.is_none().then(|| hub.stored()).flatten();
    let mut load = Child::start("load", &plan.directory, &plan.binary, &args)?;
    load.begun()?;
    let ids = [server_id, load.id()];
    let before = Reading::take(&ids);
    let Line::End { count, took, all } = load.line()? else { return Err(BenchError::Order) };
    let cores = before.since(&ids);
    load.dismiss();
    let books = held.and_then(|held| Some((all, hub.stored()?.checked_sub(held)?)));
    Ok(Sample { taker, rate: count as f64 / took.as_secs_f64(), cores, books })
}

fn sink(plan: &Plan, hub: &Hub, addr: SocketAddr) -> Result<Child, BenchError> {
    let (certificate, key) = hub.certificate();
    let args = ["bench", "sink", "--listen", &addr.to_string()].map(str::to_owned).into_iter().chain([
        "--certificate".to_owned(),
        certificate.display().to_string(),
        "--key".to_owned(),
        key.display().to_string(),
    ]);
    let mut child = Child::start("sink", &plan.directory, &plan.binary, &args.collect::<Vec<_>>())?;
    child.begun()?;
    Ok(child)
}

/// Arguments of a load.
pub(super) fn load(
    credentials: &Path,
    addr: SocketAddr,
    connections: usize,
    window: usize,
    body: usize,
) -> Vec<String> {
    let numbers = [("--connections", connections), ("--window", window), ("--body", body)];
    let numbers = numbers.into_iter().flat_map(|(name, number)| [name.to_owned(), number.to_string()]);
    let places = ["bench", "publish", "--credentials", &credentials.display().to_string(), "--addr", &addr.to_string()];
    places.map(str::to_owned).into_iter().chain(numbers).collect()
}
