//! `simulator hub`, `simulator hub run`, `simulator hub connection-strings`, `simulator hub register`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect::Connect;
use super::devices::{self, Means, Thumbprint};
use super::run::{self, HubError};

/// Arguments of `simulator hub`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Serve until told to stop (the default)
    Run,
    /// Print what devices and services need to connect; makes their keys if there are none. Shows secrets
    ConnectionStrings {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Register a device or module, or give it other means of proof; a hub that runs knows it at once
    Register(Register),
}

#[derive(Debug, Clone, clap::Args)]
struct Register {
    /// The device's id
    device: String,
    /// Register this module of the device; the device too, if it is not yet
    #[arg(long)]
    module: Option<String>,
    /// What it proves itself by. A certificate is issued for x509-ca, and for x509-thumbprint without --thumbprint
    #[arg(long, value_enum, default_value_t = Means::Sas)]
    auth: Means,
    /// Of a certificate it has: SHA-1 or SHA-256, hexadecimal
    #[arg(long)]
    thumbprint: Option<String>,
    /// How long a certificate issued now is valid
    #[arg(long, default_value_t = 365)]
    days: u32,
}

/// Runs the command.
pub fn main(program: &str, args: Args, config: Config) -> ExitCode {
    let done = match args.command.unwrap_or(Command::Run) {
        Command::Run => serve(config),
        Command::ConnectionStrings { json } => connection_strings(&config, json),
        Command::Register(asked) => register(&config, &asked),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err((error, exit)) => shared::cli::fail(program, error.as_ref(), exit),
    }
}

type Failed = (Box<dyn Error>, Exit);

fn serve(config: Config) -> Result<(), Failed> {
    let retry = |error: io::Error| -> Failed { (error.into(), Exit::Retry) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(retry)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        shared::shutdown::on_signals(stop.clone()).map_err(retry)?;
        run::run(config, stop).await.map_err(|failure| {
            let exit = failure.exit(HubError::exit);
            (failure.into(), exit)
        })
    })
}

fn register(config: &Config, asked: &Register) -> Result<(), Failed> {
    let refuse = |text: String| -> Failed { (text.into(), Exit::Usage) };
    for id in [Some(&asked.device), asked.module.as_ref()].into_iter().flatten() {
        if let Some(fault) = devices::id_fault(id) {
            return Err(refuse(format!("`{}` cannot be an id: it {fault}", id.escape_debug())));
        }
    }
    let given =
        match asked.thumbprint.as_deref() {
            Some(_) if asked.auth != Means::X509Thumbprint => {
                return Err(refuse("--thumbprint needs --auth x509-thumbprint".to_owned()));
            }
            Some(text) => Some(Thumbprint::parse(text).ok_or_else(|| {
                refuse("--thumbprint must be 40 (SHA-1) or 64 (SHA-256) hexadecimal digits".to_owned())
            })?),
            None => None,
        };
    let failed = |error: HubError| -> Failed {
        let exit = error.exit();
        (error.into(), exit)
    };
    let (device, module) = (asked.device.as_str(), asked.module.as_deref());
    let by_authority = asked.auth == Means::X509Ca;
    let issued = match asked.auth != Means::Sas && given.is_none() {
        true => {
            let (directory, now) = (config.identity_dir(), shared::clock::Clock::Real.now());
            let issued = super::ca::issue_device(&directory, device, module, by_authority, asked.days, now);
            Some(issued.map_err(|error| failed(error.into()))?)
        }
        false => None,
    };
    let thumbprint = given.or(issued.as_ref().map(|issued| issued.thumbprint.clone())).filter(|_| !by_authority);
    devices::register(&config.registry_file(), device, module, asked.auth, thumbprint.as_ref())
        .map_err(|error| failed(error.into()))?;
    let mut out = io::stdout().lock();
    let printed = match &issued {
        None => writeln!(out, "registered; `simulator hub connection-strings` prints what it needs"),
        Some(issued) => writeln!(
            out,
            "registered; its certificate is {}, its key {}, SHA-256 {}",
            issued.certificate_file.display(),
            issued.key_file.display(),
            issued.thumbprint
        ),
    };
    printed.and_then(|()| out.flush()).map_err(|error| (error.into(), Exit::Retry))
}

fn connection_strings(config: &Config, json: bool) -> Result<(), Failed> {
    let identities = run::identities(config).map_err(|error| -> Failed {
        let exit = error.exit();
        (error.into(), exit)
    })?;
    let connect = Connect::new(config, &identities);
    let mut out = io::stdout().lock();
    let printed = match json {
        true => serde_json::to_writer_pretty(&mut out, &connect).map_err(io::Error::from).and_then(|()| writeln!(out)),
        false => connect.print(&mut out),
    };
    printed.and_then(|()| out.flush()).map_err(|error| (error.into(), Exit::Retry))
}
