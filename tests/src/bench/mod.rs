//! `tests bench hub`, `tests bench listener`, `tests bench ingest`, `tests bench lake`: numbers, each beside its peer and its physical limit, from one run.
//!
//! ```text
//! publish | idle ── MQTT, TLS ──> hub | Mosquitto | sink
//! read <── AMQP ── hub | memory
//! ```
//!
//! Every box is a process of its own, so that `/proc` tells what each costs. Rounds go through all peers in turn; what
//! is printed are medians. Nothing here passes or fails.

mod child; // a program that is measured, or measures
mod speak; // what it tells

mod disk; // the disk by itself
mod machine; // /proc
mod table; // medians, printed

mod dial; // a device's connection
mod idle; // devices that do not
mod memory; // a sender without a hub
mod mqtt; // [p] its packets
mod publish; // devices that publish
mod read; // a service
mod servers;
mod sink; // a server that only acknowledges // the hub, Mosquitto

mod fleet; // `devices --direct` -> hub
mod footprint; // memory
mod intake; // devices -> hub
mod outlet; // hub -> service

mod halves; // the listener without the outbox, the outbox without the listener
mod listener; // devices -> outbox
mod press; // devices of a gateway

pub mod deliver; // messages out of a file
mod gateways; // gateways that publish Envelopes
mod ingest; // hub -> bronze, and how soon readings are visible
mod visible; // when a reading could be read

mod bronze; // a bronze table, made
mod lake; // bronze -> silver -> gold, beside Spark
mod lake_cost; // old and large tables

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use shared::cli::{self, Exit};

use self::servers::Hub;

/// Measures the product on this machine.
#[derive(Debug, clap::Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The local hub: messages in, events out, memory
    Hub(HubArgs),
    /// The gateway: devices to outbox, beside each half of it and Mosquitto; memory with devices connected
    Listener(listener::Args),
    /// The lake's hops: bronze to gold, beside Spark
    Lake(lake::Args),
    /// The ingester: from the local hub into bronze, and how soon readings are visible in silver and gold
    Ingest(ingest::Args),
    /// The lake: whether its work costs the same however old and large its tables are
    LakeCost(lake_cost::Args),
    #[command(hide = true)]
    Press(press::Args),
    #[command(hide = true)]
    Door(halves::Args),
    #[command(hide = true)]
    Rows(halves::Args),
    #[command(hide = true)]
    Gateways(gateways::Args),
    #[command(hide = true)]
    Deliver(deliver::Args),
    #[command(hide = true)]
    Publish(publish::Args),
    #[command(hide = true)]
    Idle(idle::Args),
    #[command(hide = true)]
    Sink(sink::Args),
    #[command(hide = true)]
    Memory(memory::Args),
    #[command(hide = true)]
    Read(read::Args),
}

#[derive(Debug, clap::Args)]
struct HubArgs {
    /// 10 GB through the hub, not 1 GB
    #[arg(long)]
    long: bool,
    /// Rounds through all peers; medians are of so many
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// On the disk to be measured: a folder in it holds what is written, and is deleted afterwards
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    In,
    Fleet,
    Out,
    Idle,
    Flat,
}

/// What is to be done.
struct Plan {
    binary: PathBuf,
    directory: PathBuf,
    rounds: u32,
    seconds: f64,
    /// Through the hub while its memory is looked at.
    bytes: u64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
enum BenchError {
    #[error("start {name}: {source}")]
    Start { name: &'static str, source: io::Error },
    #[error("{name} ended too soon; it said last:\n{last}")]
    Ended { name: &'static str, last: String },
    #[error("a program of the benchmark said something out of turn")]
    Order,
    #[error("measure on this disk: {0}")]
    Disk(io::Error),
}

/// Runs the benchmark or one of its processes; the first argument is the name under which it was called.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match cli::parse::<Args>(args) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    shared::tls::install_provider();
    // A load on one thread is the lightest; what is measured itself, or stands in for it, gets what there is.
    let done = match args.command {
        Command::Hub(args) => return ended(measure(&args)),
        Command::Listener(args) => return ended(listener::run(&args)),
        Command::Lake(args) => return ended(lake::run(&args)),
        Command::Ingest(args) => return ended(ingest::run(&args)),
        Command::LakeCost(args) => on_all_threads(lake_cost::run(args)),
        Command::Press(args) => on_one_thread(press::run(args)),
        Command::Door(args) => on_all_threads(halves::door(args)),
        Command::Rows(args) => on_all_threads(halves::rows(args)),
        Command::Gateways(args) => on_one_thread(gateways::run(args)),
        Command::Deliver(args) => on_one_thread(deliver::run(args)),
        Command::Publish(args) => on_one_thread(publish::run(args)),
        Command::Idle(args) => on_one_thread(idle::run(args)),
        Command::Sink(args) => on_all_threads(sink::run(args)),
        Command::Memory(args) => on_all_threads(memory::run(args)),
        Command::Read(args) => on_all_threads(read::run(args)),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(error) => cli::fail("bench", &error, Exit::Retry),
    }
}

fn on_one_thread(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn on_all_threads(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn ended(measured: Result<(), BenchError>) -> ExitCode {
    match measured {
        Ok(()) => Exit::Ok.into(),
        Err(error) => cli::fail("bench", &error, Exit::Retry),
    }
}

fn measure(args: &HubArgs) -> Result<(), BenchError> {
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.directory).map_err(BenchError::Disk)?;
    let plan = Plan {
        binary: std::env::current_exe().map_err(BenchError::Disk)?,
        directory: std::path::absolute(folder.path()).map_err(BenchError::Disk)?,
        rounds: args.rounds.max(1),
        seconds: args.seconds,
        bytes: if args.long { 10_000_000_000 } else { 1_000_000_000 },
    };
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    say(&format!(
        "bench hub: {}, load average {:.1} at the start, {} rounds of {} s\n",
        machine::describe(),
        machine::load(),
        plan.rounds,
        plan.seconds
    ));
    let hub = Hub::start(&plan.binary, &plan.directory, "hub", true)?;
    let without_fsync = Hub::start(&plan.binary, &plan.directory, "hub-without-fsync", false)?;
    if wanted(Part::In) {
        intake::run(&plan, &hub, &without_fsync)?;
    }
    if wanted(Part::Out) {
        if !wanted(Part::In) {
            outlet::fill(&plan, &hub)?;
        }
        outlet::run(&plan, &hub)?;
    }
    if wanted(Part::Fleet) {
        fleet::run(&plan, &hub)?;
    }
    drop((hub, without_fsync));
    // Memory is looked at from the start of a process.
    let hub = Hub::start(&plan.binary, &plan.directory, "hub", true)?;
    if wanted(Part::Idle) {
        footprint::idle(&plan, &hub)?;
    }
    if wanted(Part::Flat) {
        footprint::flat(&plan, &hub)?;
    }
    Ok(())
}

/// A line on stdout, at once.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush()); // a closed pipe hears nothing
}
