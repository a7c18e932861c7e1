//! `check`: every mistake of the configuration at once, a tour of the machine, and sample messages judged.

mod sample;
mod tour;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use shared::cli::{self, Exit};

use super::{PROGRAM, refuse};
use crate::config;

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Grade {
    /// As it should be.
    Ok,
    /// The agent runs; something is worth knowing.
    Note,
    /// The agent would not do its work.
    Fail,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    grade: Grade,
    what: &'static str,
    text: String,
}

impl Finding {
    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, what, text: text.into() }
    }

    fn note(what: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Note, what, text: text.into() }
    }

    fn fail(what: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Fail, what, text: text.into() }
    }
}

pub(super) fn run(file: Option<&Path>, sample: Option<&Path>, json: bool) -> ExitCode {
    // Samples are judged without a hub: whoever writes mappings has no credentials at hand.
    let loaded = if sample.is_some() { config::load(file) } else { config::load_runnable(file) };
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => return cli::fail(PROGRAM, &errors, Exit::Usage),
    };
    let written = match sample {
        Some(sample) => sample::judge(&config, sample, json),
        None => {
            let findings = tour::tour(&config);
            let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
            print(&findings, json).map(|()| if failed { Exit::No } else { Exit::Ok })
        }
    };
    match written {
        Ok(exit) => exit.into(),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => refuse(&error.to_string(), Exit::Usage),
    }
}

fn print(findings: &[Finding], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(findings)?;
        return writeln!(out, "{text}");
    }
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "ok  ",
            Grade::Note => "note",
            Grade::Fail => "FAIL",
        };
        writeln!(out, "{grade}  {:12} {}", finding.what, finding.text)?;
    }
    Ok(())
}
