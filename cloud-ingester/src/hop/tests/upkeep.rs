//! Merges, vacuum and cut logs: the same rows, in fewer files, and no news to hops.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::time::Timestamp;

use super::kit::{Kit, NOW, envelope, event, raw};
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
        let (view, merge) = next_merge(&kit.lake, table, &settings().upkeep, &BTreeSet::new())
            .await
            .expect("a look")
            .expect("small files");
        made.push(prepare(&kit.lake, &view, merge, &settings().upkeep).await.expect("written").expect("counted"));
    }
    kit.lake.commit(made.remove(0).commit, Some(&hops.lease)).await.expect("the first");
    let refused = kit.lake.commit(made.remove(0).commit, Some(&hops.lease)).await;
    // As progress tells: it was the same merge.
    assert!(refused.is_ok_and(|landed| matches!(landed, crate::lake::Landed::Before(_))), "{}", world.told());
    assert_eq!(kit.lake.view(table).await.expect("a view").rows(), 10);

    // Of another count, as after a third one: its files are not part of the table any more.
    fill(&kit, &mut hops, 6..=9).await;
    let (view, merge) =
        next_merge(&kit.lake, table, &settings().upkeep, &BTreeSet::new()).await.expect("a look").expect("small files");
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
    let (view, merge) =
        next_merge(&kit.lake, table, &settings().upkeep, &BTreeSet::new()).await.expect("a look").expect("small files");
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
    // One when it was created, one for how long it keeps what was removed.
    assert_eq!(entries(&kit.lake.listing(bronze).await.expect("a listing").1), 24);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_long_ago_keeps_neither_files_nor_the_log_of_bronze() {
    let (kit, world) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    let mut body = envelope(9, &[(9, "a", 1.0, 0)]);
    body["gaps"] = serde_json::json!([{"epoch": super::kit::EPOCH, "from": 1, "to": 8, "reason": "disk-bound"}]);
    kit.store(&[event(1, "g", &body)]).await;
    kit.settle(&mut hops).await;
    assert_eq!(kit.lake.view(Table::SilverGaps).await.expect("a view").rows(), 1);
    // Silver's side tables have nothing to say from here on.
    for number in 10..=32 {
        kit.store(&[event(number, "g", &envelope(number, &[(number, "a", 1.0, number)]))]).await;
        kit.settle(&mut hops).await;
    }
    hops.maintain(&[Table::BronzeMessages]).await.expect("merged");
    kit.settle(&mut hops).await;
    world.pass(Duration::from_secs(7_200));
    let goes = rubbish(&kit.lake, Table::BronzeMessages, &settings().upkeep).await.expect("a look");
    assert_eq!(goes.files.len(), 24);
    let (_, log) = kit.lake.listing(Table::BronzeMessages).await.expect("a listing");
    assert!(log.first().is_some_and(|entry| 10 < entry.version), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_huge_bodies_are_merged_within_little_memory() {
    let (kit, _) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    let mut drawn = 0x9E37_79B9_7F4A_7C15_u64;
    let mut body = |bytes: usize| -> Vec<u8> {
        let mut next = || {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (drawn >> 33).to_le_bytes()
        };
        std::iter::repeat_with(|| next()[..4].to_vec()).flatten().take(bytes).collect()
    };
    let huge: Vec<_> = (1..=128).map(|number| raw(number, "g", body(256 << 10))).collect();
    kit.store(&huge).await;
    // The same to the byte: a dictionary holds it once, memory each time.
    let same = body(200 << 10);
    kit.store(&(129..=400).map(|number| raw(number, "g", same.clone())).collect::<Vec<_>>()).await;
    for number in 401..=404 {
        kit.store(&[raw(number, "g", body(10))]).await;
    }
    let bronze = Table::BronzeMessages;
    let done = hops.maintain(&[bronze]).await.expect("kept");
    assert!(upkeep::is_whole(&done), "{done:?}");
    let view = kit.lake.view(bronze).await.expect("a view");
    assert_eq!((view.files().0, view.rows()), (1, 404), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_merged_is_told_and_keeps_nothing_else_waiting() {
    let (kit, world) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=5).await;
    let bronze = Table::BronzeMessages;
    hops.maintain(&[bronze]).await.expect("merged");
    kit.settle(&mut hops).await;
    fill(&kit, &mut hops, 6..=9).await;
    world.pass(Duration::from_secs(7_200));
    let lost = kit.lake.view(bronze).await.expect("a view").all_files().pop().expect("a file").path;
    kit.lake.remove(bronze, vec![lost]).await.expect("somebody's mistake");
    let done = hops.maintain(&[bronze]).await.expect("as far as it goes");
    let [upkeep::Done::Left { why, .. }, upkeep::Done::Removed { files, .. }] = &done[..] else { panic!("{done:?}") };
    assert!(!why.is_empty() && *files == 5, "{done:?}");
    assert_eq!((hops.upkeep().failed, upkeep::is_whole(&done)), (1, false));

    // By schedule, `status` tells it.
    let often = upkeep::Settings { every: Duration::from_millis(1), ..settings().upkeep };
    hops.into_lease().release().await;
    let mut hops = kit.hops_with(Settings { upkeep: often, ..settings() }).await.expect("takes over");
    for _ in 0..5_000 {
        hops.round().await.expect("a round");
        if kit.lake.troubles().contains_key("upkeep of bronze.messages") && 10 < hops.upkeep().merged {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{:?} {:?}", kit.lake.troubles(), hops.upkeep());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_says_how_long_it_keeps_what_was_removed_and_a_checkpoint_goes_by_it() {
    let world = World::new(later());
    let mut lake = open(&world);
    lake.checkpoint_every(1);
    let kit = Kit::over(lake).await;
    let table = Table::BronzeMessages;
    let told = async |kit: &Kit| {
        let view = kit.lake.view(table).await.expect("a view");
        ["delta.logRetentionDuration", "delta.deletedFileRetentionDuration"]
            .map(|name| view.property(name).unwrap_or_default())
    };
    let week = "interval 604800 seconds".to_owned();
    assert_eq!(told(&kit).await, [week.clone(), week], "as it was created");
    let mut gone = vec![];
    for files in [0, 30 * 86_400] {
        let upkeep = upkeep::Settings { file_retention: Duration::from_secs(files), ..settings().upkeep };
        let with = Settings { upkeep, ..settings() };
        let hops = kit.hops_with(with.clone()).await.expect("takes over");
        assert_eq!(told(&kit).await, ["interval 3600 seconds".to_owned(), format!("interval {files} seconds")]);
        hops.into_lease().release().await;
        let before = kit.versions().await;
        let mut hops = kit.hops_with(with).await.expect("takes over");
        assert_eq!(kit.versions().await[0], before[0], "said once");
        let at = i64::try_from(gone.len()).expect("few") * 10;
        fill(&kit, &mut hops, at + 1..=at + 4).await;
        // Merged, not vacuumed.
        let (view, merge) = next_merge(&kit.lake, table, &settings().upkeep, &BTreeSet::new())
            .await
            .expect("a look")
            .expect("small files");
        let prepared = prepare(&kit.lake, &view, merge, &settings().upkeep).await.expect("written").expect("counted");
        kit.lake.commit(prepared.commit, Some(&hops.lease)).await.expect("merged");
        let anew = open(&world);
        gone.push(anew.view(table).await.expect("a view").gone().await.expect("the log").len());
        hops.into_lease().release().await;
    }
    // Four small files, and what was made of the four before.
    assert_eq!(gone, [0, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_days_is_merged_too() {
    let (kit, _) = kit().await;
    let hops = kit.hops_with(settings()).await.expect("takes over");
    let table = Table::GoldDeviceLatest;
    for number in 0..3 {
        let batch = arrow::array::RecordBatch::try_new(
            table.schema(),
            table.schema().fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 5)).collect(),
        );
        let txn = crate::lake::Txn { app: "t".into(), expected: (number != 0).then(|| number - 1), version: number };
        let commit = crate::lake::TableCommit {
            table,
            kind: crate::lake::Kind::Append,
            batches: vec![batch.expect("rows")],
            txns: vec![txn],
            metadata: vec![],
        };
        kit.lake.commit(commit, None).await.expect("commits");
    }
    let few = upkeep::Settings { open_files: 3, ..settings().upkeep };
    let none = BTreeSet::new();
    let (view, merge) = next_merge(&kit.lake, table, &few, &none).await.expect("a look").expect("small files");
    let prepared = prepare(&kit.lake, &view, merge, &few).await.expect("written").expect("counted");
    commit(&kit.lake, &hops.lease, prepared).await.expect("merged");
    let view = kit.lake.view(table).await.expect("a view");
    assert_eq!((view.files().0, view.rows()), (1, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_carries_the_newest_books() {
    let (kit, _) = kit().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    fill(&kit, &mut hops, 1..=2).await;
    let totals = hops.totals();
    hops.into_lease().release().await;
    let hops = kit.hops_with(settings()).await.expect("takes over");
    let view = kit.lake.view(Table::SilverReadings).await.expect("a view");
    let newest = view.change(view.version()).await.expect("the fence").info;
    assert_eq!(newest.get("fence"), Some(&serde_json::Value::Bool(true)));
    assert_eq!(newest.get("totals"), Some(&serde_json::to_value(totals).expect("plain data")));
    assert!(newest.contains_key("highs"));
    drop(hops);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_row_of_one_device_reads_the_files_of_that_device() {
    let (kit, _) = kit().await;
    let small = upkeep::Settings { file_bytes: 40_000, closed_files: 2, ..settings().upkeep };
    let mut hops = kit.hops_with(Settings { upkeep: small, ..settings() }).await.expect("takes over");
    let readings: Vec<serde_json::Value> = (1..=3_600_i64)
        .map(|seq| serde_json::json!({"s": seq, "d": format!("device-{:03}", seq % 60), "m": "m", "v": seq as f64 * 1.37, "t": NOW + seq * 1_000_003, "q": "device"}))
        .collect();
    let body = serde_json::json!({"v": 1, "gw": "g", "epoch": super::kit::EPOCH, "high": 3_600, "rules": "r", "readings": readings});
    kit.store(&[event(1, "g", &body)]).await;
    kit.settle(&mut hops).await;
    let table = Table::SilverReadings;
    let view = kit.lake.view(table).await.expect("a view");
    let all = upkeep::policy::Merge {
        partition: "2026-11-23".into(),
        files: view.all_files(),
        order: upkeep::policy::Order::Keys,
    };
    let prepared = prepare(&kit.lake, &view, all, &small).await.expect("written").expect("counted");
    kit.lake.commit(prepared.commit, Some(&hops.lease)).await.expect("merged");
    kit.settle(&mut hops).await;
    let columns = ["device_id".to_owned()];
    let key = [&10_u32.to_le_bytes()[..], b"device-042"].concat();
    let wanted = crate::gold::pruned::Wanted::of(&columns, Some([key.as_slice()].into()));
    let files = kit.lake.view(table).await.expect("a view").all_files();
    let others: Vec<String> = files.iter().filter(|add| !wanted.may_be_in(add)).map(|add| add.path.clone()).collect();
    assert!(2 <= others.len() && others.len() < files.len(), "{} of {}", others.len(), files.len());

    let late = serde_json::json!({"v": 1, "gw": "g", "epoch": super::kit::EPOCH, "high": 3_601, "rules": "r", "readings": [
        {"s": 3_601, "d": "device-042", "m": "m", "v": 1e6, "t": NOW + 60_000_000, "q": "device"}]});
    kit.store(&[event(2, "g", &late)]).await;
    // Whoever reads another file now fails.
    kit.lake.remove(table, others).await.expect("gone");
    kit.settle(&mut hops).await;
    let sql = "select count(*) as n from gold.metric_1d where value_max = 1e6 and device_id = 'device-042'";
    assert!(kit.ask(sql).await.contains("| 1 |"));
    assert!(kit.ask("select count(*) as n from gold.metric_1d").await.contains("| 60 |"));
}

#[tokio::test]
async fn a_log_whose_checkpoint_lost_the_progress_of_a_partition_is_not_cut() {
    let kit = Kit::new().await;
    kit.store(&[super::kit::Stored { partition: 1, ..event(1, "g", &envelope(1, &[])) }]).await;
    for number in 2..=24 {
        kit.store(&[event(number, "g", &envelope(1, &[]))]).await;
    }
    let bronze = Table::BronzeMessages;
    let folder = kit.lake.location().local().expect("a directory").join("bronze/messages/_delta_log");
    let long_ago = || {
        let then = std::time::SystemTime::now() - Duration::from_secs(86_400);
        for file in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let file = std::fs::File::options().append(true).open(file.path()).expect("a file");
            file.set_modified(then).expect("its time");
        }
    };
    long_ago();
    let goes = rubbish(&kit.lake, bronze, &settings().upkeep).await.expect("a look");
    assert_eq!(goes.log.len(), 19, "what lies before the checkpoint: {:?}", goes.log);

    let checkpoint = folder.join(format!("{:020}.checkpoint.parquet", 19));
    let lost = crate::lake::forgetting(std::fs::read(&checkpoint).expect("a file"), "bronze/hub/1000/1");
    std::fs::write(&checkpoint, lost).expect("written");
    long_ago();
    // What was loaded before knows the file that was there.
    kit.lake.forget().await;
    let goes = rubbish(&kit.lake, bronze, &settings().upkeep).await.expect("a look");
    assert_eq!(goes.log, Vec::<String>::new());
}
