//! `tests bench listener`: what the gateway takes from devices straight into its outbox, beside each half of it alone
//! and Mosquitto; and its memory with thousands of devices connected.
//!
//! ```text
//! press ── MQTT, QoS 1 ──> agent | door (the agent's listener, write left out) | Mosquitto      rows ──> outbox
//! ```

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::child::{Child, free};
use super::machine::{self, Cores, Reading};
use super::speak::Line;
use super::table::{mebibytes, median, percent, table, whole};
use super::{BenchError, disk, say};

/// What the issue of the gateway wants.
const WANTED: f64 = 50_000.0;
const WANTED_SHARE: f64 = 0.7;
const WANTED_PLAIN: u64 = 64 * 1024 * 1024;
const WANTED_TLS: u64 = 256 * 1024 * 1024;
const CONNECTIONS: usize = 100;
const WINDOW: usize = 64;
const WARM_UP_S: f64 = 1.0;
/// The certificate of the listener's own tests: for 127.0.0.1, by an authority beside it.
const CERTIFICATE: &str = include_str!("../../../edge-agent/src/intake/listener/testdata/listener.pem");
const KEY: &str = include_str!("../../../edge-agent/src/intake/listener/testdata/listener.key");
const AUTHORITY: &str = include_str!("../../../edge-agent/src/intake/listener/testdata/ca.pem");

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Rounds through all; medians are of so many
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each measurement takes
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Readings in each publish
    #[arg(long, default_value_t = 1)]
    values: u64,
    /// Devices that are only connected
    #[arg(long, default_value_t = 5000)]
    devices: usize,
    /// On the disk to be measured: a folder in it holds what is written, and is deleted afterwards
    #[arg(long, default_value = ".")]
    directory: PathBuf,
    /// Only these parts
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Rate,
    Idle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Agent,
    Door,
    Rows,
    Mosquitto,
}

const TAKERS: [Taker; 4] = [Taker::Agent, Taker::Door, Taker::Rows, Taker::Mosquitto];

impl Taker {
    const fn as_str(self) -> &'static str {
        match self {
            Taker::Agent => "agent, PUBACK after the commit",
            Taker::Door => "its listener, the write left out",
            Taker::Rows => "its outbox, no devices",
            Taker::Mosquitto => "Mosquitto, nobody subscribes",
        }
    }
}

/// Where everything is.
struct Place {
    binary: PathBuf,
    directory: PathBuf,
}

struct Sample {
    taker: Taker,
    rate: f64,
    cores: Cores,
}

/// Measures and prints.
///
/// # Errors
/// A program does not start, or ends.
pub(super) fn run(args: &Args) -> Result<(), BenchError> {
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.directory).map_err(BenchError::Disk)?;
    let place = Place {
        binary: std::env::current_exe().map_err(BenchError::Disk)?,
        directory: std::path::absolute(folder.path()).map_err(BenchError::Disk)?,
    };
    for (name, text) in [("listener.pem", CERTIFICATE), ("listener.key", KEY), ("ca.pem", AUTHORITY)] {
        fs::write(place.directory.join(name), text).map_err(BenchError::Disk)?;
    }
    say(&format!(
        "bench listener: {}, load average {:.1} at the start, {} rounds of {} s\n",
        machine::describe(),
        machine::load(),
        args.rounds,
        args.seconds
    ));
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Part::Rate) {
        rate(args, &place)?;
    }
    if wanted(Part::Idle) {
        idle(args, &place, false)?;
        idle(args, &place, true)?;
    }
    Ok(())
}

fn rate(args: &Args, place: &Place) -> Result<(), BenchError> {
    let mut samples = vec![];
    for _ in 0..args.rounds.max(1) {
        for taker in TAKERS {
            disk::settle(&place.directory).map_err(BenchError::Disk)?;
            samples.push(measure(args, place, taker)?);
        }
    }
    let of = |taker: Taker| samples.iter().filter(move |sample| sample.taker == taker);
    let middle = |taker: Taker| median(of(taker).map(|sample| sample.rate));
    say(&format!(
        "rate: readings/s at QoS 1, {} in each publish, {CONNECTIONS} connections, {WINDOW} unacknowledged each; wanted {}",
        args.values,
        whole(WANTED)
    ));
    let mut lines = vec![
        ["", "median", "lowest", "highest", "its cores", "load's", "others'", "its us/reading"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for taker in TAKERS {
        let rates = || of(taker).map(|sample| sample.rate);
        let cores =
            |which: usize| median(of(taker).map(|sample| sample.cores.processes.get(which).copied().unwrap_or(0.0)));
        lines.push(vec![
            taker.as_str().to_owned(),
            whole(middle(taker)),
            whole(rates().fold(f64::MAX, f64::min)),
            whole(rates().fold(0.0, f64::max)),
            format!("{:.2}", cores(0)),
            format!("{:.2}", cores(1)),
            format!("{:.2}", median(of(taker).map(|sample| sample.cores.others))),
            format!("{:.1}", cores(0) / middle(taker).max(1.0) * 1e6),
        ]);
    }
    let limit = middle(Taker::Door).min(middle(Taker::Rows));
    say(&format!(
        "{}  agent of what is wanted: {}; of the smaller half: {}, wanted {}; of Mosquitto: {}\n",
        table(&lines),
        percent(middle(Taker::Agent) / WANTED),
        percent(middle(Taker::Agent) / limit),
        percent(WANTED_SHARE),
        percent(middle(Taker::Agent) / middle(Taker::Mosquitto)),
    ));
    Ok(())
}

fn measure(args: &Args, place: &Place, taker: Taker) -> Result<Sample, BenchError> {
    let home = place.directory.join("home");
    if home.exists() {
        fs::remove_dir_all(&home).map_err(BenchError::Disk)?;
    }
    fs::create_dir_all(&home).map_err(BenchError::Disk)?;
    let addr = free().map_err(BenchError::Disk)?;
    let config = agent_config(place, &home, addr, false)?;
    if taker == Taker::Rows {
        let mut rows = half(place, "rows", &config, args)?;
        rows.begun()?;
        let before = Reading::take(&[rows.id()]);
        let Line::End { count, took, .. } = rows.line()? else { return Err(BenchError::Order) };
        let cores = before.since(&[rows.id()]);
        rows.dismiss();
        return Ok(Sample { taker, rate: count as f64 / took.as_secs_f64(), cores });
    }
    let server = match taker {
        Taker::Agent => agent(place, &config, addr)?,
        Taker::Mosquitto => mosquitto(place, &home, addr)?,
        Taker::Door | Taker::Rows => {
            let mut door = half(place, "door", &config, args)?;
            door.begun()?;
            door
        }
    };
    let mut press = press(
        place,
        addr,
        &[
            ("--connections", CONNECTIONS.to_string()),
            ("--window", WINDOW.to_string()),
            ("--values", args.values.to_string()),
            ("--warm-up-s", WARM_UP_S.to_string()),
            ("--measure-s", args.seconds.to_string()),
        ],
    )?;
    press.begun()?;
    let ids = [server.id(), press.id()];
    let before = Reading::take(&ids);
    let Line::End { count, took, .. } = press.line()? else { return Err(BenchError::Order) };
    let cores = before.since(&ids);
    press.dismiss();
    Ok(Sample { taker, rate: count as f64 / took.as_secs_f64(), cores })
}

fn idle(args: &Args, place: &Place, tls: bool) -> Result<(), BenchError> {
    let home = place.directory.join(if tls { "idle-tls" } else { "idle" });
    fs::create_dir_all(&home).map_err(BenchError::Disk)?;
    let addr = free().map_err(BenchError::Disk)?;
    let config = agent_config(place, &home, addr, tls)?;
    let agent = agent(place, &config, addr)?;
    let resident = || machine::resident(agent.id()).ok_or(BenchError::Order);
    let (before, _) = resident()?;
    let mut arguments = vec![("--connections", args.devices.to_string())];
    if tls {
        arguments.push(("--ca", place.directory.join("ca.pem").display().to_string()));
    }
    let mut devices = press(place, addr, &arguments)?;
    devices.begun()?;
    let (after, anonymous) = resident()?;
    devices.dismiss();
    say(&format!(
        "idle: {} devices, {}; resident {} before, {} with them ({} of it not files), {:.1} KiB each; wanted at most {}",
        whole(args.devices as f64),
        if tls { "TLS" } else { "plain" },
        mebibytes(before),
        mebibytes(after),
        mebibytes(anonymous),
        after.saturating_sub(before) as f64 / args.devices as f64 / 1024.0,
        mebibytes(if tls { WANTED_TLS } else { WANTED_PLAIN }),
    ));
    Ok(())
}

/// An agent whose hub is away: everything stays in the outbox. Everything else is as in the default.
fn agent_config(place: &Place, home: &Path, addr: SocketAddr, tls: bool) -> Result<PathBuf, BenchError> {
    let (hub, http) = (free().map_err(BenchError::Disk)?, free().map_err(BenchError::Disk)?);
    let path = |name: &str| place.directory.join(name).display().to_string();
    let tls = if tls {
        format!("tls-cert = {:?}\ntls-key = {:?}\n", path("listener.pem"), path("listener.key"))
    } else {
        String::new()
    };
    let text = format!(
        "[hub]\nconnection-string = \"HostName=bench.local;DeviceId=gw-01;SharedAccessKey=YmVuY2g=\"\nhost = \"127.0.0.1\"\n\
         port = {}\n[outbox]\npath = {:?}\nbytes-max = \"8GiB\"\n[http]\nlisten = \"{http}\"\n[presilver]\nclock = \"trusted\"\n\
         [log]\nlevel = \"warn\"\n[intake.listener]\nlisten = \"{addr}\"\n{tls}",
        hub.port(),
        home.join("outbox.db").display().to_string(),
    );
    let config = home.join("edge.toml");
    fs::write(&config, text).map_err(BenchError::Disk)?;
    Ok(config)
}

fn agent(place: &Place, config: &Path, addr: SocketAddr) -> Result<Child, BenchError> {
    let args = ["--as", "edge-agent", "--config", &config.display().to_string(), "run"].map(str::to_owned);
    let mut child = Child::start("agent", &place.directory, &place.binary, &args)?;
    child.listening(addr)?;
    Ok(child)
}

fn half(place: &Place, name: &'static str, config: &Path, args: &Args) -> Result<Child, BenchError> {
    let arguments = [
        "bench",
        name,
        "--config",
        &config.display().to_string(),
        "--measure-s",
        &args.seconds.to_string(),
        "--values",
        &args.values.to_string(),
    ]
    .map(str::to_owned);
    Child::start(name, &place.directory, &place.binary, &arguments)
}

fn press(place: &Place, addr: SocketAddr, arguments: &[(&str, String)]) -> Result<Child, BenchError> {
    let mut args = vec!["bench".to_owned(), "press".to_owned(), "--addr".to_owned(), addr.to_string()];
    args.extend(arguments.iter().flat_map(|(name, value)| [(*name).to_owned(), value.clone()]));
    Child::start("press", &place.directory, &place.binary, &args)
}

fn mosquitto(place: &Place, home: &Path, addr: SocketAddr) -> Result<Child, BenchError> {
    let config = home.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nlog_type error\n",
        addr.port(),
        home.display()
    );
    fs::write(&config, text).map_err(BenchError::Disk)?;
    let mut child = Child::start(
        "mosquitto",
        &place.directory,
        super::servers::mosquitto_binary(),
        &["-c".as_ref(), config.as_os_str()],
    )?;
    child.listening(addr)?;
    Ok(child)
}
