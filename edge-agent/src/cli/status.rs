//! `status`: the books of the outbox and, if the agent runs, its state.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value as Json;
use shared::cli::Exit;

use super::Refusal;
use crate::config::Config;
use crate::outbox::desk::{self, Answer, Request};
use crate::outbox::lock::Lock;
use crate::outbox::store::Glimpse;
use crate::provision::{Assignment, record};

pub(super) fn run(config: &Config, json: bool) -> Result<ExitCode, Refusal> {
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
    let mut out = std::io::stdout().lock();
    let running = match (&holder, &live) {
        (Some(holder), Some(_)) => format!("running: {holder}"),
        (Some(holder), None) => format!("running, but does not answer: {holder}"),
        (None, _) => "not running".to_owned(),
    };
    if json {
        let document = match (live, stored) {
            (Some(status), _) => {
                let mut status = status;
                status["running"] = Json::Bool(true);
                status
            }
            (None, Some((books, oldest))) => serde_json::json!({
                "running": holder.is_some(), "holder": holder, "provisioned": assigned, "outbox": books,
                "oldest_held": oldest.map(|at| at.to_string()),
            }),
            (None, None) => serde_json::json!({
                "running": holder.is_some(), "holder": holder, "provisioned": assigned, "outbox": null,
            }),
        };
        writeln!(out, "{document:#}")?;
        return Ok(Exit::Ok.into());
    }
    writeln!(out, "agent     {running}")?;
    writeln!(out, "outbox    {}", path.display())?;
    if live.is_none()
        && let Some(Assignment { hub, device, assigned_at, .. }) = &assigned
    {
        writeln!(out, "hub       {hub}, device {device}, assigned {assigned_at}")?;
    }
    match (live, stored) {
        (Some(status), _) => print_live(&mut out, &status)?,
        (None, Some((books, oldest))) => {
            print_books(&mut out, &serde_json::json!(books))?;
            if let Some(oldest) = oldest {
                writeln!(out, "oldest    {oldest}")?;
            }
        }
        (None, None) => writeln!(out, "          there is none yet")?,
    }
    Ok(Exit::Ok.into())
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
    if let Some(full) = status.pointer("/outbox/full").and_then(Json::as_str) {
        writeln!(out, "FULL      {full}")?;
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
