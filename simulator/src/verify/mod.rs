//! The proof: the lake against itself, and against what was sent.
//!
//! ```text
//! ledgers --> expected --+
//! silver.readings -------+--> values one to one
//! silver.quarantine -----+--> ids without repeats --+
//! silver.gaps ------------------------------------- +--> proof per gateway and epoch --> gold.gateway_health says the same
//! commit metadata of readings --> books balance
//! ```
//!
//! Reads with the deltalake crate and nothing of the ingester's; never writes.

pub mod intervals; // a set of seqs

pub mod proof; // one epoch

pub mod expected; // the ledgers' side

pub mod report; // the answer

pub mod lake; // the tables

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use deltalake::DeltaTableError;
use deltalake::arrow::datatypes::{DataType, TimeUnit};
use futures::StreamExt as _;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use self::expected::{Expected, QuarantineRow, ReadingRow};
use self::intervals::Intervals;
use self::lake::{Columns, Lake, Table};
use self::proof::{EpochProof, Epochs};
use self::report::{Books, Gold, Problems, Report};
use crate::fleet::ledger::{self, LedgerError};

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directory or URL of the lake: what holds bronze, silver and gold.
    pub lake: String,
    /// What its storage wants to know (account, key, endpoint).
    pub storage: HashMap<String, String>,
    /// Ledgers of what was sent.
    pub ledgers: Vec<PathBuf>,
    /// How many rows the outboxes hold; then exactly so many must be outstanding.
    pub held: Option<i64>,
    /// How long to wait for a running ingester to be between two hops.
    pub patience: Duration,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The lake cannot be named.
    #[error("read the lake {lake}: {why}")]
    Place {
        /// As given.
        lake: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no silver.readings.
    #[error(
        "verify {lake}: it has no table silver/readings; run the ingester first, or name the directory that holds bronze, silver and gold"
    )]
    Empty {
        /// As given.
        lake: String,
    },
    /// A table's log cannot be read.
    #[error("{act} {table}: {source}")]
    Delta {
        /// What failed.
        act: &'static str,
        /// Which table.
        table: &'static str,
        /// Why.
        source: Box<DeltaTableError>,
    },
    /// A table's rows cannot be read.
    #[error("scan {table}: {source}")]
    Scan {
        /// Which table.
        table: &'static str,
        /// Why.
        source: Box<datafusion::error::DataFusionError>,
    },
    /// A ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// How often to look whether the ingester is between two hops.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Silver at one moment.
struct Silver {
    readings: Table,
    quarantine: Option<Table>,
    gaps: Option<Table>,
    bronze: Option<Table>,
    /// Side tables ahead of readings: a hop was interrupted.
    torn: Option<String>,
}

/// Proves the lake, and holds the ledgers against it.
///
/// # Errors
/// It cannot be read. What is broken is no error, but in the report.
pub async fn verify(options: &Options) -> Result<Report, VerifyError> {
    let lake = Lake::at(&options.lake, options.storage.clone())?;
    let mut problems = Problems::default();
    let mut notes = Vec::new();
    let mut expected = Expected::default();
    for path in &options.ledgers {
        expected.next_ledger();
        ledger::read(path, |line| expected.line(line))?;
    }

    let silver = settled(&lake, options).await?;
    if let Some(torn) = &silver.torn {
        problems.add("hop-interrupted", || torn.clone());
    }
    let mut epochs = Epochs::default();
    let mut direct = Direct::default();
    let readings = read_readings(&silver.readings, &mut epochs, &mut direct, &mut expected, &mut problems).await?;
    let quarantined = match &silver.quarantine {
        Some(table) => read_quarantine(table, &mut epochs, &mut direct, &mut expected, &mut problems).await?,
        None => 0,
    };
    let given_up = match &silver.gaps {
        Some(table) => read_gaps(table, &mut epochs, &mut problems, &mut notes).await?,
        None => HashMap::new(),
    };
    let proof = epochs.prove(&mut problems);
    let books = books(&silver.readings, readings, quarantined, &proof, &mut problems, &mut notes).await?;
    let gold = gold(&lake, &silver.readings, &proof, &mut problems).await?;
    behind(&silver, &mut notes).await?;

    let sum = |of: fn(&EpochProof) -> i64| proof.iter().map(of).sum::<i64>();
    let (outstanding, missing) = (sum(|e| e.outstanding), sum(|e| e.missing));
    let ledger = (!options.ledgers.is_empty()).then(|| {
        let gone = u64::try_from(sum(|e| e.given_up) - sum(|e| e.gap_arrived)).unwrap_or(0);
        expected.settle(&given_up, gone, &mut problems)
    });
    if ledger.as_ref().is_some_and(|books| books.not_in_lake != 0) {
        notes.push(match outstanding {
            0 => "values are not in the lake though no seq is outstanding: the gateway may still hold rows above its last Envelope; wait, or stop it, and verify again".into(),
            some => format!("{some} seqs are outstanding: the gateway still holds rows; let it run (or stop it, which drains) and verify again"),
        });
    }
    if let Some(held) = options.held
        && held != outstanding
    {
        problems.add("held-differs", || format!("{outstanding} seqs are outstanding, and the outbox holds {held}"));
    }
    Ok(Report {
        holds: problems.is_empty(),
        lake: options.lake.clone(),
        epochs: proof,
        direct_rows: direct.rows,
        books,
        gold,
        ledger,
        outstanding,
        missing,
        held: options.held,
        problems,
        notes,
    })
}

/// Opens silver so that its tables belong together: side tables are committed before readings, so none may be ahead.
async fn settled(lake: &Lake, options: &Options) -> Result<Silver, VerifyError> {
    let give_up = Instant::now() + options.patience;
    loop {
        let (silver, moved) = open_silver(lake, options).await?;
        if (!moved && silver.torn.is_none()) || give_up <= Instant::now() {
            return Ok(silver);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Opens silver as it is now; true if it moved meanwhile.
async fn open_silver(lake: &Lake, options: &Options) -> Result<(Silver, bool), VerifyError> {
    let quarantine = lake.open("silver/quarantine").await?;
    let gaps = lake.open("silver/gaps").await?;
    let bronze = lake.open("bronze/messages").await?;
    let Some(readings) = lake.open("silver/readings").await? else {
        return Err(VerifyError::Empty { lake: options.lake.clone() });
    };
    let (mut moved, mut torn) = (false, None);
    for (side, name) in [(&quarantine, "silver.quarantine"), (&gaps, "silver.gaps")] {
        let (Some(side), Some(bronze)) = (side, &bronze) else { continue };
        moved |= side.newest().await? != side.version();
        let source = bronze.id()?;
        let ahead = side.progress(&format!("{name}<-{source}")).await?;
        let done = readings.progress(&format!("silver.readings<-{source}")).await?;
        if done < ahead {
            let (ahead, done) = (ahead.unwrap_or(-1), done.unwrap_or(-1));
            torn = Some(format!(
                "{name} holds rows up to bronze version {ahead}, silver.readings only up to {done}: a hop was interrupted, the ingester finishes it when it runs"
            ));
        }
    }
    Ok((Silver { readings, quarantine, gaps, bronze, torn }, moved))
}

/// Rows whose id is hub incarnation / partition / sequence number / index.
#[derive(Default)]
struct Direct {
    rows: u64,
    ids: HashMap<String, Intervals>,
    /// Ids with a suffix: further readings of a payload that was repaired by hand.
    repaired: HashSet<String>,
}

/// Room for the index of a reading within one Event.
const INDEX_ROOM: i64 = 1 << 20;

impl Direct {
    /// Notes an id `stem/sequence/index`; false if it was there.
    fn insert(&mut self, id: &str) -> Option<bool> {
        let mut parts = id.rsplitn(3, '/');
        let index: i64 = parts.next()?.parse().ok()?;
        let sequence: i64 = parts.next()?.parse().ok()?;
        let stem = parts.next()?;
        let number = sequence.checked_mul(INDEX_ROOM)?.checked_add(index)?;
        if !self.ids.contains_key(stem) {
            self.ids.insert(stem.to_owned(), Intervals::default());
        }
        self.rows += 1;
        self.ids.get_mut(stem).map(|numbers| numbers.insert(number))
    }

    fn take(&mut self, table: &str, id: &str, problems: &mut Problems) {
        match self.insert(id) {
            Some(true) => {}
            Some(false) => problems.add("duplicate-id", || format!("{table}: the id {id} is there more than once")),
            None => problems.add("bad-id", || format!("{table}: `{id}` is no incarnation/partition/sequence/index")),
        }
    }
}

const UTC: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

async fn read_readings(
    table: &Table,
    epochs: &mut Epochs,
    direct: &mut Direct,
    expected: &mut Expected,
    problems: &mut Problems,
) -> Result<i64, VerifyError> {
    use DataType::{Float64, Int64, Utf8};
    let columns = [
        ("reading_id", Utf8),
        ("gateway_id", Utf8),
        ("epoch", Utf8),
        ("seq", Int64),
        ("high", Int64),
        ("source_seq", Int64),
        ("device_id", Utf8),
        ("metric", Utf8),
        ("value", Float64),
        ("value_text", Utf8),
        ("value_kind", Utf8),
        ("unit", Utf8),
        ("event_time", UTC),
    ];
    let mut rows = 0;
    let mut stream = table.rows(&columns).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            rows += 1;
            let id = at.text(0, row).unwrap_or("");
            match (at.text(1, row), at.text(2, row), at.int(3, row)) {
                (Some("-"), ..) => direct.take("silver.readings", id, problems),
                (Some(gateway), Some(epoch), Some(seq)) => match of_gateway(id, gateway, epoch, seq) {
                    Named::Plain => epochs.reading(gateway, epoch, seq, at.int(4, row), problems),
                    Named::Repaired if direct.repaired.insert(id.to_owned()) => {}
                    Named::Repaired => {
                        problems.add("duplicate-id", || format!("silver.readings has {id} more than once"))
                    }
                    Named::Other => {
                        problems.add("bad-id", || format!("silver.readings: `{id}` is not {gateway}/{epoch}/{seq}"))
                    }
                },
                _ => problems.add("bad-id", || format!("silver.readings: `{id}` has a gateway and no epoch or seq")),
            }
            expected.reading(
                ReadingRow {
                    device: at.text(6, row).unwrap_or(""),
                    metric: at.text(7, row).unwrap_or(""),
                    n: at.int(5, row),
                    value: at.float(8, row),
                    text: at.text(9, row),
                    kind: at.text(10, row).unwrap_or(""),
                    unit: at.text(11, row),
                    time: at.int(12, row).unwrap_or(i64::MIN),
                    id,
                },
                problems,
            );
        }
    }
    Ok(rows)
}

enum Named {
    Plain,
    /// The second or a later reading of a payload that was repaired by hand.
    Repaired,
    Other,
}

/// Whether an id is `gateway/epoch/seq`; without an allocation, for this is asked of every row.
fn of_gateway(id: &str, gateway: &str, epoch: &str, seq: i64) -> Named {
    let rest = id.strip_prefix(gateway).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.and_then(|rest| rest.strip_prefix(epoch)).and_then(|rest| rest.strip_prefix('/'));
    let (number, suffix) = match rest.map(|rest| rest.split_once('.').map_or((rest, None), |(n, s)| (n, Some(s)))) {
        Some(parts) => parts,
        None => return Named::Other,
    };
    match (number.parse() == Ok(seq), suffix) {
        (true, None) => Named::Plain,
        (true, Some(suffix)) if suffix.parse::<u32>().is_ok_and(|place| 2 <= place) => Named::Repaired,
        _ => Named::Other,
    }
}

async fn read_quarantine(
    table: &Table,
    epochs: &mut Epochs,
    direct: &mut Direct,
    expected: &mut Expected,
    problems: &mut Problems,
) -> Result<i64, VerifyError> {
    use DataType::{Binary, Int64, Utf8};
    let columns = [
        ("id", Utf8),
        ("gateway_id", Utf8),
        ("epoch", Utf8),
        ("seq", Int64),
        ("high", Int64),
        ("device_id", Utf8),
        ("metric", Utf8),
        ("raw", Binary),
        ("replayed_at", UTC),
        ("reasons", DataType::new_list(Utf8, true)),
    ];
    let mut rows = 0;
    let mut stream = table.rows(&columns).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            rows += 1;
            let id = at.text(0, row).unwrap_or("");
            let replayed = at.int(8, row).is_some();
            match (at.text(1, row), at.text(2, row), at.int(3, row)) {
                (Some(gateway), Some(epoch), Some(seq)) if gateway != "-" => {
                    match of_gateway(id, gateway, epoch, seq) {
                        Named::Plain => epochs.quarantined(gateway, epoch, seq, at.int(4, row), replayed, problems),
                        _ => problems
                            .add("bad-id", || format!("silver.quarantine: `{id}` is not {gateway}/{epoch}/{seq}")),
                    }
                }
                _ => direct.take("silver.quarantine", id, problems),
            }
            let reasons = at.shown(9, row);
            let held = QuarantineRow {
                device: at.text(5, row),
                metric: at.text(6, row),
                raw: at.bytes(7, row).unwrap_or(&[]),
                id,
                reasons: &reasons,
            };
            if !replayed {
                expected.quarantined(held, problems);
            }
        }
    }
    Ok(rows)
}

/// Reads the gaps; gives back how many readings of each device the gateways gave up.
async fn read_gaps(
    table: &Table,
    epochs: &mut Epochs,
    problems: &mut Problems,
    notes: &mut Vec<String>,
) -> Result<HashMap<String, u64>, VerifyError> {
    use DataType::{Int64, Utf8};
    let columns = [
        ("gateway_id", Utf8),
        ("epoch", Utf8),
        ("kind", Utf8),
        ("from_seq", Int64),
        ("to_seq", Int64),
        ("reason", Utf8),
    ];
    let mut given_up: HashMap<String, u64> = HashMap::new();
    let mut stream = table.rows_and(&columns, "readings").await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            let kind = at.text(2, row).unwrap_or("");
            let (from, to) = (at.int(3, row).unwrap_or(0), at.int(4, row).unwrap_or(-1));
            match (at.text(0, row), at.text(1, row)) {
                (Some(gateway), Some(epoch)) => epochs.gap(gateway, epoch, kind, from, to, problems),
                _ if kind == "hub-retention" => {
                    notes.push(format!(
                        "the hub let the events {from} to {to} of a partition expire before they were read"
                    ));
                }
                _ => {
                    problems.add("unknown-gap", || format!("silver.gaps has a gap of kind `{kind}` without a gateway"))
                }
            }
            if kind == "given-up" {
                for (device, count) in at.counts(6, row) {
                    *given_up.entry(device.to_owned()).or_default() += u64::try_from(count).unwrap_or(0);
                }
            }
        }
    }
    Ok(given_up)
}

/// The books of silver: what was decoded is in a table, or was recognised as a repeat.
async fn books(
    table: &Table,
    readings: i64,
    quarantined: i64,
    proof: &[EpochProof],
    problems: &mut Problems,
    notes: &mut Vec<String>,
) -> Result<Option<Books>, VerifyError> {
    let Some(metadata) = table.commit_with("decoded").await? else {
        if readings + quarantined != 0 {
            problems.add("no-books", || "no commit of silver.readings holds running totals (`decoded`)".into());
        }
        return Ok(None);
    };
    let number = |key: &str| match metadata.get(key) {
        Some(Json::String(text)) => text.parse().unwrap_or(-1),
        Some(other) => other.as_i64().unwrap_or(-1),
        None => -1,
    };
    let books = Books {
        readings,
        quarantined,
        events: number("events"),
        decoded: number("decoded"),
        duplicates: number("duplicates"),
        gap_arrived: number("gap_arrived"),
    };
    let sum = readings + quarantined + books.duplicates;
    if books.decoded != sum {
        problems.add("books", || {
            format!(
                "silver decoded {}, but has {readings} readings + {quarantined} quarantined + {} duplicates = {sum}",
                books.decoded, books.duplicates
            )
        });
    }
    let came: i64 = proof.iter().map(|epoch| epoch.gap_arrived).sum();
    if books.gap_arrived != came {
        notes.push(format!("silver counted gap_arrived {} as it went, the tables say {came}", books.gap_arrived));
    }
    Ok(Some(books))
}

/// Whether gold.gateway_health says what the proof says.
async fn gold(
    lake: &Lake,
    readings: &Table,
    proof: &[EpochProof],
    problems: &mut Problems,
) -> Result<Gold, VerifyError> {
    use DataType::{Int64, Utf8};
    let Some(table) = lake.open("gold/gateway_health").await? else { return Ok(Gold::Absent) };
    let done = table.progress(&format!("gold.gateway_health<-{}", readings.id()?)).await?;
    if done.is_none_or(|done| done < readings.version()) {
        return Ok(Gold::Behind);
    }
    let names = ["high", "last", "arrived", "quarantined", "given_up", "gap_arrived", "outstanding", "missing"];
    let mut columns = vec![("gateway_id", Utf8), ("epoch", Utf8), ("state", Utf8)];
    columns.extend(names.iter().map(|name| (*name, Int64)));
    let mut said: HashMap<(String, String), (String, Vec<i64>)> = HashMap::new();
    let mut same = true;
    let mut stream = table.rows(&columns).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            let text = |column| at.text(column, row).unwrap_or("").to_owned();
            let numbers = (3..3 + names.len()).map(|column| at.int(column, row).unwrap_or(-1)).collect();
            if said.insert((text(0), text(1)), (text(2), numbers)).is_some() {
                same = false;
                problems
                    .add("gold-differs", || format!("gold.gateway_health has {}/{} more than once", text(0), text(1)));
            }
        }
    }
    for e in proof {
        let numbers =
            vec![e.high, e.last, e.arrived, e.quarantined, e.given_up, e.gap_arrived, e.outstanding, e.missing];
        let wanted = (e.state.as_str().to_owned(), numbers);
        let found = said.remove(&(e.gateway.clone(), e.epoch.clone()));
        if found.as_ref() != Some(&wanted) {
            same = false;
            problems.add("gold-differs", || {
                format!(
                    "gold.gateway_health {}/{} says {found:?}; silver says {wanted:?} ({})",
                    e.gateway,
                    e.epoch,
                    names.join(", ")
                )
            });
        }
    }
    for (gateway, epoch) in said.keys() {
        same = false;
        problems.add("gold-differs", || {
            format!("gold.gateway_health has {gateway}/{epoch}, of which silver knows nothing")
        });
    }
    Ok(if same { Gold::Same } else { Gold::Differs })
}

/// Says so where silver has not read all of bronze: what looks lost may only be late.
async fn behind(silver: &Silver, notes: &mut Vec<String>) -> Result<(), VerifyError> {
    let Some(bronze) = &silver.bronze else { return Ok(()) };
    let done = silver.readings.progress(&format!("silver.readings<-{}", bronze.id()?)).await?.unwrap_or(0);
    if done < bronze.version() {
        notes.push(format!(
            "silver has read bronze up to version {done} of {}: wait for the ingester, or run a hop",
            bronze.version()
        ));
    }
    Ok(())
}
