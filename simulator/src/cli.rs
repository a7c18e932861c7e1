//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::cli::Exit;
use shared::config::Mistakes;

use crate::config::Config;
use crate::{fleet, hub, replay, sensors, verify};

const PROGRAM: &str = "simulator";

/// Devices, recordings, a local IoT Hub, sensors on buses that are not there, and the proof
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Args {
    /// Settings (TOML); what it leaves out stays as in the embedded default. `hub` takes several: a hub for each
    #[arg(long, global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many devices that measure, fail in seeded ways, and keep a ledger of what they sent
    Devices(fleet::cli::Args),
    /// Send a recording as a device would have sent it
    Replay(replay::cli::Args),
    /// Stand in for Azure IoT Hub: devices over MQTT, services over AMQP
    Hub(hub::cli::Args),
    /// Sensors on an I2C bus, a 1-wire bus and GPIO lines that are sockets and a folder, and their misfortunes
    Sensors(sensors::cli::Args),
    /// Prove that the lake lost nothing and counted nothing twice
    Verify(verify::cli::Args),
}

/// Runs the program: `args` with its name first, as the system gives them.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    shared::tls::install_provider();
    let args: Args = match shared::cli::parse(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let mut configs = vec![];
    for file in args.config.iter().map(Some).chain(args.config.is_empty().then_some(None)) {
        match Config::load(file.map(PathBuf::as_path)) {
            Ok(config) => configs.push(config),
            Err(mistakes) => return shared::cli::fail(PROGRAM, &mistakes, Exit::Usage),
        }
    }
    if 1 < configs.len() && !matches!(args.command, Command::Hub(_)) {
        let mistake = std::io::Error::other("--config: only `hub` takes several");
        return shared::cli::fail(PROGRAM, &mistake, Exit::Usage);
    }
    let config = configs[0].clone();
    if let Err(mistake) = shared::telemetry::init(&config.log) {
        return shared::cli::fail(PROGRAM, &std::io::Error::other(mistake), Exit::Usage);
    }
    match args.command {
        Command::Devices(args) => fleet::cli::main(PROGRAM, args, config.broker, config.devices),
        Command::Replay(args) => replay::cli::main(PROGRAM, args, config.broker, config.replay),
        Command::Sensors(args) => sensors::cli::main(PROGRAM, args, config.sensors),
        Command::Verify(args) => verify::cli::main(PROGRAM, args, config.verify),
        Command::Hub(args) => {
            hub::cli::main(PROGRAM, args, configs.into_iter().map(|config| (config.hub, config.dps)).collect())
        }
    }
}

/// Runs the async part of a command.
pub(crate) fn block_on<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Checks sections again after arguments went before them; says every mistake.
pub(crate) fn recheck(program: &str, check: impl FnOnce(&mut Mistakes)) -> Result<(), ExitCode> {
    let mut mistakes = Mistakes::default();
    check(&mut mistakes);
    if mistakes.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = mistakes.into_iter().map(|(path, message)| format!("{path}: {message}")).collect();
    Err(shared::cli::fail(program, &std::io::Error::other(all.join("; ")), Exit::Usage))
}
