//! Hops that end midway, are done again, or do everything anew.

use expect_test::expect;
use serde_json::json;
use shared::rules::TimeWindow;

use super::kit::{EPOCH, Kit, NOW, SECOND, envelope, event, raw};
use crate::hop::seen::At;
use crate::hop::silver::{NewRange, TARGETS};
use crate::hop::{HopError, Plan, Settings};
use crate::lake::{Kind, LakeError, Layer, Table, TableCommit, Txn};
use crate::silver::Totals;

/// A stream with readings, refusals, gaps and repeats.
async fn fill(kit: &Kit, from: i64) {
    let mut body = envelope(from + 3, &[(from, "t", 1.5, from), (from + 1, "t", 2.5, from + 70)]);
    body["readings"]
        .as_array_mut()
        .expect("readings")
        .push(json!({"s": from + 2, "d": "d", "m": "t", "v": 1, "t": NOW - 500 * 86_400 * SECOND}));
    body["gaps"] = json!([{"epoch": EPOCH, "from": from + 3, "to": from + 3, "reason": "dropped"}]);
    kit.store(&[event(from, "g", &body), event(from + 1, "g", &body), raw(from + 2, "g", b"broken".to_vec())]).await;
}

#[tokio::test]
async fn a_hop_that_ended_between_side_tables_and_readings_is_finished_by_the_next_holder() {
    let (kit, whole) = (Kit::new().await, Kit::new().await);
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    fill(&kit, 20).await;
    fill(&kit, 30).await;
    hops.end_before = Some(Table::SilverReadings);
    assert!(matches!(hops.round().await, Err(HopError::Ended)));
    drop(hops);
    let sides = |versions: &[i64]| (versions[2], versions[3]);
    let half = kit.versions().await;
    assert!(kit.ask("select count(*) as n from silver.readings").await.contains("| 2 |"));
    assert!(kit.ask("select count(*) as n from silver.quarantine").await.contains("| 6 |"));

    // More came meanwhile; and other rules are in force by now, but not for what is half done.
    fill(&kit, 40).await;
    let wide = TimeWindow { max_age: std::time::Duration::from_secs(1_000 * 86_400), ..TimeWindow::SILVER };
    let hops = kit.hops_with(Settings { window: wide, ..Kit::settings() }).await.expect("takes over");
    assert!(kit.ask("select count(*) as n from silver.readings").await.contains("| 6 |"));
    // Only a fence was added to the side tables.
    assert_eq!(sides(&kit.versions().await), (half[2] + 1, half[3] + 1));
    assert_eq!((hops.totals().decoded, hops.totals().duplicates), (21, 9));
    drop(hops);
    let mut hops = kit.hops().await;
    kit.settle(&mut hops).await;

    let mut straight = whole.hops().await;
    for from in [10, 20, 30, 40] {
        fill(&whole, from).await;
        whole.settle(&mut straight).await;
    }
    assert_eq!(kit.everything().await, whole.everything().await);
    assert_eq!(hops.totals(), straight.totals());
}

#[tokio::test]
async fn a_hop_that_failed_between_side_tables_and_readings_is_finished_by_the_next_round() {
    let (kit, whole) = (Kit::new().await, Kit::new().await);
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    fill(&kit, 20).await;
    hops.end_before = Some(Table::SilverReadings);
    assert!(matches!(hops.round().await, Err(HopError::Ended)));
    // The service goes on with the same hops, and more came meanwhile.
    hops.end_before = None;
    fill(&kit, 30).await;
    kit.settle(&mut hops).await;

    let mut straight = whole.hops().await;
    for from in [10, 20, 30] {
        fill(&whole, from).await;
        whole.settle(&mut straight).await;
    }
    assert_eq!(kit.everything().await, whole.everything().await);
    assert_eq!(hops.totals(), straight.totals());
}

/// The lake that saw the same Events and never failed.
async fn straight(froms: &[i64]) -> (Vec<String>, Totals) {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    for from in froms {
        fill(&kit, *from).await;
        kit.settle(&mut hops).await;
    }
    (kit.everything().await, hops.totals())
}

#[tokio::test]
async fn a_refresh_that_failed_between_two_tables_is_done_by_the_next_round() {
    let expected = straight(&[10, 20]).await;
    for end in [Table::SilverGaps, Table::SilverReadings] {
        let kit = Kit::new().await;
        let mut hops = kit.hops().await;
        fill(&kit, 10).await;
        kit.settle(&mut hops).await;
        hops.end_before = Some(end);
        assert!(matches!(hops.full_refresh(Table::SilverReadings).await, Err(HopError::Ended)));
        hops.end_before = None;
        fill(&kit, 20).await;
        kit.settle(&mut hops).await;
        assert_eq!((kit.everything().await, hops.totals()), expected, "ended before {end:?}");
    }
}

#[tokio::test]
async fn a_refresh_asked_for_after_a_hop_that_failed_midway_finishes_that_hop() {
    let expected = straight(&[10, 20, 30]).await;
    for target in [Table::SilverReadings, Table::SilverGaps, Table::GoldMetric1m, Table::GoldGatewayHealth] {
        for end in [Table::SilverGaps, Table::SilverReadings] {
            let kit = Kit::new().await;
            let mut hops = kit.hops().await;
            fill(&kit, 10).await;
            kit.settle(&mut hops).await;
            fill(&kit, 20).await;
            hops.end_before = Some(end);
            assert!(matches!(hops.round().await, Err(HopError::Ended)));
            hops.end_before = None;
            fill(&kit, 30).await;
            hops.full_refresh(target).await.expect("refreshes");
            kit.settle(&mut hops).await;
            assert_eq!((kit.everything().await, hops.totals()), expected, "{target:?} after an end before {end:?}");
        }
    }
}

#[tokio::test]
async fn progress_that_moved_after_the_plan_was_made_refuses_the_hop() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    fill(&kit, 20).await;
    fill(&kit, 30).await;
    let bronze = kit.lake.view(Table::BronzeMessages).await.expect("a view");
    let done = bronze.version() - 2;
    let changes = bronze.changes(done).await.expect("the log");
    let quarantine = kit.lake.view(Table::SilverQuarantine).await.expect("a view");
    let rules = hops.rules.clone();
    let at = hops.targets().await.expect("views").each_ref().map(At::of);
    let range = NewRange { from: done + 1, to: done + 2, changes, rules, quarantine, stood: [Some(done); 3], at };
    for table in TARGETS {
        let moved = TableCommit {
            table,
            kind: Kind::Append,
            batches: vec![],
            txns: vec![Txn { app: table.app_id(&bronze.id()), expected: Some(done), version: done + 1 }],
            metadata: vec![],
        };
        kit.lake.commit(moved, None).await.expect("somebody else's");
    }
    let before = kit.versions().await;
    let refused = hops.range(&bronze, range).await;
    assert!(matches!(refused, Err(HopError::Lake(LakeError::Fenced { .. }))), "{refused:?}");
    assert_eq!(kit.versions().await, before);
}

#[tokio::test]
async fn a_full_refresh_gives_the_same_tables_and_is_followed_by_gold() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    for from in [10, 20, 30] {
        fill(&kit, from).await;
        kit.settle(&mut hops).await;
    }
    let (before, totals) = (kit.everything().await, hops.totals());
    let report = hops.full_refresh(Table::SilverReadings).await.expect("refreshes");
    assert!(report.silver.is_some_and(|done| done.refreshed));
    assert!(report.gold.iter().all(|done| done.refreshed) && report.gold.len() == 7, "{report:?}");
    assert_eq!(kit.everything().await, before);
    assert_eq!(hops.totals(), totals);
    let readings = kit.lake.view(Table::SilverReadings).await.expect("a view");
    let plan = Plan::of(&readings.change(readings.version()).await.expect("a change").info).expect("a plan");
    assert!(plan.full);
    // And on it goes, in this process and in the next.
    fill(&kit, 40).await;
    kit.settle(&mut hops).await;
    drop(hops);
    let mut hops = kit.hops().await;
    fill(&kit, 50).await;
    kit.settle(&mut hops).await;
    assert!(kit.ask("select count(*) as n from silver.readings").await.contains("| 10 |"));
    for table in kit.lake.tables().iter().copied().filter(|table| table.layer() == Layer::Gold) {
        let before = kit.everything().await;
        let report = hops.full_refresh(table).await.expect("refreshes");
        assert_eq!(report.gold.iter().map(|done| done.table).collect::<Vec<_>>(), [table]);
        assert_eq!(kit.everything().await, before);
    }
    assert!(hops.full_refresh(Table::BronzeMessages).await.is_err());
}

#[tokio::test]
async fn a_refresh_that_ended_midway_is_done_by_the_next_holder() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    let before = kit.everything().await;
    hops.end_before = Some(Table::SilverReadings);
    assert!(matches!(hops.full_refresh(Table::SilverReadings).await, Err(HopError::Ended)));
    drop(hops);
    let mut hops = kit.hops().await;
    kit.settle(&mut hops).await;
    assert_eq!(kit.everything().await, before);
}

#[tokio::test]
async fn a_refresh_of_gold_that_ended_before_its_commit_changes_nothing_and_can_be_asked_for_again() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    fill(&kit, 20).await;
    kit.settle(&mut hops).await;
    let before = kit.everything().await;
    for table in kit.lake.tables().iter().copied().filter(|table| table.layer() == Layer::Gold) {
        hops.end_before = Some(table);
        assert!(matches!(hops.full_refresh(table).await, Err(HopError::Ended)), "{table:?}");
        assert_eq!(kit.everything().await, before, "{table:?}");
        drop(hops);
        hops = kit.hops().await;
        kit.settle(&mut hops).await;
        assert_eq!(kit.everything().await, before, "{table:?}");
        hops.full_refresh(table).await.expect("refreshes");
        assert_eq!(kit.everything().await, before, "{table:?}");
    }
}

#[tokio::test]
async fn a_refresh_judges_by_the_rules_of_now() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    drop(hops);
    let wide = TimeWindow { max_age: std::time::Duration::from_secs(1_000 * 86_400), ..TimeWindow::SILVER };
    let mut hops = kit.hops_with(Settings { window: wide, ..Kit::settings() }).await.expect("takes over");
    hops.full_refresh(Table::SilverQuarantine).await.expect("refreshes");
    expect![[r#"
        +-----+----------------------+
        | seq | event_time           |
        +-----+----------------------+
        | 10  | 2026-11-23T10:00:10Z |
        | 11  | 2026-11-23T10:01:20Z |
        | 12  | 2025-07-11T10:00:00Z |
        +-----+----------------------+"#]]
    .assert_eq(&kit.ask("select seq, event_time from silver.readings order by seq").await);
    expect![[r#"
        +-------------+-------------------------------------------------------------------------------+
        | id          | reasons                                                                       |
        +-------------+-------------------------------------------------------------------------------+
        | 1000/0/12/0 | [undecodable: payload: not a JSON object (expected value at line 1 column 1)] |
        +-------------+-------------------------------------------------------------------------------+"#]]
    .assert_eq(&kit.ask("select id, reasons from silver.quarantine order by id").await);
}

#[tokio::test]
async fn rows_of_an_unknown_source_make_a_target_refresh_itself() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    let before = kit.everything().await;
    // Bronze is made anew, under another id, from the same events.
    drop(hops);
    let root = kit.lake.location().local().expect("a directory").join("bronze");
    std::fs::remove_dir_all(root).expect("removed");
    let kit = kit.reopened().await;
    fill(&kit, 10).await;
    let mut hops = kit.hops().await;
    kit.settle(&mut hops).await;
    assert_eq!(kit.everything().await, before);
}

#[tokio::test]
async fn a_holder_that_slept_is_refused_on_every_target() {
    let kit = Kit::new().await;
    let mut old = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut old).await;
    fill(&kit, 20).await;
    let bronze = kit.lake.view(Table::BronzeMessages).await.expect("a view").id();
    // As a holder that slept would: a commit built on what it saw before another one took over and went on.
    let app = Table::SilverReadings.app_id(&bronze);
    let seen = kit.lake.txn(Table::SilverReadings, &app).await.expect("readable");
    kit.settle(&mut old).await;
    let stale = TableCommit {
        table: Table::SilverReadings,
        kind: Kind::Append,
        batches: vec![],
        txns: vec![Txn { app, expected: seen, version: 99 }],
        metadata: vec![],
    };
    let refused = kit.lake.commit(stale, Some(&old.lease)).await;
    assert!(matches!(refused, Err(crate::lake::LakeError::Fenced { .. })), "{refused:?}");
    let versions = kit.versions().await;
    drop(old);
    let _new = kit.hops().await;
    for (at, (before, after)) in versions.iter().zip(kit.versions().await).enumerate() {
        let table = kit.lake.tables()[at];
        let target = table != Table::BronzeMessages;
        assert_eq!(*before < after, target, "{table:?}: every target holds a fence");
    }
}

#[tokio::test]
async fn a_source_restored_from_a_copy_is_named_and_nothing_is_lost() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    fill(&kit, 20).await;
    kit.settle(&mut hops).await;
    let log = kit.lake.location().local().expect("a directory").join("bronze/messages/_delta_log");
    std::fs::remove_file(log.join("00000000000000000002.json")).expect("removed");
    drop(hops);
    let kit = kit.reopened().await;
    let mut hops = kit.hops().await;
    let error = hops.round().await.expect_err("refused").to_string();
    assert!(error.contains("restored from a copy"), "{error}");
}

#[tokio::test]
async fn where_a_file_was_vacuumed_before_it_was_read_the_target_is_filled_anew() {
    let kit = Kit::new().await;
    let mut hops = kit.hops().await;
    fill(&kit, 10).await;
    kit.settle(&mut hops).await;
    fill(&kit, 20).await;
    kit.settle(&mut hops).await;
    let expected = kit.everything().await;
    // A gold file that a window has to be taken from is gone.
    let gold = kit.lake.view(Table::GoldMetric1m).await.expect("a view");
    let root = kit.lake.location().local().expect("a directory").join(Table::GoldMetric1m.path());
    for add in gold.all_files() {
        std::fs::remove_file(root.join(&add.path)).expect("removed");
    }
    kit.store(&[event(40, "g", &envelope(99, &[(50, "t", 2.0, 11)]))]).await;
    let report = hops.round().await.expect("a round");
    assert!(report.gold.iter().any(|done| done.table == Table::GoldMetric1m && done.refreshed), "{report:?}");
    assert!(kit.everything().await[3].lines().count() >= expected[3].lines().count());
}
