//! `simulator hub`, and its `run`, `connection-strings`, `register` and `enroll`.

use std::error::Error;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;
use shared::shutdown::Failure;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect::Connect;
use super::devices::{self, Means, Thumbprint};
use super::link::Link;
use super::run::{self, HubError};
use crate::dps::{self, DpsError, LinkedHub, Place};

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
    /// Let devices register with the provisioning service (`[dps]`), which gives them to a hub; one that runs knows it at once
    Enroll(dps::cli::Args),
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

/// A hub, and the provisioning service that may stand beside it.
pub type Both = (Config, dps::Config);

/// Runs the command, for one hub or several.
pub fn main(program: &str, args: Args, configs: Vec<Both>) -> ExitCode {
    let done = apart(&configs).and_then(|()| match args.command.unwrap_or(Command::Run) {
        Command::Run => serve(configs),
        Command::ConnectionStrings { json } => connection_strings(&configs, json),
        Command::Register(asked) => register(&configs, &asked),
        Command::Enroll(asked) => enroll(&configs, &asked),
    });
    match done {
        Ok(()) => Exit::Ok.into(),
        Err((error, exit)) => shared::cli::fail(program, error.as_ref(), exit),
    }
}

type Failed = (Box<dyn Error>, Exit);

fn serve(configs: Vec<Both>) -> Result<(), Failed> {
    let retry = |error: io::Error| -> Failed { (error.into(), Exit::Retry) };
    // Each connection takes a file descriptor, and shells give 1,024.
    let connections = configs.iter().map(|(hub, dps)| {
        let ports = [dps.listen, dps.websocket_listen].into_iter().flatten().count() as u64;
        let registering = ports * dps.mqtt.connections_max as u64;
        hub.mqtt.connections_max as u64 + registering + SPARE_FILES
    });
    let wanted: u64 = connections.sum();
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
        let mut running = JoinSet::new();
        let links: Vec<Link> = configs.iter().map(|_| Link::default()).collect();
        for (at, place) in provisioning(&configs, &links) {
            let service = dps::run(configs[at].1.clone(), place, stop.clone());
            running.spawn(async move { service.await.map_err(|failure| ended(failure, DpsError::exit)) });
        }
        for ((config, _), link) in configs.into_iter().zip(links) {
            let hub = run::run(config, link, stop.clone());
            running.spawn(async move { hub.await.map_err(|failure| ended(failure, HubError::exit)) });
        }
        let mut done = Ok(());
        while let Some(ended) = running.join_next().await {
            // One that ends takes the others with it: whoever started them counts on all.
            stop.cancel();
            let ended = ended.map_err(|panic| (panic.into(), Exit::Bug)).and_then(|ended| ended);
            done = done.and(ended.map_err(|(error, exit): Ended| -> Failed { (error, exit) }));
        }
        done
    })
}

fn failed(error: HubError) -> Failed {
    let exit = error.exit();
    (error.into(), exit)
}

/// Why a task ended; what crosses threads.
type Ended = (Box<dyn Error + Send + Sync>, Exit);

fn ended<E: Error + Send + Sync + 'static>(failure: Failure<E>, exit: impl FnOnce(&E) -> Exit) -> Ended {
    let exit = failure.exit(exit);
    (failure.into(), exit)
}

/// The provisioning services there are, by their number, and where each stands.
fn provisioning(configs: &[Both], links: &[Link]) -> Vec<(usize, Place)> {
    let here = || {
        configs.iter().zip(links).map(|((hub, _), link)| LinkedHub {
            host_name: hub.host_name.clone(),
            registry: hub.registry_file(),
            link: Some(link.clone()),
        })
    };
    let elsewhere = |hub: &dps::Elsewhere| {
        let own = here().find(|own| own.host_name.eq_ignore_ascii_case(&hub.host_name));
        own.unwrap_or_else(|| LinkedHub {
            host_name: hub.host_name.clone(),
            registry: hub.registry.clone(),
            link: None,
        })
    };
    let all = configs.iter().zip(links).enumerate().filter_map(|(at, ((hub, dps), own))| {
        let hubs = match dps.hubs.as_slice() {
            [] => here().collect(),
            hubs => hubs.iter().map(elsewhere).collect(),
        };
        Some((at, Place { listen: dps.listen?, hubs, own: own.clone(), identity: hub.identity_dir() }))
    });
    all.collect()
}

fn enroll(configs: &[Both], asked: &dps::cli::Args) -> Result<(), Failed> {
    let services: Vec<_> = configs.iter().filter_map(|(hub, dps)| Some((hub, dps, dps.listen?))).collect();
    let [(hub, dps, listen)] = services.as_slice() else {
        let wanted = "`enroll` takes one provisioning service: write `listen = \"127.0.0.2:8883\"` under [dps]";
        return Err((format!("{wanted}; there are {}", services.len()).into(), Exit::Usage));
    };
    // The authority that devices are told to trust is made if the hub never ran.
    run::identities(hub).map_err(failed)?;
    dps::cli::enroll(asked, dps, *listen, &hub.identity_dir())
}

fn register(configs: &[Both], asked: &Register) -> Result<(), Failed> {
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
    let [(config, _)] = configs else { return Err(refuse("`register` takes one --config: one hub".to_owned())) };
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

/// Hubs and provisioning services of one process must not share what each of them needs for itself.
fn apart(configs: &[Both]) -> Result<(), Failed> {
    for (at, (hub, dps)) in configs.iter().enumerate() {
        let (listens, folders) = (listens(hub, dps), folders(hub, dps));
        let twice =
            |listen: &SocketAddr| listen.port() != 0 && listens.iter().filter(|other| *other == listen).count() > 1;
        let mut shared = listens.iter().find(|listen| twice(listen)).map(ToString::to_string);
        if 1 < folders.len() && folders[0] == folders[1] {
            shared = Some(folders[0].display().to_string());
        }
        for (other, beside) in &configs[..at] {
            let others = self::listens(other, beside);
            let listen = others.into_iter().find(|listen| listen.port() != 0 && listens.contains(listen));
            let folder = self::folders(other, beside).into_iter().find(|folder| folders.contains(folder));
            let name = || (hub.host_name == other.host_name && dps.listen.is_some()).then(|| hub.host_name.clone());
            shared = shared.or(listen.map(|listen| listen.to_string()));
            shared = shared.or_else(|| folder.map(|folder| folder.display().to_string())).or_else(name);
        }
        if let Some(shared) = shared {
            let mistake =
                format!("two services want {shared}; write another address (127.0.0.2, …), folder or name for one");
            return Err((mistake.into(), Exit::Usage));
        }
    }
    Ok(())
}

fn listens(hub: &Config, dps: &dps::Config) -> Vec<SocketAddr> {
    hub.listens().into_iter().chain(dps.listens()).collect()
}

fn folders<'a>(hub: &'a Config, dps: &'a dps::Config) -> Vec<&'a Path> {
    let of_service = dps.listen.map(|_| dps.data_dir.as_path());
    [Some(hub.data_dir.as_path()), of_service].into_iter().flatten().collect()
}

fn connection_strings(configs: &[Both], json: bool) -> Result<(), Failed> {
    let mut all = vec![];
    for (config, dps) in configs {
        let identities = run::identities(config).map_err(failed)?;
        let mut connect = Connect::new(config, &identities, shared::clock::Clock::Real.now());
        if let Some(listen) = dps.listen {
            let enrolments = dps::prepare(dps).map_err(|error| -> Failed {
                let exit = error.exit();
                (error.into(), exit)
            })?;
            connect.provisioning = Some(dps::Connect::new(dps, listen, &config.identity_dir(), &enrolments));
        }
        all.push(connect);
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
