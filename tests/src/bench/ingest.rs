//! `tests bench ingest`: local hub -> bronze beside what the SDK alone reads, and how long after the hub took them
//! readings are visible in silver and gold while they come at a steady rate.
//!
//! ```text
//! gateways ── MQTT ──> hub ── AMQP ──> cloud-ingester run | reader (azure_messaging_eventhubs, nothing else)
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::child::{Child, free};
use super::machine::{Reading, resident};
use super::servers::Hub;
use super::speak::Line;
use super::table::{mebibytes, median, percent, table, whole};
use super::{BenchError, machine, outlet, say, visible};
use crate::program::{Launcher, Name, Program, last_lines};
use crate::{probe, wait};

/// What the issue of the lake wants, in seconds and bytes.
const SILVER_S: f64 = 5.0;
const GOLD_S: f64 = 10.0;
const RESIDENT: u64 = 512 * 1024 * 1024;
const GATEWAYS: u64 = 20;
/// How often progress and memory are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long the ingester may take for everything.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `bench ingest`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Readings in the hub while the way to bronze is measured
    #[arg(long, default_value_t = 1_000_000)]
    readings: u64,
    /// Readings per message
    #[arg(long, value_delimiter = ',', default_values_t = [1, 40])]
    per_message: Vec<u64>,
    /// Runs of each; medians are of so many
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Readings per second while waits are measured, 40 in a message
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// For so long; 0: waits are not measured
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// On the disk to be measured: a folder in it holds what is written, and is deleted afterwards
    #[arg(long, default_value = ".")]
    directory: PathBuf,
}

/// Measures and prints.
///
/// # Errors
/// Something does not start, or fails.
pub(super) fn run(args: &Args) -> Result<(), BenchError> {
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.directory).map_err(BenchError::Disk)?;
    let root = std::path::absolute(folder.path()).map_err(BenchError::Disk)?;
    let binary = std::env::current_exe().map_err(BenchError::Disk)?;
    say(&format!(
        "bench ingest: {}, load average {:.1} at the start, {} build\n",
        machine::describe(),
        machine::load(),
        if cfg!(debug_assertions) { "DEV" } else { "release" },
    ));
    say("from the hub into bronze (hops at rest), beside the SDK that only reads; hub and reader share the machine");
    let mut rows = vec![
        ["readings per message", "", "events/s", "readings/s", "of the SDK", "its cores", "hub's"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for per_message in &args.per_message {
        let at = root.join(format!("by-{per_message}"));
        fs::create_dir_all(&at).map_err(BenchError::Disk)?;
        let hub = Hub::start(&binary, &at, "hub", true)?;
        let messages = args.readings.div_ceil(per_message * GATEWAYS);
        load(&binary, &at, &hub, *per_message, messages, 0)?.dismiss();
        let (mut sdk, mut ours) = (vec![], vec![]);
        for round in 0..args.rounds.max(1) {
            sdk.push(read_only(&binary, &at, &hub, messages * GATEWAYS)?);
            ours.push(into_bronze(&at, &hub, round, messages * GATEWAYS)?);
        }
        let rate = |samples: &[Sample]| median(samples.iter().map(|sample| sample.rate));
        let cores = |samples: &[Sample], which: usize| median(samples.iter().map(|sample| sample.cores[which]));
        for (name, samples) in [("cloud-ingester, into bronze", &ours), ("limit: the SDK alone", &sdk)] {
            rows.push(vec![
                per_message.to_string(),
                name.to_owned(),
                whole(rate(samples)),
                whole(rate(samples) * *per_message as f64),
                percent(rate(samples) / rate(&sdk)),
                format!("{:.2}", cores(samples, 0)),
                format!("{:.2}", cores(samples, 1)),
            ]);
        }
    }
    say(&table(&rows));
    if 0 < args.seconds {
        waits(args, &binary, &root)?;
    }
    say(&format!("load average {:.1} at the end", machine::load()));
    Ok(())
}

struct Sample {
    /// Events per second.
    rate: f64,
    /// Of the reader and of the hub.
    cores: [f64; 2],
}

/// Fills the hub; the load has ended but for its farewell.
fn load(binary: &Path, at: &Path, hub: &Hub, per_message: u64, messages: u64, rate: u64) -> Result<Child, BenchError> {
    let credentials = hub.credentials.display().to_string();
    let addr = hub.mqtt.to_string();
    let [gateways, per_message, messages, rate] =
        [GATEWAYS, per_message, messages, rate].map(|number| number.to_string());
    let args = [
        "bench",
        "gateways",
        "--credentials",
        &credentials,
        "--addr",
        &addr,
        "--gateways",
        &gateways,
        "--per-message",
        &per_message,
        "--messages",
        &messages,
        "--rate",
        &rate,
    ];
    let mut child = Child::start("gateways", at, binary, &args)?;
    child.begun()?;
    match child.line()? {
        Line::End { .. } => Ok(child),
        _ => Err(BenchError::Order),
    }
}

fn read_only(binary: &Path, at: &Path, hub: &Hub, messages: u64) -> Result<Sample, BenchError> {
    let mut args = outlet::reader(&hub.service, &hub.amqp.to_string());
    args.extend(["--warm-up".to_owned(), (messages / 20).to_string(), "--measure-s".to_owned(), "600".to_owned()]);
    let mut client = Child::start("reader", at, binary, &args)?;
    client.begun()?;
    let ids = [client.id(), hub.child.id()];
    let before = Reading::take(&ids);
    let Line::End { count, took, .. } = client.line()? else { return Err(BenchError::Order) };
    // It waited two seconds more to see that nothing comes.
    let share = took.as_secs_f64() / (took.as_secs_f64() + 2.0);
    let cores = before.since(&ids).processes;
    client.dismiss();
    Ok(Sample { rate: count as f64 / took.as_secs_f64(), cores: [cores[0] / share, cores[1] / share] })
}

/// A running `cloud-ingester run` with a lake of its own.
struct Ingester {
    program: Program,
    http: SocketAddr,
    lake: PathBuf,
    log: PathBuf,
}

impl Ingester {
    fn start(at: &Path, hub: &Hub, name: &str, more: &str) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Start { name: "cloud-ingester", source };
        let (lake, http) = (at.join(name), free().map_err(failed)?);
        let (config, log) = (at.join(format!("{name}.toml")), at.join(format!("{name}.log")));
        let text = format!(
            "[hub]\nconnection-string = {{ file = {:?} }}\nendpoint = \"amqp://{}\"\n[lake]\nurl = {:?}\n[http]\n\
             listen = \"{http}\"\n{more}",
            hub.service.display().to_string(),
            hub.amqp,
            lake.display().to_string(),
        );
        fs::write(&config, text).map_err(failed)?;
        let launcher = Launcher::current().map_err(failed)?;
        let args = ["--config", &config.display().to_string(), "run"];
        // As its systemd unit starts it.
        let env = [("MALLOC_ARENA_MAX", "2")];
        let program = launcher.start(Name::CloudIngester, &args, &env, &log).map_err(failed)?;
        Ok(Self { program, http, lake, log })
    }

    /// Events in bronze.
    fn committed(&self) -> u64 {
        let status = probe::status(self.http).unwrap_or_default();
        let streams = status["streams"].as_array().into_iter().flatten();
        streams.filter_map(|stream| u64::try_from(stream["committed"].as_i64()? + 1).ok()).sum()
    }

    /// Whether no hop has anything to do but those that run by a schedule.
    fn is_level(&self) -> bool {
        let status = probe::status(self.http).unwrap_or_default();
        let hops = status["hops"].as_array().cloned().unwrap_or_default();
        let due = |hop: &&serde_json::Value| hop["scheduled"].as_bool() != Some(true);
        !hops.is_empty() && hops.iter().filter(due).all(|hop| hop["behind"].as_i64() == Some(0))
    }

    fn failed(&self) -> BenchError {
        BenchError::Ended { name: "cloud-ingester", last: last_lines(&self.log, 20) }
    }
}

fn into_bronze(at: &Path, hub: &Hub, round: u32, messages: u64) -> Result<Sample, BenchError> {
    let mut ingester = Ingester::start(at, hub, &format!("lake-{round}"), "[hops]\npause = \"1h\"\n")?;
    let ids = [ingester.program.id(), hub.child.id()];
    let (mut begun, mut first) = (None, 0);
    let done = wait_looking(|| {
        let committed = ingester.committed();
        if 0 < committed && begun.is_none() {
            (begun, first) = (Some((Instant::now(), Reading::take(&ids))), committed);
        }
        messages <= committed
    });
    let (Some(()), Some((begun, before))) = (done, begun) else { return Err(ingester.failed()) };
    let took = begun.elapsed();
    let cores = before.since(&ids).processes;
    ingester.program.kill();
    Ok(Sample { rate: messages.saturating_sub(first) as f64 / took.as_secs_f64(), cores: [cores[0], cores[1]] })
}

fn wait_looking(mut done: impl FnMut() -> bool) -> Option<()> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if done() {
            return Some(());
        }
        std::thread::sleep(LOOK);
    }
    None
}

/// A steady rate through hub and ingester with everything as in the defaults, and how long readings take.
fn waits(args: &Args, binary: &Path, root: &Path) -> Result<(), BenchError> {
    const PER_MESSAGE: u64 = 40;
    let at = root.join("steady");
    fs::create_dir_all(&at).map_err(BenchError::Disk)?;
    let hub = Hub::start(binary, &at, "hub", true)?;
    let mut ingester = Ingester::start(&at, &hub, "lake", "")?;
    wait::until(PATIENCE, || probe::is_ready(ingester.http).then_some(())).ok_or_else(|| ingester.failed())?;
    let messages = (args.rate * args.seconds).div_ceil(PER_MESSAGE * GATEWAYS);
    let (pid, peak) = (ingester.program.id(), std::sync::atomic::AtomicU64::new(0));
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    let ids = [pid, hub.child.id()];
    let (sent, cores) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(relaxed) {
                peak.fetch_max(resident(pid).map_or(0, |(all, _)| all), relaxed);
                std::thread::sleep(LOOK);
            }
        });
        let before = Reading::take(&ids);
        let sent = load(binary, &at, &hub, PER_MESSAGE, messages, args.rate).and_then(|load| {
            let cores = before.since(&ids).processes;
            load.dismiss();
            let all = messages * GATEWAYS;
            wait_looking(|| all <= ingester.committed() && ingester.is_level()).ok_or_else(|| ingester.failed())?;
            Ok((all * PER_MESSAGE, cores))
        });
        over.store(true, relaxed);
        sent
    })?;
    ingester.program.stop(PATIENCE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(BenchError::Disk)?;
    let mut waits = runtime.block_on(visible::waits(&ingester.lake, "metric_1m")).map_err(BenchError::Disk)?;
    say(&format!(
        "steady: {} readings/s for {} s, {PER_MESSAGE} in a message, {GATEWAYS} gateways; seconds from the hub's enqueued time \
         until visible",
        whole(args.rate as f64),
        args.seconds,
    ));
    let mut rows = vec![["", "median", "p95", "longest", "wanted p95"].map(str::to_owned).to_vec()];
    for (name, waits, wanted) in
        [("silver.readings", &mut waits.silver, SILVER_S), ("gold.metric_1m", &mut waits.gold, GOLD_S)]
    {
        let seconds = |share: f64, waits: &mut Vec<f64>| format!("{:.2}", visible::percentile(waits, share));
        rows.push(vec![
            name.to_owned(),
            seconds(0.5, waits),
            seconds(0.95, waits),
            seconds(1.0, waits),
            format!("<= {wanted:.0}"),
        ]);
    }
    say(&table(&rows));
    say(&format!(
        "  readings sent {}, in silver {}; the ingester: {} resident at most (wanted <= {}), {:.2} cores, the hub {:.2}\n",
        whole(sent as f64),
        whole(waits.silver.len() as f64),
        mebibytes(peak.into_inner()),
        mebibytes(RESIDENT),
        cores[0],
        cores[1],
    ));
    Ok(())
}
