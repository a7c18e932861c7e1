//! Windows of every kind, users' models, watermarks: and that none of it depends on how rows came.

use std::time::Duration;

use expect_test::expect;
use serde_json::json;
use shared::clock::{Clock, VirtualClock};
use shared::time::Timestamp;

use super::kit::{EPOCH, Kit, NOW, SECOND, envelope, event};
use crate::hop::{Hops, Settings};
use crate::lake::{Kind, Table, TableCommit, Txn};

const SLIDING: &str = "-- target = \"gold.sliding\"
-- mode = \"window\"
-- keys = [\"metric\"]
-- [window]
-- kind = \"sliding\"
-- size = \"2m\"
-- slide = \"1m\"
select metric, window_start, window_end, count(*) as readings, sum(value) as total
from windowed group by metric, window_start, window_end
";

const SESSION: &str = "-- target = \"gold.sessions\"
-- mode = \"window\"
-- keys = [\"device_id\", \"metric\"]
-- [window]
-- kind = \"session\"
-- gap = \"30s\"
select device_id, metric, window_start, window_end, count(*) as readings
from windowed group by device_id, metric, window_start, window_end
";

const BERLIN: &str = "-- target = \"gold.berlin\"
-- mode = \"window\"
-- keys = [\"metric\"]
-- [window]
-- kind = \"tumbling\"
-- size = \"1d\"
-- timezone = \"Europe/Berlin\"
select metric, window_start, window_end, count(*) as readings
from windowed group by metric, window_start, window_end
";

const HOT: &str = "-- target = \"gold.hot\"
-- mode = \"append\"
select reading_id, event_time, value from readings where 2 < value
";

const NEWEST: &str = "-- target = \"gold.newest\"
-- mode = \"latest\"
-- keys = [\"device_id\"]
select device_id, event_time, max(value) as value from readings group by device_id, event_time
";

const ALL: &str = "-- target = \"gold.counts\"
-- mode = \"full\"
select metric, count(*) as readings, max(site) as site from readings group by metric
";

const FINAL: &str = "-- target = \"gold.closed\"
-- mode = \"window\"
-- keys = [\"metric\"]
-- refresh = \"final\"
-- [window]
-- kind = \"tumbling\"
-- size = \"1m\"
select metric, window_start, window_end, count(*) as readings
from windowed group by metric, window_start, window_end
";

const MODELS: [(&str, &str); 6] = [
    ("sliding.sql", SLIDING),
    ("sessions.sql", SESSION),
    ("berlin.sql", BERLIN),
    ("hot.sql", HOT),
    ("newest.sql", NEWEST),
    ("counts.sql", ALL),
];

async fn shown(kit: &Kit) -> Vec<String> {
    let mut all = vec![];
    for sql in [
        "select * from gold.sliding order by metric, window_start",
        "select * from gold.sessions order by device_id, metric, window_start",
        "select * from gold.berlin order by metric, window_start",
        "select * from gold.hot order by reading_id",
        "select * from gold.newest order by device_id",
        "select * from gold.counts order by metric",
    ] {
        all.push(kit.ask(sql).await);
    }
    all
}

/// Readings some of which join sessions, come late, or lie on a day on which clocks are set.
const TIMES: [i64; 12] = [0, 100, 20, 60, 45, 200, 110, 130, -2_501_000, -2_500_990, 75, 90];

fn body(at: usize) -> serde_json::Value {
    let seq = i64::try_from(at).expect("few") + 1;
    envelope(seq, &[(seq, if at.is_multiple_of(2) { "t" } else { "p" }, 1.0 + seq as f64 / 4.0, TIMES[at])])
}

#[tokio::test]
async fn users_models_give_the_same_however_rows_come_and_after_a_full_refresh() {
    let (whole, settings) = Kit::with_models(&MODELS).await;
    let events: Vec<_> = (0..TIMES.len()).map(|at| event(at as i64 + 1, "g", &body(at))).collect();
    whole.store(&events).await;
    let mut hops = whole.hops_with(settings).await.expect("takes over");
    whole.settle(&mut hops).await;
    let expected = shown(&whole).await;

    let (pieces, settings) = Kit::with_models(&MODELS).await;
    let mut hops = pieces.hops_with(settings.clone()).await.expect("takes over");
    for at in 0..TIMES.len() {
        pieces.store(&[event(at as i64 + 1, "g", &body(at))]).await;
        pieces.settle(&mut hops).await;
        if at == 5 {
            drop(hops);
            hops = pieces.hops_with(settings.clone()).await.expect("takes over");
        }
    }
    assert_eq!(shown(&pieces).await, expected);
    for name in ["sliding", "sessions", "berlin", "hot", "newest", "counts"] {
        let table = pieces.lake.named(&format!("gold.{name}")).expect("a table");
        hops.full_refresh(table).await.expect("refreshes");
        assert_eq!(shown(&pieces).await, expected, "{name}");
    }
    expect![[r#"
        +--------+----------------------+----------------------+----------+-------+-------------+
        | metric | window_start         | window_end           | readings | total | window_date |
        +--------+----------------------+----------------------+----------+-------+-------------+
        | p      | 2026-10-25T11:15:00Z | 2026-10-25T11:17:00Z | 1        | 3.5   | 2026-10-25  |
        | p      | 2026-10-25T11:16:00Z | 2026-10-25T11:18:00Z | 1        | 3.5   | 2026-10-25  |
        | p      | 2026-11-23T10:00:00Z | 2026-11-23T10:02:00Z | 3        | 7.5   | 2026-11-23  |
        | p      | 2026-11-23T10:01:00Z | 2026-11-23T10:03:00Z | 4        | 10.5  | 2026-11-23  |
        | p      | 2026-11-23T10:02:00Z | 2026-11-23T10:04:00Z | 2        | 5.5   | 2026-11-23  |
        | p      | 2026-11-23T10:03:00Z | 2026-11-23T10:05:00Z | 1        | 2.5   | 2026-11-23  |
        | t      | 2026-10-25T11:15:00Z | 2026-10-25T11:17:00Z | 1        | 3.25  | 2026-10-25  |
        | t      | 2026-10-25T11:16:00Z | 2026-10-25T11:18:00Z | 1        | 3.25  | 2026-10-25  |
        | t      | 2026-11-23T09:59:00Z | 2026-11-23T10:01:00Z | 3        | 5.25  | 2026-11-23  |
        | t      | 2026-11-23T10:00:00Z | 2026-11-23T10:02:00Z | 5        | 11.75 | 2026-11-23  |
        | t      | 2026-11-23T10:01:00Z | 2026-11-23T10:03:00Z | 2        | 6.5   | 2026-11-23  |
        +--------+----------------------+----------------------+----------+-------+-------------+
        +-----------+--------+----------------------+----------------------+----------+-------------+
        | device_id | metric | window_start         | window_end           | readings | window_date |
        +-----------+--------+----------------------+----------------------+----------+-------------+
        | d         | p      | 2026-10-25T11:16:50Z | 2026-10-25T11:17:20Z | 1        | 2026-10-25  |
        | d         | p      | 2026-11-23T10:01:00Z | 2026-11-23T10:01:30Z | 1        | 2026-11-23  |
        | d         | p      | 2026-11-23T10:01:30Z | 2026-11-23T10:02:10Z | 2        | 2026-11-23  |
        | d         | p      | 2026-11-23T10:02:10Z | 2026-11-23T10:02:40Z | 1        | 2026-11-23  |
        | d         | p      | 2026-11-23T10:03:20Z | 2026-11-23T10:03:50Z | 1        | 2026-11-23  |
        | d         | t      | 2026-10-25T11:16:40Z | 2026-10-25T11:17:10Z | 1        | 2026-10-25  |
        | d         | t      | 2026-11-23T10:00:00Z | 2026-11-23T10:01:15Z | 3        | 2026-11-23  |
        | d         | t      | 2026-11-23T10:01:15Z | 2026-11-23T10:01:45Z | 1        | 2026-11-23  |
        | d         | t      | 2026-11-23T10:01:50Z | 2026-11-23T10:02:20Z | 1        | 2026-11-23  |
        +-----------+--------+----------------------+----------------------+----------+-------------+
        +--------+----------------------+----------------------+----------+-------------+
        | metric | window_start         | window_end           | readings | window_date |
        +--------+----------------------+----------------------+----------+-------------+
        | p      | 2026-10-24T22:00:00Z | 2026-10-25T23:00:00Z | 1        | 2026-10-25  |
        | p      | 2026-11-22T23:00:00Z | 2026-11-23T23:00:00Z | 5        | 2026-11-23  |
        | t      | 2026-10-24T22:00:00Z | 2026-10-25T23:00:00Z | 1        | 2026-10-25  |
        | t      | 2026-11-22T23:00:00Z | 2026-11-23T23:00:00Z | 5        | 2026-11-23  |
        +--------+----------------------+----------------------+----------+-------------+"#]]
    .assert_eq(&expected[..3].join("\n"));
}

#[tokio::test]
async fn a_window_that_waits_is_there_once_it_is_final_and_late_rows_change_it() {
    let (kit, settings) = Kit::with_models(&[("closed.sql", FINAL)]).await;
    let clock = VirtualClock::at(Timestamp::from_micros(NOW));
    let settings = Settings { clock: Clock::Virtual(clock.clone()), ..settings };
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    let windows = "select window_start, readings from gold.closed order by window_start";
    let one = |seq: i64, at: i64| event(seq, "g", &envelope(seq, &[(seq, "t", 1.0, at)]));
    kit.store(&[one(1, 0), one(2, 30)]).await;
    kit.settle(&mut hops).await;
    assert!(!kit.ask(windows).await.contains('Z'), "nothing is final");
    // An Event of twelve minutes later, enqueued as late; the tests' Events are enqueued a second apart.
    let mut later = one(3, 720);
    later.enqueued = NOW + 720 * SECOND;
    kit.store(&[later]).await;
    clock.advance(Duration::from_secs(720));
    kit.settle(&mut hops).await;
    let first = kit.ask(windows).await;
    assert!(first.contains("| 2026-11-23T10:00:00Z | 2        |") && first.lines().count() == 5, "{first}");
    // A late row for a final window.
    kit.store(&[one(4, 40)]).await;
    kit.settle(&mut hops).await;
    let late = kit.ask(windows).await;
    assert!(late.contains("| 2026-11-23T10:00:00Z | 3        |") && late.lines().count() == 5, "{late}");
    // Nothing comes any more: the clock makes the rest final.
    clock.advance(Duration::from_secs(900));
    kit.settle(&mut hops).await;
    let rest = kit.ask(windows).await;
    assert!(rest.contains("| 2026-11-23T10:12:00Z | 1        |") && rest.lines().count() == 6, "{rest}");
    let table = kit.lake.named("gold.closed").expect("a table");
    hops.full_refresh(table).await.expect("refreshes");
    assert_eq!(kit.ask(windows).await, rest);
    let marks = kit.ask("select hub, partition_id, watermark from gold.watermarks order by hub nulls last").await;
    expect![[r#"
        +-----+--------------+----------------------+
        | hub | partition_id | watermark            |
        +-----+--------------+----------------------+
        | hub | 0            | 2026-11-23T10:26:00Z |
        |     |              | 2026-11-23T10:16:00Z |
        +-----+--------------+----------------------+"#]]
    .assert_eq(&marks);
    hops.full_refresh(Table::GoldWatermarks).await.expect("refreshes");
    assert_eq!(
        kit.ask("select hub, partition_id, watermark from gold.watermarks order by hub nulls last").await,
        marks
    );
}

#[tokio::test]
async fn a_model_that_fails_stops_no_other_and_is_named() {
    let broken = HOT.replace("gold.hot", "gold.broken").replace("value from", "cast(metric as double) as value from");
    let (kit, settings) = Kit::with_models(&[("broken.sql", &broken), ("hot.sql", HOT)]).await;
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(1, &[(1, "t", 3.0, 0)]))]).await;
    let report = hops.round().await.expect("a round");
    assert_eq!(report.ailing.iter().map(|(table, _)| table.full_name()).collect::<Vec<_>>(), ["gold.broken"]);
    assert!(kit.lake.troubles().contains_key("gold.broken"));
    assert!(kit.ask("select count(*) as n from gold.hot").await.contains("| 1 |"));
    assert!(kit.ask("select count(*) as n from gold.metric_1m").await.contains("| 1 |"));
}

#[tokio::test]
async fn a_model_whose_table_has_other_columns_is_left_out() {
    let (kit, settings) = Kit::with_models(&[("hot.sql", HOT)]).await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("hot.sql"), HOT.replace("value from", "value, unit from")).expect("a file");
    let location = kit.lake.location().clone();
    let (lake, own) = crate::gold::models::open(location, Some(folder.path())).await.expect("a lake");
    lake.create_tables().await.expect("tables");
    assert!(lake.troubles()["gold.hot"].contains("has no column `unit`"), "{:?}", lake.troubles());
    let lease = crate::lake::Lease::acquire(&lake, &crate::lake::Holder::this("test", None)).await.expect("free");
    let settings = Settings { own: own.models, ..settings };
    let mut hops = Hops::take_over(std::sync::Arc::new(lake), lease, settings).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(1, &[(1, "t", 3.0, 0)]))]).await;
    kit.settle(&mut hops).await;
    assert!(kit.ask("select count(*) as n from gold.metric_1m").await.contains("| 1 |"));
}

#[tokio::test]
async fn what_is_known_of_a_device_is_joined_in_as_of_the_readings_time() {
    let by_site = "-- target = \"gold.by_site\"
-- mode = \"window\"
-- keys = [\"site\"]
-- [window]
-- kind = \"tumbling\"
-- size = \"1h\"
select site, window_start, window_end, count(*) as readings
from windowed group by site, window_start, window_end
";
    let (kit, settings) = Kit::with_models(&[("by_site.sql", by_site)]).await;
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(2, &[(1, "t", 3.0, 0), (2, "t", 3.0, 60)]))]).await;
    kit.settle(&mut hops).await;
    let ask = "select site, readings from gold.by_site order by site nulls first";
    expect![[r#"
        +------+----------+
        | site | readings |
        +------+----------+
        |      | 2        |
        +------+----------+"#]]
    .assert_eq(&kit.ask(ask).await);
    catalogue(&kit, &[("north", 0, Some(30)), ("south", 30, None)]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +-------+----------+
        | site  | readings |
        +-------+----------+
        | north | 1        |
        | south | 1        |
        +-------+----------+"#]]
    .assert_eq(&kit.ask(ask).await);
    kit.store(&[event(2, "g", &envelope(3, &[(3, "t", 3.0, 90)]))]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +-------+----------+
        | site  | readings |
        +-------+----------+
        | north | 1        |
        | south | 2        |
        +-------+----------+"#]]
    .assert_eq(&kit.ask(ask).await);
    expect![[r#"
        +-----------+----------+----------+----------+----------------------+--------------------+
        | device_id | expected | received | rejected | availability         | lateness_p95_s     |
        +-----------+----------+----------+----------+----------------------+--------------------+
        | d         | 2880.0   | 3        | 0        | 0.001388888888888889 | -5.000059999999998 |
        +-----------+----------+----------+----------+----------------------+--------------------+"#]]
    .assert_eq(
        &kit.ask(
            "select device_id, expected, received, rejected, availability, lateness_p95_s from gold.device_health",
        )
        .await,
    );
}

/// What is known of device `d` of gateway `g`: site, since and until when, in seconds after [`NOW`].
async fn catalogue(kit: &Kit, rows: &[(&str, i64, Option<i64>)]) {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
    let text = |value: Option<&str>| -> ArrayRef { Arc::new(StringArray::from(vec![value; rows.len()])) };
    let time = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
    };
    let columns = vec![
        text(Some("g")),
        text(Some("d")),
        text(None),
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()) as ArrayRef,
        text(None),
        text(None),
        Arc::new(Float64Array::from(vec![Some(30.0); rows.len()])),
        time(rows.iter().map(|row| Some(NOW + row.1 * SECOND)).collect()),
        time(rows.iter().map(|row| row.2.map(|until| NOW + until * SECOND)).collect()),
    ];
    let batch = RecordBatch::try_new(Table::SilverDevices.schema(), columns).expect("as the table");
    let commit = TableCommit {
        table: Table::SilverDevices,
        kind: Kind::Append,
        batches: vec![batch],
        txns: vec![Txn { app: "catalogue".to_owned(), expected: None, version: 1 }],
        metadata: vec![],
    };
    kit.lake.commit(commit, None).await.expect("commits");
}

#[tokio::test]
async fn what_was_refused_counts_in_device_health() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let mut body = envelope(3, &[(1, "t", 1.0, 0), (2, "t", 1.0, 10)]);
    body["rejected"] = json!([{"s": 3, "d": "d", "m": "t", "topic": "x", "reasons": ["range"], "raw": "", "raw_len": 0, "raw_sha256": ""}]);
    body["epoch"] = json!(EPOCH);
    kit.store(&[event(20, "g", &body)]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +-----------+----------+----------+----------+-----------------------+----------------+
        | device_id | expected | received | rejected | availability          | lateness_p95_s |
        +-----------+----------+----------+----------+-----------------------+----------------+
        | d         | 8640.0   | 2        | 1        | 0.0006944444444444445 | 19.5           |
        +-----------+----------+----------+----------+-----------------------+----------------+"#]]
    .assert_eq(
        &kit.ask(
            "select device_id, expected, received, rejected, availability, lateness_p95_s from gold.device_health",
        )
        .await,
    );
}
