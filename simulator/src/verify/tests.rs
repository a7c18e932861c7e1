//! Small lakes made by hand, each with one promise kept or broken. Every kind of breach must be seen.

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

use super::report::Gold;
use super::*;
use crate::fleet::ledger::{Ledger, Start, VERSION};
use crate::fleet::send::{Draft, Expect, Fate, payload, topic_of};

/// (seq, device, metric, n, value)
type Reading = (i64, &'static str, &'static str, i64, f64);
/// (seq, device, metric, raw)
type Refusal = (i64, &'static str, Option<&'static str>, Vec<u8>);
/// (kind, from, to, readings of device "a")
type Gap = (&'static str, i64, i64, i64);

#[derive(Clone)]
struct Lake {
    readings: Vec<Reading>,
    refusals: Vec<Refusal>,
    gaps: Vec<Gap>,
    high: i64,
    /// The high that stands in no row.
    named: i64,
    /// Added to what would balance the books.
    decoded_too_many: i64,
    /// What the books say.
    gap_arrived: i64,
    /// Added to what gold.gateway_health would say about `arrived`; `None`: no such table.
    gold: Option<i64>,
    /// Bronze versions that quarantine and readings have read.
    done: (i64, i64),
}

const TIME: i64 = 1_790_000_000_000_000;

/// Two readings and a refusal of device `a`, of a closed epoch; the ledger knows all.
fn sound() -> (Lake, Vec<Draft>) {
    let lake = Lake {
        readings: vec![(1, "a", "t", 1, 21.5), (2, "a", "t", 2, 22.5)],
        refusals: vec![(3, "a", Some("t"), payload(Timestamp::from_micros(TIME), 3, &[("t", json!(900.0))]))],
        gaps: vec![("closed", 1, 3, 0)],
        high: 0,
        named: 0,
        decoded_too_many: 0,
        gap_arrived: 0,
        gold: None,
        done: (4, 4),
    };
    let sends = vec![
        send("a", 1, 21.5, Fate::Reading),
        send("a", 2, 22.5, Fate::Reading),
        send("a", 3, 900.0, Fate::Quarantine),
    ];
    (lake, sends)
}

fn send(device: &str, n: i64, value: f64, fate: Fate) -> Draft {
    let time = Timestamp::from_micros(TIME);
    Draft {
        device: device.into(),
        n,
        topic: topic_of(device),
        payload: payload(time, n, &[("t", json!(value))]),
        time,
        copies: 1,
        fault: None,
        expect: vec![Expect { metric: Some("t".into()), value: Some(json!(value)), unit: None, fate }],
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

fn map_of(counts: &[i64]) -> ArrayRef {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for count in counts {
        map.keys().append_value("a");
        map.values().append_value(*count);
        map.append(true).expect("one entry");
    }
    let map: MapArray = map.finish();
    Arc::new(map)
}

impl Lake {
    async fn write(&self, dir: &Path) {
        let bronze = write(dir, "bronze/messages", vec![("partition_id", ints([Some(0)]))], vec![], vec![]).await;
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
                ("device_id", texts(q.iter().map(|row| Some(row.1)))),
                ("metric", texts(q.iter().map(|row| row.2))),
                ("raw", Arc::new(q.iter().map(|row| Some(row.3.as_slice())).collect::<BinaryArray>())),
                ("replayed_at", times(q.iter().map(|_| None))),
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
                ("gateway_id", texts(g.iter().map(|_| Some("gw")))),
                ("epoch", texts(g.iter().map(|_| Some("00e1")))),
                ("kind", texts(g.iter().map(|gap| Some(gap.0)))),
                ("from_seq", ints(g.iter().map(|gap| Some(gap.1)))),
                ("to_seq", ints(g.iter().map(|gap| Some(gap.2)))),
                ("reason", texts(g.iter().map(|_| Some("dropped")))),
                ("readings", map_of(&g.iter().map(|gap| gap.3).collect::<Vec<_>>())),
            ],
            vec![],
            vec![],
        )
        .await;
        let Some(off) = self.gold else { return };
        let one = |number: i64| ints([Some(number)]);
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
            [readings, quarantine, gaps].map(|source| (format!("gold.gateway_health<-{source}"), 0)).to_vec(),
        )
        .await;
    }
}

/// Writes the lake and the ledger, verifies, and compares what is broken. `unacked` sends are in the ledger alone.
async fn verified(lake: &Lake, sends: &[Draft], unacked: &[Draft], held: Option<i64>) -> Report {
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
    let options = Options { lake: root.display().to_string(), ledgers: vec![path], held, ..Options::default() };
    verify(&options).await.expect("a readable lake")
}

async fn check(change: impl FnOnce(&mut Lake, &mut Vec<Draft>), broken: &[&str]) -> Report {
    let (mut lake, mut sends) = sound();
    change(&mut lake, &mut sends);
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), broken, "{report}");
    assert_eq!(report.holds, broken.is_empty());
    report
}

#[tokio::test]
async fn a_sound_lake_is_proved_and_every_send_is_one_row() {
    let report = check(|lake, _| lake.gold = Some(0), &[]).await;
    assert_eq!(report.gold, Gold::Same);
    let books = report.ledger.as_ref().expect("a ledger was given");
    assert_eq!((books.sends, books.values, books.readings, books.quarantined), (3, 3, 2, 1));
    assert_eq!(report.books.as_ref().map(|books| (books.decoded, books.duplicates)), Some((4, 1)));
    assert!(report.to_string().ends_with("The proof holds.\n"), "{report}");
    assert!(serde_json::to_string(&report).expect("plain data").contains(r#""holds":true"#));
}

#[tokio::test]
async fn a_missing_seq_is_seen() {
    let report = check(|lake, _| lake.gaps[0].2 = 5, &["missing"]).await;
    assert_eq!((report.missing, report.epochs[0].missing_seqs.as_str()), (2, "4-5"));
}

#[tokio::test]
async fn a_repeated_id_is_seen() {
    check(|lake, _| lake.readings.push((2, "b", "t", 9, 1.0)), &["duplicate-id"]).await;
    check(|lake, _| lake.readings.push((3, "b", "t", 9, 1.0)), &["not-disjoint"]).await;
}

#[tokio::test]
async fn a_value_that_differs_is_seen() {
    check(|lake, _| lake.readings[1].4 = 22.500_001, &["value-differs"]).await;
    check(|_, sends| sends[0].time = Timestamp::from_micros(TIME + 1), &["time-differs"]).await;
    check(|_, sends| sends[0].expect[0].unit = Some("Cel".into()), &["unit-differs"]).await;
    check(|_, sends| sends[0].expect[0].value = Some(json!("21.5")), &["value-differs"]).await;
}

#[tokio::test]
async fn a_lost_database_is_named() {
    let report = check(|lake, _| lake.gaps = vec![("unknown-loss", 1, 40, 0)], &["unknown-loss"]).await;
    assert_eq!((report.missing, report.epochs[0].state.as_str()), (37, "lost"));
}

#[tokio::test]
async fn what_was_given_up_and_came_all_the_same_is_counted_and_breaks_nothing() {
    let late = |lake: &mut Lake| lake.gaps.push(("given-up", 2, 2, 1));
    check(|lake, _| late(lake), &["books"]).await;
    let report = check(
        |lake, _| {
            late(lake);
            lake.gap_arrived = 1;
        },
        &[],
    )
    .await;
    assert_eq!((report.epochs[0].given_up, report.epochs[0].gap_arrived), (1, 1));
}

#[tokio::test]
async fn what_the_gateway_gave_up_is_not_held_against_the_lake() {
    let drop_second = |lake: &mut Lake| {
        lake.readings.pop();
        lake.gaps.push(("given-up", 2, 2, 1));
    };
    let report = check(|lake, _| drop_second(lake), &[]).await;
    assert_eq!(report.ledger.map(|books| (books.given_up, books.not_in_lake)), Some((1, 0)));
    // One was given up, two are gone: one of them without a word.
    check(
        |lake, sends| {
            drop_second(lake);
            sends.push(send("a", 4, 1.0, Fate::Reading));
        },
        &["not-in-lake"],
    )
    .await;
}

#[tokio::test]
async fn the_ledger_and_the_lake_are_one_to_one() {
    check(|_, sends| drop(sends.remove(0)), &["not-in-ledger"]).await;
    check(|_, sends| drop(sends.remove(2)), &["not-in-ledger"]).await;
    check(|_, sends| sends.push(send("a", 4, 1.0, Fate::Reading)), &["not-in-lake"]).await;
    check(
        |lake, _| {
            lake.readings.push((4, "a", "t", 2, 22.5));
            lake.gaps[0].2 = 4;
        },
        &["twice-in-lake"],
    )
    .await;
    check(|_, sends| sends[0].expect[0].fate = Fate::Quarantine, &["fate-differs"]).await;
    check(|_, sends| sends[2].expect[0].fate = Fate::Reading, &["fate-differs"]).await;
    check(|_, sends| sends.iter_mut().for_each(|send| send.expect[0].fate = Fate::Either), &[]).await;
}

#[tokio::test]
async fn rows_of_other_devices_are_nobody_s_business() {
    let report = check(
        |lake, _| {
            lake.readings.push((4, "stranger", "t", 2, 22.5));
            lake.gaps[0].2 = 4;
        },
        &[],
    )
    .await;
    assert_eq!(report.ledger.map(|books| books.other_rows), Some(1));
}

#[tokio::test]
async fn a_send_without_puback_may_have_arrived_or_not() {
    let (lake, sends) = sound();
    let report = verified(&lake, &sends[..2], &[sends[2].clone(), send("a", 4, 1.0, Fate::Reading)], None).await;
    assert!(report.holds, "{report}");
    assert_eq!(report.ledger.map(|books| books.never_promised), Some(1));
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_known_by_its_bytes() {
    let torn = br#"{"ts":1790000000000000,"n":3,"t""#;
    let garbled = |sends: &mut Vec<Draft>| {
        sends[2].payload = torn.to_vec();
        sends[2].expect = vec![Expect { metric: None, value: None, unit: None, fate: Fate::Quarantine }];
    };
    let keyless = (3, "a", None, torn.to_vec());
    check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![keyless.clone()];
        },
        &[],
    )
    .await;
    // Sent again after a lost PUBACK it cannot be recognised: counted, not broken.
    let report = check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![keyless.clone(), (4, "a", None, torn.to_vec())];
            lake.gaps[0].2 = 4;
        },
        &[],
    )
    .await;
    assert_eq!(report.ledger.map(|books| books.keyless_repeats), Some(1));
    check(
        |lake, sends| {
            garbled(sends);
            lake.refusals = vec![(3, "a", None, b"other".to_vec())];
        },
        &["not-in-lake", "not-in-ledger"],
    )
    .await;
}

#[tokio::test]
async fn books_that_do_not_balance_are_seen() {
    check(|lake, _| lake.decoded_too_many = 1, &["books"]).await;
}

#[tokio::test]
async fn gold_must_say_the_same() {
    let report = check(|lake, _| lake.gold = Some(1), &["gold-differs"]).await;
    assert_eq!(report.gold, Gold::Differs);
}

#[tokio::test]
async fn an_interrupted_hop_is_seen() {
    check(|lake, _| lake.done = (5, 4), &["hop-interrupted"]).await;
}

#[tokio::test]
async fn what_is_outstanding_must_be_held() {
    let (mut lake, sends) = sound();
    lake.gaps.clear();
    lake.high = 7;
    let report = verified(&lake, &sends, &[], Some(4)).await;
    assert!(report.holds, "{report}");
    assert_eq!((report.outstanding, report.missing), (4, 0));
    let report = verified(&lake, &sends, &[], Some(3)).await;
    assert_eq!(report.problems.kinds(), ["held-differs"]);
    // Named by an Envelope of which nothing was new.
    lake.named = 9;
    assert_eq!(verified(&lake, &sends, &[], Some(6)).await.outstanding, 6);
}

#[tokio::test]
async fn a_lake_that_cannot_be_read_is_no_proof() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |lake: String| Options { lake, ..Options::default() };
    let empty = verify(&at(dir.path().display().to_string())).await;
    assert!(matches!(empty, Err(VerifyError::Empty { .. })), "{empty:?}");
    let odd = verify(&at("/tmp/100%25/lake".into())).await.expect_err("a percent sign");
    assert!(odd.to_string().contains('%'), "{odd}");
    assert!(matches!(verify(&at("/no/such/lake".into())).await, Err(VerifyError::Place { .. })));
}

#[tokio::test]
async fn two_ledgers_may_name_the_same_numbers() {
    // A device began anew with its numbers, in a ledger of its own: the times tell them apart.
    let (mut lake, mut sends) = sound();
    let later = Draft { time: Timestamp::from_micros(TIME + 5), ..send("a", 1, 30.0, Fate::Reading) };
    sends.insert(0, later.clone());
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), ["not-in-lake"], "{report}");
    sends[0].time = Timestamp::from_micros(TIME);
    lake.readings.push((4, "a", "t", 1, 21.5));
    lake.gaps[0].2 = 4;
    let report = verified(&lake, &sends, &[], None).await;
    assert_eq!(report.problems.kinds(), ["value-differs"], "{report}");
    let report = verified(&sound().0, &sends[1..], &[later], None).await;
    assert!(report.holds, "{report}");
}
