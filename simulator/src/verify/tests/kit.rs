//! A small lake made by hand, and the ledger that goes with it.

use std::path::Path;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::arrow::array::Int64Builder;
use deltalake::arrow::array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, ListArray, MapArray, MapBuilder, RecordBatch, StringArray,
    StringBuilder, TimestampMicrosecondArray,
};
use deltalake::arrow::buffer::OffsetBuffer;
use deltalake::arrow::datatypes::{DataType, Field};
use deltalake::kernel::Transaction;
use deltalake::kernel::transaction::CommitProperties;
use serde_json::{Value as Json, json};
use shared::time::Timestamp;
use url::Url;

use super::super::{Options, Report, verify};
use crate::fleet::ledger::{Ledger, Start, VERSION};
use crate::fleet::send::{Draft, Expect, Fate, payload, topic_of};

/// (partition, sequence number, device; without one it says that the numbers before it expired)
pub(super) type Message = (i64, i64, Option<&'static str>);
/// (seq, device, metric, n, value)
pub(super) type Reading = (i64, &'static str, &'static str, i64, f64);
/// (seq, device, metric, raw)
pub(super) type Refusal = (i64, Option<&'static str>, Option<&'static str>, Vec<u8>);
/// (kind, from, to, readings of device "a"); `hub-retention` is of partition 0
pub(super) type Gap = (&'static str, i64, i64, i64);

#[derive(Clone)]
pub(super) struct Lake {
    pub(super) bronze: Vec<Message>,
    /// Up to where bronze says it has read partition 0.
    pub(super) bronze_done: Option<i64>,
    pub(super) readings: Vec<Reading>,
    pub(super) refusals: Vec<Refusal>,
    /// Seqs whose refusals were taken up again: their readings came through a replay.
    pub(super) replayed: Vec<i64>,
    pub(super) gaps: Vec<Gap>,
    pub(super) high: i64,
    /// The high that stands in no row.
    pub(super) named: i64,
    /// Added to what would balance the books.
    pub(super) decoded_too_many: i64,
    /// What the books say.
    pub(super) gap_arrived: i64,
    /// Added to what gold.gateway_health would say about `arrived`; `None`: no table of gold.
    pub(super) gold: Option<i64>,
    /// Verify as if everything had had its time.
    pub(super) settled: bool,
    /// The table of gold that has read nothing.
    pub(super) late: &'static str,
    /// Bronze versions that quarantine and readings have read.
    pub(super) done: (i64, i64),
}

/// Of the hub.
const INCARNATION: i64 = 1_789_000_000_000;

pub(super) const TIME: i64 = 1_790_000_000_000_000;

/// Two readings and a refusal of device `a`, of a closed epoch; the ledger knows all.
pub(super) fn sound() -> (Lake, Vec<Draft>) {
    let lake = Lake {
        bronze: vec![(0, 7, Some("gw")), (0, 8, Some("gw")), (1, 3, Some("gw"))],
        bronze_done: Some(8),
        readings: vec![(1, "a", "t", 1, 21.5), (2, "a", "t", 2, 22.5)],
        refusals: vec![(3, Some("a"), Some("t"), send("a", 3, 900.0, Fate::Quarantine).payload)],
        replayed: vec![],
        gaps: vec![("closed", 1, 3, 0)],
        high: 0,
        named: 0,
        decoded_too_many: 0,
        gap_arrived: 0,
        gold: None,
        settled: false,
        late: "",
        done: (4, 4),
    };
    let sends = vec![
        send("a", 1, 21.5, Fate::Reading),
        send("a", 2, 22.5, Fate::Reading),
        send("a", 3, 900.0, Fate::Quarantine),
    ];
    (lake, sends)
}

pub(super) fn send(device: &str, n: i64, value: f64, fate: Fate) -> Draft {
    let time = Timestamp::from_micros(TIME);
    let expect = vec![Expect { metric: Some("t".into()), value: Some(json!(value)), unit: None, fate }];
    Draft {
        device: device.into(),
        n,
        topic: topic_of(device),
        payload: payload(time, n, &expect),
        time,
        copies: 1,
        best_effort: false,
        fault: None,
        expect,
    }
}

fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn ints(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn times(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

async fn write(
    dir: &Path,
    name: &str,
    columns: Vec<(&str, ArrayRef)>,
    metadata: Vec<(&str, Json)>,
    txns: Vec<(String, i64)>,
) -> String {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).expect("a directory");
    let url = Url::from_directory_path(&path).expect("an absolute path");
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length");
    let properties = CommitProperties::default()
        .with_metadata(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)))
        .with_application_transactions(txns.into_iter().map(|(app, version)| Transaction::new(app, version)).collect());
    let table = DeltaTable::try_from_url(url).await.expect("a place");
    let table = table.write(vec![batch]).with_commit_properties(properties).await.expect("written");
    table.snapshot().expect("loaded").metadata().id().to_owned()
}

/// Maps of one entry each.
fn map_of(entries: &[(&str, i64)]) -> ArrayRef {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for (key, count) in entries {
        map.keys().append_value(key);
        map.values().append_value(*count);
        map.append(true).expect("one entry");
    }
    let map: MapArray = map.finish();
    Arc::new(map)
}

impl Lake {
    async fn write(&self, dir: &Path) {
        let bronze = self.write_bronze(dir).await;
        let r = &self.readings;
        let ids: Vec<String> = r.iter().map(|(seq, ..)| format!("gw/00e1/{seq}")).collect();
        let refused: Vec<String> = self.refusals.iter().map(|(seq, ..)| format!("gw/00e1/{seq}")).collect();
        let duplicates = 1;
        let decoded = (r.len() + refused.len()) as i64 + duplicates + self.decoded_too_many;
        let gap_arrived = self.gap_arrived;
        let totals = json!({"events": 2, "decoded": decoded, "duplicates": duplicates, "gap_arrived": gap_arrived});
        let metadata = vec![("totals", totals), ("highs", json!({"gw": {"00e1": self.named}}))];
        let readings = write(
            dir,
            "silver/readings",
            vec![
                ("reading_id", texts(ids.iter().map(|id| Some(id.as_str())))),
                ("gateway_id", texts(r.iter().map(|_| Some("gw")))),
                ("epoch", texts(r.iter().map(|_| Some("00e1")))),
                ("seq", ints(r.iter().map(|row| Some(row.0)))),
                ("high", ints(r.iter().map(|row| Some(self.high.max(row.0))))),
                ("source_seq", ints(r.iter().map(|row| Some(row.3)))),
                ("device_id", texts(r.iter().map(|row| Some(row.1)))),
                ("metric", texts(r.iter().map(|row| Some(row.2)))),
                ("value", Arc::new(r.iter().map(|row| Some(row.4)).collect::<Float64Array>())),
                ("value_text", texts(r.iter().map(|_| None))),
                ("value_kind", texts(r.iter().map(|_| Some("number")))),
                ("unit", texts(r.iter().map(|_| None))),
                ("event_time", times(r.iter().map(|_| Some(TIME)))),
                ("hub", texts(r.iter().map(|row| Some(if self.replayed.contains(&row.0) { "replay" } else { "hub" })))),
            ],
            metadata,
            vec![(format!("silver.readings<-{bronze}"), self.done.1)],
        )
        .await;
        let q = &self.refusals;
        let reasons = ListArray::new(
            Arc::new(Field::new("element", DataType::Utf8, true)),
            OffsetBuffer::from_lengths(q.iter().map(|_| 1)),
            texts(q.iter().map(|_| Some("range: 900 > 150"))),
            None,
        );
        let quarantine = write(
            dir,
            "silver/quarantine",
            vec![
                ("id", texts(refused.iter().map(|id| Some(id.as_str())))),
                ("gateway_id", texts(q.iter().map(|_| Some("gw")))),
                ("epoch", texts(q.iter().map(|_| Some("00e1")))),
                ("seq", ints(q.iter().map(|row| Some(row.0)))),
                ("high", ints(q.iter().map(|row| Some(row.0)))),
                ("device_id", texts(q.iter().map(|row| row.1))),
                ("metric", texts(q.iter().map(|row| row.2))),
                ("raw", Arc::new(q.iter().map(|row| Some(row.3.as_slice())).collect::<BinaryArray>())),
                ("replayed_at", times(q.iter().map(|row| self.replayed.contains(&row.0).then_some(TIME)))),
                ("reasons", Arc::new(reasons)),
            ],
            vec![],
            vec![(format!("silver.quarantine<-{bronze}"), self.done.0)],
        )
        .await;
        let g = &self.gaps;
        let gaps = write(
            dir,
            "silver/gaps",
            vec![
                ("gateway_id", texts(g.iter().map(|gap| (gap.0 != "hub-retention").then_some("gw")))),
                ("epoch", texts(g.iter().map(|gap| (gap.0 != "hub-retention").then_some("00e1")))),
                ("kind", texts(g.iter().map(|gap| Some(gap.0)))),
                ("from_seq", ints(g.iter().map(|gap| Some(gap.1)))),
                ("to_seq", ints(g.iter().map(|gap| Some(gap.2)))),
                ("reason", texts(g.iter().map(|_| Some("dropped")))),
                ("readings", map_of(&g.iter().map(|gap| ("a", gap.3)).collect::<Vec<_>>())),
                ("hub", texts(g.iter().map(|_| Some("hub")))),
                ("incarnation", ints(g.iter().map(|_| Some(INCARNATION)))),
                ("partition_id", ints(g.iter().map(|_| Some(0)))),
            ],
            vec![],
            vec![],
        )
        .await;
        let Some(off) = self.gold else { return };
        let one = |number: i64| ints([Some(number)]);
        let read = |target: &str, sources: &[&String]| -> Vec<(String, i64)> {
            let sources = sources.iter().filter(|_| target != self.late);
            sources.map(|source| (format!("{target}<-{source}"), 0)).collect()
        };
        for (path, name) in [("gold/metric_1m", "gold.metric_1m"), ("gold/device_latest", "gold.device_latest")] {
            write(dir, path, vec![("readings", one(1))], vec![], read(name, &[&readings])).await;
        }
        write(
            dir,
            "gold/gateway_health",
            vec![
                ("gateway_id", texts([Some("gw")])),
                ("epoch", texts([Some("00e1")])),
                ("state", texts([Some("closed")])),
                ("high", one(3)),
                ("last", one(3)),
                ("arrived", one(r.len() as i64 + off)),
                ("quarantined", one(q.len() as i64)),
                ("given_up", one(0)),
                ("gap_arrived", one(0)),
                ("outstanding", one(0)),
                ("missing", one(0)),
            ],
            vec![],
            read("gold.gateway_health", &[&readings, &quarantine, &gaps]),
        )
        .await;
    }

    /// The first row in a commit of its own: version 0; the rest in version 1, with the progress.
    async fn write_bronze(&self, dir: &Path) -> String {
        let mut id = String::new();
        for (version, rows) in [&self.bronze[..1], &self.bronze[1..]].into_iter().enumerate() {
            let marks: Vec<_> =
                rows.iter().map(|row| (if row.2.is_none() { "hub-retention" } else { "x" }, 1)).collect();
            let done = self.bronze_done.filter(|_| version == 1);
            id = write(
                dir,
                "bronze/messages",
                vec![
                    ("hub", texts(rows.iter().map(|_| Some("hub")))),
                    ("incarnation", ints(rows.iter().map(|_| Some(INCARNATION)))),
                    ("partition_id", ints(rows.iter().map(|row| Some(row.0)))),
                    ("sequence_number", ints(rows.iter().map(|row| Some(row.1)))),
                    ("device_id", texts(rows.iter().map(|row| row.2))),
                    ("properties", map_of(&marks)),
                ],
                vec![],
                done.map(|done| (format!("bronze/hub/{INCARNATION}/0"), done)).into_iter().collect(),
            )
            .await;
        }
        id
    }
}

/// Writes the lake and the ledger, verifies, and compares what is broken. `unacked` sends are in the ledger alone.
pub(super) async fn verified(lake: &Lake, sends: &[Draft], unacked: &[Draft], held: Option<i64>) -> Report {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("lake");
    std::fs::create_dir_all(&root).expect("a directory");
    lake.write(&root).await;
    let path = dir.path().join("ledger.jsonl");
    let start = Start { version: VERSION, kind: "devices".into(), source: "seed 1".into(), shift: 0 };
    let (ledger, _) = Ledger::open(Some(&path), start).expect("a ledger");
    for draft in sends {
        let sent = ledger.send(draft.clone()).expect("written");
        ledger.ack(sent.id).expect("noted");
    }
    for draft in unacked {
        ledger.send(draft.clone()).expect("written");
    }
    ledger.flush().expect("written");
    let (root, settled) = (root.display().to_string(), lake.settled);
    let options = Options { lake: root, ledgers: vec![path], held, settled, ..Options::default() };
    verify(&options).await.expect("a readable lake")
}

pub(super) async fn check(change: impl FnOnce(&mut Lake, &mut Vec<Draft>), broken: &[&str]) -> Report {
    let (mut lake, mut sends) = sound();
    change(&mut lake, &mut sends);
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), broken, "{report}");
    assert_eq!(report.holds, broken.is_empty());
    report
}
