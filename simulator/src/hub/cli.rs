//! `simulator hub`, `simulator hub run`, `simulator hub connection-strings`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect::Connect;
use super::run::{self, HubError};

/// Arguments of `simulator hub`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Serve until told to stop (the default)
    Run,
    /// Print what devices and services need to connect; makes their keys if there are none. Shows secrets
    ConnectionStrings {
        /// For programs
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command, for one hub or several.
pub fn main(program: &str, args: Args, configs: Vec<Config>) -> ExitCode {
    let done = apart(&configs).and_then(|()| match args.command.unwrap_or(Command::Run) {
        Command::Run => serve(configs),
        Command::ConnectionStrings { json } => connection_strings(&configs, json),
    });
    match done {
        Ok(()) => Exit::Ok.into(),
        Err((error, exit)) => shared::cli::fail(program, error.as_ref(), exit),
    }
}

type Failed = (Box<dyn Error>, Exit);

fn serve(configs: Vec<Config>) -> Result<(), Failed> {
    let retry = |error: io::Error| -> Failed { (error.into(), Exit::Retry) };
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
    printed.and_then(|()| out.flush()).map_err(|error| (error.into(), Exit::Retry))
}
