//! `quarantine ls | replay`.

use std::io::Write as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use serde_json::json;
use shared::blame::Blame;
use shared::cli::Exit;
use shared::payload::value_of;
use shared::time::Timestamp;

use super::{PROGRAM, say};
use crate::ask;
use crate::config::Config;
use crate::hop::replay::{ReplayReport, ReplayRequest};
use crate::lake::{Lake, LakeError, Lease, Table};
use crate::run::{self, HopRequest, RunError};
use crate::silver::quarantined::{Filter, Refusal, refusals};
use crate::silver::repair::Fix;

/// Refusals shown unless somebody says how many.
const SHOWN: usize = 50;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What was refused, oldest first
    Ls {
        #[command(flatten)]
        which: Which,
        /// Also what was taken up again
        #[arg(long)]
        replayed: bool,
        /// At most so many, the newest
        #[arg(long, default_value_t = SHOWN, value_name = "N")]
        limit: usize,
        /// One object a line, the bytes as base64
        #[arg(long, conflicts_with = "raw")]
        json: bool,
        /// Write the bytes of the one refusal that fits to standard output, and nothing else
        #[arg(long)]
        raw: bool,
    },
    /// Take refusals up again, by the rules of now or repaired; says what would become of them unless --apply
    Replay {
        #[command(flatten)]
        which: Which,
        /// What it should have been: value=21.5, metric=…, device=…, unit=…, time=2026-01-31T12:00:00Z
        #[arg(long, value_name = "NAME=VALUE")]
        set: Vec<String>,
        /// The unit it should have had
        #[arg(long)]
        unit: Option<String>,
        /// Multiplies the value, e.g. 0.1
        #[arg(long, allow_negative_numbers = true)]
        factor: Option<f64>,
        /// It was right as it came, whatever its gateway's rules said
        #[arg(long)]
        as_is: bool,
        /// The payload it should have been
        #[arg(long, value_name = "FILE")]
        payload: Option<PathBuf>,
        /// Do it
        #[arg(long)]
        apply: bool,
        /// For scripts
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Ids, as `ls` shows them
    id: Vec<String>,
    /// Of such devices; `*` stands for any run of characters
    #[arg(long)]
    device: Option<String>,
    /// Of such metrics
    #[arg(long)]
    metric: Option<String>,
    /// With this in one of the reasons, e.g. "range"
    #[arg(long)]
    reason: Option<String>,
    /// Taken into the lake since then: 2026-01-31, 2026-01-31T12:00:00Z, or so long ago: 2h
    #[arg(long)]
    since: Option<String>,
}

impl Which {
    fn filter(self, replayed: bool) -> Result<Filter, String> {
        let since = self.since.map(|text| since(&text)).transpose()?;
        Ok(Filter { id: self.id, device: self.device, metric: self.metric, reason: self.reason, since, replayed })
    }
}

fn since(text: &str) -> Result<i64, String> {
    let whole = Timestamp::parse_rfc3339(text).or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")));
    if let Some(time) = whole {
        return Ok(time.micros());
    }
    let span: shared::config::Span = serde_json::from_value(json!(text))
        .map_err(|_| format!("--since {text:?} is neither a time nor a span such as 2h"))?;
    Ok(shared::clock::Clock::Real.now().minus(span.duration()).micros())
}

fn fix(set: &[String], unit: Option<String>, factor: Option<f64>, payload: Option<PathBuf>) -> Result<Fix, String> {
    let mut fix = Fix { unit, factor, ..Fix::default() };
    if let Some(path) = payload {
        let bytes = std::fs::read(&path).map_err(|error| format!("--payload {}: {error}", path.display()))?;
        fix.payload = Some(STANDARD.encode(bytes));
    }
    for set in set {
        let (name, value) = set.split_once('=').ok_or_else(|| format!("--set {set:?}: write NAME=VALUE"))?;
        match name {
            // As JSON where it is some, else a text.
            "value" => {
                let text = || value_of(&json!(value).to_string());
                let (value, own) =
                    value_of(value).or_else(|_| text()).map_err(|why| format!("--set {set:?}: {why}"))?;
                fix.value = Some(value);
                fix.unit = fix.unit.or(own);
            }
            "unit" => fix.unit = Some(value.to_owned()),
            "metric" => fix.metric = Some(value.to_owned()),
            "device" => fix.device = Some(value.to_owned()),
            "time" => {
                let time = Timestamp::parse_rfc3339(value).ok_or_else(|| format!("--set {set:?}: no RFC 3339 time"))?;
                fix.time = Some(time.micros());
            }
            _ => return Err(format!("--set {set:?}: one of value, unit, metric, device, time")),
        }
    }
    Ok(fix)
}

fn usage(why: String) -> RunError {
    RunError::Stopped(why, Blame::Config)
}

pub(super) async fn quarantine(config: Config, args: Args) -> Result<Exit, RunError> {
    match args.command {
        Command::Ls { which, replayed, limit, json, raw } => {
            let filter = which.filter(replayed || raw).map_err(usage)?;
            let lake = Lake::open(config.location()?)?;
            ls(&lake, &filter, limit, json, raw).await
        }
        Command::Replay { which, set, unit, factor, as_is, payload, apply, json } => {
            let filter = which.filter(false).map_err(usage)?;
            let fix = Fix { as_is, ..fix(&set, unit, factor, payload).map_err(usage)? };
            if apply && filter == Filter::default() && fix != Fix::default() {
                return Err(usage("a repair of everything there is: name ids, or what they have in common".to_owned()));
            }
            replay(config, ReplayRequest { filter, fix, apply }, json).await
        }
    }
}

async fn ls(lake: &Lake, filter: &Filter, limit: usize, as_json: bool, raw: bool) -> Result<Exit, RunError> {
    let view = lake.view(Table::SilverQuarantine).await?;
    let found = refusals(&view, filter, as_json || raw).await?;
    if raw {
        let [one] = &found[..] else {
            let why = format!("{} refusals fit; the bytes of one are written, so name its id", found.len());
            return Err(usage(why));
        };
        let _ = std::io::stdout().write_all(&one.raw);
        return Ok(Exit::Ok);
    }
    let shown = &found[found.len().saturating_sub(limit)..];
    for refusal in shown {
        say(&if as_json { object(refusal) } else { line(refusal) });
    }
    if !as_json {
        say(&format!("{} of {} refusals\n", shown.len(), found.len()));
        if let Some(last) = shown.last() {
            say(&format!(
                "the bytes of one:  {PROGRAM} quarantine ls --raw '{0}' > payload\nto take it up again: {PROGRAM} quarantine replay '{0}'\n",
                last.id
            ));
        }
    }
    Ok(Exit::Ok)
}

fn line(refusal: &Refusal) -> String {
    let of = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
    let again = refusal.replayed_at.map(|time| format!("  (taken up again {time})")).unwrap_or_default();
    format!(
        "{}  {}  {} {}  by {}, {} bytes: {}{again}\n",
        refusal.ingested,
        refusal.id,
        of(&refusal.device),
        refusal.metric.as_deref().unwrap_or("(whole payload)"),
        refusal.layer,
        refusal.raw_len,
        refusal.reasons.join("; "),
    )
}

fn object(refusal: &Refusal) -> String {
    let time = |time: Option<Timestamp>| time.map(|time| time.to_string());
    let object = json!({
        "id": refusal.id,
        "gateway_id": refusal.gateway,
        "epoch": refusal.epoch,
        "seq": refusal.seq,
        "device_id": refusal.device,
        "metric": refusal.metric,
        "layer": refusal.layer,
        "reasons": refusal.reasons,
        "raw": STANDARD.encode(&refusal.raw),
        "raw_len": refusal.raw_len,
        "topic": refusal.topic,
        "enqueued_time": time(refusal.enqueued),
        "ingest_time": time(Some(refusal.ingested)),
        "hub": refusal.hub,
        "incarnation": refusal.incarnation,
        "partition_id": refusal.partition_id,
        "sequence_number": refusal.sequence_number,
        "message_index": refusal.index,
        "replayed_at": time(refusal.replayed_at),
    });
    format!("{object}\n")
}

/// Replays here, or hands the request to whoever holds the lease.
async fn replay(config: Config, request: ReplayRequest, as_json: bool) -> Result<Exit, RunError> {
    let held = match Box::pin(run::take_over(&config, "cloud-ingester quarantine replay", None)).await {
        Ok((_, mut hops)) => {
            let report = Box::pin(hops.replay(&request)).await?;
            hops.into_lease().release().await;
            return Ok(tell(&report, as_json));
        }
        Err(RunError::Lake(error @ LakeError::LeaseHeld { .. })) => error,
        Err(error) => return Err(error),
    };
    let lake = Lake::open(config.location()?)?;
    let Some(http) = Lease::holder(&lake).await?.and_then(|holder| holder.http) else {
        return Err(held.into());
    };
    let request = HopRequest { replay: Some(Box::new(request)), ..HopRequest::default() };
    let body = serde_json::to_string(&request).expect("a request is plain data");
    match ask::post(&http, "/hop", &body, config.token()?.as_ref()).await {
        Ok((200, told)) => match serde_json::from_str::<ReplayReport>(&told) {
            Ok(report) => Ok(tell(&report, as_json)),
            Err(error) => {
                Err(RunError::Stopped(format!("the service at http://{http} answers oddly: {error}"), Blame::Peer))
            }
        },
        Ok((code, told)) => {
            let _ = write!(std::io::stderr(), "{PROGRAM}: the service at http://{http} answers {code}: {told}");
            Ok(if code == 409 { Exit::No } else { Exit::Retry })
        }
        Err(error) => {
            tracing::debug!(%error, http, "the holder does not answer");
            Err(held.into())
        }
    }
}

/// Nothing that was asked for can be taken up: the answer is no.
fn tell(report: &ReplayReport, as_json: bool) -> Exit {
    let text =
        if as_json { serde_json::to_string(report).expect("a report is plain data") } else { report.to_string() };
    say(&format!("{text}\n"));
    if report.replayed < report.found || !report.absent.is_empty() { Exit::No } else { Exit::Ok }
}
