//! `simulator hub`, `simulator hub run`, `simulator hub connection-strings`.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Subcommand;
use shared::cli::Exit;
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

/// Runs the command.
pub fn main(program: &str, args: Args, config: Config) -> ExitCode {
    let done = match args.command.unwrap_or(Command::Run) {
        Command::Run => serve(config),
        Command::ConnectionStrings { json } => connection_strings(&config, json),
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
