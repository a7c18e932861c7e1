//! A user's model that stays behind: upkeep waits for it, but not for ever, and nothing wrong comes of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::time::Timestamp;

use super::kit::{Kit, NOW, envelope, event};
use crate::hop::{Hops, Settings};
use crate::lake::faulty::{Draw, End, Plan, Process, World};
use crate::lake::{Lake, Location, Table};
use crate::upkeep::{self, Done, rubbish};

const HOUR: Duration = Duration::from_secs(3_600);

/// Fails at every metric that is no number.
const DOUBTFUL: &str = "-- target = \"gold.doubtful\"
-- mode = \"append\"
select reading_id, event_time, cast(metric as double) as value from readings
";

/// Takes them all.
fn mended() -> String {
    DOUBTFUL.replace("cast(metric as double)", "cast(null as double)")
}

/// A storage in which all days are closed, and the patience of which a day is left: it stamps what it stores by the clock
/// on the wall, which is days behind its own.
fn begin() -> (Arc<World>, Duration) {
    let now = Clock::Real.now().micros();
    let ahead = now.max(NOW) + 3 * 86_400_000_000 - now;
    let patience = Duration::from_micros(ahead.unsigned_abs()) + 24 * HOUR;
    (World::new(Timestamp::from_micros(now + ahead)), patience)
}

/// Its lake, with this model of a user.
async fn opened(world: &Arc<World>, model_patience: Duration, model: &str) -> (Kit, Settings) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("doubtful.sql"), model).expect("a file");
    let own = crate::gold::models::own(folder.path()).await.expect("planned");
    assert_eq!(own.mistakes, []);
    let process = Process::new(world, "kept".into(), Plan { faults: 0, end: (End::None, 0), draw: Draw::new(0) });
    let location = Location::parse("memory:///lake", HashMap::new()).expect("a URL");
    let lake = Lake::over_with(location, &own.tables(), process, world.clock()).expect("a lake");
    let upkeep =
        upkeep::Settings { log_retention: HOUR, file_retention: HOUR, model_patience, ..upkeep::Settings::default() };
    (Kit::over(lake).await, Settings { own: own.models, upkeep, ..Kit::settings() })
}

/// Commits of bronze with one reading of `metric` each, and hops after each.
async fn fill(kit: &Kit, hops: &mut Hops, metric: &str, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        kit.store(&[event(number, "g", &envelope(number, &[(number, metric, 1.0, number)]))]).await;
        kit.settle(hops).await;
    }
}

fn put_off(done: &[Done]) -> Vec<String> {
    done.iter().filter(|done| matches!(done, Done::PutOff(_))).map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_keeps_failing_is_waited_for_so_long_and_filled_anew_once_it_works() {
    let (world, patience) = begin();
    let (kit, settings) = opened(&world, patience, DOUBTFUL).await;
    let mut hops = kit.hops_with(settings.clone()).await.expect("takes over");
    fill(&kit, &mut hops, "1", 1..=1).await;
    fill(&kit, &mut hops, "t", 2..=24).await;
    let readings = Table::SilverReadings;
    let count = "select count(*) as n from gold.doubtful";
    assert!(kit.ask(count).await.contains("| 1 |"), "the first row alone fits");

    // As long as its patience lasts, what it has yet to read stays.
    hops.maintain(&[readings]).await.expect("kept");
    kit.settle(&mut hops).await;
    world.pass(12 * HOUR);
    let done = hops.maintain(&[readings]).await.expect("kept");
    assert_eq!(put_off(&done), Vec::<String>::new());
    let kept = |kit: &Kit| {
        let lake = Arc::clone(&kit.lake);
        async move { lake.listing(readings).await.expect("a listing").0.len() }
    };
    assert_eq!(kept(&kit).await, 25, "every file that was merged, and what was made of them");

    // Then it goes. Whoever looks is told, and the model's table is as it was.
    world.pass(13 * HOUR);
    let would = rubbish(&kit.lake, readings, &settings.upkeep).await.expect("a look");
    assert_eq!((would.files.len(), would.put_off.len()), (24, 1));
    let done = hops.maintain(&[readings]).await.expect("kept");
    let told = put_off(&done).concat();
    assert!(told.starts_with("gold.doubtful behind silver.readings: it has read up to version "), "{told}");
    assert!(upkeep::is_whole(&done), "it is no failure of upkeep's: {done:?}");
    assert_eq!((kept(&kit).await, hops.upkeep().put_off), (1, 1));
    assert!(kit.lake.troubles()["gold.doubtful behind silver.readings"].contains("filled anew"));
    assert!(kit.ask(count).await.contains("| 1 |"));

    // Mended, it holds what it would have held: nothing is missing and nothing is twice.
    hops.into_lease().release().await;
    let (kit, settings) = opened(&world, patience, &mended()).await;
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    kit.settle(&mut hops).await;
    assert!(kit.ask(count).await.contains("| 24 |"));
    assert!(kit.ask("select count(distinct reading_id) as n from gold.doubtful").await.contains("| 24 |"));
    let done = hops.maintain(&[readings]).await.expect("kept");
    assert_eq!((put_off(&done), hops.upkeep().put_off), (vec![], 0));
    fill(&kit, &mut hops, "t", 25..=25).await;
    assert!(kit.ask(count).await.contains("| 25 |"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_works_again_is_named_no_more() {
    let (world, patience) = begin();
    let (kit, settings) = opened(&world, patience, DOUBTFUL).await;
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    fill(&kit, &mut hops, "1", 1..=1).await;
    fill(&kit, &mut hops, "t", 2..=3).await;
    world.pass(25 * HOUR);
    hops.maintain(&[Table::SilverReadings]).await.expect("kept");
    let name = "gold.doubtful behind silver.readings";
    assert!(kit.lake.troubles().contains_key(name));
    // By hand, as `hop --full-refresh` would after a repair.
    let target = kit.lake.named("gold.doubtful").expect("a table");
    let view = kit.lake.view(target).await.expect("a view");
    let readings = kit.lake.view(Table::SilverReadings).await.expect("a view");
    let app = target.app_id(&readings.id());
    let expected = view.txn(&app).await.expect("progress");
    let commit = crate::lake::TableCommit {
        table: target,
        kind: crate::lake::Kind::Append,
        batches: vec![],
        txns: vec![crate::lake::Txn { app, expected, version: readings.version() }],
        metadata: vec![],
    };
    kit.lake.commit(commit, Some(&hops.lease)).await.expect("commits");
    hops.maintain(&[Table::SilverReadings]).await.expect("kept");
    assert!(!kit.lake.troubles().contains_key(name), "{:?}", kit.lake.troubles());
}
