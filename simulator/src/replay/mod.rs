//! Recordings, sent as a device would have sent them.
//!
//! ```text
//! FILE --survey--> columns, range of times --rows--> Draft --ledger--> publisher == MQTT QoS 1 ==> gateway
//! ```
//!
//! `n` of a send is the number of its row, so rows with the same time stay distinct, and a killed replay goes on with
//! the row after the last one in its ledger.

pub mod when; // a time, as recordings write it

pub mod table; // which column is what

pub mod quotes; // one that is never closed

pub mod cli; // `simulator replay`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use shared::config::{Mistakes, Span};
use shared::reading::DeviceId;
use shared::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::table::{Table, TableError, Wanted};
use crate::fleet::broker::Broker;
use crate::fleet::counters::{Counters, Progress};
use crate::fleet::dial::Dial;
use crate::fleet::ledger::{Ledger, Start, VERSION};
use crate::fleet::publisher::{self, Source, Wire};
use crate::fleet::send::{Draft, Expect, Fate, payload, topic_of};
use crate::fleet::{FleetError, finish};

/// The section `[replay]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The device that the recording is sent as.
    pub device: String,
    /// Columns of the time, joined by a blank; empty: found by their names.
    pub time: Vec<String>,
    /// Columns of values; empty: all that hold numbers.
    pub values: Vec<String>,
    /// Units by column, in UCUM.
    pub units: BTreeMap<String, String>,
    /// How many times faster than recorded; `max`: as fast as it is acknowledged.
    pub speed: Speed,
    /// Move all times so that none lies ahead and the last lies where the replay ends.
    pub shift_to_now: bool,
    /// Values that the gateway refuses as "no value": they are expected in quarantine.
    pub missing_values: Vec<f64>,
    /// What becomes of all other values.
    pub fate: Fate,
    /// Where to keep the ledger.
    #[serde(default)]
    pub ledger: Option<PathBuf>,
    /// Most sends without PUBACK.
    pub window: usize,
    /// How long to wait for PUBACKs at the end.
    pub drain: Span,
}

/// How fast a recording is sent.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Speed {
    /// As fast as it is acknowledged.
    Max,
    /// So many times faster than it was recorded.
    Factor(f64),
}

impl TryFrom<String> for Speed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().trim_end_matches('x').parse::<f64>() {
            _ if text.trim() == "max" => Ok(Speed::Max),
            Ok(factor) if factor.is_finite() && 0.0 < factor => Ok(Speed::Factor(factor)),
            _ => {
                Err(format!("`{text}` is no speed; write \"max\", or how many times faster than recorded, e.g. \"60\""))
            }
        }
    }
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        if let Some(fault) = DeviceId::fault(&self.device) {
            mistakes.add("device", fault);
        }
        mistakes.ensure(
            !self.device.contains(['/', '+', '#']),
            "device",
            "must not hold `/`, `+` or `#`: it is a level of the topic",
        );
        mistakes.ensure((1..=10_000).contains(&self.window), "window", "must be 1 to 10000, write e.g. 256");
        mistakes.ensure(
            self.missing_values.iter().all(|v| v.is_finite()),
            "missing-values",
            "must be numbers, write e.g. [-200]",
        );
    }

    fn wanted(&self) -> Wanted {
        Wanted { time: self.time.clone(), values: self.values.clone() }
    }
}

/// Why a replay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be opened.
    #[error("open the recording {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no recording that can be sent.
    #[error("replay {path}: {source}")]
    Table {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TableError,
    },
    /// Sending failed.
    #[error(transparent)]
    Fleet(#[from] FleetError),
}

/// What was in the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cells {
    /// Rows sent in this run.
    pub rows_sent: u64,
    /// Rows left out: no time that can be read.
    pub rows_without_time: u64,
    /// The first of them, by line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_without_time: Option<String>,
    /// Rows left out: no value in them.
    pub rows_without_value: u64,
    /// Cells that held nothing; not sent.
    pub cells_empty: u64,
    /// Cells of number columns that held something else; not sent.
    pub cells_bad: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_bad: Option<String>,
    /// Cells that hold something and stand behind the header's last column; not sent.
    pub cells_surplus: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_surplus: Option<String>,
    /// Lines left out: swallowed by a quote that is never closed.
    pub lines_swallowed: u64,
    /// Where that quote stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unclosed_quote: Option<String>,
    /// Values sent that stand for "no value".
    pub missing_values: u64,
}

/// What a replay did.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Sends and acks.
    #[serde(flatten)]
    pub progress: Progress,
    /// What the recording held.
    pub cells: Cells,
    /// Rows that an earlier run with the same ledger has sent or passed over.
    pub rows_before: i64,
    /// Columns that were not sent, because they hold no number.
    pub left_out: Vec<String>,
}

/// Looks through `file`: what [`run`] will send, and how many rows.
///
/// # Errors
/// See [`ReplayError`].
pub fn survey(config: &Config, file: &Path) -> Result<Table, ReplayError> {
    table::survey(open(file)?, &config.wanted()).map_err(|source| ReplayError::Table { path: file.to_owned(), source })
}

fn open(file: &Path) -> Result<BufReader<File>, ReplayError> {
    let opened = File::open(file).map_err(|source| ReplayError::Open { path: file.to_owned(), source })?;
    Ok(BufReader::new(opened))
}

/// Sends `file` until its end or until `stop` is cancelled, then waits for the PUBACKs.
///
/// # Errors
/// See [`ReplayError`].
pub async fn run(
    config: &Config,
    file: &Path,
    table: Table,
    broker: Broker,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<Outcome, ReplayError> {
    let source = file.canonicalize().unwrap_or_else(|_| file.to_owned()).display().to_string();
    let shift = if config.shift_to_now { shift(Clock::Real.now(), &table, config.speed) } else { 0 };
    let start = Start { version: VERSION, kind: "replay".into(), source, shift };
    let (ledger, recovered) = Ledger::open(config.ledger.as_deref(), start).map_err(FleetError::from)?;
    let cells = Arc::new(Mutex::new(Cells {
        lines_swallowed: table.unclosed.map_or(0, |quote| quote.lines),
        unclosed_quote: table.unclosed.map(|quote| format!("{}:{}", file.display(), quote.line)),
        ..Cells::default()
    }));
    let rows_before = recovered.n_last.get(&config.device).copied().unwrap_or(0);
    let left_out = table.left_out.clone();
    let shift = recovered.start.map_or(shift, |start| start.shift);
    let replay = Replay::open(config, file, table, shift, rows_before, Arc::clone(&cells))?;
    let dial = Arc::new(Dial::Broker(broker));
    let wire = Wire { dial, ledger: Arc::new(ledger), counters, window: config.window, stop };
    let mut tasks = JoinSet::new();
    let task = wire.clone();
    let device = config.device.clone();
    let unacked = recovered.unacked.into_values().collect();
    tasks.spawn(async move { publisher::run(task, &device, unacked, replay).await });
    let progress = finish(tasks, &wire, None, config.drain.duration()).await?;
    let cells = cells.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Outcome { progress, cells, rows_before, left_out })
}

/// A cell as a message shows it: one that an open quote made may be the rest of the file.
fn clip(cell: &str) -> String {
    let line = cell.lines().next().unwrap_or_default();
    let short: String = line.chars().take(60).collect();
    if short.len() < cell.len() { format!("{short}…") } else { short }
}

/// How far to move a recording that starts to be sent at `now`. Sent at its own speed or faster, its last row carries
/// the time at which it goes out and no row lies ahead; sent slower, its first row does.
fn shift(now: Timestamp, table: &Table, speed: Speed) -> i64 {
    let length = table.latest.since(table.first);
    let anchor = match speed {
        Speed::Max => table.latest.micros(),
        Speed::Factor(factor) if factor < 1.0 => table.first.micros(),
        Speed::Factor(factor) => table.latest.minus(length.mul_f64(1.0 / factor)).micros(),
    };
    now.micros().saturating_sub(anchor)
}

/// The rows of a recording as a device's sends.
struct Replay {
    config: Config,
    file: PathBuf,
    table: Table,
    rows: csv::Reader<BufReader<File>>,
    row: i64,
    skip: i64,
    shift: i64,
    topic: String,
    /// When the first row of this run was due, and its time.
    began: Option<(Instant, Timestamp)>,
    /// Read, not yet due. Kept here: the wait may be dropped.
    ready: Option<(Instant, Draft)>,
    cells: Arc<Mutex<Cells>>,
}

impl Replay {
    fn open(
        config: &Config,
        file: &Path,
        table: Table,
        shift: i64,
        skip: i64,
        cells: Arc<Mutex<Cells>>,
    ) -> Result<Self, ReplayError> {
        let mut rows = table::reader(open(file)?, table.delimiter);
        // The header was read by the survey; what the reader says of it is known.
        let _ = rows.headers();
        let (topic, config, file) = (topic_of(&config.device), config.clone(), file.to_owned());
        Ok(Self { config, file, table, rows, row: 0, skip, shift, topic, began: None, ready: None, cells })
    }

    /// The next row that has a time and a value; `None` at the end.
    fn read(&mut self) -> Option<(Timestamp, Draft)> {
        let mut record = csv::StringRecord::new();
        loop {
            let line = self.rows.position().line();
            match self.rows.read_record(&mut record) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // The survey has read it all: the file was changed since.
                    tracing::error!(%error, line, "the recording cannot be read to its end");
                    return None;
                }
            }
            self.row += 1;
            if self.row <= self.skip {
                continue;
            }
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            let at = || format!("{}:{line}", self.file.display());
            for (place, cell) in record.iter().enumerate().skip(self.table.width) {
                if !cell.trim().is_empty() {
                    cells.cells_surplus += 1;
                    cells.first_surplus.get_or_insert_with(|| format!("{}, cell {}: `{cell}`", at(), place + 1));
                }
            }
            let time_cells = table::time_cells(&record, &self.table.time);
            let Some(time) = when::parse(&time_cells) else {
                cells.rows_without_time += 1;
                cells.first_without_time.get_or_insert_with(|| format!("{}: `{}`", at(), time_cells.join(" ")));
                continue;
            };
            let mut expect = Vec::with_capacity(self.table.columns.len());
            for column in &self.table.columns {
                let cell = record.get(column.at).unwrap_or("");
                let value = match table::value(cell, column.kind, self.table.delimiter) {
                    Some(Ok(value)) => value,
                    Some(Err(())) => {
                        cells.cells_bad += 1;
                        cells.first_bad.get_or_insert_with(|| format!("{}, {}: `{}`", at(), column.name, clip(cell)));
                        continue;
                    }
                    None => {
                        cells.cells_empty += 1;
                        continue;
                    }
                };
                let missing = value.as_f64().is_some_and(|number| self.config.missing_values.contains(&number));
                cells.missing_values += u64::from(missing);
                let unit = self.config.units.get(&column.name);
                let fate = if missing { Fate::Quarantine } else { self.config.fate };
                expect.push(Expect {
                    metric: Some(column.name.clone()),
                    value: Some(value),
                    unit: unit.cloned(),
                    fate,
                });
            }
            if expect.is_empty() {
                cells.rows_without_value += 1;
                continue;
            }
            cells.rows_sent += 1;
            let sent = Timestamp::from_micros(time.micros().saturating_add(self.shift));
            let draft = Draft {
                device: self.config.device.clone(),
                n: self.row,
                topic: self.topic.clone(),
                payload: payload(sent, self.row, &expect),
                time: sent,
                copies: 1,
                best_effort: false,
                fault: None,
                expect,
            };
            return Some((time, draft));
        }
    }

    /// When a row of this time goes out.
    fn due(&mut self, time: Timestamp) -> Instant {
        let now = Instant::now();
        let (began, first) = *self.began.get_or_insert((now, time));
        match self.config.speed {
            Speed::Max => now,
            Speed::Factor(factor) => began + time.since(first).div_f64(factor).min(Duration::from_secs(86_400 * 3_650)),
        }
    }
}

impl Source for Replay {
    async fn next(&mut self) -> Option<Draft> {
        if self.ready.is_none() {
            let (time, draft) = self.read()?;
            self.ready = Some((self.due(time), draft));
        }
        match &self.ready {
            // A timer costs a millisecond even where it is over.
            Some((due, _)) if Instant::now() < *due => sleep_until(*due).await,
            _ => {}
        }
        self.ready.take().map(|(_, draft)| draft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(first: i64, latest: i64) -> Table {
        let (first, latest) = (Timestamp::from_micros(first), Timestamp::from_micros(latest));
        Table {
            delimiter: b',',
            time: vec![0],
            columns: vec![],
            width: 1,
            unclosed: None,
            left_out: vec![],
            rows: 2,
            first,
            latest,
        }
    }

    #[test]
    fn a_moved_recording_ends_where_its_replay_ends_and_never_lies_ahead() {
        let now = Timestamp::from_micros(1_000_000);
        for (speed, first, last) in [
            (Speed::Max, 1_000_000 - 800, 1_000_000),
            (Speed::Factor(1.0), 1_000_000, 1_000_800),
            (Speed::Factor(8.0), 1_000_100 - 800, 1_000_100),
            (Speed::Factor(0.5), 1_000_000, 1_000_800),
        ] {
            let shift = shift(now, &table(200, 1_000), speed);
            assert_eq!((200 + shift, 1_000 + shift), (first, last), "{speed:?}");
        }
    }

    fn config(speed: Speed) -> Config {
        Config {
            device: "d".into(),
            time: vec![],
            values: vec![],
            units: BTreeMap::new(),
            speed,
            shift_to_now: false,
            missing_values: vec![],
            fate: Fate::Reading,
            ledger: None,
            window: 1,
            drain: "1s".parse().expect("a span"),
        }
    }

    #[tokio::test]
    async fn rows_are_due_as_far_apart_as_recorded_or_so_many_times_nearer() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("apart.csv");
        std::fs::write(&file, "ts,a\n100,1\n110,2\n130,3\n").expect("written");
        for (speed, apart_ms) in [
            (Speed::Factor(1.0), [10_000, 30_000]),
            (Speed::Factor(10.0), [1_000, 3_000]),
            (Speed::Factor(0.5), [20_000, 60_000]),
            (Speed::Max, [0, 0]),
        ] {
            let config = config(speed);
            let table = survey(&config, &file).expect("a recording");
            let mut replay = Replay::open(&config, &file, table, 500, 0, Arc::default()).expect("opens");
            let mut due = Vec::new();
            while let Some((time, draft)) = replay.read() {
                assert_eq!(draft.time.micros(), time.micros() + 500, "moved, and due by its own time");
                due.push(replay.due(time));
            }
            let apart = [due[1] - due[0], due[2] - due[0]].map(|apart| apart.as_millis());
            match speed {
                Speed::Max => assert!(apart.iter().all(|apart| *apart < 1_000), "{apart:?}"),
                Speed::Factor(_) => assert_eq!(apart, apart_ms, "{speed:?}"),
            }
        }
    }

    #[test]
    fn what_a_row_has_too_much_of_is_counted_and_named_by_file_and_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("odd.csv");
        let text = "ts,a,b\n1,1,2\n2,3,4,\n3,5,6,7, 8\n4,9,\"10\n5,11,12\n6,13,14\n";
        std::fs::write(&file, text).expect("written");
        let config = config(Speed::Max);
        let table = survey(&config, &file).expect("a recording");
        let unclosed = table.unclosed.map(|quote| (quote.line, quote.lines));
        assert_eq!(unclosed, Some((5, 2)), "lines 6 and 7 are swallowed");
        let cells = Arc::new(Mutex::new(Cells::default()));
        let mut replay = Replay::open(&config, &file, table, 0, 0, Arc::clone(&cells)).expect("opens");
        while replay.read().is_some() {}
        let cells = cells.lock().expect("whole").clone();
        assert_eq!((cells.rows_sent, cells.cells_bad, cells.cells_surplus), (4, 1, 2), "{cells:?}");
        assert_eq!(cells.first_surplus, Some(format!("{}:4, cell 4: `7`", file.display())));
        assert_eq!(cells.first_bad, Some(format!("{}:5, b: `10…`", file.display())));
    }

    #[test]
    fn a_speed_is_max_or_a_factor() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("60".parse(), Ok(Speed::Factor(60.0)));
        assert_eq!("1.5x".parse(), Ok(Speed::Factor(1.5)));
        for bad in ["", "fast", "0", "-1", "inf"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}
