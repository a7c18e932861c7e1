//! `simulator sensors`.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use shared::cli::Exit;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::serve::{self, SensorsError};

/// Arguments of `sensors`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve buses and lines until told to stop (so without a command, too)
    Run,
    /// Tell running sensors what happens: pull 0x76, plug 0x76, swap 0x76, nak 0x76 2, crc 0x44 1, lose 1, stick, free,
    /// set 0x76 temperature 4.5, pulse 17 100, show
    Tell {
        /// The words, quoted or not
        #[arg(required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print what a gateway's configuration needs to read all of them
    AgentConfig,
}

pub(crate) fn main(program: &str, args: Args, config: Config) -> ExitCode {
    match args.command {
        None | Some(Command::Run) => serve_until_stopped(program, config),
        Some(Command::Tell { words }) => match tell(&config, &words.join(" ")) {
            Ok(answer) => print(&answer, Exit::Ok),
            Err(Told::No(answer)) => shared::cli::fail(program, &io::Error::other(answer), Exit::No),
            Err(Told::Away(error)) => shared::cli::fail(program, &error, Exit::Retry),
        },
        Some(Command::AgentConfig) => print(config.for_gateway().trim_end(), Exit::Ok),
    }
}

fn serve_until_stopped(program: &str, config: Config) -> ExitCode {
    let ended = crate::cli::block_on(async {
        let stop = CancellationToken::new();
        shared::shutdown::on_signals(stop.clone())?;
        Ok(serve::run(config, stop).await)
    });
    match ended {
        Ok(Ok(())) => Exit::Ok.into(),
        Ok(Err(failure)) => {
            let exit = failure.exit(|error| match error {
                SensorsError::Taken { .. } => Exit::Retry,
                SensorsError::Disk { .. } => Exit::Usage,
            });
            shared::cli::fail(program, &failure, exit)
        }
        Err(error) => shared::cli::fail(program, &error, Exit::Retry),
    }
}

enum Told {
    No(String),
    Away(io::Error),
}

fn tell(config: &Config, text: &str) -> Result<String, Told> {
    let path = config.dir.join("control.sock");
    let away = |error: io::Error| {
        Told::Away(io::Error::new(error.kind(), format!("nobody serves {} ({error})", path.display())))
    };
    let mut stream = UnixStream::connect(&path).map_err(away)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(away)?;
    stream.write_all(format!("{}\n", text.replace('\n', " ")).as_bytes()).map_err(away)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(away)?;
    let answer = answer.trim_end();
    match (answer.strip_prefix("ok "), answer.strip_prefix("no ")) {
        (Some(done), _) => Ok(done.replace("; ", "\n")),
        (None, Some(why)) => Err(Told::No(why.to_owned())),
        (None, None) => Err(Told::Away(io::Error::other("it gave no answer"))),
    }
}

fn print(text: &str, exit: Exit) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => exit.into(),
        Err(_) => Exit::Ok.into(), // whoever read it has gone
    }
}
