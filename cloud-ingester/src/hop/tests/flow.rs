//! What goes into bronze comes out of silver and gold.

use expect_test::expect;
use serde_json::json;

use super::kit::{EPOCH, Kit, NOW, SECOND, Stored, envelope, event, raw};
use crate::lake::Table;

#[tokio::test]
async fn a_reading_reaches_silver_and_gold() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    kit.store(&[event(1, "g", &envelope(2, &[(1, "t", 21.5, 0), (2, "t", 22.5, 10)]))]).await;
    kit.settle(&mut hops).await;
    let readings =
        "select reading_id, device_id, metric, value, event_time, event_date from silver.readings order by seq";
    expect![[r#"
        +----------------------+-----------+--------+-------+----------------------+------------+
        | reading_id           | device_id | metric | value | event_time           | event_date |
        +----------------------+-----------+--------+-------+----------------------+------------+
        | g/00000000000000aa/1 | d         | t      | 21.5  | 2026-11-23T10:00:00Z | 2026-11-23 |
        | g/00000000000000aa/2 | d         | t      | 22.5  | 2026-11-23T10:00:10Z | 2026-11-23 |
        +----------------------+-----------+--------+-------+----------------------+------------+"#]]
    .assert_eq(&kit.ask(readings).await);
    let windows = "select device_id, metric, unit, window_start, window_end, readings, value_avg, value_min, value_max from gold.metric_1m";
    expect![[r#"
        +-----------+--------+------+----------------------+----------------------+----------+-----------+-----------+-----------+
        | device_id | metric | unit | window_start         | window_end           | readings | value_avg | value_min | value_max |
        +-----------+--------+------+----------------------+----------------------+----------+-----------+-----------+-----------+
        | d         | t      |      | 2026-11-23T10:00:00Z | 2026-11-23T10:01:00Z | 2        | 22.0      | 21.5      | 22.5      |
        +-----------+--------+------+----------------------+----------------------+----------+-----------+-----------+-----------+"#]].assert_eq(&kit.ask(windows).await);
    let rest = "select value_stddev, value_p50, value_p95, value_first, value_last, window_date from gold.metric_1m";
    expect![[r#"
        +--------------------+-----------+-----------+-------------+------------+-------------+
        | value_stddev       | value_p50 | value_p95 | value_first | value_last | window_date |
        +--------------------+-----------+-----------+-------------+------------+-------------+
        | 0.7071067811865476 | 22.0      | 22.45     | 21.5        | 22.5       | 2026-11-23  |
        +--------------------+-----------+-----------+-------------+------------+-------------+"#]]
    .assert_eq(&kit.ask(rest).await);
    expect![[r#"
        +------------+-----------+--------+------+-------+------------+------------+----------------------+---------------+----------------------+
        | gateway_id | device_id | metric | unit | value | value_text | value_kind | event_time           | received_time | reading_id           |
        +------------+-----------+--------+------+-------+------------+------------+----------------------+---------------+----------------------+
        | g          | d         | t      |      | 22.5  |            | number     | 2026-11-23T10:00:10Z |               | g/00000000000000aa/2 |
        +------------+-----------+--------+------+-------+------------+------------+----------------------+---------------+----------------------+"#]].assert_eq(&kit.ask("select * from gold.device_latest").await);
    expect![[r#"
        +------------+------------------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+----------------------+
        | gateway_id | epoch            | state | high | last | arrived | quarantined | given_up | gap_arrived | outstanding | missing | last_enqueued_time   |
        +------------+------------------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+----------------------+
        | g          | 00000000000000aa | open  | 2    | 2    | 2       | 0           | 0        | 0           | 0           | 0       | 2026-11-23T10:00:01Z |
        +------------+------------------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+----------------------+"#]].assert_eq(&kit.ask("select * from gold.gateway_health").await);
    let totals = hops.totals();
    assert_eq!((totals.events, totals.decoded, totals.duplicates), (1, 2, 0));
}

#[tokio::test]
async fn a_second_round_without_anything_new_commits_nothing() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    kit.store(&[event(1, "g", &envelope(1, &[(1, "t", 1.0, 0)]))]).await;
    kit.settle(&mut hops).await;
    let before = kit.versions().await;
    assert!(hops.round().await.expect("a round").is_idle());
    assert_eq!(kit.versions().await, before);
}

#[tokio::test]
async fn a_seq_that_comes_twice_is_one_row_and_a_duplicate() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    kit.store(&[
        event(1, "g", &envelope(2, &[(1, "t", 1.0, 0), (1, "t", 99.0, 0), (2, "t", 2.0, 0)])),
        event(2, "g", &envelope(2, &[(1, "t", 77.0, 0)])),
    ])
    .await;
    kit.settle(&mut hops).await;
    kit.store(&[event(3, "g", &envelope(3, &[(2, "t", 88.0, 0), (3, "t", 3.0, 0)]))]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +-----+-------+
        | seq | value |
        +-----+-------+
        | 1   | 1.0   |
        | 2   | 2.0   |
        | 3   | 3.0   |
        +-----+-------+"#]]
    .assert_eq(&kit.ask("select seq, value from silver.readings order by seq").await);
    let totals = hops.totals();
    assert_eq!((totals.events, totals.decoded, totals.duplicates), (3, 6, 3));
    // What was seen survives the process.
    drop(hops);
    let mut hops = kit.hops().await;
    assert_eq!(hops.totals(), totals);
    kit.store(&[event(4, "g", &envelope(3, &[(3, "t", 0.0, 0)]))]).await;
    kit.settle(&mut hops).await;
    assert_eq!(hops.totals().duplicates, 4);
}

#[tokio::test]
async fn whatever_comes_the_stream_goes_on() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let old = json!({"v": 1, "gw": "g", "epoch": EPOCH, "high": 1, "readings": [
        {"s": 1, "d": "d", "m": "t", "v": 1, "t": NOW - 401 * 86_400 * SECOND},
        {"s": 2, "d": "d", "m": "t", "v": 1, "t": NOW + 7_200 * SECOND},
        {"s": 3, "d": "d", "m": "t", "v": 1e308, "t": NOW},
        {"s": 4, "d": "d", "m": "t", "v": -1e308, "t": NOW},
        {"s": 5, "d": "d'", "m": "\"", "vs": "a\u{0}'b", "u": "'; drop", "t": NOW},
        {"s": -1, "d": "d", "m": "t", "v": 1, "t": NOW},
    ]});
    kit.store(&[
        raw(1, "g", b"\xff\x00".to_vec()),
        event(2, "other", &envelope(1, &[(1, "t", 1.0, 0)])),
        Stored { encoding: Some("zstd".into()), ..raw(3, "g", b"torn".to_vec()) },
        event(4, "g", &old),
        Stored { device: None, ..event(5, "", &json!({"a": 1})) },
        Stored { source: Some("twinChangeEvents".into()), ..event(6, "g", &json!({"a": 1})) },
        event(7, "direct", &json!({"a": 1, "b": null})),
    ])
    .await;
    kit.settle(&mut hops).await;
    let refused = "select id, gateway_id, seq, device_id, metric, layer, reasons from silver.quarantine order by sequence_number, message_index";
    expect![[r#"
        +----------------------+------------+-----+-----------+--------+--------+---------------------------------------------------------------------------------+
        | id                   | gateway_id | seq | device_id | metric | layer  | reasons                                                                         |
        +----------------------+------------+-----+-----------+--------+--------+---------------------------------------------------------------------------------+
        | 1000/0/1/0           | g          |     | g         |        | silver | [undecodable: payload: not UTF-8 from byte 0]                                   |
        | 1000/0/2/0           | other      |     | other     |        | silver | [identity: the Envelope says "g", the hub says "other"]                         |
        | 1000/0/3/0           | g          |     | g         |        | silver | [undecodable: body is not Zstandard: Unknown frame descriptor]                  |
        | g/00000000000000aa/1 | g          | 1   | d         | t      | silver | [age: 2025-10-18T10:00:00Z is more than 34560000 s before 2026-11-23T10:00:04Z] |
        | g/00000000000000aa/2 | g          | 2   | d         | t      | silver | [ahead: 2026-11-23T12:00:00Z is more than 3600 s after 2026-11-23T10:00:04Z]    |
        | 1000/0/4/5           | g          |     | d         | t      | silver | [seq: -1 is below 1]                                                            |
        | 1000/0/5/0           |            |     |           |        | silver | [identity: the hub names no device]                                             |
        | 1000/0/7/1           | -          |     | direct    | b      | silver | [type: null]                                                                    |
        +----------------------+------------+-----+-----------+--------+--------+---------------------------------------------------------------------------------+"#]].assert_eq(&kit.ask(refused).await);
    let windows = "select gateway_id, device_id, metric, unit, readings, value_min, value_max, value_first, value_last from gold.metric_1m order by 1, 2, 3";
    expect![[r#"
        +------------+-----------+--------+---------+----------+-----------+-----------+-------------+------------+
        | gateway_id | device_id | metric | unit    | readings | value_min | value_max | value_first | value_last |
        +------------+-----------+--------+---------+----------+-----------+-----------+-------------+------------+
        | -          | direct    | a      |         | 1        | 1.0       | 1.0       | 1.0         | 1.0        |
        | g          | d         | t      |         | 2        | -1e308    | 1e308     | -1e308      | 1e308      |
        | g          | d'        | "      | '; drop | 1        |           |           |             |            |
        +------------+-----------+--------+---------+----------+-----------+-----------+-------------+------------+"#]]
    .assert_eq(&kit.ask(windows).await);
    let health = "select gateway_id, state, arrived, quarantined, outstanding from gold.gateway_health";
    expect![[r#"
        +------------+-------+---------+-------------+-------------+
        | gateway_id | state | arrived | quarantined | outstanding |
        +------------+-------+---------+-------------+-------------+
        | g          | open  | 3       | 2           | 0           |
        +------------+-------+---------+-------------+-------------+"#]]
    .assert_eq(&kit.ask(health).await);
    let totals = hops.totals();
    assert_eq!((totals.events, totals.decoded, totals.duplicates), (7, 12, 0));
}

#[tokio::test]
async fn gaps_and_closings_reach_the_proof_and_what_arrived_wins() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let mut first = envelope(6, &[(1, "t", 1.0, 0), (2, "t", 2.0, 0)]);
    first["gaps"] = json!([{"epoch": EPOCH, "from": 3, "to": 5, "reason": "dropped", "readings": {"d": 3}}]);
    kit.store(&[event(1, "g", &first), event(2, "g", &first)]).await;
    kit.settle(&mut hops).await;
    let health =
        "select state, high, last, arrived, given_up, gap_arrived, outstanding, missing from gold.gateway_health";
    expect![[r#"
        +-------+------+------+---------+----------+-------------+-------------+---------+
        | state | high | last | arrived | given_up | gap_arrived | outstanding | missing |
        +-------+------+------+---------+----------+-------------+-------------+---------+
        | open  | 6    | 6    | 2       | 3        | 0           | 1           | 0       |
        +-------+------+------+---------+----------+-------------+-------------+---------+"#]]
    .assert_eq(&kit.ask(health).await);
    let mut second = envelope(7, &[(4, "t", 4.0, 0)]);
    second["closed"] = json!([{"epoch": EPOCH, "last": 7}, {"epoch": "00000000000000bb", "last": null, "mark": 4}]);
    kit.store(&[event(3, "g", &second)]).await;
    kit.settle(&mut hops).await;
    let health = "select epoch, state, high, last, arrived, given_up, gap_arrived, outstanding, missing from gold.gateway_health order by epoch";
    expect![[r#"
        +------------------+--------+------+------+---------+----------+-------------+-------------+---------+
        | epoch            | state  | high | last | arrived | given_up | gap_arrived | outstanding | missing |
        +------------------+--------+------+------+---------+----------+-------------+-------------+---------+
        | 00000000000000aa | closed | 7    | 7    | 3       | 3        | 1           | 0           | 2       |
        | 00000000000000bb | lost   | 0    | 0    | 0       | 0        | 0           | 0           | 4       |
        +------------------+--------+------+------+---------+----------+-------------+-------------+---------+"#]]
    .assert_eq(&kit.ask(health).await);
    expect![[r#"
        +--------------+------------------+----------+--------+---------+----------+-----------------+
        | kind         | epoch            | from_seq | to_seq | reason  | readings | sequence_number |
        +--------------+------------------+----------+--------+---------+----------+-----------------+
        | closed       | 00000000000000aa | 1        | 7      |         | {}       | 3               |
        | given-up     | 00000000000000aa | 3        | 5      | dropped | {d: 3}   | 1               |
        | unknown-loss | 00000000000000bb | 1        | 4      |         | {}       | 3               |
        +--------------+------------------+----------+--------+---------+----------+-----------------+"#]]
    .assert_eq(
        &kit.ask(
            "select kind, epoch, from_seq, to_seq, reason, readings, sequence_number from silver.gaps order by kind",
        )
        .await,
    );
    assert_eq!(hops.totals().gap_arrived, 1);
}

#[tokio::test]
async fn events_the_hub_let_expire_are_a_gap_without_a_gateway() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let lost = Stored {
        device: None,
        source: None,
        properties: vec![("hub-retention".into(), "true".into())],
        ..event(9, "", &json!({"from": 1, "to": 9}))
    };
    kit.store(&[lost]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +------------+-------+----------+--------+---------------+-----+-------------+--------------+
        | gateway_id | epoch | from_seq | to_seq | kind          | hub | incarnation | partition_id |
        +------------+-------+----------+--------+---------------+-----+-------------+--------------+
        |            |       | 1        | 9      | hub-retention | hub | 1000        | 0            |
        +------------+-------+----------+--------+---------------+-----+-------------+--------------+"#]]
    .assert_eq(
        &kit.ask("select gateway_id, epoch, from_seq, to_seq, kind, hub, incarnation, partition_id from silver.gaps")
            .await,
    );
    expect![[r#"
        +------------+-------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+--------------------+
        | gateway_id | epoch | state | high | last | arrived | quarantined | given_up | gap_arrived | outstanding | missing | last_enqueued_time |
        +------------+-------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+--------------------+
        +------------+-------+-------+------+------+---------+-------------+----------+-------------+-------------+---------+--------------------+"#]].assert_eq(&kit.ask("select * from gold.gateway_health").await);
}

#[tokio::test]
async fn a_late_row_computes_its_window_again_and_no_other() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    kit.store(&[event(
        1,
        "g",
        &envelope(4, &[(1, "t", 1.0, -600), (2, "t", 2.0, -590), (3, "u", 5.0, -600), (4, "t", 9.0, 0)]),
    )])
    .await;
    kit.settle(&mut hops).await;
    kit.store(&[event(2, "g", &envelope(5, &[(5, "t", 6.0, -595)]))]).await;
    let report = hops.round().await.expect("a round");
    let rows: Vec<_> = report.gold.iter().map(|done| (done.table.name(), done.rows)).collect();
    // One window; nothing newer; one epoch.
    assert_eq!(rows, [("metric_1m", 1), ("device_latest", 0), ("gateway_health", 1)]);
    let windows = "select metric, window_start, readings, value_avg, value_first, value_last from gold.metric_1m order by metric, window_start";
    expect![[r#"
        +--------+----------------------+----------+-----------+-------------+------------+
        | metric | window_start         | readings | value_avg | value_first | value_last |
        +--------+----------------------+----------+-----------+-------------+------------+
        | t      | 2026-11-23T09:50:00Z | 3        | 3.0       | 1.0         | 2.0        |
        | t      | 2026-11-23T10:00:00Z | 1        | 9.0       | 9.0         | 9.0        |
        | u      | 2026-11-23T09:50:00Z | 1        | 5.0       | 5.0         | 5.0        |
        +--------+----------------------+----------+-----------+-------------+------------+"#]]
    .assert_eq(&kit.ask(windows).await);
    expect![[r#"
        +--------+-------+----------------------+
        | metric | value | event_time           |
        +--------+-------+----------------------+
        | t      | 9.0   | 2026-11-23T10:00:00Z |
        | u      | 5.0   | 2026-11-23T09:50:00Z |
        +--------+-------+----------------------+"#]]
    .assert_eq(&kit.ask("select metric, value, event_time from gold.device_latest order by metric").await);
}

#[tokio::test]
async fn first_last_and_latest_are_ordered_by_time_then_number_then_value() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let reading = |s: i64, m: &str, v: f64, n: Option<i64>| json!({"s": s, "d": "d", "m": m, "v": v, "t": NOW, "n": n});
    let text = json!({"s": 9, "d": "d", "m": "a", "vs": "x", "t": NOW - SECOND});
    let body =
        |readings: &[serde_json::Value]| json!({"v": 1, "gw": "g", "epoch": EPOCH, "high": 9, "readings": readings});
    // a: a number beats none; b: the larger number; c: without numbers the larger value.
    kit.store(&[event(
        1,
        "g",
        &body(&[
            reading(1, "a", 5.0, None),
            reading(2, "a", 3.0, Some(1)),
            reading(3, "b", 1.0, Some(7)),
            reading(4, "b", 2.0, Some(6)),
            reading(5, "c", 4.0, None),
            text,
        ]),
    )])
    .await;
    kit.settle(&mut hops).await;
    // Rows exactly as late as what the table holds, in a later hop.
    kit.store(&[event(
        2,
        "g",
        &body(&[reading(6, "c", 8.0, None), reading(7, "b", 9.0, Some(5)), reading(8, "a", 1.0, Some(2))]),
    )])
    .await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +--------+----------+-------------+------------+
        | metric | readings | value_first | value_last |
        +--------+----------+-------------+------------+
        | a      | 1        |             |            |
        | a      | 3        | 5.0         | 1.0        |
        | b      | 3        | 9.0         | 1.0        |
        | c      | 2        | 4.0         | 8.0        |
        +--------+----------+-------------+------------+"#]]
    .assert_eq(&kit.ask("select metric, readings, value_first, value_last from gold.metric_1m order by metric").await);
    expect![[r#"
        +--------+-------+----------------------+
        | metric | value | reading_id           |
        +--------+-------+----------------------+
        | a      | 1.0   | g/00000000000000aa/8 |
        | b      | 1.0   | g/00000000000000aa/3 |
        | c      | 8.0   | g/00000000000000aa/6 |
        +--------+-------+----------------------+"#]]
    .assert_eq(&kit.ask("select metric, value, reading_id from gold.device_latest order by metric").await);
}

#[tokio::test]
async fn a_chunk_holds_one_version_at_least_and_all_of_them_are_read() {
    let kit = Kit::new().await;
    let settings = crate::hop::Settings { chunk_bytes: 1, ..Kit::settings() };
    for sequence in 1..=5 {
        kit.store(&[event(sequence, "g", &envelope(sequence, &[(sequence, "t", 1.0, sequence)]))]).await;
    }
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    let mut rounds = 0;
    let stop = tokio_util::sync::CancellationToken::new();
    hops.run_all(&stop, |_| rounds += 1).await.expect("hops");
    assert!(5 <= rounds, "{rounds}");
    assert!(kit.ask("select count(*) as n from silver.readings").await.contains("| 5 |"));
}

#[tokio::test]
async fn a_model_rests_only_while_silver_has_news() {
    let kit = Kit::new().await;
    let settings = crate::hop::Settings { rest: 1_000_000, ..Kit::settings() };
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(1, &[(1, "t", 1.0, 0)]))]).await;
    let first = hops.round().await.expect("a round");
    assert_eq!(first.gold.len(), 7, "{first:?}");
    kit.store(&[event(2, "g", &envelope(2, &[(2, "t", 2.0, 1)]))]).await;
    let busy = hops.round().await.expect("a round");
    assert_eq!((busy.silver.is_some(), busy.gold.len()), (true, 1), "only health never rests: {busy:?}");
    let quiet = hops.round().await.expect("a round");
    assert_eq!((quiet.silver.is_some(), quiet.gold.len()), (false, 2), "{quiet:?}");
    assert!(hops.round().await.expect("a round").is_idle());
}

#[tokio::test]
async fn the_high_of_an_envelope_without_new_rows_is_outstanding_here_and_after_a_restart() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    let health = async || kit.ask("select high, last, arrived, outstanding from gold.gateway_health").await;
    kit.store(&[event(1, "g", &envelope(3, &[(1, "t", 1.0, 1), (2, "t", 1.0, 2)]))]).await;
    kit.settle(&mut hops).await;
    // Cut anew after a restart of the gateway: the same row, and by now more were given.
    kit.store(&[event(2, "g", &envelope(8, &[(2, "t", 1.0, 2)]))]).await;
    kit.settle(&mut hops).await;
    let expected = expect![[r#"
        +------+------+---------+-------------+
        | high | last | arrived | outstanding |
        +------+------+---------+-------------+
        | 8    | 8    | 2       | 6           |
        +------+------+---------+-------------+"#]];
    expected.assert_eq(&health().await);
    drop(hops);
    let mut hops = kit.hops().await;
    hops.full_refresh(Table::GoldGatewayHealth).await.expect("refreshes");
    expected.assert_eq(&health().await);
    // And it stays through hops that say nothing of it, refreshes, and another restart.
    kit.store(&[event(3, "g", &envelope(3, &[(1, "t", 1.0, 1)]))]).await;
    kit.settle(&mut hops).await;
    hops.full_refresh(Table::SilverReadings).await.expect("refreshes");
    drop(hops);
    let mut hops = kit.hops().await;
    // Nothing but a gap, and a high.
    let mut body = envelope(9, &[]);
    body["gaps"] = json!([{"epoch": EPOCH, "from": 3, "to": 8, "reason": "dropped"}]);
    kit.store(&[event(4, "g", &body)]).await;
    kit.settle(&mut hops).await;
    expect![[r#"
        +------+------+---------+-------------+
        | high | last | arrived | outstanding |
        +------+------+---------+-------------+
        | 9    | 9    | 2       | 1           |
        +------+------+---------+-------------+"#]]
    .assert_eq(&health().await);
}
