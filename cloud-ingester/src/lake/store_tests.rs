use std::collections::HashMap;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
use shared::time::Timestamp;

use super::*;
use crate::bronze::cutter::tests::event;
use crate::bronze::rows;
use crate::lake::door::Fault;
use crate::lake::{Extent, Holder, Location, Removes};

const TABLE: Table = Table::BronzeMessages;
const APP: &str = "bronze/h/7/0";

struct Kit {
    directory: tempfile::TempDir,
    lake: Lake,
}

impl Kit {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let lake = open(&directory);
        lake.create_tables().await.expect("tables");
        Self { directory, lake }
    }

    /// A second process on the same lake.
    fn other(&self) -> Lake {
        open(&self.directory)
    }

    async fn rows(&self) -> u64 {
        self.other().view(TABLE).await.expect("a table").rows()
    }

    async fn txn(&self) -> Option<i64> {
        self.other().txn(TABLE, APP).await.expect("progress")
    }
}

fn open(directory: &tempfile::TempDir) -> Lake {
    let path = directory.path().join("the lake");
    let location = Location::parse(path.to_str().expect("UTF-8"), HashMap::new()).expect("a path");
    location.prepare().expect("a local disk");
    Lake::open(location).expect("a lake")
}

fn batch(numbers: std::ops::RangeInclusive<i64>) -> RecordBatch {
    let events: Vec<_> = numbers.map(|number| event(0, number)).collect();
    rows::batch(&events, Timestamp::from_millis(1_790_000_000_000))
}

fn commit(expected: Option<i64>, version: i64) -> TableCommit {
    TableCommit {
        table: TABLE,
        kind: Kind::Append,
        batches: vec![batch(expected.map_or(0, |at| at + 1)..=version)],
        txns: vec![Txn { app: APP.to_owned(), expected, version }],
        metadata: vec![("plan".to_owned(), serde_json::json!({ "to": version }))],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_protocol_1_2_in_utc_with_the_columns_of_the_page() {
    let kit = Kit::new().await;
    for table in Table::ALL {
        let log = kit.directory.path().join("the lake").join(table.path()).join("_delta_log/00000000000000000000.json");
        let log = std::fs::read_to_string(log).expect("the first version");
        assert!(log.contains(r#""minReaderVersion":1,"minWriterVersion":2"#), "{log}");
        assert!(!log.contains("timestamp_ntz") && !log.contains("Features"), "{log}");
        kit.lake.view(table).await.expect("a table").check().expect("ours");
    }
    // Again: nothing is created twice.
    kit.lake.create_tables().await.expect("they are there");
    assert_eq!(kit.lake.view(TABLE).await.expect("a table").version(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_batch_committed_twenty_times_is_one_commit() {
    let kit = Kit::new().await;
    let first = kit.lake.commit(commit(None, 9), None).await.expect("new");
    assert_eq!(first, Landed::Now(1));
    for _ in 0..20 {
        let again = kit.lake.commit(commit(None, 9), None).await.expect("known");
        assert_eq!(again, Landed::Before(1));
    }
    let restarted = kit.other().commit(commit(None, 9), None).await.expect("known");
    assert_eq!(restarted, Landed::Before(1));
    assert_eq!((kit.rows().await, kit.txn().await), (10, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_never_goes_back() {
    let kit = Kit::new().await;
    kit.lake.commit(commit(None, 9), None).await.expect("new");
    let lower = kit.lake.commit(commit(None, 5), None).await.expect("known");
    assert_eq!(lower, Landed::Before(1));
    assert_eq!((kit.rows().await, kit.txn().await), (10, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_slept_is_fenced_and_told_where_progress_stands() {
    let kit = Kit::new().await;
    let zombie = kit.other();
    zombie.view(TABLE).await.expect("loaded before");
    kit.lake.commit(commit(None, 4), None).await.expect("new");
    // It holds an old snapshot and would add 0..=9, of which 0..=4 are there.
    let refused = zombie.commit(commit(None, 9), None).await.expect_err("fenced");
    match refused {
        LakeError::Fenced { found, expected, .. } => assert_eq!((expected, found), (None, Some(4))),
        other => panic!("{other}"),
    }
    // Cut anew, what is left of it goes in.
    zombie.commit(commit(Some(4), 9), None).await.expect("the rest");
    assert_eq!((kit.rows().await, kit.txn().await), (10, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_two_streams_of_which_one_is_known_is_fenced_whole() {
    let kit = Kit::new().await;
    kit.lake.commit(commit(None, 4), None).await.expect("new");
    let mut both = commit(None, 4);
    both.txns.push(Txn { app: "bronze/h/7/1".to_owned(), expected: None, version: 3 });
    let refused = kit.lake.commit(both, None).await.expect_err("half of it is there");
    assert!(matches!(refused, LakeError::Fenced { found: Some(4), .. }), "{refused}");
    assert_eq!(kit.rows().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_known_to_have_landed() {
    let kit = Kit::new().await;
    kit.lake.break_next(TABLE, Fault::LandsAndFails).await;
    let landed = kit.lake.commit(commit(None, 9), None).await.expect("landed");
    assert_eq!(landed, Landed::Before(1));
    assert_eq!((kit.rows().await, kit.txn().await), (10, Some(9)));
    kit.lake.commit(commit(Some(9), 12), None).await.expect("the next");
    assert_eq!((kit.rows().await, kit.txn().await), (13, Some(12)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_land_is_tried_again() {
    let kit = Kit::new().await;
    kit.lake.break_next(TABLE, Fault::Fails).await;
    let landed = kit.lake.commit(commit(None, 9), None).await.expect("at the second try");
    assert_eq!(landed, Landed::Now(1));
    assert_eq!((kit.rows().await, kit.txn().await), (10, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_holder_fences_a_hop_that_slept() {
    let kit = Kit::new().await;
    let other = kit.other();
    let holder = Holder::this("test", None);
    let lease = Lease::acquire(&kit.lake, &holder).await.expect("free");
    kit.lake.commit(commit(None, 4), None).await.expect("new");
    other.view(TABLE).await.expect("the old holder loaded this");
    kit.lake.fence(TABLE, APP, &lease).await.expect("fenced");
    assert_eq!(kit.txn().await, Some(4));
    // On the snapshot of before the fence Delta itself refuses; only then the table is loaded again.
    let handle = other.loaded(TABLE).await.expect("loaded");
    let slept = build(&handle, &commit(Some(4), 9), &[], Overtaken::MovesOn).await;
    assert!(slept.is_err());
    kit.lake.fence(TABLE, "silver<-nothing yet", &lease).await.expect("fenced");
    assert_eq!(other.txn(TABLE, "silver<-nothing yet").await.expect("progress"), Some(-1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hops_commit_is_never_moved_onto_a_version_it_was_not_built_on() {
    let kit = Kit::new().await;
    let other = kit.other();
    let handle = other.loaded(TABLE).await.expect("loaded");
    // Of another app id, so that Delta sees no conflict.
    let mut foreign = commit(None, 4);
    foreign.txns[0].app = "bronze/h/7/1".to_owned();
    kit.lake.commit(foreign, None).await.expect("new");
    assert!(build(&handle, &commit(None, 9), &[], Overtaken::Fails).await.is_err());
    let lease = Lease::acquire(&other, &Holder::this("test", None)).await.expect("free");
    assert_eq!(other.commit(commit(None, 9), Some(&lease)).await.expect("on what there is now"), Landed::Now(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_rows_are_replaced_with_their_progress_and_the_table_keeps_its_id() {
    let kit = Kit::new().await;
    kit.lake.commit(commit(None, 9), None).await.expect("new");
    let id = kit.lake.view(TABLE).await.expect("a table").id();
    let mut writer = kit.lake.writer(TABLE).await.expect("a writer");
    writer.write(batch(10..=10)).await.expect("written");
    let adds = writer.finish().await.expect("files");
    let mut all = commit(Some(9), 10);
    all.batches = vec![];
    all.kind = Kind::Files { adds, removes: Removes::All };
    assert_eq!(kit.lake.commit(all, None).await.expect("replaced"), Landed::Now(2));
    let view = kit.other().view(TABLE).await.expect("a table");
    assert_eq!((view.rows(), view.id(), kit.txn().await), (1, id, Some(10)));
    assert!(view.change(2).await.expect("the log").removes);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_into_files_of_their_day_whether_they_come_day_by_day_or_mixed() {
    let kit = Kit::new().await;
    let day = |day: i64| rows::batch(&[event(0, day)], Timestamp::from_millis(1_790_000_000_000 + 86_400_000 * day));
    let mixed = concat_batches(&day(0).schema(), [&day(0), &day(1), &day(0)]).expect("one schema");
    let mut writer = kit.lake.writer(TABLE).await.expect("a writer");
    for batch in [day(0), mixed, day(1), day(2)] {
        writer.write(batch).await.expect("written");
    }
    let adds = writer.finish().await.expect("files");
    let mut all = commit(None, 9);
    (all.batches, all.kind) = (vec![], Kind::Files { adds, removes: Removes::Nothing });
    kit.lake.commit(all, None).await.expect("new");
    let view = kit.other().view(TABLE).await.expect("a table");
    let mut found = vec![];
    for add in view.all_files() {
        let date = add.partition_values.get("ingest_date").cloned().flatten().expect("a day");
        let read = view.read(&add, &["sequence_number"]).await.expect("rows");
        let numbers = read.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
        found.push((date, numbers.collect::<Vec<_>>(), Extent::of(&add, "enqueued_time").rows));
    }
    found.sort();
    let day = |date: &str, numbers: &[i64]| (date.to_owned(), numbers.to_vec(), numbers.len() as u64);
    assert_eq!(found, [day("2026-09-21", &[0, 0, 0]), day("2026-09-22", &[1, 1]), day("2026-09-23", &[2])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_tell_files_progress_and_metadata_version_by_version() {
    let kit = Kit::new().await;
    kit.lake.commit(commit(None, 4), None).await.expect("new");
    kit.lake.commit(commit(Some(4), 9), None).await.expect("new");
    let view = kit.lake.view(TABLE).await.expect("a table");
    let changes = view.changes(1).await.expect("the log");
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].txns, [(APP.to_owned(), 9)]);
    assert_eq!(changes[0].info["plan"]["to"], 9);
    let session =
        super::super::session::session(super::super::session::Limits { memory_bytes: 64 << 20 }).expect("a session");
    let scan = view.provider_of(changes[0].adds.clone()).await.expect("a scan");
    session.register_table("new", scan).expect("a name");
    let sql = "select min(sequence_number) as a, count(*) as b from new where ingest_date is not null";
    let found = super::super::session::query(&session, sql).await.expect("rows");
    let shown = arrow::util::pretty::pretty_format_batches(&found).expect("printable").to_string();
    assert!(shown.contains("| 5 | 5 |"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_survives_a_checkpoint_and_commits_stay_quick_after_it() {
    let kit = Kit::new().await;
    let mut at = None;
    for version in 0..CHECKPOINT_EVERY + 3 {
        let mut next = commit(at, version);
        next.batches = vec![];
        kit.lake.commit(next, None).await.expect("new");
        at = Some(version);
    }
    let log = kit.directory.path().join("the lake").join(TABLE.path()).join("_delta_log");
    assert!(log.join("_last_checkpoint").exists());
    let before = kit.lake.txn(TABLE, APP).await.expect("progress");
    assert_eq!((before, kit.txn().await), (at, at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_is_refused_by_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let lake = open(&directory);
    let readings = open(&directory);
    // Somebody's table of other columns lies where bronze should.
    let foreign = readings.loaded_or_new(TABLE).await;
    let columns: StructType = Table::GoldDeviceLatest.schema().as_ref().try_into_kernel().expect("Delta's");
    foreign.create().with_columns(columns.fields().cloned()).await.expect("created");
    let refused = lake.create_tables().await.expect_err("foreign");
    assert!(matches!(refused, LakeError::Foreign { table: "bronze.messages", .. }), "{refused}");
}

impl Lake {
    async fn loaded_or_new(&self, table: Table) -> DeltaTable {
        self.handle(table).lock().await.delta.clone()
    }
}

#[test]
fn an_empty_schema_never_reaches_the_lake() {
    for table in Table::ALL {
        assert!(batch(0..=0).num_columns() > 0 && RecordBatch::new_empty(table.schema()).num_rows() == 0);
    }
    assert_eq!(batch(3..=4).column(0).len(), 2);
}
