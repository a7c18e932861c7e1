//! `status`: the books of the outbox and, if the agent runs, its state. A view on a terminal, lines elsewhere.

mod view; // what a person at a terminal sees

mod words; // numbers as people say them

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value as Json;
use shared::cli::Exit;
use shared::clock::Clock;
use shared::time::Timestamp;

use self::view::Style;
use super::Refusal;
use crate::config::Config;
use crate::machine;
use crate::outbox::Books;
use crate::outbox::desk::{self, Answer, Request};
use crate::outbox::lock::Lock;
use crate::outbox::store::Glimpse;
use crate::provision::{Assignment, record};

pub(super) fn run(config: &Config, json: bool, watch: Option<u64>) -> Result<ExitCode, Refusal> {
    let face = Face::of(json);
    let Some(seconds) = watch else {
        let text = face.whole(&Standing::of(config)?)?;
        std::io::stdout().lock().write_all(&text)?;
        return Ok(Exit::Ok.into());
    };
    let mut begun = false;
    loop {
        let standing = Standing::of(config)?;
        let text = match &face {
            Face::View(style) => over(&face.whole(&standing)?, style.rows, begun),
            Face::Json | Face::Plain => face.line(&standing)?,
        };
        let mut out = std::io::stdout().lock();
        out.write_all(&text)?;
        out.flush()?;
        drop(out);
        begun = true;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Over what stands on the terminal, without a flicker.
fn over(text: &[u8], rows: usize, begun: bool) -> Vec<u8> {
    let mut all = if begun { b"\x1b[H".to_vec() } else { b"\x1b[2J\x1b[H".to_vec() };
    for line in text.split(|byte| *byte == b'\n').take(rows.saturating_sub(1)) {
        all.extend_from_slice(line);
        all.extend_from_slice(b"\x1b[K\n");
    }
    all.extend_from_slice(b"\x1b[J");
    all
}

/// How it is shown.
enum Face {
    /// To programs.
    Json,
    /// To people at a terminal.
    View(Style),
    /// To whatever reads lines.
    Plain,
}

impl Face {
    fn of(json: bool) -> Self {
        let says = |name: &str| std::env::var(name).is_ok_and(|text| !text.is_empty());
        match (json, std::io::stdout().is_terminal()) {
            (true, _) => Face::Json,
            (false, false) => Face::Plain,
            (false, true) => {
                let (columns, rows) = machine::terminal().unwrap_or((80, 24));
                let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
                // The first of these that says something is what holds.
                let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|name| says(name));
                let locale = locale.and_then(|name| std::env::var(name).ok()).unwrap_or_default().to_uppercase();
                let utf8 = locale.contains("UTF-8") || locale.contains("UTF8");
                Face::View(Style { columns, rows, colour: !dumb && !says("NO_COLOR"), utf8 })
            }
        }
    }

    fn whole(&self, standing: &Standing) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match (self, &standing.live) {
            (Face::Json, _) => writeln!(out, "{:#}", standing.json())?,
            (Face::View(style), Some(live)) => out = view::view(live, style).into_bytes(),
            (Face::View(_) | Face::Plain, _) => standing.print(&mut out)?,
        }
        Ok(out)
    }

    /// One line a time.
    fn line(&self, standing: &Standing) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match (self, &standing.live) {
            (Face::Json, _) => writeln!(out, "{}", standing.json())?,
            (_, Some(live)) => writeln!(out, "{}", view::line(live))?,
            (_, None) => writeln!(out, "{} {}", Clock::Real.now(), standing.running())?,
        }
        Ok(out)
    }
}

/// What is known of the agent, from itself or, where it does not run, from what it stored.
struct Standing {
    path: PathBuf,
    holder: Option<String>,
    live: Option<Json>,
    stored: Option<(Books, Option<Timestamp>)>,
    assigned: Option<Assignment>,
}

impl Standing {
    fn of(config: &Config) -> Result<Self, Refusal> {
        let path = &config.outbox.path;
        let holder = Lock::holder(path);
        let live = match &holder {
            None => None,
            Some(_) => match desk::ask(path, &Request::Status) {
                Ok(Answer::Status(status)) => Some(status),
                _ => None,
            },
        };
        let stored = if live.is_none() && path.exists() {
            let glimpse = Glimpse::open(path)?;
            Some((glimpse.books()?, glimpse.oldest_held()?))
        } else {
            None
        };
        // A damaged one is named by `check` and by `run`.
        let assigned = record::read(path).ok().flatten();
        Ok(Self { path: path.clone(), holder, live, stored, assigned })
    }

    fn running(&self) -> String {
        match (&self.holder, &self.live) {
            (Some(holder), Some(_)) => format!("running: {holder}"),
            (Some(holder), None) => format!("running, but does not answer: {holder}"),
            (None, _) => "not running".to_owned(),
        }
    }

    fn json(&self) -> Json {
        let (running, holder) = (self.holder.is_some(), &self.holder);
        match (&self.live, &self.stored) {
            (Some(status), _) => {
                let mut status = status.clone();
                status["running"] = Json::Bool(true);
                status
            }
            (None, Some((books, oldest))) => serde_json::json!({
                "running": running, "holder": holder, "provisioned": self.assigned, "outbox": books,
                "oldest_held": oldest.map(|at| at.to_string()),
            }),
            (None, None) => serde_json::json!({
                "running": running, "holder": holder, "provisioned": self.assigned, "outbox": null,
            }),
        }
    }

    fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        writeln!(out, "agent     {}", self.running())?;
        writeln!(out, "outbox    {}", self.path.display())?;
        if self.live.is_none()
            && let Some(Assignment { hub, device, assigned_at, .. }) = &self.assigned
        {
            writeln!(out, "hub       {hub}, device {device}, assigned {assigned_at}")?;
        }
        match (&self.live, &self.stored) {
            (Some(status), _) => print_live(out, status),
            (None, Some((books, oldest))) => {
                print_books(out, &serde_json::json!(books))?;
                oldest.map_or(Ok(()), |oldest| writeln!(out, "oldest    {oldest}"))
            }
            (None, None) => writeln!(out, "          there is none yet"),
        }
    }
}

fn print_live(out: &mut impl std::io::Write, status: &Json) -> std::io::Result<()> {
    let text = |pointer: &str| match status.pointer(pointer) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    writeln!(out, "gateway   {}, epoch {}, high {}", text("/gateway"), text("/epoch"), text("/high"))?;
    writeln!(out, "started   {}", text("/started"))?;
    match (text("/hub/assigned_at").as_str(), status.pointer("/hub/last_error").and_then(Json::as_str)) {
        (_, Some(error)) => writeln!(out, "hub       none yet: {error}")?,
        ("-", None) => writeln!(out, "hub       {}", text("/hub/name"))?,
        (assigned_at, None) => writeln!(out, "hub       {}, assigned {assigned_at}", text("/hub/name"))?,
    }
    print_books(out, &status["outbox"])?;
    writeln!(out, "bytes     {} of {}", text("/outbox/bytes"), text("/outbox/bytes_max"))?;
    view::print_now(out, status)?;
    if let Some(full) = status.pointer("/outbox/full").and_then(Json::as_str) {
        writeln!(out, "FULL      {full}")?;
    }
    if let Some(broker) = status.pointer("/broker/broker").and_then(Json::as_str) {
        let connected = status.pointer("/broker/connected").and_then(Json::as_bool) == Some(true);
        writeln!(out, "broker    {broker}: {}", if connected { "connected" } else { "not connected" })?;
        if let Some(error) = status.pointer("/broker/last_error").and_then(Json::as_str) {
            writeln!(out, "          {error}")?;
        }
    }
    writeln!(
        out,
        "presilver {} messages, {} readings, {} refused",
        text("/presilver/received"),
        text("/presilver/readings"),
        text("/presilver/rejected")
    )?;
    writeln!(out, "uplink    {}, {} rows in flight", text("/uplink/link"), text("/uplink/rows_in_flight"))?;
    if let Some(error) = status.pointer("/uplink/last_error").and_then(Json::as_str) {
        writeln!(out, "          {error}")?;
    }
    for sensor in status.pointer("/sensors").and_then(Json::as_array).into_iter().flatten() {
        let text = |key: &str| sensor[key].as_str().unwrap_or("-").to_owned();
        let failed: u64 = sensor["failed"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        writeln!(
            out,
            "sensor    {}: {} since {}; {} read, {failed} failed, {} missed, {} dropped",
            text("sensor"),
            text("state"),
            text("since"),
            sensor["read"],
            sensor["missed"],
            sensor["dropped"]
        )?;
        if let (Some("failing"), Some(error)) = (sensor["state"].as_str(), sensor["last_error"].as_str()) {
            writeln!(out, "          {error}")?;
        }
    }
    let until = status.pointer("/remote/log_level_until").and_then(Json::as_str);
    writeln!(
        out,
        "remote    {}, desired properties of version {}, log level {}{}",
        text("/remote/state"),
        text("/remote/desired_version"),
        text("/remote/log_level"),
        until.map(|at| format!(" until {at}")).unwrap_or_default()
    )?;
    Ok(())
}

pub(super) fn print_books(out: &mut impl std::io::Write, books: &Json) -> std::io::Result<()> {
    writeln!(
        out,
        "books     {} stored = {} acknowledged by the hub + {} given up + {} held; {} duplicates, {} gaps and {} closings wait",
        books["stored"],
        books["acked"],
        books["given_up"],
        books["held"],
        books["duplicates"],
        books["gaps_held"],
        books["closings_held"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_drawn_over_the_last_one_and_never_scrolls() {
        let text = |rows, begun| String::from_utf8(over(b"one\ntwo\nthree\n", rows, begun)).expect("text");
        assert_eq!(text(24, false), "\x1b[2J\x1b[Hone\x1b[K\ntwo\x1b[K\nthree\x1b[K\n\x1b[K\n\x1b[J");
        assert_eq!(text(3, true), "\x1b[Hone\x1b[K\ntwo\x1b[K\n\x1b[J");
        assert_eq!(text(0, true), "\x1b[H\x1b[J");
    }
}
