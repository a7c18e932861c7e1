//! The command line's two ends: arguments in, an exit code out.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use crate::blame::Blame;
use crate::telemetry::journal;

/// What the exit code of a program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It worked; the answer is yes.
    Ok = 0,
    /// The answer is no: a proof does not hold, a check found a mistake.
    No = 1,
    /// The arguments or the configuration cannot be used.
    Usage = 64,
    /// A bug of this program.
    Bug = 70,
    /// It may work another time: the other side is away, somebody else holds the lease.
    Retry = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl From<Blame> for Exit {
    fn from(blame: Blame) -> Exit {
        match blame {
            Blame::Data => Exit::No,
            Blame::Peer => Exit::Retry,
            Blame::Config => Exit::Usage,
            Blame::Bug => Exit::Bug,
        }
    }
}

/// Reads the arguments (the first is the program's name).
///
/// # Errors
/// The exit code to leave with, after clap has said why: 64 for a mistake, 0 for `--help` and `--version`.
pub fn parse<P: clap::Parser>(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<P, ExitCode> {
    P::try_parse_from(args).map_err(|error| {
        // Nothing can be done where even the terminal is gone.
        let _ = error.print();
        match error.use_stderr() {
            true => Exit::Usage.into(),
            false => Exit::Ok.into(),
        }
    })
}

/// Says on stderr what failed, with every cause behind it, and gives the exit code.
pub fn fail(program: &str, error: &dyn Error, exit: Exit) -> ExitCode {
    refuse(program, &chain(error), exit)
}

/// Says on stderr why not, and gives the exit code. In systemd's journal it is an error.
pub fn refuse(program: &str, why: &str, exit: Exit) -> ExitCode {
    // Nothing can be done where even standard error is gone.
    let _ = writeln!(std::io::stderr(), "{}", journal::error(&format!("{program}: {why}")));
    exit.into()
}

/// An error and its causes in one line: `open the outbox: disk I/O error`. A cause its error already quotes is not
/// repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Args {
        #[arg(long)]
        seconds: u32,
    }

    #[test]
    fn a_wrong_argument_is_64_and_help_is_0() {
        let code = |args: &[&str]| {
            parse::<Args>(args.iter().copied()).map(|args| args.seconds).map_err(|code| format!("{code:?}"))
        };
        let exit = |exit: Exit| Err(format!("{:?}", ExitCode::from(exit)));
        assert_eq!(code(&["x", "--seconds", "3"]), Ok(3));
        assert_eq!(code(&["x", "--seconds", "many"]), exit(Exit::Usage));
        assert_eq!(code(&["x"]), exit(Exit::Usage));
        assert_eq!(code(&["x", "--help"]), exit(Exit::Ok));
    }
}
