//! One part of the run: commands whose output streams by while it is read.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::{VerifyError, say};

/// A named list of commands, all of which must succeed.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    runs_tests: bool,
    commands: Vec<Call>,
}

/// A command to be.
#[derive(Debug)]
pub(super) struct Call {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

/// What became of a part.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) took: Duration,
    /// True if every command succeeded.
    pub(super) fine: bool,
    /// True if it counts as a check of its own (beside the tests it ran, or because it ran none).
    pub(super) counts: bool,
    pub(super) tally: Tally,
    /// What could not be checked, and what to do about it.
    pub(super) remarks: Vec<String>,
}

/// A call of the cargo that runs this.
pub(super) fn cargo(args: &[&str]) -> Call {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(args)
}

/// A call of `program`.
pub(super) fn command(program: impl Into<OsString>) -> Call {
    Call { program: program.into(), args: Vec::new(), env: Vec::new() }
}

impl Call {
    pub(super) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(super) fn env(mut self, name: &str, value: &OsStr) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// As it would be typed.
    pub(super) fn line(&self) -> String {
        let program = Path::new(&self.program).file_name().unwrap_or(&self.program);
        std::iter::once(program).chain(self.args.iter().map(OsString::as_os_str)).map(OsStr::to_string_lossy).fold(
            String::new(),
            |mut line, word| {
                line.push_str(if line.is_empty() { "" } else { " " });
                line.push_str(&word);
                line
            },
        )
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(folder);
        command.stdin(Stdio::null());
        // `cargo run` describes the package it runs in these; build scripts that watch them (ring's does) would see a
        // change against a plain cargo call, and half of the dependencies would be built again.
        for (name, _) in std::env::vars_os() {
            let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
            if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        if std::env::var_os("CI").is_some() && std::env::var_os("CARGO_INCREMENTAL").is_none() {
            command.env("CARGO_INCREMENTAL", "0");
        }
        command.env("PATH", search_path());
        command
    }

    /// Runs to the end, passing on its output line by line as it comes. True if it succeeded.
    pub(super) fn stream(&self, folder: &Path, mut each_line: impl FnMut(&str)) -> Result<bool, VerifyError> {
        let failed = |source| VerifyError::Run { what: self.line(), source };
        let mut child = self.command(folder).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let output = child.stdout.take().expect("stdout was asked for");
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(failed)? != 0 {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(&line).and_then(|()| out.flush()); // a closed pipe hears nothing
            each_line(&String::from_utf8_lossy(&line));
            line.clear();
        }
        Ok(child.wait().map_err(failed)?.success())
    }

    /// The same, with a line before it that says what runs.
    pub(super) fn stream_told(&self, folder: &Path) -> Result<bool, VerifyError> {
        say(&format!("\nverify: {}", self.line()));
        self.stream(folder, |_| ())
    }

    /// Runs to the end, its output kept. The output if it succeeded.
    pub(super) fn ask(&self, folder: &Path) -> Option<String> {
        let output = self.command(folder).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// PATH, with the folders where Debian puts daemons.
pub(super) fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/usr/local/sbin"].map(std::path::PathBuf::from);
    std::env::join_paths(std::env::split_paths(&path).chain(daemons)).unwrap_or(path)
}

impl Part {
    /// A part that counts as one check.
    pub(super) fn check(name: &'static str, commands: Vec<Call>) -> Self {
        Self { name, runs_tests: false, commands }
    }

    /// A part whose tests count.
    pub(super) fn tests(name: &'static str, commands: Vec<Call>) -> Self {
        Self { name, runs_tests: true, commands }
    }

    pub(super) fn run(&self, folder: &Path) -> Result<Outcome, VerifyError> {
        let begun = Instant::now();
        let mut tally = Tally::default();
        let mut fine = true;
        for call in &self.commands {
            say(&format!("\nverify: {}: {}", self.name, call.line()));
            fine &= call.stream(folder, |line| tally.read(line))?;
        }
        // Tests that fail are counted as such; a run that fails without one (it did not build, it died) counts as one.
        let counts = !self.runs_tests || (!fine && tally.failed == 0);
        Ok(Outcome { name: self.name, took: begun.elapsed(), fine, counts, tally, remarks: Vec::new() })
    }
}

impl Outcome {
    /// The preparation, which succeeded.
    pub(super) fn prepared(took: Duration) -> Self {
        Self { name: "prepare", took, fine: true, counts: false, tally: Tally::default(), remarks: Vec::new() }
    }

    pub(super) fn passed(&self) -> usize {
        self.tally.passed + usize::from(self.counts && self.fine)
    }

    pub(super) fn failed(&self) -> usize {
        self.tally.failed + usize::from(self.counts && !self.fine)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.fine { "ok" } else { "FAILED" };
        write!(f, "{:>6.1}  {:<28}{verdict}", self.took.as_secs_f64() / 60.0, self.name)?;
        match (self.tally.passed, self.tally.failed) {
            (0, 0) => Ok(()),
            (passed, failed) => write!(f, "  {passed} passed, {failed} failed"),
        }
    }
}
