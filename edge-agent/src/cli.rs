//! The command line: `run | check | status | provision | outbox (ls, export, resend, drop) | sensors (scan, read) |
//! completion`.

mod check;
mod outbox;
mod papers;
mod provision;
mod sensors;
mod status;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::cli::{self, Exit};
use shared::{shutdown, telemetry, tls};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::run::RunError;

const PROGRAM: &str = "edge-agent";

/// The gateway: MQTT in, SQLite until the hub has it, Azure IoT Hub out.
///
/// Everything is set in a TOML file and in the environment (EDGE__OUTBOX__PATH=…). Exit codes: 0, 1 the answer is no,
/// 64 usage or configuration, 70 a bug, 75 try again.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Args {
    /// Configuration file; it overrides the embedded default key by key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take in, judge, store, send; until SIGTERM or SIGINT, which drain.
    Run,
    /// Report every mistake of the configuration at once, and tour the machine: disk, clock, hub, credentials.
    ///
    /// Exit codes: 0 nothing stands in the way, 1 something must be mended, 64 the configuration has mistakes.
    Check {
        /// Look at the settings alone: their mistakes, the files and secrets they name. No name is resolved, nobody is
        /// dialled, nothing is written: of use before there is a network.
        #[arg(long, conflicts_with = "sample")]
        settings_only: bool,
        /// Judge sample messages, one a line: topic, a blank (a tab, where the topic has blanks), payload. `-` reads standard
        /// input.
        #[arg(long, value_name = "FILE")]
        sample: Option<PathBuf>,
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Show the books of the outbox and, if the agent runs, its state: a view on a terminal, lines elsewhere.
    Status {
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
        /// Show it again every so many seconds until Ctrl-C: the view in its place, or one line each time.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
        watch: Option<u64>,
    },
    /// Ask the provisioning service which hub is ours, and keep the answer for `run`.
    Provision {
        /// One JSON document instead of a line.
        #[arg(long)]
        json: bool,
    },
    /// Look at what waits on disk, send it again, or give it up.
    #[command(subcommand)]
    Outbox(outbox::Command),
    /// Look at the sensors on this machine's own buses and pins.
    #[command(subcommand)]
    Sensors(sensors::Command),
    /// Print what a shell needs to complete this command line.
    #[command(after_help = papers::COMPLETION)]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a folder; for packages.
    #[command(hide = true)]
    Man {
        /// The folder; it is made if it is not there.
        dir: PathBuf,
    },
}

/// Runs the program; `args` begin with its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    tls::install_provider();
    let args: Vec<OsString> = args.into_iter().collect();
    let args: Args = match cli::parse(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let file = args.config.as_deref();
    match args.command {
        Command::Run => run(file),
        Command::Check { settings_only, sample, json } => {
            let subject = match &sample {
                Some(sample) => check::Subject::Sample(sample),
                None if settings_only => check::Subject::Settings,
                None => check::Subject::All,
            };
            check::run(file, subject, json)
        }
        Command::Status { json, watch } => with_config(file, |config| status::run(config, json, watch)),
        Command::Provision { json } => with_config(file, |config| provision::run(config, json)),
        Command::Outbox(command) => with_config(file, |config| outbox::run(command, config)),
        Command::Sensors(command) => with_config(file, |config| sensors::run(command, config)),
        Command::Completion { shell } => papers::completion(shell),
        Command::Man { dir } => papers::man(&dir),
    }
}

fn run(file: Option<&Path>) -> ExitCode {
    let config = match config::load_runnable(file) {
        Ok(config) => config,
        Err(errors) => return cli::fail(PROGRAM, &errors, Exit::Usage),
    };
    let log = match telemetry::start(&config.log) {
        Ok(log) => log,
        Err(fault) => return refuse(&fault, Exit::Usage),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(PROGRAM, &error, Exit::Retry),
    };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        shutdown::on_signals(stop.clone())
            .map_err(|error| RunError::Stage(format!("install signal handlers: {error}")))?;
        Box::pin(crate::run(config, log, stop)).await
    });
    match ended {
        Ok(()) => Exit::Ok.into(),
        Err(error) => cli::fail(PROGRAM, &error, error.blame().into()),
    }
}

fn with_config(file: Option<&Path>, act: impl FnOnce(&Config) -> Result<ExitCode, Refusal>) -> ExitCode {
    match config::load(file) {
        Ok(config) => act(&config).unwrap_or_else(|Refusal { message, exit }| refuse(&message, exit)),
        Err(errors) => cli::fail(PROGRAM, &errors, Exit::Usage),
    }
}

/// A command did not do its work.
struct Refusal {
    message: String,
    exit: Exit,
}

impl Refusal {
    fn new(error: impl std::fmt::Display, exit: Exit) -> Self {
        Self { message: error.to_string(), exit }
    }
}

impl From<crate::outbox::store::StoreError> for Refusal {
    fn from(error: crate::outbox::store::StoreError) -> Self {
        Self { message: error.to_string(), exit: error.blame().into() }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has gone, as `head` does.
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Retry };
        Self { message: format!("write the answer: {error}"), exit }
    }
}

fn refuse(message: &str, exit: Exit) -> ExitCode {
    match exit {
        Exit::Ok => exit.into(),
        exit => cli::refuse(PROGRAM, message, exit),
    }
}
