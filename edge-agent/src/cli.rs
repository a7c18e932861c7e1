//! The command line: `run | check | status | outbox (ls, export, resend, drop)`.

mod check;
mod outbox;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value as Json;
use shared::cli::{self, Exit};
use shared::{shutdown, telemetry, tls};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::outbox::desk::{self, Answer, Request};
use crate::outbox::lock::Lock;
use crate::outbox::store::Glimpse;
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
    Check {
        /// Judge sample messages, one a line: topic, a blank, payload. `-` reads standard input.
        #[arg(long, value_name = "FILE")]
        sample: Option<PathBuf>,
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Show the books of the outbox and, if the agent runs, its state.
    Status {
        /// One JSON document instead of lines.
        #[arg(long)]
        json: bool,
    },
    /// Look at what waits on disk, send it again, or give it up.
    #[command(subcommand)]
    Outbox(outbox::Command),
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
        Command::Check { sample, json } => check::run(file, sample.as_deref(), json),
        Command::Status { json } => with_config(file, |config| status(config, json)),
        Command::Outbox(command) => with_config(file, |config| outbox::run(command, config)),
    }
}

fn run(file: Option<&Path>) -> ExitCode {
    let config = match config::load_runnable(file) {
        Ok(config) => config,
        Err(errors) => return cli::fail(PROGRAM, &errors, Exit::Usage),
    };
    if let Err(fault) = telemetry::init(&config.log) {
        return refuse(&fault, Exit::Usage);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return cli::fail(PROGRAM, &error, Exit::Retry),
    };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        shutdown::on_signals(stop.clone())
            .map_err(|error| RunError::Stage(format!("install signal handlers: {error}")))?;
        Box::pin(crate::run(config, stop)).await
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
    if exit != Exit::Ok {
        // Nothing can be done where even standard error is gone.
        writeln!(std::io::stderr(), "{PROGRAM}: {message}").ok();
    }
    exit.into()
}

fn status(config: &Config, json: bool) -> Result<ExitCode, Refusal> {
    let path = &config.outbox.path;
    let holder = Lock::holder(path);
    let live = match &holder {
        None => None,
        Some(_) => match desk::ask(path, &Request::Status) {
            Ok(Answer::Status(status)) => Some(status),
            _ => None,
        },
    };
    let stored = if live.is_none() && path.exists() {
        let glimpse = Glimpse::open(path)?;
        Some((glimpse.books()?, glimpse.oldest_held()?))
    } else {
        None
    };
    let mut out = std::io::stdout().lock();
    let running = match (&holder, &live) {
        (Some(holder), Some(_)) => format!("running: {holder}"),
        (Some(holder), None) => format!("running, but does not answer: {holder}"),
        (None, _) => "not running".to_owned(),
    };
    if json {
        let document = match (live, stored) {
            (Some(status), _) => {
                let mut status = status;
                status["running"] = Json::Bool(true);
                status
            }
            (None, Some((books, oldest))) => serde_json::json!({
                "running": holder.is_some(), "holder": holder, "outbox": books,
                "oldest_held": oldest.map(|at| at.to_string()),
            }),
            (None, None) => serde_json::json!({ "running": holder.is_some(), "holder": holder, "outbox": null }),
        };
        writeln!(out, "{document:#}")?;
        return Ok(Exit::Ok.into());
    }
    writeln!(out, "agent     {running}")?;
    writeln!(out, "outbox    {}", path.display())?;
    match (live, stored) {
        (Some(status), _) => print_live(&mut out, &status)?,
        (None, Some((books, oldest))) => {
            print_books(&mut out, &serde_json::json!(books))?;
            if let Some(oldest) = oldest {
                writeln!(out, "oldest    {oldest}")?;
            }
        }
        (None, None) => writeln!(out, "          there is none yet")?,
    }
    Ok(Exit::Ok.into())
}

fn print_live(out: &mut impl std::io::Write, status: &Json) -> std::io::Result<()> {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    writeln!(out, "gateway   {}, epoch {}, high {}", text("/gateway"), text("/epoch"), text("/high"))?;
    writeln!(out, "started   {}", text("/started"))?;
    print_books(out, &status["outbox"])?;
    writeln!(out, "bytes     {} of {}", text("/outbox/bytes"), text("/outbox/bytes_max"))?;
    if let Some(full) = status.pointer("/outbox/full").and_then(Json::as_str) {
        writeln!(out, "FULL      {full}")?;
    }
    writeln!(
        out,
        "presilver {} messages, {} readings, {} refused",
        text("/presilver/received"),
        text("/presilver/readings"),
        text("/presilver/rejected")
    )?;
    writeln!(out, "uplink    {}, {} rows in flight", text("/uplink/link"), text("/uplink/rows_in_flight"))?;
    if let Some(error) = status.pointer("/uplink/last_error").and_then(Json::as_str) {
        writeln!(out, "          {error}")?;
    }
    Ok(())
}

fn print_books(out: &mut impl std::io::Write, books: &Json) -> std::io::Result<()> {
    writeln!(
        out,
        "books     {} stored = {} acknowledged by the hub + {} given up + {} held; {} duplicates, {} gaps and {} closings wait",
        books["stored"],
        books["acked"],
        books["given_up"],
        books["held"],
        books["duplicates"],
        books["gaps_held"],
        books["closings_held"]
    )
}
