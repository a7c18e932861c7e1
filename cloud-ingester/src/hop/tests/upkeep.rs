//! Merges, vacuum and cut logs: the same rows, in fewer files, and no news to hops.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::time::Timestamp;

use super::kit::{Kit, NOW, envelope, event};
use crate::hop::{Hops, Settings};
use crate::lake::faulty::{Draw, End, Plan, Process, World};
use crate::lake::{Lake, LakeError, Lease, Location, Table};
use crate::upkeep::{self, commit, next_merge, prepare, rubbish};

/// Three days after the rows came and after now: all days are closed, everything is old.
fn later() -> Timestamp {
    Timestamp::from_micros(Clock::Real.now().micros().max(NOW) + 3 * 86_400_000_000)
}

async fn kit() -> (Kit, Arc<World>) {
    let world = World::new(later());
    (Kit::over(open(&world)).await, world)
}

fn open(world: &Arc<World>) -> Lake {
    let plan = Plan { faults: 0, end: (End::None, 0), draw: Draw::new(0) };
    let process = Process::new(world, "kept".into(), plan);
    let location = Location::parse("memory:///lake", HashMap::new()).expect("a URL");
    Lake::over(location, process, world.clock()).expect("a lake")
}

fn settings() -> Settings {
    let upkeep = upkeep::Settings {
        log_retention: Duration::from_secs(3_600),
        file_retention: Duration::from_secs(3_600),
        ..upkeep::Settings::default()
    };
    Settings { upkeep, ..Kit::settings() }
}

/// So many commits of bronze, with hops after each.
async fn fill(kit: &Kit, hops: &mut Hops, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        let (a, b) = (number * 2 - 1, number * 2);
        let body = envelope(b, &[(a, "a", 1.0, number * 60), (b, "b", 2.0, number * 60)]);
        kit.store(&[event(number, "g", &body)]).await;
        kit.settle(hops).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_keeps_every_row_and_is_no_news_to_hops_nor_to_the_next_holder() {
    let (kit, _) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=6).await;
    let (before, totals) = (kit.everything().await, hops.totals());
    let files = kit.lake.view(Table::SilverReadings).await.expect("a view").files().0;
    assert_eq!(files, 6);

    let done = hops.maintain(&Table::ALL).await.expect("kept");
    assert!(done.iter().any(|done| done.to_string().starts_with("silver.readings: 6 files (12 rows")), "{done:?}");
    assert_eq!(kit.lake.view(Table::SilverReadings).await.expect("a view").files().0, 1);
    assert_eq!(kit.lake.view(Table::BronzeMessages).await.expect("a view").files().0, 1);
    assert_eq!(kit.everything().await, before);
    // Only their versions are new: no row is computed again.
    loop {
        let report = hops.round().await.expect("a round");
        let rows =
            report.silver.map_or(0, |silver| silver.readings) + report.gold.iter().map(|gold| gold.rows).sum::<u64>();
        assert!(
            report.gold.iter().all(|gold| !gold.refreshed) && !report.silver.is_some_and(|silver| silver.refreshed)
        );
        assert_eq!(rows, 0, "{report:?}");
        if report.is_idle() {
            break;
        }
    }
    let done = hops.maintain(&Table::ALL).await.expect("kept");
    assert!(done.iter().all(|done| matches!(done, upkeep::Done::Removed { .. })), "{done:?}");

    hops.into_lease().release().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    assert_eq!(hops.totals(), totals);
    fill(&kit, &mut hops, 7..=7).await;
    assert_eq!(kit.lake.view(Table::SilverReadings).await.expect("a view").rows(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_merges_planned_on_one_version_the_second_is_refused_and_no_row_is_twice() {
    let (kit, world) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=5).await;
    let table = Table::SilverReadings;
    let mut made = vec![];
    for _ in 0..2 {
        let (view, merge) =
            next_merge(&kit.lake, table, &settings().upkeep).await.expect("a look").expect("small files");
        made.push(prepare(&kit.lake, &view, merge, &settings().upkeep).await.expect("written").expect("counted"));
    }
    kit.lake.commit(made.remove(0).commit, Some(&hops.lease)).await.expect("the first");
    let refused = kit.lake.commit(made.remove(0).commit, Some(&hops.lease)).await;
    // As progress tells: it was the same merge.
    assert!(refused.is_ok_and(|landed| matches!(landed, crate::lake::Landed::Before(_))), "{}", world.told());
    assert_eq!(kit.lake.view(table).await.expect("a view").rows(), 10);

    // Of another count, as after a third one: its files are not part of the table any more.
    fill(&kit, &mut hops, 6..=9).await;
    let (view, merge) = next_merge(&kit.lake, table, &settings().upkeep).await.expect("a look").expect("small files");
    let mut stale = prepare(&kit.lake, &view, merge, &settings().upkeep).await.expect("written").expect("counted");
    hops.maintain(&[table]).await.expect("kept");
    let app = stale.commit.txns[0].clone();
    stale.commit.txns[0] = crate::lake::Txn { expected: Some(app.version), version: app.version + 1, ..app };
    let refused = kit.lake.commit(stale.commit, Some(&hops.lease)).await;
    assert!(matches!(refused, Err(LakeError::Overtaken { .. })), "{refused:?}");
    assert_eq!(kit.lake.view(table).await.expect("a view").rows(), 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hops_counted_while_a_merge_was_written_is_what_the_next_holder_counts_from() {
    let (kit, _) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=5).await;
    let table = Table::SilverReadings;
    let (view, merge) = next_merge(&kit.lake, table, &settings().upkeep).await.expect("a look").expect("small files");
    let prepared = prepare(&kit.lake, &view, merge, &settings().upkeep).await.expect("written").expect("counted");
    fill(&kit, &mut hops, 6..=7).await;
    commit(&kit.lake, &hops.lease, prepared).await.expect("merged");
    let totals = hops.totals();
    assert_eq!(totals.decoded, 14);
    hops.into_lease().release().await;
    let hops = kit.hops_with(settings()).await.expect("takes over");
    assert_eq!(hops.totals(), totals);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_hop_has_yet_to_read_stays_and_goes_when_it_was_read() {
    let (kit, world) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=2).await;
    // Hops stand still; bronze goes on and is merged.
    for number in 3..=6 {
        kit.store(&[event(number, "g", &envelope(number * 2, &[(number * 2, "a", 1.0, number * 60)]))]).await;
    }
    let bronze = Table::BronzeMessages;
    hops.maintain(&[bronze]).await.expect("kept");
    world.pass(Duration::from_secs(7_200));
    let kept = rubbish(&kit.lake, bronze, &settings().upkeep).await.expect("a look");
    assert_eq!(kept.files, Vec::<String>::new(), "silver has not read them");
    kit.settle(&mut hops).await;
    assert_eq!(kit.lake.view(Table::SilverReadings).await.expect("a view").rows(), 8);
    let goes = rubbish(&kit.lake, bronze, &settings().upkeep).await.expect("a look");
    assert_eq!(goes.files.len(), 6);
    let before = kit.everything().await;
    hops.maintain(&Table::ALL).await.expect("kept");
    assert_eq!(kit.everything().await, before);
    assert_eq!(kit.lake.listing(bronze).await.expect("a listing").0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_cut_at_a_checkpoint_and_the_table_opens_as_before() {
    let (kit, world) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=22).await;
    let bronze = Table::BronzeMessages;
    let entries = |log: &[crate::lake::Logged]| log.iter().filter(|entry| !entry.checkpoint).count();
    assert_eq!(entries(&kit.lake.listing(bronze).await.expect("a listing").1), 23);
    let before = kit.everything().await;
    hops.maintain(&[bronze]).await.expect("kept");
    let (_, log) = kit.lake.listing(bronze).await.expect("a listing");
    assert!(entries(&log) <= 6 && log.iter().any(|entry| entry.checkpoint), "{log:?}");
    let kit = Kit::over(open(&world)).await;
    assert_eq!(kit.lake.view(bronze).await.expect("opens").rows(), 22);
    assert_eq!(kit.lake.txn(bronze, "bronze/hub/1000/0").await.expect("progress"), Some(22));
    assert_eq!(kit.everything().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_one_device_reads_few_files_of_a_closed_day() {
    let (kit, _) = kit().await;
    let small = upkeep::Settings { file_bytes: 40_000, closed_files: 2, ..settings().upkeep };
    let mut hops = kit.hops_with(Settings { upkeep: small, ..settings() }).await.expect("takes over");
    for number in 1..=6_i64 {
        let readings: Vec<serde_json::Value> = (1..=600)
            .map(|at| {
                let seq = (number - 1) * 600 + at;
                serde_json::json!({"s": seq, "d": format!("device-{:03}", at % 60), "m": "m", "v": seq as f64 * 1.37, "t": NOW + seq * 1_000_003, "q": "device"})
            })
            .collect();
        let body = serde_json::json!({"v": 1, "gw": "g", "epoch": super::kit::EPOCH, "high": number * 600, "rules": "r", "readings": readings});
        kit.store(&[event(number, "g", &body)]).await;
    }
    kit.settle(&mut hops).await;
    let table = Table::SilverReadings;
    let touched = |files: &[crate::lake::Add]| {
        let holds = |add: &&crate::lake::Add| {
            let stats: serde_json::Value =
                serde_json::from_str(add.stats.as_deref().expect("statistics")).expect("JSON");
            let end = |side: &str| stats[side]["device_id"].as_str().expect("text").to_owned();
            end("minValues").as_str() <= "device-042" && "device-042" <= end("maxValues").as_str()
        };
        (files.iter().filter(holds).count(), files.len())
    };
    let before = kit.lake.view(table).await.expect("a view").all_files();
    let before = touched(&before);
    assert_eq!(before.0, before.1, "as rows came, every file holds every device");
    let view = kit.lake.view(table).await.expect("a view");
    let all = upkeep::policy::Merge {
        partition: "2026-11-23".into(),
        files: view.all_files(),
        order: upkeep::policy::Order::Keys,
    };
    let prepared = prepare(&kit.lake, &view, all, &small).await.expect("written").expect("counted");
    kit.lake.commit(prepared.commit, Some(&hops.lease)).await.expect("merged");
    let after = kit.lake.view(table).await.expect("a view");
    assert_eq!(after.rows(), 3_600);
    let (read, files) = touched(&after.all_files());
    assert!(3 <= files && read * 2 <= files, "{read} of {files} files hold one device");
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_goes_on_beside_hops_by_its_schedule() {
    let (kit, _) = kit().await;
    let often = upkeep::Settings { every: Duration::from_millis(1), ..settings().upkeep };
    let mut hops = kit.hops_with(Settings { upkeep: often, ..settings() }).await.expect("takes over");
    fill(&kit, &mut hops, 1..=5).await;
    let mut rounds = 0;
    while hops.upkeep().merged < 10 {
        hops.round().await.expect("a round");
        tokio::time::sleep(Duration::from_millis(2)).await;
        rounds += 1;
        assert!(rounds < 5_000, "{:?}", hops.upkeep());
    }
    assert_eq!(kit.lake.view(Table::SilverReadings).await.expect("a view").rows(), 10);
    let lease: Lease = hops.into_lease();
    lease.release().await;
}
