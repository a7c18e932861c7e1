//! `outbox ls | export | resend | drop`.

use std::io::Write as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use shared::cli::Exit;
use shared::clock::Clock;
use shared::reading::{Epoch, Seq, Value};

use super::{PROGRAM, Refusal};
use crate::config::Config;
use crate::outbox::desk::{self, Answer, Request};
use crate::outbox::lock::{Lock, LockError};
use crate::outbox::store::{Glimpse, Opened, RowLine, Selection, Which};
use crate::outbox::{HeldItem, Outbox, OutboxError, RowId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the epochs with their books, and the gaps that wait.
    Ls {
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Print held rows as JSON lines, with the full bytes of refused payloads.
    Export {
        #[command(flatten)]
        rows: Rows,
        /// Rows that have left and linger, too.
        #[arg(long)]
        all: bool,
    },
    /// Mark rows that have left and still linger (ten minutes, less where there was no room) for sending again, under
    /// their old ids.
    Resend {
        #[command(flatten)]
        rows: Rows,
        /// Every row that lingers.
        #[arg(long)]
        all: bool,
    },
    /// Give up held rows: a gap takes their place, so that the proof knows of it.
    Drop {
        #[command(flatten)]
        rows: Rows,
        /// Every held row.
        #[arg(long)]
        all: bool,
        /// Why; stands in the gap.
        #[arg(long, default_value = "dropped")]
        reason: String,
    },
}

/// Which rows.
#[derive(Debug, Args)]
pub(super) struct Rows {
    /// Of this epoch (16 hex digits).
    #[arg(long)]
    epoch: Option<Epoch>,
    /// From this seq.
    #[arg(long, requires = "epoch")]
    from: Option<i64>,
    /// To this seq.
    #[arg(long, requires = "epoch")]
    to: Option<i64>,
}

impl Rows {
    fn selection(&self) -> Selection {
        Selection { epoch: self.epoch, from: self.from.map(Seq), to: self.to.map(Seq), upto: RowId(i64::MAX) }
    }

    fn named(&self, all: bool) -> Result<Selection, Refusal> {
        match (self.epoch, all) {
            (None, false) => {
                Err(Refusal::new("say which rows: --epoch EPOCH [--from SEQ] [--to SEQ], or --all", Exit::Usage))
            }
            (Some(_), true) => Err(Refusal::new("--all and --epoch cannot both be meant", Exit::Usage)),
            _ => Ok(self.selection()),
        }
    }
}

pub(super) fn run(command: Command, config: &Config) -> Result<ExitCode, Refusal> {
    match command {
        Command::Ls { json } => ls(config, json),
        Command::Export { rows, all } => export(config, &rows.selection(), if all { Which::All } else { Which::Held }),
        Command::Resend { rows, all } => change(config, "resend", Request::Resend { selection: rows.named(all)? }),
        Command::Drop { rows, all, reason } => {
            if reason.is_empty() || 200 < reason.len() || reason.chars().any(char::is_control) {
                return Err(Refusal::new("--reason must be a short text without control characters", Exit::Usage));
            }
            change(config, "drop", Request::Drop { selection: rows.named(all)?, reason })
        }
    }
}

fn ls(config: &Config, json: bool) -> Result<ExitCode, Refusal> {
    let glimpse = Glimpse::open(&config.outbox.path)?;
    let (epochs, gaps, books) = (glimpse.epochs()?, glimpse.gaps()?, glimpse.books()?);
    let mut out = std::io::stdout().lock();
    if json {
        let gaps: Vec<_> = gaps.iter().map(|held| &held.gap).collect();
        let oldest = glimpse.oldest_held()?.map(|at| at.to_string());
        writeln!(out, "{:#}", json!({ "books": books, "epochs": epochs, "gaps": gaps, "oldest_held": oldest }))?;
        return Ok(Exit::Ok.into());
    }
    writeln!(
        out,
        "{:16}  {:6}  {:>10} {:>10} {:>9} {:>9} {:>10}  opened",
        "epoch", "state", "stored", "acked", "given up", "held", "last"
    )?;
    for line in &epochs {
        let last = match (line.last, line.mark) {
            (Some(last), _) => last.to_string(),
            (None, Some(mark)) => format!("<={mark}"),
            (None, None) => "-".to_owned(),
        };
        writeln!(
            out,
            "{:16}  {:6}  {:>10} {:>10} {:>9} {:>9} {:>10}  {}",
            line.epoch, line.state, line.stored, line.acked, line.given_up, line.held, last, line.opened
        )?;
    }
    for held in &gaps {
        let gap = &held.gap;
        writeln!(out, "gap waits: {} seqs {} to {}, {}", gap.epoch, gap.from, gap.to, gap.reason)?;
    }
    super::status::print_books(&mut out, &json!(books))?;
    Ok(Exit::Ok.into())
}

fn export(config: &Config, selection: &Selection, which: Which) -> Result<ExitCode, Refusal> {
    let glimpse = Glimpse::open(&config.outbox.path)?;
    known(&glimpse, selection)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut after = RowId(0);
    loop {
        let rows = glimpse.rows(after, selection, which)?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for row in &rows {
            writeln!(out, "{}", line(row))?;
        }
    }
    out.flush()?;
    if which == Which::All {
        tell_spent(&glimpse, selection)?;
    }
    Ok(Exit::Ok.into())
}

/// Refuses an epoch of which the outbox knows nothing: most likely a slip of the pen.
fn known(glimpse: &Glimpse, selection: &Selection) -> Result<(), Refusal> {
    let Some(epoch) = selection.epoch.map(|epoch| epoch.to_string()) else { return Ok(()) };
    match glimpse.epochs()?.iter().any(|line| line.epoch == epoch) {
        true => Ok(()),
        false => {
            let message =
                format!("there is no epoch {epoch} in this outbox; `edge-agent outbox ls` lists those there are");
            Err(Refusal::new(message, Exit::Usage))
        }
    }
}

/// Says of how many rows only the keys are left.
fn tell_spent(glimpse: &Glimpse, selection: &Selection) -> Result<(), Refusal> {
    let spent = glimpse.spent(selection)?;
    if 0 < spent {
        writeln!(
            std::io::stderr(),
            "{spent} rows that had left made room: only their keys are here, not their values"
        )?;
    }
    Ok(())
}

fn line(row: &RowLine) -> Json {
    let mut line = json!({ "epoch": row.epoch, "seq": row.seq, "state": row.state, "stored": row.stored.to_string() });
    match &row.item {
        Ok((HeldItem::Reading(reading), boot)) => {
            line["device"] = json!(reading.device);
            line["metric"] = json!(reading.metric);
            line["value"] = match &reading.value {
                Value::Number(number) => json!(number),
                Value::Bool(on) => json!(on),
                Value::Text(text) => json!(text),
            };
            line["unit"] = json!(reading.unit);
            line["event_time"] = json!(reading.event_time.to_string());
            line["received_time"] = json!(reading.received_time.to_string());
            line["time_quality"] = json!(reading.time_quality);
            line["source_seq"] = json!(reading.source_seq);
            line["boot"] = json!(hex(&boot.boot));
            line["monotonic_us"] = json!(boot.monotonic_us);
        }
        Ok((HeldItem::Rejected { rejected, raw_len, raw_sha256 }, boot)) => {
            line["device"] = json!(rejected.device);
            line["metric"] = json!(rejected.metric);
            line["topic"] = json!(rejected.topic);
            line["reasons"] = json!(rejected.reasons);
            line["raw"] = json!(STANDARD.encode(row.payload.as_deref().unwrap_or(&rejected.raw)));
            line["raw_len"] = json!(raw_len);
            line["raw_sha256"] = json!(raw_sha256);
            line["event_time"] = json!(rejected.event_time.map(|time| time.to_string()));
            line["received_time"] = json!(rejected.received_time.to_string());
            line["source_seq"] = json!(rejected.source_seq);
            line["boot"] = json!(hex(&boot.boot));
            line["monotonic_us"] = json!(boot.monotonic_us);
        }
        Err(error) => line["damaged"] = json!(error),
    }
    line
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hands the change to the agent that holds the outbox; where none does, makes it here.
fn change(config: &Config, name: &str, request: Request) -> Result<ExitCode, Refusal> {
    let path = &config.outbox.path;
    if !path.exists() {
        return Err(Refusal::new(format!("open outbox {}: there is none", path.display()), Exit::No));
    }
    let selection = match &request {
        Request::Drop { selection, .. } | Request::Resend { selection } => selection.clone(),
        Request::Status => Selection::default(),
    };
    known(&Glimpse::open(path)?, &selection)?;
    let rows = match Lock::take(path, &format!("outbox {name}"), Clock::Real.now()) {
        Ok(_lock) => alone(config, request)?,
        Err(LockError::Held { holder, .. }) => match desk::ask(path, &request) {
            Ok(Answer::Rows(rows)) => rows,
            Ok(Answer::Error(error)) => return Err(Refusal::new(error, Exit::Retry)),
            Ok(Answer::Status(_)) => return Err(Refusal::new("the running agent answered something else", Exit::Bug)),
            Err(error) => {
                let message = format!("{error}; {holder} holds the outbox: try again, or stop it first");
                return Err(Refusal::new(message, Exit::Retry));
            }
        },
        Err(error) => return Err(Refusal::new(error, Exit::Usage)),
    };
    let done = if name == "drop" { "given up" } else { "marked for sending again" };
    writeln!(std::io::stdout(), "{rows} rows {done}")?;
    if name == "resend" {
        tell_spent(&Glimpse::open(path)?, &selection)?;
    }
    Ok(Exit::Ok.into())
}

fn alone(config: &Config, request: Request) -> Result<u64, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|error| Refusal::new(format!("start: {error}"), Exit::Retry))?;
    let metrics = crate::outbox::Metrics::register(&mut shared::telemetry::Registry::default());
    let (outbox, opened) = Outbox::open(&config.outbox, "", metrics)?;
    let rows = runtime.block_on(async {
        let rows = match request {
            Request::Drop { selection, reason } => outbox.give_up(selection, reason).await,
            Request::Resend { selection } => outbox.resend(selection).await,
            Request::Status => Ok(0),
        };
        // An epoch without seqs: sealing takes it out again.
        let sealed = outbox.seal().await;
        outbox.close().await;
        rows.and_then(|rows| sealed.map(|()| rows))
    });
    let rows = rows.map_err(|error| match error {
        OutboxError::Store(error) => error.into(),
        other => Refusal::new(other, Exit::Retry),
    })?;
    found(&opened).map(|()| rows)
}

/// What was found wrong on opening: an outbox that had to be moved aside held none of the rows that were meant.
fn found(opened: &Opened) -> Result<(), Refusal> {
    let mut told = std::io::stderr().lock();
    if let Some(path) = &opened.side_moved_aside {
        writeln!(told, "{PROGRAM}: the side file could not be read and was moved to {}", path.display())?;
    }
    for (epoch, known) in &opened.lost {
        writeln!(told, "{PROGRAM}: rows of epoch {epoch} are not in this outbox: {known}; `run` reports it")?;
    }
    match &opened.moved_aside {
        None => Ok(()),
        Some((path, why)) => {
            let message = format!(
                "the outbox could not be read ({why}); it was moved to {}, and a new one lies in its place: nothing was changed in the old one",
                path.display()
            );
            Err(Refusal::new(message, Exit::No))
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::config::Layers;

    use super::*;

    fn config(dir: &tempfile::TempDir) -> Config {
        let text = format!("[outbox]\npath = {:?}\n", dir.path().join("outbox.db"));
        let layers = Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
        shared::config::load_from(&layers, Some(("edge.toml", &text)), &[]).expect("no mistake")
    }

    #[test]
    fn a_damaged_outbox_is_never_moved_aside_in_silence() {
        for name in ["drop", "resend"] {
            let dir = tempfile::tempdir().expect("a directory");
            let config = config(&dir);
            std::fs::write(&config.outbox.path, [0x5a; 40_000]).expect("spoiled");
            let rows = Rows { epoch: None, from: None, to: None };
            let command = match name {
                "drop" => Command::Drop { rows, all: true, reason: "dropped".into() },
                _ => Command::Resend { rows, all: true },
            };
            let refusal = run(command, &config).expect_err("nothing was done to it");
            assert_eq!(refusal.exit, Exit::No, "{name}: {}", refusal.message);
            let aside = std::fs::read_dir(dir.path()).expect("lists").filter_map(Result::ok).map(|entry| entry.path());
            let aside = aside.map(|path| path.display().to_string()).find(|path| path.contains(".unreadable-"));
            let aside = aside.expect("nothing of it is lost");
            assert!(refusal.message.contains(&aside), "{name} names {aside}: {}", refusal.message);
        }
    }

    #[test]
    fn an_epoch_the_outbox_does_not_know_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(&dir);
        let metrics = crate::outbox::Metrics::register(&mut shared::telemetry::Registry::default());
        let (outbox, _) = Outbox::open(&config.outbox, "rules", metrics).expect("opens");
        let rows = |epoch| Rows { epoch: Some(epoch), from: None, to: None };
        let commands = |epoch| {
            [
                Command::Drop { rows: rows(epoch), all: false, reason: "dropped".into() },
                Command::Resend { rows: rows(epoch), all: false },
                Command::Export { rows: rows(epoch), all: false },
            ]
        };
        for command in commands(Epoch::from_bits(0xabc)) {
            let refusal = run(command, &config).expect_err("no such epoch");
            assert_eq!(refusal.exit, Exit::Usage);
            assert!(refusal.message.contains("0000000000000abc"), "{}", refusal.message);
        }
        let glimpse = Glimpse::open(&config.outbox.path).expect("opens");
        assert!(known(&glimpse, &rows(outbox.epoch()).selection()).is_ok());
    }
}
