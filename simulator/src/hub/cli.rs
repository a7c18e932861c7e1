//! `simulator hub`, `simulator hub run`, `simulator hub connection-strings`, `simulator hub register`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect::Connect;
use super::devices::{self, Means, Thumbprint};
use super::run::{self, HubError};

/// File descriptors of a hub beside those of its devices: services, segments, HTTP.
const SPARE_FILES: u64 = 2_000;

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

/// Runs the command, for one hub or several.
pub fn main(program: &str, args: Args, configs: Vec<Config>) -> ExitCode {
    let done = apart(&configs).and_then(|()| match args.command.unwrap_or(Command::Run) {
        Command::Run => serve(configs),
        Command::ConnectionStrings { json } => connection_strings(&configs, json),
        Command::Register(asked) => register(&configs, &asked),
    });
    match done {
        Ok(()) => Exit::Ok.into(),
        Err((error, exit)) => shared::cli::fail(program, error.as_ref(), exit),
    }
}

type Failed = (Box<dyn Error>, Exit);

fn serve(configs: Vec<Config>) -> Result<(), Failed> {
    let retry = |error: io::Error| -> Failed { (error.into(), Exit::Retry) };
    // Each connection takes a file descriptor, and shells give 1,024.
    let wanted: u64 = configs.iter().map(|config| config.mqtt.connections_max as u64 + SPARE_FILES).sum();
    match rlimit::increase_nofile_limit(wanted) {
        Ok(files) if wanted <= files => {}
        had => {
            let files = had.unwrap_or_default();
            tracing::warn!(files, wanted, "fewer open files are allowed than `hub.mqtt.connections-max` may need");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(retry)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        shared::shutdown::on_signals(stop.clone()).map_err(retry)?;
        let mut hubs = JoinSet::new();
        for config in configs {
            hubs.spawn(run::run(config, stop.clone()));
        }
        let mut done = Ok(());
        while let Some(ended) = hubs.join_next().await {
            // One that ends takes the others with it: whoever started them counts on all.
            stop.cancel();
            let ended = ended.map_err(|panic| (panic.into(), Exit::Bug)).and_then(|ended| {
                ended.map_err(|failure| -> Failed {
                    let exit = failure.exit(HubError::exit);
                    (failure.into(), exit)
                })
            });
            done = done.and(ended);
        }
        done
    })
}

fn register(configs: &[Config], asked: &Register) -> Result<(), Failed> {
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
    let [config] = configs else { return Err(refuse("`register` takes one --config: one hub".to_owned())) };
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
    match printed.and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| (error.into(), Exit::Retry)),
    }
}

/// Hubs of one process must not share what each of them needs for itself.
fn apart(configs: &[Config]) -> Result<(), Failed> {
    for (at, config) in configs.iter().enumerate() {
        for other in &configs[..at] {
            let listens = config.listens();
            let shared = other.listens().into_iter().find(|listen| listen.port() != 0 && listens.contains(listen));
            let shared = match shared {
                Some(listen) => listen.to_string(),
                None if config.data_dir == other.data_dir => config.data_dir.display().to_string(),
                None => continue,
            };
            let mistake = format!("two hubs want {shared}; write another address (127.0.0.2, …) or folder for one");
            return Err((mistake.into(), Exit::Usage));
        }
    }
    Ok(())
}

fn connection_strings(configs: &[Config], json: bool) -> Result<(), Failed> {
    let mut all = vec![];
    for config in configs {
        let identities = run::identities(config).map_err(|error| -> Failed {
            let exit = error.exit();
            (error.into(), exit)
        })?;
        all.push(Connect::new(config, &identities));
    }
    let mut out = io::stdout().lock();
    let printed = match (json, all.as_slice()) {
        (true, [one]) => serde_json::to_writer_pretty(&mut out, one).map_err(io::Error::from),
        (true, all) => serde_json::to_writer_pretty(&mut out, all).map_err(io::Error::from),
        (false, all) => all.iter().try_for_each(|connect| connect.print(&mut out)),
    };
    let printed = printed.and_then(|()| if json { writeln!(out) } else { Ok(()) });
    match printed.and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| (error.into(), Exit::Retry)),
    }
}
