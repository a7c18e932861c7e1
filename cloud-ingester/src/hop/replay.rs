//! `quarantine replay`: refusals are judged again by the rules of now, repaired as somebody says, and go through bronze
//! again as Events of our own. The hop does the rest; so bronze stays the whole truth.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use shared::time::Timestamp;

use super::error::HopError;
use super::runner::Hops;
use crate::bronze::rows::{ZSTD, batch};
use crate::lake::{Kind, LakeError, Table, TableCommit, Txn, View};
use crate::silver::events::{
    BRONZE_COLUMNS, MESSAGE_SOURCE, REPLAY_BODY, REPLAY_HUB, REPLAY_OF, REPLAY_REPAIRED, events, pairs,
};
use crate::silver::quarantined::{Filter, Refusal, refusals};
use crate::silver::repair::{Fix, Plan, repair};
use crate::source::{Event, Stream};

/// Events of one commit of bronze.
const EVENTS_MAX: usize = 500;
/// Refusals that an answer names one by one.
const NAMED_MAX: usize = 200;

/// Which refusals to take up again, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplayRequest {
    /// Which.
    pub filter: Filter,
    /// What they should have been.
    pub fix: Fix,
    /// Do it; otherwise only say what would be done.
    pub apply: bool,
}

/// What a request did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// Refusals that fit.
    pub found: usize,
    /// Those of them that become readings.
    pub replayed: usize,
    /// How many readings.
    pub readings: usize,
    /// Whether it was done.
    pub applied: bool,
    /// Each refusal and what becomes of it, as far as an answer holds.
    pub refusals: Vec<Outcome>,
    /// Ids that were asked for and under which nothing waits: never refused, or taken up already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
}

/// What becomes of one refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its id.
    pub id: String,
    /// Why it was refused.
    pub refused: Vec<String>,
    /// Readings, each in words; empty where it would be refused again.
    pub readings: Vec<String>,
    /// Why it would be refused again.
    pub again: Vec<String>,
}

impl std::fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for outcome in &self.refusals {
            writeln!(f, "{}  was refused: {}", outcome.id, outcome.refused.join("; "))?;
            for reading in &outcome.readings {
                writeln!(f, "    -> {reading}")?;
            }
            if !outcome.again.is_empty() {
                writeln!(f, "    stays: {}", outcome.again.join("; "))?;
            }
        }
        if self.refusals.len() < self.found {
            writeln!(f, "... and {} more", self.found - self.refusals.len())?;
        }
        for id in &self.absent {
            writeln!(f, "{id}  nothing waits under this id: it was not refused, or it was taken up already")?;
        }
        let Self { found, replayed, readings, .. } = self;
        match self.applied {
            true => write!(f, "{replayed} of {found} refusals were taken up again: {readings} readings"),
            false => write!(
                f,
                "{replayed} of {found} refusals would be taken up again: {readings} readings. Nothing was done; say --apply"
            ),
        }
    }
}

/// Where an Event stands: hub, incarnation, partition, number.
type Place = (String, i64, i32, i64);

fn place(refusal: &Refusal) -> Place {
    (refusal.hub.clone(), refusal.incarnation, refusal.partition_id, refusal.sequence_number)
}

impl Hops {
    /// Takes refusals up again, or says what would become of them. What goes into bronze is worked off before this ends.
    ///
    /// # Errors
    /// When the lake refuses.
    pub async fn replay(&mut self, request: &ReplayRequest) -> Result<ReplayReport, HopError> {
        let quarantine = self.lake.view(Table::SilverQuarantine).await?;
        let bronze = self.lake.view(Table::BronzeMessages).await?;
        let own = bronze.created_ms().unwrap_or_default();
        let mut found = refusals(&quarantine, &request.filter, true).await?;
        // What was taken up is a reading by now.
        found.retain(|refusal| refusal.replayed_at.is_none());
        let originals = originals(&bronze, &found).await?;
        let mut report = ReplayReport { found: found.len(), applied: request.apply, ..ReplayReport::default() };
        let waits = |id: &&String| !found.iter().any(|refusal| refusal.id == **id);
        report.absent = request.filter.id.iter().filter(waits).take(NAMED_MAX).cloned().collect();
        let mut to_store = vec![];
        for refusal in &found {
            let original = originals.get(&place(refusal));
            let event = original.and_then(|row| events(row, own).into_iter().next());
            let planned = repair(refusal, event.as_ref(), &request.fix, &self.rules);
            let mut outcome =
                Outcome { id: refusal.id.clone(), refused: refusal.reasons.clone(), readings: vec![], again: vec![] };
            match planned {
                Ok(plan) => {
                    report.replayed += 1;
                    report.readings += plan.readings.len();
                    outcome.readings = plan
                        .readings
                        .iter()
                        .map(|it| {
                            let unit = it.unit.as_deref().unwrap_or_default();
                            format!("{} {} = {} {unit} at {}", it.device, it.metric, it.value, it.time)
                        })
                        .collect();
                    if request.apply {
                        let device = event.as_ref().and_then(|event| event.device).map(str::to_owned);
                        to_store.push((refusal, plan, original, device));
                    }
                }
                Err(reasons) => outcome.again = reasons,
            }
            if report.refusals.len() < NAMED_MAX {
                report.refusals.push(outcome);
            }
        }
        for chunk in to_store.chunks(EVENTS_MAX) {
            self.store_replays(own, chunk).await?;
        }
        if request.apply && 0 < report.replayed {
            while !self.round().await?.is_idle() {}
        }
        Ok(report)
    }

    /// Appends Events of our own to bronze, under consecutive numbers of their own.
    async fn store_replays(
        &self,
        own: i64,
        replays: &[(&Refusal, Plan, Option<&RecordBatch>, Option<String>)],
    ) -> Result<(), HopError> {
        let stream = Stream { hub: REPLAY_HUB.into(), incarnation: own, partition: 0 };
        let app = stream.app_id();
        let expected = self.lake.txn(Table::BronzeMessages, &app).await?;
        let now = Clock::Real.now();
        let first = expected.map_or(0, |done| done + 1);
        let all: Vec<Event> = (first..)
            .zip(replays)
            .map(|(number, (refusal, plan, original, device))| {
                event(stream.clone(), number, refusal, plan, *original, device.as_deref())
            })
            .collect();
        let Some(version) = all.last().map(|event| event.sequence_number) else { return Ok(()) };
        let commit = TableCommit {
            table: Table::BronzeMessages,
            kind: Kind::Append,
            batches: vec![batch(&all, now)],
            txns: vec![Txn { app, expected, version }],
            metadata: vec![("replays".to_owned(), serde_json::json!(all.len()))],
        };
        self.lake.commit(commit, None).await?;
        shared::crash::here("replay-stored");
        Ok(())
    }
}

fn event(
    stream: Stream,
    number: i64,
    refusal: &Refusal,
    plan: &Plan,
    original: Option<&RecordBatch>,
    device: Option<&str>,
) -> Event {
    let direct = refusal.seq.is_none();
    // A mapping may look at properties; so those of an original body stay with it.
    let kept = original.filter(|_| !plan.repaired);
    let mut properties = kept.map(|row| pairs(row, "properties")).unwrap_or_default();
    let system = kept.map(|row| pairs(row, "system_properties"));
    properties.retain(|(name, _)| name != REPLAY_OF && name != REPLAY_BODY);
    properties.push((REPLAY_OF.to_owned(), refusal.id.clone()));
    let body = if plan.repaired { REPLAY_REPAIRED } else { "original" };
    properties.push((REPLAY_BODY.to_owned(), body.to_owned()));
    let packed = kept.is_some_and(|row| {
        let encoding = row.column_by_name("body_encoding").map(|column| column.as_string::<i32>().value(0).to_owned());
        let same = row.column_by_name("body").is_some_and(|column| column.as_binary::<i32>().value(0) == plan.body);
        same && encoding.as_deref() == Some(ZSTD)
    });
    Event {
        stream,
        sequence_number: number,
        offset: None,
        enqueued_time: refusal.enqueued.or(Some(refusal.ingested)),
        device_id: if direct { device.map(str::to_owned).or(refusal.device.clone()) } else { refusal.gateway.clone() },
        message_id: None,
        content_type: Some("application/json".to_owned()),
        properties,
        system_properties: system.unwrap_or_else(|| vec![(MESSAGE_SOURCE.to_owned(), "Telemetry".to_owned())]),
        body: plan.body.clone().into(),
        body_encoding: packed.then_some(ZSTD),
    }
}

/// The Events of bronze that refusals without a seq came in, one row each.
async fn originals(bronze: &View, found: &[Refusal]) -> Result<HashMap<Place, RecordBatch>, LakeError> {
    let needed = found.iter().filter(|refusal| refusal.seq.is_none());
    let (mut places, mut days) = (BTreeSet::new(), BTreeSet::new());
    for refusal in needed {
        places.insert(place(refusal));
        days.insert(refusal.ingested.days());
    }
    let mut originals = HashMap::new();
    if places.is_empty() {
        return Ok(originals);
    }
    let day = |text: &str| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")).map(Timestamp::days);
    for add in bronze.files_in("ingest_date", |date| day(date).is_none_or(|day| days.contains(&day))) {
        for rows in bronze.read(&add, &BRONZE_COLUMNS).await? {
            let text = |name: &str| rows.column_by_name(name).expect("asked for").as_string::<i32>();
            let hub = text("hub");
            let long = |name: &str| rows.column_by_name(name).expect("asked for").as_primitive::<Int64Type>();
            let (incarnation, number) = (long("incarnation"), long("sequence_number"));
            let partition = rows.column_by_name("partition_id").expect("asked for").as_primitive::<Int32Type>();
            for at in 0..rows.num_rows() {
                let place = (hub.value(at).to_owned(), incarnation.value(at), partition.value(at), number.value(at));
                if places.contains(&place) {
                    originals.insert(place, rows.slice(at, 1));
                }
            }
        }
    }
    Ok(originals)
}
