//! A program the benchmark starts; killed when dropped.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use super::BenchError;
use super::speak::Line;
use crate::program;

/// A running program.
#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    process: Process,
    input: Option<ChildStdin>,
    lines: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Child {
    /// Starts `binary`; it is known as `name`, and what it says on standard error goes to a log in `directory`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(
        name: &'static str,
        directory: &Path,
        binary: &Path,
        args: &[impl AsRef<OsStr>],
    ) -> Result<Self, BenchError> {
        let log = directory.join(format!("{name}.log"));
        let failed = |source| BenchError::Start { name, source };
        let errors: File = OpenOptions::new().create(true).append(true).open(&log).map_err(failed)?;
        let mut command = Command::new(binary);
        command.args(args).env(program::LEAVE_WITH_PARENT, "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);
        let mut process = command.spawn().map_err(failed)?;
        let input = process.stdin.take();
        let lines = process.stdout.take().map(BufReader::new);
        Ok(Self { name, process, input, lines, log })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next thing it says.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn line(&mut self) -> Result<Line, BenchError> {
        let mut text = String::new();
        while let Some(lines) = &mut self.lines {
            text.clear();
            if lines.read_line(&mut text).map_err(|source| BenchError::Start { name: self.name, source })? == 0 {
                break;
            }
            if let Some(line) = Line::parse(&text) {
                return Ok(line);
            }
        }
        Err(self.ended())
    }

    /// Waits for `begin`.
    ///
    /// # Errors
    /// It says something else, or has ended.
    pub(super) fn begun(&mut self) -> Result<(), BenchError> {
        match self.line()? {
            Line::Begin => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// Waits until it listens at `addr`.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn listening(&mut self, addr: SocketAddr) -> Result<(), BenchError> {
        while std::net::TcpStream::connect(addr).is_err() {
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err(self.ended());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    /// Lets it go: its standard input ends.
    pub(super) fn dismiss(mut self) {
        self.input = None;
        // It may have gone by itself.
        let _ = self.process.wait();
    }

    /// What is said of it where it ended, or did nothing.
    pub(super) fn ended(&self) -> BenchError {
        BenchError::Ended { name: self.name, last: program::last_lines(&self.log, 5) }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A free port on loopback.
///
/// # Errors
/// There is none.
pub(super) fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
