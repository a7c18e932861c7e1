use std::collections::HashMap;

use super::*;
use crate::bronze::cutter::tests::{event, stream};
use crate::lake::Location;
use crate::source::{fixed, flow};

async fn lake(directory: &tempfile::TempDir) -> Arc<Lake> {
    let path = directory.path().to_str().expect("UTF-8");
    let lake = Lake::open(Location::parse(path, HashMap::new()).expect("a path")).expect("a lake");
    lake.create_tables().await.expect("tables");
    Arc::new(lake)
}

async fn ingest(lake: &Arc<Lake>, events: Vec<Event>) -> Committed {
    let (committed, last) = watch::channel(Committed::default());
    let stage = Stage {
        lake: Arc::clone(lake),
        limits: Limits { rows_max: 4, bytes_max: 1 << 20, age_max: Duration::from_millis(50) },
        clock: Clock::Real,
        committed,
        metrics: Metrics::register(&mut Registry::default()),
        pulse: shared::notify::Pulses::default().add("bronze"),
    };
    let (events_in, events_out) = flow::channel(1 << 10);
    let (ended, ()) = tokio::join!(stage.run(events_out), fixed::run(events, events_in));
    ended.expect("committed");
    last.borrow().clone()
}

async fn numbers(lake: &Lake) -> String {
    let limits = crate::lake::session::Limits { memory_bytes: 64 << 20 };
    let session = crate::lake::session::lake_session(lake, limits).await.expect("a session");
    let sql = "select partition_id as p, count(*) as n, count(distinct sequence_number) as d, min(sequence_number) as lo, \
               max(sequence_number) as hi from bronze.messages group by 1 order by 1";
    let batches = crate::lake::session::query(&session, sql).await.expect(sql);
    let mut out = vec![];
    for batch in batches {
        let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(&mut out);
        writer.write(&batch).expect("numbers");
    }
    String::from_utf8(out).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_sent_twice_in_a_run_and_again_after_a_restart_are_rows_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = lake(&directory).await;
    let mut events: Vec<Event> = (0..10).map(|number| event(0, number)).collect();
    events.extend((3..8).map(|number| event(0, number)));
    events.extend((0..5).map(|number| event(1, number)));
    let committed = ingest(&first, events.clone()).await;
    assert_eq!(committed.numbers[&stream(0)], 9);
    assert_eq!(numbers(&first).await, "0,10,10,0,9\n1,5,5,0,4\n");

    events.extend((10..12).map(|number| event(0, number)));
    ingest(&lake(&directory).await, events).await;
    assert_eq!(numbers(&first).await, "0,12,12,0,11\n1,5,5,0,4\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ingesters_at_once_leave_each_event_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let (one, two) = (lake(&directory).await, lake(&directory).await);
    let events: Vec<Event> = (0..40).map(|number| event(0, number)).collect();
    tokio::join!(ingest(&one, events.clone()), ingest(&two, events));
    assert_eq!(numbers(&one).await, "0,40,40,0,39\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_the_hubs_retention_is_a_row_of_the_commit_that_moves_over_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = lake(&directory).await;
    ingest(&lake, (0..3).map(|number| event(0, number)).collect()).await;
    let gap = Event::retention_gap(stream(0), 3, 8, Timestamp::from_millis(1_790_000_000_000));
    assert_eq!((gap.given_up(), event(0, 9).given_up()), (Some(6), None));
    ingest(&lake, vec![gap, event(0, 9)]).await;
    assert_eq!(numbers(&lake).await, "0,5,5,0,9\n");
    let limits = crate::lake::session::Limits { memory_bytes: 64 << 20 };
    let session = crate::lake::session::lake_session(&lake, limits).await.expect("a session");
    let sql = "select sequence_number, cast(body as string) as body from bronze.messages where array_length(map_extract(properties, 'hub-retention')) > 0";
    let found = crate::lake::session::query(&session, sql).await.expect(sql);
    let shown = arrow::util::pretty::pretty_format_batches(&found).expect("printable").to_string();
    assert!(shown.contains(r#"| 8               | {"from":3,"to":8} |"#), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_created_anew_counts_anew_beside_the_one_before() {
    use crate::status;
    let directory = tempfile::tempdir().expect("a directory");
    let lake = lake(&directory).await;
    ingest(&lake, (0..3).map(|number| event(0, number)).collect()).await;
    let anew = Stream { incarnation: 8, ..stream(0) };
    let events: Vec<Event> = (0..2).map(|number| Event { stream: anew.clone(), ..event(0, number) }).collect();
    ingest(&lake, events).await;
    let bronze = lake.view(Table::BronzeMessages).await.expect("a table");
    assert_eq!(status::last_incarnation(&bronze, "h").await.expect("the log"), Some(8));
    assert_eq!(status::last_incarnation(&bronze, "other").await.expect("the log"), None);
    assert_eq!(numbers(&lake).await, "0,5,3,0,2\n");

    let told = |last_enqueued| crate::source::Told { stream: anew.clone(), begin: 0, last_enqueued, begun: None };
    for (last, live, lag, caught_up) in [(1, true, 0, false), (4, true, 3, false), (1, false, 0, false)] {
        let told = [(anew.clone(), told(last))].into();
        let status = status::read(&lake, status::Hub::Heard { live, told: &told }).await.expect("a status");
        assert_eq!(status.streams.len(), 1);
        assert_eq!((status.streams[0].committed, status.streams[0].lag), (Some(1), Some(lag)));
        // Silver was never filled, so nothing is caught up.
        assert_eq!(status.caught_up, caught_up);
    }
    let status = status::read(&lake, status::Hub::NotAsked).await.expect("a status");
    let found: Vec<_> = status.streams.iter().map(|stream| (stream.incarnation, stream.committed)).collect();
    assert_eq!(found, [(7, Some(2)), (8, Some(1))]);
    assert!(status.to_string().contains("caught up: no"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_partition_that_another_reads_are_given_up_and_come_again_where_it_comes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = lake(&directory).await;
    let (committed, _kept) = watch::channel(Committed::default());
    let mut registry = Registry::default();
    let stage = Stage {
        lake: Arc::clone(&lake),
        limits: Limits { rows_max: 1_000, bytes_max: 1 << 20, age_max: Duration::from_secs(60) },
        clock: Clock::Real,
        committed,
        metrics: Metrics::register(&mut registry),
        pulse: shared::notify::Pulses::default().add("bronze"),
    };
    let metrics = stage.metrics.clone();
    let (arrivals, taken) = flow::channel(1 << 20);
    let fill = async move {
        for number in 0..5 {
            arrivals.send(Arrival::Event(event(0, number))).await.expect("open");
            arrivals.send(Arrival::Event(event(1, number))).await.expect("open");
        }
        arrivals.send(Arrival::Lost(stream(0))).await.expect("open");
        // Another one commits some of it, and then it is ours again.
        arrivals.send(Arrival::Event(event(0, 3))).await.expect("open");
        arrivals.send(Arrival::Event(event(0, 4))).await.expect("open");
    };
    ingest(&lake, (0..3).map(|number| event(0, number)).collect()).await;
    let (ended, ()) = tokio::join!(stage.run(taken), fill);
    ended.expect("committed");
    assert_eq!(numbers(&lake).await, "0,5,5,0,4\n1,5,5,0,4\n");
    assert_eq!((metrics.received.get(), metrics.sent.get(), metrics.let_go.get()), (12, 7, 2));
    assert_eq!(metrics.duplicates.get(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_commit_fails_for_long_are_written_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = lake(&directory).await;
    let (committed, mut seen) = watch::channel(Committed::default());
    let stage = Stage {
        lake: Arc::clone(&lake),
        limits: Limits { rows_max: 4, bytes_max: 1 << 20, age_max: Duration::from_secs(60) },
        clock: Clock::Real,
        committed,
        metrics: Metrics::register(&mut Registry::default()),
        pulse: shared::notify::Pulses::default().add("bronze"),
    };
    let metrics = stage.metrics.clone();
    let (arrivals, taken) = flow::channel(1 << 20);
    let folder = directory.path().join("bronze/messages");
    let (log, kept) = (folder.join("_delta_log"), folder.join("_kept"));
    let rest = async move {
        let send = async |numbers: std::ops::Range<i64>| {
            for number in numbers {
                arrivals.send(Arrival::Event(event(0, number))).await.expect("open");
            }
        };
        send(0..4).await;
        seen.changed().await.expect("committed");
        // No log can be written where a file lies.
        std::fs::rename(&log, &kept).expect("moved");
        std::fs::write(&log, "").expect("in the way");
        send(4..8).await;
        while metrics.failed.get() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::remove_file(&log).expect("out of the way");
        std::fs::rename(&kept, &log).expect("back");
    };
    let (ended, ()) = tokio::join!(stage.run(taken), rest);
    ended.expect("committed");
    assert_eq!(numbers(&lake).await, "0,8,8,0,7\n");
    let files = lake.listing(Table::BronzeMessages).await.expect("a listing").0.len();
    assert_eq!(files, 2, "one for each commit");
}
