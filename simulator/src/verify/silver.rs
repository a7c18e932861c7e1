//! Silver at one moment: its rows, handed to the proof and to the ledgers' side.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deltalake::arrow::datatypes::{DataType, TimeUnit};
use futures::StreamExt as _;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use super::expected::{Expected, QuarantineRow, ReadingRow};
use super::intervals::Intervals;
use super::lake::{Columns, Lake, Table};
use super::proof::Epochs;
use super::report::Problems;
use super::streams::{Stream, Streams};
use super::{Options, VerifyError};

/// How often to look whether the ingester is between two hops.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Times are read as microseconds.
const UTC: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The tables, at versions that belong together.
pub(super) struct Silver {
    pub(super) readings: Table,
    pub(super) quarantine: Option<Table>,
    pub(super) gaps: Option<Table>,
    pub(super) bronze: Option<Table>,
    /// Side tables ahead of readings: a hop was interrupted.
    pub(super) torn: Option<String>,
}

impl Silver {
    /// Opens silver; waits while a hop is under way. Side tables are committed before readings, so none may be ahead.
    pub(super) async fn settled(lake: &Lake, options: &Options) -> Result<Self, VerifyError> {
        let give_up = Instant::now() + options.patience;
        loop {
            let (silver, moved) = Self::open(lake, options).await?;
            if (!moved && silver.torn.is_none()) || give_up <= Instant::now() {
                return Ok(silver);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Opens silver as it is now; true if it moved meanwhile.
    async fn open(lake: &Lake, options: &Options) -> Result<(Self, bool), VerifyError> {
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
        Ok((Self { readings, quarantine, gaps, bronze, torn }, moved))
    }

    /// The tables there are, with their names; readings first.
    pub(super) fn all(&self) -> Vec<(&Table, &'static str)> {
        let side = [(self.quarantine.as_ref(), "silver.quarantine"), (self.gaps.as_ref(), "silver.gaps")];
        let side = side.into_iter().filter_map(|(table, name)| Some((table?, name)));
        std::iter::once((&self.readings, "silver.readings")).chain(side).collect()
    }

    /// Reads the highs that no row has, which commits of silver.readings keep: gateway -> epoch -> seq.
    pub(super) async fn highs(&self, epochs: &mut Epochs) -> Result<(), VerifyError> {
        let kept = self.readings.newest_info("highs").await?;
        for (gateway, of) in kept.as_ref().and_then(Json::as_object).into_iter().flatten() {
            for (epoch, high) in of.as_object().into_iter().flatten() {
                epochs.high(gateway, epoch, high.as_i64().unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Reads silver.readings; gives its number of rows.
    pub(super) async fn readings(
        &self,
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
            ("hub", Utf8),
        ];
        let mut rows = 0;
        let mut stream = self.readings.rows(&columns).await?;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|e| self.readings.scan_failed(e))?;
            let at = Columns(&batch);
            for row in 0..batch.num_rows() {
                rows += 1;
                let id = at.text(0, row).unwrap_or("");
                match (at.text(1, row), at.text(2, row), at.int(3, row)) {
                    (Some("-"), ..) => direct.take("silver.readings", id, problems),
                    (Some(gateway), Some(epoch), Some(seq)) => match named(id, gateway, epoch, seq) {
                        Named::Plain => epochs.reading(gateway, epoch, seq, at.int(4, row), problems),
                        Named::Repaired if direct.repaired.insert(id.to_owned()) => {}
                        Named::Repaired => {
                            problems.add("duplicate-id", || format!("silver.readings has {id} more than once"));
                        }
                        Named::Other => {
                            problems
                                .add("bad-id", || format!("silver.readings: `{id}` is not {gateway}/{epoch}/{seq}"));
                        }
                    },
                    _ => {
                        problems.add("bad-id", || format!("silver.readings: `{id}` has a gateway and no epoch or seq"))
                    }
                }
                let held = ReadingRow {
                    device: at.text(6, row).unwrap_or(""),
                    metric: at.text(7, row).unwrap_or(""),
                    n: at.int(5, row),
                    value: at.float(8, row),
                    text: at.text(9, row),
                    kind: at.text(10, row).unwrap_or(""),
                    unit: at.text(11, row),
                    time: at.int(12, row).unwrap_or(i64::MIN),
                    id,
                };
                // What comes of a refusal that was taken up again: the refusal tells whether somebody repaired it.
                match at.text(13, row) {
                    Some(REPLAY_HUB) => direct.of_replays.push(Replayed::of(&held)),
                    _ => expected.reading(held, problems),
                }
            }
        }
        Ok(rows)
    }

    /// Reads silver.quarantine; gives its number of rows.
    pub(super) async fn quarantine(
        &self,
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
        ];
        let Some(table) = &self.quarantine else { return Ok(0) };
        let mut rows = 0;
        let mut stream = table.rows_and(&columns, "reasons").await?;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|e| table.scan_failed(e))?;
            let at = Columns(&batch);
            for row in 0..batch.num_rows() {
                rows += 1;
                let id = at.text(0, row).unwrap_or("");
                let replayed = at.int(8, row).is_some();
                match (at.text(1, row), at.text(2, row), at.int(3, row)) {
                    (Some(gateway), Some(epoch), Some(seq)) if gateway != "-" => match named(id, gateway, epoch, seq) {
                        Named::Plain => epochs.quarantined(gateway, epoch, seq, at.int(4, row), replayed, problems),
                        _ => problems
                            .add("bad-id", || format!("silver.quarantine: `{id}` is not {gateway}/{epoch}/{seq}")),
                    },
                    _ if replayed => direct.take_replayed(id, problems),
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
                if replayed {
                    // Its reading may hold what somebody said it should have been: the refusal speaks for what was sent.
                    direct.replayed.insert(id.to_owned());
                    expected.replayed(held, problems);
                } else {
                    expected.quarantined(held, problems);
                }
            }
        }
        // Readings of an Event that was refused as a whole have ids of their own, and are what was sent.
        for reading in std::mem::take(&mut direct.of_replays) {
            if !direct.replayed.contains(stem(&reading.id)) {
                expected.reading(reading.row(), problems);
            }
        }
        Ok(rows)
    }

    /// Reads silver.gaps; gives how many readings of each device the gateways gave up.
    pub(super) async fn gaps(
        &self,
        epochs: &mut Epochs,
        streams: &mut Streams,
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
            ("hub", Utf8),
            ("incarnation", Int64),
            ("partition_id", Int64),
        ];
        let mut given_up: HashMap<String, u64> = HashMap::new();
        let Some(table) = &self.gaps else { return Ok(given_up) };
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
                        let (incarnation, partition) = (at.int(6, row).unwrap_or(-1), at.int(7, row).unwrap_or(-1));
                        let stream = Stream { hub: at.text(5, row).unwrap_or(""), incarnation, partition };
                        streams.expired(stream, from, to);
                        notes.push(format!(
                            "{stream}: the hub let its events {from} to {to} expire before they were read"
                        ));
                    }
                    _ => problems
                        .add("unknown-gap", || format!("silver.gaps has a gap of kind `{kind}` without a gateway")),
                }
                if kind == "given-up" {
                    for (device, count) in at.counts(8, row) {
                        *given_up.entry(device.to_owned()).or_default() += u64::try_from(count).unwrap_or(0);
                    }
                }
            }
        }
        Ok(given_up)
    }
}

enum Named {
    Plain,
    /// The second or a later reading of a payload that was repaired by hand.
    Repaired,
    Other,
}

/// Whether an id is `gateway/epoch/seq`; without an allocation, for this is asked of every row.
fn named(id: &str, gateway: &str, epoch: &str, seq: i64) -> Named {
    let rest = id.strip_prefix(gateway).and_then(|rest| rest.strip_prefix('/'));
    let rest = rest.and_then(|rest| rest.strip_prefix(epoch)).and_then(|rest| rest.strip_prefix('/'));
    let Some(rest) = rest else { return Named::Other };
    let (number, suffix) = rest.split_once('.').map_or((rest, None), |(number, suffix)| (number, Some(suffix)));
    match (number.parse() == Ok(seq), suffix.map(str::parse::<u32>)) {
        (true, None) => Named::Plain,
        (true, Some(Ok(place))) if 2 <= place => Named::Repaired,
        _ => Named::Other,
    }
}

/// Rows whose id is hub incarnation / partition / sequence number / index.
#[derive(Default)]
pub(super) struct Direct {
    pub(super) rows: u64,
    ids: HashMap<String, Intervals>,
    /// Ids with a suffix: further readings of a payload that was repaired by hand.
    repaired: HashSet<String>,
    /// Ids of refusals that were taken up again.
    replayed: HashSet<String>,
    /// Readings that came through a replay.
    of_replays: Vec<Replayed>,
}

/// The hub of the ingester's own Events, by which refusals are taken up again.
const REPLAY_HUB: &str = "replay";

/// A reading that came through a replay, kept until the refusals are known.
struct Replayed {
    id: String,
    device: String,
    metric: String,
    n: Option<i64>,
    value: Option<f64>,
    text: Option<String>,
    kind: String,
    unit: Option<String>,
    time: i64,
}

impl Replayed {
    fn of(row: &ReadingRow<'_>) -> Self {
        Self {
            id: row.id.to_owned(),
            device: row.device.to_owned(),
            metric: row.metric.to_owned(),
            n: row.n,
            value: row.value,
            text: row.text.map(str::to_owned),
            kind: row.kind.to_owned(),
            unit: row.unit.map(str::to_owned),
            time: row.time,
        }
    }

    fn row(&self) -> ReadingRow<'_> {
        ReadingRow {
            id: &self.id,
            device: &self.device,
            metric: &self.metric,
            n: self.n,
            value: self.value,
            text: self.text.as_deref(),
            kind: &self.kind,
            unit: self.unit.as_deref(),
            time: self.time,
        }
    }
}

/// An id without the suffix of further readings of one payload.
fn stem(id: &str) -> &str {
    let (stem, last) = id.rsplit_once('/').map_or((0, id), |(stem, last)| (stem.len() + 1, last));
    &id[..stem + last.split_once('.').map_or(last.len(), |(number, _)| number.len())]
}

/// Room for the index of a reading within one Event.
const INDEX_ROOM: i64 = 1 << 20;

impl Direct {
    /// Takes a refusal that was taken up again: its id stands in readings as well.
    fn take_replayed(&mut self, id: &str, problems: &mut Problems) {
        self.rows += 1;
        if self.replayed.contains(id) {
            problems.add("duplicate-id", || format!("silver.quarantine: the id {id} is there more than once"));
        }
    }

    fn take(&mut self, table: &str, id: &str, problems: &mut Problems) {
        let plain = stem(id);
        if plain.len() < id.len() {
            let place = id[plain.len() + 1..].parse::<u32>().ok().filter(|place| 2 <= *place);
            self.rows += 1;
            match place.is_some().then(|| self.repaired.insert(id.to_owned())) {
                Some(true) => {}
                Some(false) => problems.add("duplicate-id", || format!("{table}: the id {id} is there more than once")),
                None => {
                    problems.add("bad-id", || format!("{table}: `{id}` is no incarnation/partition/sequence/index"))
                }
            }
            return;
        }
        match self.insert(id) {
            Some(true) => {}
            Some(false) => problems.add("duplicate-id", || format!("{table}: the id {id} is there more than once")),
            None => problems.add("bad-id", || format!("{table}: `{id}` is no incarnation/partition/sequence/index")),
        }
    }

    /// Notes an id; false if it was there, `None` if it is none.
    fn insert(&mut self, id: &str) -> Option<bool> {
        let mut parts = id.rsplitn(3, '/');
        let index: i64 = parts.next()?.parse().ok()?;
        let sequence: i64 = parts.next()?.parse().ok()?;
        let stem = parts.next()?;
        let number = sequence.checked_mul(INDEX_ROOM)?.checked_add(index)?;
        self.rows += 1;
        if !self.ids.contains_key(stem) {
            self.ids.insert(stem.to_owned(), Intervals::default());
        }
        self.ids.get_mut(stem).map(|numbers| numbers.insert(number))
    }
}
