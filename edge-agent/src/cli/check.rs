//! `check`: every mistake of the configuration at once, what it names, a tour of the machine, and sample messages judged.

mod machine; // power, heat, what is lost with the power, who may look
mod network; // TLS
mod sample;
mod secrets; // who may read them
mod settings; // what they name
mod tour;

use std::io::{IsTerminal as _, Write};
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
    /// What to do about it, where the text does not say so itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    todo: Option<String>,
}

impl Finding {
    fn new(grade: Grade, what: &'static str, text: impl Into<String>) -> Self {
        Self { grade, what, text: text.into(), todo: None }
    }

    fn ok(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Grade::Ok, what, text)
    }

    fn note(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Grade::Note, what, text)
    }

    fn fail(what: &'static str, text: impl Into<String>) -> Self {
        Self::new(Grade::Fail, what, text)
    }

    fn is_ok(&self) -> bool {
        self.grade == Grade::Ok
    }

    /// With what to do about it.
    fn so(self, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..self }
    }
}

/// What is looked at.
pub(super) enum Subject<'c> {
    /// Settings and machine.
    All,
    /// The settings, and what they name on this machine.
    Settings,
    /// What becomes of the messages in this file.
    Sample(&'c Path),
}

pub(super) fn run(file: Option<&Path>, subject: Subject<'_>, json: bool) -> ExitCode {
    // Samples are judged without a hub: whoever writes mappings has no credentials at hand.
    let loaded = match subject {
        Subject::Sample(_) => config::load(file),
        Subject::All | Subject::Settings => config::load_runnable(file),
    };
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => return cli::fail(PROGRAM, &errors, Exit::Usage),
    };
    let written = match subject {
        Subject::Sample(sample) => sample::judge(&config, sample, json),
        Subject::Settings => tell(&settings::alone(&config), json),
        Subject::All => tell(&tour::tour(&config), json),
    };
    match written {
        Ok(exit) => exit.into(),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok.into(),
        Err(error) => refuse(&error.to_string(), Exit::Usage),
    }
}

fn tell(findings: &[Finding], json: bool) -> std::io::Result<Exit> {
    let failed = findings.iter().any(|finding| finding.grade == Grade::Fail);
    print(findings, json).map(|()| if failed { Exit::No } else { Exit::Ok })
}

fn print(findings: &[Finding], json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(findings)?;
        return writeln!(out, "{text}");
    }
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
    print_lines(&mut out, findings, colour)
}

fn print_lines(out: &mut impl Write, findings: &[Finding], colour: bool) -> std::io::Result<()> {
    for finding in findings {
        let (grade, code) = match finding.grade {
            Grade::Ok => ("ok  ", "32"),
            Grade::Note => ("note", "33"),
            Grade::Fail => ("FAIL", "1;31"),
        };
        let grade = if colour { format!("\x1b[{code}m{grade}\x1b[0m") } else { grade.to_owned() };
        writeln!(out, "{grade}  {:12} {}", finding.what, finding.text)?;
        if let Some(todo) = &finding.todo {
            writeln!(out, "{:19}-> {todo}", "")?;
        }
    }
    let failed = findings.iter().filter(|finding| finding.grade == Grade::Fail).count();
    match (failed, findings.iter().any(|finding| finding.grade == Grade::Note)) {
        (0, false) => writeln!(out, "all is well"),
        (0, true) => writeln!(out, "nothing stands in the way"),
        (failed, _) => writeln!(out, "{failed} of {} must be mended", findings.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    /// A configuration with these settings; without a hub.
    pub(super) fn config(text: &str) -> config::Config {
        match shared::config::load_from(&config::LAYERS, Some(("edge.toml", text)), &[]) {
            Ok(config) => config,
            Err(errors) => panic!("{errors}"),
        }
    }

    #[test]
    fn a_finding_is_a_line_and_what_to_do_is_another() {
        let findings = [
            Finding::ok("clock", "it is set"),
            Finding::fail("hub", "its certificate has expired").so("set the clock"),
            Finding::note("disk", "it is small"),
        ];
        let said = |findings: &[Finding], colour| {
            let mut out = Vec::new();
            print_lines(&mut out, findings, colour).expect("written");
            String::from_utf8(out).expect("text")
        };
        expect![[r#"
            ok    clock        it is set
            FAIL  hub          its certificate has expired
                               -> set the clock
            note  disk         it is small
            1 of 3 must be mended
        "#]]
        .assert_eq(&said(&findings, false));
        assert!(said(&findings[..1], true).starts_with("\u{1b}[32mok  \u{1b}[0m  clock"));
        assert!(said(&findings[..1], false).ends_with("all is well\n"));
        assert!(said(&findings[2..], false).ends_with("nothing stands in the way\n"));
    }
}
