//! Exactly once, whatever the storage answers and whoever dies: the real committer, hops and lease over a storage in
//! memory that fails by seed, in virtual time.
//!
//! A seed draws the life of several processes, one after the other: what fails in each, at which commit it dies or
//! falls asleep, by which rules it judges, from where the hub hands it the Events again. One that slept wakes when
//! another has taken over. `FAULT_SEED=17 cargo test -p cloud-ingester one_seed` runs one seed alone and tells
//! what happened in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use shared::blame::Blame;
use shared::rules::TimeWindow;
use shared::time::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::kit::{LIMITS, NOW, SECOND};
use crate::bronze::cutter::Limits;
use crate::bronze::stage::{Committed, Metrics, Stage};
use crate::hop::{HopError, Hops, Settings};
use crate::lake::faulty::{Draw, End, Plan, Process, World};
use crate::lake::session::{lake_session, query};
use crate::lake::{Holder, Lake, LakeError, Lease, Location, Table};
use crate::source::{Event, Stream, fixed, flow};

/// Events of each of the two partitions.
const EVENTS: i64 = 12;

/// Processes that may meet faults; then comes one that meets none.
const LIVES: u64 = 5;

/// A lease is free after this.
const AWAY: Duration = Duration::from_secs(75);

fn stream(partition: i32) -> Stream {
    Stream { hub: "h".into(), incarnation: 7, partition }
}

/// What the hub holds at one place. Some Envelopes come twice, in part, with gaps, with refusals; one body is broken.
fn event(partition: i32, number: i64) -> Event {
    let epoch = format!("00000000000000b{partition}");
    let first = number * 3 + 1;
    let enqueued = NOW + number * 20 * SECOND;
    // Every fourth repeats the Envelope before it, cut otherwise.
    let first = if number % 4 == 3 { first - 2 } else { first };
    let readings: Vec<Value> = (first..first + 3)
        .filter(|seq| seq % 7 != 0)
        .map(|seq| {
            // Every fifth is so old that the stricter rules refuse it.
            let age = if seq % 5 == 0 { 20 * 86_400 } else { 0 };
            json!({"s": seq, "d": format!("d{}", seq % 2), "m": "m", "v": seq, "t": NOW + (number * 20 - age) * SECOND, "q": "device"})
        })
        .collect();
    let rejected: Vec<Value> = (first..first + 3)
        .filter(|seq| seq % 7 == 0)
        .map(|seq| json!({"s": seq, "d": "d0", "m": "m", "topic": "t", "reasons": ["range"], "raw": "e30=", "raw_len": 2}))
        .collect();
    let gaps = if number == 5 {
        json!([{"epoch": epoch, "from": 1_000, "to": 1_004, "reason": "disk-bound"}])
    } else {
        json!([])
    };
    let body = json!({"v": 1, "gw": "g", "epoch": epoch, "high": first + 2, "rules": "r", "readings": readings,
        "rejected": rejected, "gaps": gaps});
    let body = if number == 8 { b"broken".to_vec() } else { body.to_string().into_bytes() };
    Event {
        stream: stream(partition),
        sequence_number: number,
        offset: Some(number.to_string()),
        enqueued_time: Some(Timestamp::from_micros(enqueued)),
        device_id: Some("g".to_owned()),
        message_id: None,
        content_type: None,
        properties: vec![],
        system_properties: vec![("iothub-message-source".to_owned(), "Telemetry".to_owned())],
        body: body.into(),
        body_encoding: None,
    }
}

/// The ids that must be in silver, each once: what the Envelopes held.
fn ids() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for partition in 0..2 {
        for number in (0..EVENTS).filter(|number| *number != 8) {
            let body: Value = serde_json::from_slice(&event(partition, number).body).expect("JSON");
            let all = body["readings"].as_array().into_iter().chain(body["rejected"].as_array()).flatten();
            ids.extend(all.map(|row| format!("g/{}/{}", body["epoch"].as_str().expect("text"), row["s"])));
        }
    }
    ids
}

fn open(process: &Arc<Process>, world: &Arc<World>) -> Lake {
    let location = Location::parse("memory:///lake", HashMap::new()).expect("a URL");
    let mut lake = Lake::over(location, Arc::clone(process) as _, world.clock()).expect("a lake");
    // So that some come, and fail.
    lake.checkpoint_every(4);
    lake
}

/// As the service's loop: what may pass is tried again, what cannot ends the process.
async fn patiently<T, E, F>(world: &World, process: &Process, mut act: impl FnMut() -> F) -> Result<T, String>
where
    E: Into<HopError>,
    F: Future<Output = Result<T, E>>,
{
    let mut left = 8;
    loop {
        let error: HopError = match act().await {
            Ok(done) => return Ok(done),
            Err(error) => error.into(),
        };
        left -= 1;
        let lost = matches!(error, HopError::Lake(LakeError::LeaseLost { .. } | LakeError::LeaseHeld { .. }));
        if lost || left == 0 || error.blame() != Blame::Peer {
            return Err(error.to_string());
        }
        world.note(format!("{process} tries again: {error}"));
        world.pass(Duration::from_secs(2));
    }
}

/// One process from start to end: reads what the hub has, piece by piece, with hops in between.
async fn live(
    process: Arc<Process>,
    world: Arc<World>,
    pieces: Vec<Vec<Event>>,
    settings: Settings,
) -> Result<(), String> {
    let lake = Arc::new(open(&process, &world));
    patiently(&world, &process, || lake.create_tables()).await?;
    let holder = Holder::this(&process.to_string(), None);
    let lease = patiently(&world, &process, || Lease::acquire(&lake, &holder)).await?;
    let hops = Hops::take_over(Arc::clone(&lake), lease, settings).await;
    let mut hops = hops.map_err(|error| error.to_string())?;
    for piece in pieces {
        let (committed, _heard) = watch::channel(Committed::default());
        let stage = Stage {
            lake: Arc::clone(&lake),
            limits: Limits { rows_max: 3, bytes_max: 1 << 20, age_max: Duration::from_secs(3_600) },
            clock: world.clock(),
            committed,
            metrics: Metrics::register(&mut Registry::default()),
            pulse: shared::notify::Pulses::default().add("bronze"),
        };
        // All of it fits, so that what waits for what follows from the seed alone.
        let (events, received) = flow::channel(1 << 24);
        fixed::run(piece, events).await;
        stage.run(received).await.map_err(|error| error.to_string())?;
        loop {
            let hops = tokio::sync::Mutex::new(&mut hops);
            if patiently(&world, &process, || async { hops.lock().await.round().await }).await?.is_idle() {
                break;
            }
        }
    }
    hops.into_lease().release().await;
    Ok(())
}

/// The Events of one life: from an old place of the hub, sometimes twice, in two or three pieces.
fn pieces(draw: &mut Draw, known: i64) -> Vec<Vec<Event>> {
    let mut events = vec![];
    for number in 0..known {
        events.extend([event(0, number), event(1, number)]);
    }
    // The receiver was made anew in mid-run, at the position at which it had begun.
    if draw.once_in(2) {
        events.extend(events.clone());
    }
    let size = events.len().div_ceil(3 + usize::try_from(draw.below(3)).expect("small")).max(1);
    events.chunks(size).map(<[Event]>::to_vec).collect()
}

fn settings(strict: bool) -> Settings {
    let days = if strict { 10 } else { 400 };
    let window = TimeWindow { max_age: Duration::from_secs(days * 86_400), ..TimeWindow::SILVER };
    Settings { limits: LIMITS, rest: 0, window, ..Settings::default() }
}

/// A process that sleeps, and how it will have ended.
type Asleep = (Arc<Process>, tokio::task::JoinHandle<Result<(), String>>);

/// What went on in a seed's world.
async fn simulate(seed: u64, world: &Arc<World>) -> Result<(), String> {
    let mut draw = Draw::new(seed);
    let mut sleeping: Option<Asleep> = None;
    let mut known = 0;
    // Most tables are there when faults begin; what creating meets, some seeds see.
    if !draw.once_in(6) {
        let plan = Plan { faults: 0, end: (End::None, 0), draw: Draw::new(0) };
        open(&Process::new(world, "first".into(), plan), world)
            .create_tables()
            .await
            .map_err(|error| error.to_string())?;
    }
    for life in 0..=LIVES {
        let last = life == LIVES;
        known = if last { EVENTS } else { (known + 1 + i64::try_from(draw.below(4)).expect("small")).min(EVENTS) };
        let end =
            [End::None, End::DiesBefore, End::DiesAfter, End::Sleeps][usize::try_from(draw.below(4)).expect("small")];
        let end = if last || (end == End::Sleeps && sleeping.is_some()) { End::None } else { end };
        // The first six are fences.
        let at = if draw.once_in(5) { 1 + draw.below(7) } else { 7 + draw.below(20) };
        let plan = Plan {
            faults: if last { 0 } else { draw.below(8) },
            end: (end, at),
            draw: Draw::new(seed.wrapping_mul(1_000) + life),
        };
        let process = Process::new(world, format!("p{life}"), plan);
        let strict = draw.once_in(3);
        world.note(format!("p{life} begins, {known} Events known, rules {}", if strict { "strict" } else { "wide" }));
        let pieces = pieces(&mut draw, known);
        let task = tokio::spawn(live(Arc::clone(&process), Arc::clone(world), pieces, settings(strict)));
        let mut task = task;
        let ended = tokio::select! {
            ended = &mut task => Some(ended.map_err(|error| format!("p{life}: {error}"))?),
            () = process.ended() => None,
        };
        match ended {
            Some(Ok(())) => world.note(format!("p{life} is done")),
            // As a service that ends and is started again.
            Some(Err(error)) if !last => world.note(format!("p{life} ends: {error}")),
            Some(Err(error)) => return Err(format!("p{life} met no fault and ends: {error}")),
            None if process.is_asleep() => {
                world.pass(AWAY);
                sleeping = Some((process, task));
                continue;
            }
            None => {
                task.abort();
                let _ = task.await;
            }
        }
        world.pass(AWAY);
        if let Some((zombie, task)) = sleeping.take() {
            zombie.wake();
            let ended = task.await.map_err(|error| format!("{zombie}: {error}"))?;
            world.note(format!("{zombie}, awake again, ends: {ended:?}"));
            world.pass(AWAY);
        }
    }
    if let Some((zombie, task)) = sleeping.take() {
        zombie.wake();
        let ended = task.await.map_err(|error| format!("{zombie}: {error}"))?;
        world.note(format!("{zombie}, awake again, ends: {ended:?}"));
        world.pass(AWAY);
    }
    Box::pin(prove(world)).await
}

/// The rows of a query, as lines of CSV.
async fn rows(lake: &Lake, sql: &str) -> Vec<String> {
    let session = lake_session(lake, LIMITS).await.expect("a session");
    let mut out = vec![];
    for batch in query(&session, sql).await.expect(sql) {
        let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(&mut out);
        writer.write(&batch).expect("plain columns");
    }
    String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// The gold tables and their rows, but for the last digits of sums, which depend on the order in which fractions were added
/// up; the watermarks apart, which depend on when they were made.
const GOLD: [(Table, &str); 6] = [
    (
        Table::GoldMetric1m,
        "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1m order by gateway_id, device_id, metric, unit, window_start",
    ),
    (
        Table::GoldMetric1h,
        "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1h order by gateway_id, device_id, metric, unit, window_start",
    ),
    (
        Table::GoldMetric1d,
        "select * except (value_avg, value_stddev), round(value_avg, 9), round(value_stddev, 9) from gold.metric_1d order by gateway_id, device_id, metric, unit, window_start",
    ),
    (Table::GoldDeviceLatest, "select * from gold.device_latest order by gateway_id, device_id, metric, unit"),
    (Table::GoldDeviceHealth, "select * from gold.device_health order by gateway_id, device_id, window_start"),
    (Table::GoldGatewayHealth, "select * from gold.gateway_health order by gateway_id, epoch"),
];

/// One of each partition and one of the lake; with their times, in microseconds.
const MARKS: &str = "select hub, incarnation, partition_id, unix_micros(watermark) from gold.watermarks order by 3";

/// The partitions, and until when they are here at least.
const SEEN: &str = "select hub, incarnation, partition_id, unix_micros(max(least(event_time, enqueued_time))) \
                    from silver.readings group by 1, 2, 3 order by 3";

/// Each watermark is there once, and none of `marks` is earlier than the one of `earlier` at the same place.
fn not_before(marks: &[String], earlier: &[String]) -> Result<(), String> {
    let split = |row: &String| {
        let (place, time) = row.rsplit_once(',').expect("columns");
        (place.to_owned(), time.parse::<i64>().expect("microseconds"))
    };
    let found: HashMap<String, i64> = marks.iter().map(split).collect();
    let behind = earlier.iter().map(split).any(|(place, time)| found.get(&place).is_none_or(|found| *found < time));
    let lake = found.keys().filter(|place| place.starts_with(',')).count();
    match found.len() == marks.len() && marks.len() == 3 && lake == 1 && !behind {
        true => Ok(()),
        false => Err(format!("watermarks {marks:?}, which were {earlier:?}")),
    }
}

/// Nothing is lost, nothing is there twice, in any layer.
async fn prove(world: &Arc<World>) -> Result<(), String> {
    let plan = Plan { faults: 0, end: (End::None, 0), draw: Draw::new(0) };
    let process = Process::new(world, "proof".into(), plan);
    // What woke last may have left something half done.
    Box::pin(live(Arc::clone(&process), Arc::clone(world), vec![vec![]], settings(false))).await?;
    let lake = Arc::new(open(&process, world));
    let equal = |what: &str, found: Vec<String>, wanted: Vec<String>| {
        if found == wanted { Ok(()) } else { Err(format!("{what}:\n found {found:?}\nwanted {wanted:?}")) }
    };
    let bronze =
        "select partition_id, count(*), count(distinct sequence_number) from bronze.messages group by 1 order by 1";
    let each = |partition| format!("{partition},{EVENTS},{EVENTS}");
    equal("Events in bronze", rows(&lake, bronze).await, vec![each(0), each(1)])?;
    let silver = "select reading_id as id from silver.readings union all select id from silver.quarantine where epoch is not null order by id";
    let mut wanted: Vec<String> = ids().into_iter().collect();
    wanted.sort_unstable();
    equal("ids in silver", rows(&lake, silver).await, wanted)?;
    let broken = "select count(*) from silver.quarantine where epoch is null";
    equal("refused Events", rows(&lake, broken).await, vec!["2".into()])?;
    let gaps = "select count(*), count(distinct epoch) from silver.gaps";
    equal("gaps", rows(&lake, gaps).await, vec!["2,2".into()])?;

    let lease = Lease::acquire(&lake, &Holder::this("proof", None)).await.map_err(|error| error.to_string())?;
    let hops = Hops::take_over(Arc::clone(&lake), lease, settings(false)).await;
    let mut hops = hops.map_err(|error| error.to_string())?;
    // Also what else comes by the clock.
    hops.run_all(&CancellationToken::new(), |_| {}).await.map_err(|error| error.to_string())?;
    let mut before = vec![];
    for (table, sql) in GOLD {
        before.push(rows(&lake, sql).await);
        if before.last().is_none_or(Vec::is_empty) {
            return Err(format!("{} has no rows", table.full_name()));
        }
    }
    let marks = rows(&lake, MARKS).await;
    not_before(&marks, &rows(&lake, SEEN).await)?;
    for table in GOLD.map(|(table, _)| table).into_iter().chain([Table::GoldWatermarks]) {
        hops.full_refresh(table).await.map_err(|error| error.to_string())?;
    }
    for ((_, sql), before) in GOLD.iter().zip(before) {
        equal(sql, before, rows(&lake, sql).await)?;
    }
    not_before(&rows(&lake, MARKS).await, &marks)?;
    let (totals, kept) = (
        hops.totals(),
        rows(&lake, "select (select count(*) from silver.readings) + (select count(*) from silver.quarantine)").await,
    );
    equal("decoded = kept + duplicates", vec![(totals.decoded - totals.duplicates).to_string()], kept)?;
    let events = u64::try_from(2 * EVENTS).expect("few");
    equal("Events counted", vec![totals.events.to_string()], vec![events.to_string()])
}

async fn check(seed: u64) -> Result<(), String> {
    let world = World::new(Timestamp::from_micros(NOW));
    let done = simulate(seed, &world).await;
    done.map_err(|error| {
        format!(
            "seed {seed}: {error}\n{}\nseed {seed} failed: FAULT_SEED={seed} cargo test -p cloud-ingester one_seed",
            world.told()
        )
    })
}

/// Seeds that failed once.
const FOUND: [u64; 1] = [62];

async fn check_all(seeds: impl Iterator<Item = u64>) {
    let mut failed = vec![];
    for seed in seeds {
        if let Err(error) = check(seed).await {
            failed.push(error);
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_storage_answers_and_whoever_dies_nothing_is_lost_or_twice_the_first_seeds() {
    check_all((0..5).chain(FOUND)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the rest of the hundred seeds take minutes"]
async fn whatever_the_storage_answers_and_whoever_dies_nothing_is_lost_or_twice_a_hundred_seeds() {
    check_all((5..100).filter(|seed| !FOUND.contains(seed))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_seed() {
    let Some(seed) = std::env::var("FAULT_SEED").ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    let world = World::new(Timestamp::from_micros(NOW));
    let done = simulate(seed, &world).await;
    assert!(done.is_ok() && std::env::var_os("FAULT_TELL").is_none(), "{}\n{done:?}", world.told());
}
