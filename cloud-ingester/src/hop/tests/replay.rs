//! Refusals taken up again: through bronze, once, whatever happens in between.

use std::time::Duration;

use expect_test::expect;
use serde_json::{Value as Json, json};
use shared::reading::Value;
use shared::rules::{Rule, TimeWindow};

use super::kit::{EPOCH, Kit, NOW, SECOND, Stored, envelope, event, raw};
use crate::hop::replay::{ReplayReport, ReplayRequest};
use crate::hop::{HopError, Hops, Settings};
use crate::lake::Table;
use crate::silver::quarantined::Filter;
use crate::silver::repair::Fix;
use crate::silver::{Mapping, Totals};

/// An Envelope with a reading, one that is too old, and two refusals of the gateway: 1, 2, 3 and 4.
fn gateway(sequence: i64) -> Stored {
    use base64::Engine as _;
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut body = envelope(4, &[(1, "t", 1.5, 0)]);
    let old = json!({"s": 2, "d": "d", "m": "t", "v": 2.5, "t": NOW - 500 * 86_400 * SECOND, "n": 7});
    body["readings"].as_array_mut().expect("readings").push(old);
    let hot = json!({"ts": NOW, "n": 8, "t": {"v": 900, "u": "Cel"}, "p": 1}).to_string();
    body["rejected"] = json!([
        {"s": 3, "d": "d", "m": "t", "topic": "telemetry/d", "reasons": ["range: 900 > 150"], "raw": base64(&hot), "raw_len": hot.len()},
        {"s": 4, "d": "d", "topic": "telemetry/d", "reasons": ["payload: broken"], "raw": base64("{\"t\":"), "raw_len": 5},
    ]);
    event(sequence, "g", &body)
}

/// A message of a direct device with a value that no number can hold.
fn direct(sequence: i64) -> Stored {
    raw(sequence, "pi", br#"{"ts":"2026-11-23T10:00:00Z","n":9,"t":1e999,"h":50}"#.to_vec())
}

/// Silver's rules.
fn strict() -> Settings {
    let rule = Rule { metric: Some("h".into()), max: Some(40.0), ..Rule::default() };
    Settings { rules: vec![rule], ..Kit::settings() }
}

fn of(id: &str, fix: Fix) -> ReplayRequest {
    ReplayRequest { filter: Filter { id: vec![id.to_owned()], ..Filter::default() }, fix, apply: true }
}

fn value(value: f64) -> Fix {
    Fix { value: Some(Value::Number(value)), ..Fix::default() }
}

async fn silver(kit: &Kit) -> (String, String, String) {
    let readings = "select reading_id, device_id, metric, value, unit, event_time, source_seq, hub \
                    from silver.readings order by reading_id";
    let refused = "select id, replayed_at is not null as replayed from silver.quarantine order by id";
    let health = "select gateway_id, last, arrived, quarantined, outstanding, missing from gold.gateway_health";
    (kit.ask(readings).await, kit.ask(refused).await, kit.ask(health).await)
}

/// Decoded is what is in the tables, and duplicates.
async fn balanced(kit: &Kit, totals: Totals) {
    let rows = async |table| kit.lake.view(table).await.expect("a view").rows();
    let stored = rows(Table::SilverReadings).await + rows(Table::SilverQuarantine).await;
    assert_eq!(totals.decoded, stored + totals.duplicates, "{totals:?}");
}

/// A full refresh gives the same tables: nothing but bronze was needed to make them.
async fn same_anew(kit: &Kit, hops: &mut Hops) {
    kit.settle(hops).await;
    let before = (kit.everything().await, hops.totals());
    hops.full_refresh(Table::SilverReadings).await.expect("refreshes");
    kit.settle(hops).await;
    assert_eq!((kit.everything().await, hops.totals()), before);
    balanced(kit, hops.totals()).await;
}

fn told(report: &ReplayReport) -> String {
    report.to_string()
}

#[tokio::test]
async fn a_repaired_refusal_is_a_reading_under_its_old_id() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(strict()).await.expect("takes over");
    kit.store(&[gateway(1), direct(2), raw(3, "g", b"broken".to_vec())]).await;
    kit.settle(&mut hops).await;
    let three = format!("g/{EPOCH}/3");

    // First what would be done, and nothing is.
    let versions = kit.versions().await;
    let everything = ReplayRequest::default();
    expect![[r#"
        g/00000000000000aa/2  was refused: age: 2025-07-11T10:00:00Z is more than 34560000 s before 2026-11-23T10:00:01Z
            stays: age: 2025-07-11T10:00:00Z is more than 34560000 s before 2026-11-23T10:00:01Z
        g/00000000000000aa/3  was refused: range: 900 > 150
            stays: edge: no [[silver.rule]] fits what the gateway refused; say --as-is, or what it should have been
        g/00000000000000aa/4  was refused: payload: broken
            stays: payload: not a JSON object (EOF while parsing a value at line 1 column 5); metric: none is told; say --set metric=…
        1000/0/2/0  was refused: type: no number that a double can hold: 1e999
            stays: type: no number that a double can hold: 1e999
        1000/0/2/1  was refused: range: 50 > 40
            stays: range: 50 > 40
        1000/0/3/0  was refused: undecodable: payload: not a JSON object (expected value at line 1 column 1)
            stays: undecodable: payload: not a JSON object (expected value at line 1 column 1)
        0 of 6 refusals would be taken up again: 0 readings. Nothing was done; say --apply"#]].assert_eq(&told(&hops.replay(&everything).await.expect("a report")));
    assert_eq!(kit.versions().await, versions);

    let by_ten = Fix { factor: Some(0.1), ..Fix::default() };
    hops.replay(&of(&three, by_ten)).await.expect("replays");
    hops.replay(&of("1000/0/2/0", value(20.5))).await.expect("replays");
    hops.replay(&of("1000/0/2/1", Fix { factor: Some(0.5), ..Fix::default() })).await.expect("replays");
    let payload = json!({"ts": NOW, "n": 11, "t": 5, "door": true, "state": "idle"}).to_string();
    use base64::Engine as _;
    let payload = base64::engine::general_purpose::STANDARD.encode(payload);
    hops.replay(&of(&format!("g/{EPOCH}/4"), Fix { payload: Some(payload), ..Fix::default() })).await.expect("replays");
    let (readings, refused, health) = silver(&kit).await;
    expect![[r#"
        +------------------------+-----------+--------+-------+------+----------------------+------------+--------+
        | reading_id             | device_id | metric | value | unit | event_time           | source_seq | hub    |
        +------------------------+-----------+--------+-------+------+----------------------+------------+--------+
        | 1000/0/2/0             | pi        | t      | 20.5  |      | 2026-11-23T10:00:00Z | 9          | replay |
        | 1000/0/2/1             | pi        | h      | 25.0  |      | 2026-11-23T10:00:00Z | 9          | replay |
        | g/00000000000000aa/1   | d         | t      | 1.5   |      | 2026-11-23T10:00:00Z |            | hub    |
        | g/00000000000000aa/3   | d         | t      | 90.0  | Cel  | 2026-11-23T10:00:00Z | 8          | replay |
        | g/00000000000000aa/4   | d         | door   | 1.0   |      | 2026-11-23T10:00:00Z | 11         | replay |
        | g/00000000000000aa/4.2 | d         | state  |       |      | 2026-11-23T10:00:00Z | 11         | replay |
        | g/00000000000000aa/4.3 | d         | t      | 5.0   |      | 2026-11-23T10:00:00Z | 11         | replay |
        +------------------------+-----------+--------+-------+------+----------------------+------------+--------+"#]]
    .assert_eq(&readings);
    expect![[r#"
        +----------------------+----------+
        | id                   | replayed |
        +----------------------+----------+
        | 1000/0/2/0           | true     |
        | 1000/0/2/1           | true     |
        | 1000/0/3/0           | false    |
        | g/00000000000000aa/2 | false    |
        | g/00000000000000aa/3 | true     |
        | g/00000000000000aa/4 | true     |
        +----------------------+----------+"#]]
    .assert_eq(&refused);
    expect![[r#"
        +------------+------+---------+-------------+-------------+---------+
        | gateway_id | last | arrived | quarantined | outstanding | missing |
        +------------+------+---------+-------------+-------------+---------+
        | g          | 4    | 3       | 1           | 0           | 0       |
        +------------+------+---------+-------------+-------------+---------+"#]]
    .assert_eq(&health);
    balanced(&kit, hops.totals()).await;
    same_anew(&kit, &mut hops).await;

    // Once is enough, and the next holder knows as much.
    drop(hops);
    let mut hops = kit.hops_with(strict()).await.expect("takes over");
    let again = hops.replay(&of(&three, value(1.0))).await.expect("a report");
    assert_eq!(again.found, 0);
    // The gateway may well send it once more.
    kit.store(&[gateway(9)]).await;
    kit.settle(&mut hops).await;
    assert_eq!(silver(&kit).await, (readings, refused, health));
    same_anew(&kit, &mut hops).await;
}

#[tokio::test]
async fn by_the_rules_of_now_a_refusal_needs_no_repair() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(strict()).await.expect("takes over");
    kit.store(&[gateway(1), direct(2), raw(3, "pi", br#"{"data":[{"k":"x","v":1},{"k":"y","v":"z"}]}"#.to_vec())])
        .await;
    kit.settle(&mut hops).await;
    drop(hops);
    let mapping = Mapping {
        device: "pi".into(),
        messages: "/data".into(),
        metric: "/k".into(),
        value: "/v".into(),
        ..Mapping::default()
    };
    let window = TimeWindow { max_age: Duration::from_secs(1_000 * 86_400), ..TimeWindow::SILVER };
    let settings = Settings { window, mappings: vec![mapping], ..Kit::settings() };
    let mut hops = kit.hops_with(settings.clone()).await.expect("takes over");
    let untouched = hops.replay(&ReplayRequest { apply: true, ..ReplayRequest::default() }).await.expect("replays");
    assert_eq!(untouched.replayed, 1, "what only a gateway's rules refused needs a word: {untouched}");
    let as_is = Fix { as_is: true, ..Fix::default() };
    let request = ReplayRequest { fix: as_is, apply: true, ..ReplayRequest::default() };
    let report = hops.replay(&request).await.expect("replays");
    expect![[r#"
        g/00000000000000aa/3  was refused: range: 900 > 150
            -> d t = 900 Cel at 2026-11-23T10:00:00Z
        g/00000000000000aa/4  was refused: payload: broken
            stays: payload: not a JSON object (EOF while parsing a value at line 1 column 5); metric: none is told; say --set metric=…
        1000/0/2/0  was refused: type: no number that a double can hold: 1e999
            stays: mapping: the message holds no such metric by the mappings of now
        1000/0/2/1  was refused: range: 50 > 40
            stays: mapping: the message holds no such metric by the mappings of now
        1000/0/3/0  was refused: type: neither number, boolean nor text
            stays: mapping: the message holds no such metric by the mappings of now
        1 of 5 refusals were taken up again: 1 readings"#]].assert_eq(&told(&report));
    let (readings, refused, _) = silver(&kit).await;
    expect![[r#"
        +----------------------+-----------+--------+-------+------+----------------------+------------+--------+
        | reading_id           | device_id | metric | value | unit | event_time           | source_seq | hub    |
        +----------------------+-----------+--------+-------+------+----------------------+------------+--------+
        | g/00000000000000aa/1 | d         | t      | 1.5   |      | 2026-11-23T10:00:00Z |            | hub    |
        | g/00000000000000aa/2 | d         | t      | 2.5   |      | 2025-07-11T10:00:00Z | 7          | replay |
        | g/00000000000000aa/3 | d         | t      | 900.0 | Cel  | 2026-11-23T10:00:00Z | 8          | replay |
        +----------------------+-----------+--------+-------+------+----------------------+------------+--------+"#]]
    .assert_eq(&readings);
    expect![[r#"
        +----------------------+----------+
        | id                   | replayed |
        +----------------------+----------+
        | 1000/0/2/0           | false    |
        | 1000/0/2/1           | false    |
        | 1000/0/3/0           | false    |
        | g/00000000000000aa/2 | true     |
        | g/00000000000000aa/3 | true     |
        | g/00000000000000aa/4 | false    |
        +----------------------+----------+"#]]
    .assert_eq(&refused);
    balanced(&kit, hops.totals()).await;
}

#[tokio::test]
async fn an_event_refused_as_a_whole_comes_back_with_its_original_body() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let body = json!({"list": [{"t": 1, "ts": NOW}, {"t": 2, "ts": NOW}, {"t": [], "ts": NOW}]});
    kit.store(&[event(1, "pi", &json!({})), event(2, "pi", &body)]).await;
    kit.settle(&mut hops).await;
    drop(hops);
    let mapping = Mapping { device: "pi".into(), messages: "/list".into(), ..Mapping::default() };
    let mut hops = kit.hops_with(Settings { mappings: vec![mapping], ..Kit::settings() }).await.expect("takes over");
    let payload = |body: &Json| {
        use base64::Engine as _;
        Fix { payload: Some(base64::engine::general_purpose::STANDARD.encode(body.to_string())), ..Fix::default() }
    };
    let broken = hops.replay(&of("1000/0/1/0", Fix::default())).await.expect("a report");
    assert_eq!((broken.found, broken.replayed), (1, 0));
    let whole = hops.replay(&of("1000/0/1/0", payload(&body))).await.expect("replays");
    assert_eq!((whole.replayed, whole.readings), (1, 2), "{whole}");
    let (readings, refused, _) = silver(&kit).await;
    expect![[r#"
        +--------------+-----------+--------+-------+------+----------------------+------------+--------+
        | reading_id   | device_id | metric | value | unit | event_time           | source_seq | hub    |
        +--------------+-----------+--------+-------+------+----------------------+------------+--------+
        | 1000/0/1/0   | pi        | t      | 1.0   |      | 2026-11-23T10:00:00Z |            | replay |
        | 1000/0/1/0.2 | pi        | t      | 2.0   |      | 2026-11-23T10:00:00Z |            | replay |
        +--------------+-----------+--------+-------+------+----------------------+------------+--------+"#]]
    .assert_eq(&readings);
    expect![[r#"
        +--------------+----------+
        | id           | replayed |
        +--------------+----------+
        | 1000/0/1/0   | true     |
        | 1000/0/1/0.3 | false    |
        | 1000/0/2/0   | false    |
        +--------------+----------+"#]]
    .assert_eq(&refused);
    balanced(&kit, hops.totals()).await;
    let before = kit.everything().await;
    hops.full_refresh(Table::SilverReadings).await.expect("refreshes");
    kit.settle(&mut hops).await;
    // The second Event is read by the mapping of now, and what came of the first is as it was.
    let after = kit.everything().await;
    assert!(
        after[0]
            .lines()
            .filter(|line| line.contains("1000/0/1/0"))
            .eq(before[0].lines().filter(|line| line.contains("1000/0/1/0")))
    );
    balanced(&kit, hops.totals()).await;
}

#[tokio::test]
async fn a_time_that_nobody_could_read_is_repaired_by_saying_it() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    kit.store(&[raw(1, "pi", br#"{"ts":"yesterday","n":9,"t":{"v":21.5,"u":"Cel"},"on":true}"#.to_vec())]).await;
    kit.settle(&mut hops).await;
    let time = |time| Fix { time: Some(time), ..Fix::default() };
    let unsaid = hops.replay(&of("1000/0/1/0", Fix::default())).await.expect("a report");
    assert!(unsaid.to_string().contains("stays: time: neither"), "{unsaid}");
    for (id, expected) in [
        ("1000/0/1/0", "pi t = 21.5 Cel at 2026-11-23T09:59:50Z"),
        ("1000/0/1/1", "pi on = true  at 2026-11-23T09:59:50Z"),
    ] {
        let done = hops.replay(&of(id, time(NOW - 10 * SECOND))).await.expect("replays");
        assert_eq!((done.found, done.replayed), (1, 1), "{done}");
        assert!(done.to_string().contains(expected), "{done}");
    }
    balanced(&kit, hops.totals()).await;
    same_anew(&kit, &mut hops).await;

    // What waits under no id is said.
    let absent = hops.replay(&of("1000/0/1/0", time(NOW))).await.expect("a report");
    assert_eq!((absent.found, absent.absent.as_slice()), (0, &["1000/0/1/0".to_owned()][..]));
    assert!(absent.to_string().contains("nothing waits under this id"), "{absent}");
}

#[tokio::test]
async fn a_replay_that_ended_midway_takes_effect_once_by_the_rules_it_began_with() {
    for end in [Table::SilverQuarantine, Table::SilverReadings] {
        let kit = Kit::new().await;
        let mut hops = kit.hops_with(strict()).await.expect("takes over");
        kit.store(&[gateway(1), direct(2)]).await;
        kit.settle(&mut hops).await;
        hops.end_before = Some(end);
        let ended = hops.replay(&of(&format!("g/{EPOCH}/3"), value(90.0))).await;
        assert!(matches!(ended, Err(HopError::Ended)), "{ended:?}");
        drop(hops);
        // More came, and other rules are in force, by which the replay would be refused.
        kit.store(&[gateway(5), direct(6)]).await;
        let narrow = TimeWindow { max_age: Duration::from_secs(1), ..TimeWindow::SILVER };
        let first = if end == Table::SilverReadings { Settings { window: narrow, ..strict() } } else { strict() };
        let hops = kit.hops_with(first).await.expect("takes over");
        drop(hops);
        let mut hops = kit.hops_with(strict()).await.expect("takes over");
        kit.settle(&mut hops).await;
        let (readings, refused, health) = silver(&kit).await;
        assert!(readings.contains(&format!("g/{EPOCH}/3")), "{readings}");
        let marked: Vec<&str> = refused.lines().filter(|line| line.contains("true")).collect();
        assert!(marked.len() == 1 && marked[0].contains(&format!("g/{EPOCH}/3")), "{refused}");
        assert!(health.contains("| g          | 4    | 2       | 2           | 0           | 0       |"), "{health}");
        balanced(&kit, hops.totals()).await;
        same_anew(&kit, &mut hops).await;
    }
}

#[tokio::test]
async fn a_hub_of_our_replays_name_and_a_device_with_our_property_replay_nothing() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let mut forged = gateway(1);
    forged.properties = vec![("replay-of".into(), "x".into()), ("replay-body".into(), "repaired".into())];
    kit.store(&[forged]).await;
    kit.settle(&mut hops).await;
    assert_eq!(hops.totals().decoded, 4);
    let ids = kit.ask("select reading_id from silver.readings").await;
    assert!(ids.contains(&format!("g/{EPOCH}/1")), "{ids}");
}

#[tokio::test]
async fn one_refusal_taken_up_again_is_no_full_refresh_of_what_counts_refusals() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(strict()).await.expect("takes over");
    kit.store(&[gateway(1), direct(2)]).await;
    kit.settle(&mut hops).await;
    let health = "select device_id, received, rejected from gold.device_health order by device_id";
    let before = kit.ask(health).await;
    hops.replay(&of(&format!("g/{EPOCH}/3"), value(20.5))).await.expect("replays");
    let stop = tokio_util::sync::CancellationToken::new();
    let mut refreshed = vec![];
    hops.run_all(&stop, |report| {
        refreshed.extend(report.gold.iter().filter(|gold| gold.refreshed).map(|gold| gold.table.full_name()));
    })
    .await
    .expect("hops");
    assert_eq!(refreshed, Vec::<&str>::new());
    assert_ne!(kit.ask(health).await, before, "one more was received, one less refused");
    same_anew(&kit, &mut hops).await;
}
