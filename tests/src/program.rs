//! One program of the product as a child process.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use crate::wait;

/// The variable by which a child process is told to end when its standard input does: with its parent, however that
/// ends.
pub const LEAVE_WITH_PARENT: &str = "MEDALLION_LEAVE_WITH_PARENT";

/// The programs, by the name under which the multi-call binary knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// The gateway.
    EdgeAgent,
    /// The lake.
    CloudIngester,
    /// Devices, replay, hub, verify.
    Simulator,
}

impl Name {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Name::EdgeAgent => "edge-agent",
            Name::CloudIngester => "cloud-ingester",
            Name::Simulator => "simulator",
        }
    }
}

/// Where the multi-call binary is, and in which surroundings it starts its programs.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: PathBuf,
    /// Variables of every program's environment.
    env: Vec<(String, String)>,
}

impl Launcher {
    /// Starts programs from the multi-call `binary`.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), env: vec![] }
    }

    /// With a variable more in every program's environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The multi-call binary that is running now.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn current() -> io::Result<Self> {
        Ok(Self::new(std::env::current_exe()?))
    }

    /// A command that runs `name` with `args`, without the settings of the calling shell.
    pub fn command(&self, name: Name, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--as").arg(name.as_str()).args(args).stdin(Stdio::null());
        for (variable, _) in std::env::vars_os() {
            let variable_text = variable.to_string_lossy();
            let ours = ["EDGE__", "INGEST__", "SIM__", "NOTIFY_", "WATCHDOG_", "CRASH_AT", "CREDENTIALS_DIRECTORY"];
            if ours.iter().any(|prefix| variable_text.starts_with(prefix)) {
                command.env_remove(&variable);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `name` to its end and gives what it printed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, name: Name, args: &[&str]) -> io::Result<Output> {
        self.command(name, args).output()
    }

    /// Starts `name`; what it prints goes to the end of `log`. In a process group of its own: Ctrl-C in a terminal goes to
    /// all of the terminal's group, and the order to stop, which follows, would be the second signal, at which programs
    /// leave without draining. It ends with us all the same: its standard input does.
    ///
    /// # Errors
    /// It cannot be started, or the log cannot be opened.
    pub fn start(&self, name: Name, args: &[&str], env: &[(&str, &str)], log: &Path) -> io::Result<Program> {
        let log_file = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = self.command(name, args);
        for (variable, value) in env {
            command.env(variable, OsString::from(value));
        }
        command.stdin(Stdio::piped()).env(LEAVE_WITH_PARENT, "1").process_group(0);
        let child = command.stdout(log_file.try_clone()?).stderr(log_file).spawn()?;
        Ok(Program { name, child, log: log.to_owned() })
    }
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    name: Name,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Its name.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // A child that cannot be asked is one that is gone.
        self.child.try_wait().unwrap_or(None)
    }

    /// Asks it to stop, as `systemctl stop` does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, patience: Duration) -> Option<ExitStatus> {
        wait::until(patience, || self.ended())
    }

    /// Asks it to stop and waits; `None` if it did not within `patience`.
    pub fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.terminate();
        self.wait_end(patience)
    }

    /// Ends it on the spot, as a power cut would.
    pub fn kill(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines it printed.
    pub fn last_lines(&self, count: usize) -> String {
        last_lines(&self.log, count)
    }

    /// Sends a signal by its name, through the shell's own `kill`: the standard library has none but SIGKILL, and
    /// this tree has no unsafe code.
    fn signal(&self, signal: &str) {
        let order = format!("kill -{signal} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &order]).stderr(Stdio::null()).status();
        // A process that is gone needs no signal.
        drop(sent);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

/// The last lines of a log; nothing if there is none.
pub fn last_lines(log: &Path, count: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
