//! The store through its life: epochs, restarts, copies put back, damage.

mod copies;
mod damage;
mod room;

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shared::config::Size;
use shared::envelope::{Closing, sha256_hex};
use shared::reading::{DeviceId, Epoch, MetricName, Reading, Rejected, Seq, TimeQuality, Value};
use shared::time::Timestamp;

use super::{Linger, Now, Opened, Prepared, Selection, Store, StoreError};
use crate::outbox::side::Side;
use crate::outbox::{Acked, Books, BootTime, Config, HeldItem, NewRow, RowId, SourceKey};

const START_US: i64 = 1_795_000_000_000_000;

fn config(path: &Path) -> Config {
    Config { path: path.to_owned(), bytes_max: Size::new(64 << 20), quarantine_days: 7 }
}

fn now(second: i64) -> Now {
    Now { wall: Timestamp::from_micros(START_US + second * 1_000_000), steady_ms: second * 1_000 }
}

fn reading(device: &str, value: f64) -> HeldItem {
    HeldItem::Reading(Reading {
        device: DeviceId::new(device),
        metric: MetricName::new("m"),
        value: Value::Number(value),
        unit: None,
        event_time: Timestamp::from_micros(START_US),
        received_time: Timestamp::from_micros(START_US),
        time_quality: TimeQuality::Device,
        source_seq: Some(1),
    })
}

fn refusal(bytes: usize) -> HeldItem {
    let raw = vec![b'x'; bytes];
    let (raw_len, raw_sha256) = (i64::try_from(bytes).expect("short"), sha256_hex(&raw));
    let rejected = Rejected {
        device: DeviceId::new("d"),
        metric: None,
        topic: "t".into(),
        reasons: vec!["payload: x".into()],
        raw,
        received_time: Timestamp::from_micros(START_US),
        event_time: None,
        source_seq: None,
    };
    HeldItem::Rejected { rejected, raw_len, raw_sha256 }
}

fn key(number: u64) -> SourceKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    SourceKey(key)
}

/// A store with its side file, used the way the worker does.
struct Rig {
    store: Store,
    side: Side,
    second: i64,
}

impl Rig {
    fn open(path: &Path, second: i64) -> (Self, Opened) {
        let config = config(path);
        let (mut side, found) = Side::open(path, now(second).wall).expect("a side file");
        let (store, opened) = Store::open(&config, "rules", &mut side, &found, now(second)).expect("opens");
        (Self { store, side, second }, opened)
    }

    fn tick(&mut self, seconds: i64) {
        self.second += seconds;
        self.store.tick(now(self.second));
    }

    /// Stores readings with these keys; returns how many were new.
    fn append(&mut self, keys: impl IntoIterator<Item = Option<u64>>) -> usize {
        let rows: Vec<Prepared> = keys
            .into_iter()
            .map(|number| {
                Prepared::new(NewRow { item: reading("d", 1.0), key: number.map(key), boot_time: BootTime::default() })
            })
            .collect();
        let rows: Vec<&Prepared> = rows.iter().collect();
        let admitted = self.store.admit(&rows);
        let new: Vec<&Prepared> = rows.iter().zip(&admitted).filter_map(|(row, new)| new.then_some(*row)).collect();
        if !new.is_empty() {
            let high = self.store.high().0 + i64::try_from(new.len()).expect("few");
            self.side.allow(self.store.epoch(), self.store.high(), Seq(high), self.second * 1_000).expect("a mark");
            self.store.commit(&new, 0, &[]).expect("stored");
            self.side.confirm(self.store.epoch(), self.store.high(), self.second * 1_000).expect("a floor");
        }
        new.len()
    }

    fn many(&mut self, count: usize) {
        self.append(vec![None; count]);
    }

    fn held(&mut self) -> Vec<(RowId, Epoch, Seq)> {
        let mut rows: Vec<(RowId, Epoch, Seq)> = Vec::new();
        loop {
            let after = rows.last().map_or(RowId(0), |(id, ..)| *id);
            let page = self.store.pending(after, 100, 10_000).expect("readable");
            if page.is_empty() {
                return rows;
            }
            rows.extend(page.into_iter().map(|row| (row.id, row.epoch, row.seq)));
        }
    }

    fn seqs(&mut self) -> Vec<i64> {
        self.held().into_iter().map(|(.., seq)| seq.0).collect()
    }

    fn ack(&mut self, acked: Acked) {
        let committed = self.store.commit(&[], 0, &[&acked]).expect("marked");
        self.side.closed(&committed.closed).expect("taken out");
    }

    fn ack_rows(&mut self, count: usize) {
        let rows = self.held().into_iter().take(count).map(|(id, ..)| id).collect();
        self.ack(Acked { rows, ..Acked::default() });
    }

    fn ack_all(&mut self) {
        let rows = self.held().into_iter().map(|(id, ..)| id).collect();
        let gaps = self.store.gaps_pending().expect("readable").into_iter().map(|held| held.id).collect();
        self.ack(Acked { rows, gaps, closings: vec![] });
        let closings = self.closings().into_iter().map(|closing| closing.epoch).collect();
        self.ack(Acked { closings, ..Acked::default() });
    }

    fn closings(&self) -> Vec<Closing> {
        self.store.closings_pending().expect("readable")
    }

    fn books(&self) -> Books {
        let books = self.store.books().expect("readable");
        assert_eq!(books.stored, books.acked + books.given_up + books.held, "{books:?}");
        books
    }

    /// What a clean stop does, without the uplink.
    fn stop(mut self) {
        self.seal();
        self.store.checkpoint().expect("checkpointed");
    }

    fn seal(&mut self) {
        let last = self.store.seal().expect("sealed");
        self.side.end(self.store.epoch(), last).expect("written");
    }
}

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    Place { path: dir.path().join("outbox.db"), _dir: dir }
}

fn exact(epoch: Epoch, last: i64) -> Closing {
    Closing { epoch, last: Some(Seq(last)), mark: None }
}

#[test]
fn seqs_begin_at_one_in_every_run_and_have_no_holes() {
    let place = place();
    let (mut first, opened) = Rig::open(&place.path, 0);
    assert_eq!(opened, Opened::default());
    first.many(3);
    first.many(2);
    assert_eq!(first.seqs(), [1, 2, 3, 4, 5]);
    let before = first.store.epoch();
    drop(first); // as a kill does
    let (mut second, opened) = Rig::open(&place.path, 1);
    assert_eq!((opened.held, opened.lost.len(), opened.side_absent), (5, 0, false));
    assert_ne!(second.store.epoch(), before);
    second.many(2);
    assert_eq!(second.seqs(), [1, 2, 3, 4, 5, 1, 2]);
    assert_eq!(second.books(), Books { stored: 7, held: 7, closings_held: 1, ..Books::default() });
}

#[test]
fn an_epoch_is_closed_once_nothing_of_it_is_held_and_leaves_the_side_file_on_puback() {
    let place = place();
    let (mut first, _) = Rig::open(&place.path, 0);
    first.many(3);
    let epoch = first.store.epoch();
    assert!(first.closings().is_empty(), "the current epoch is open");
    first.stop();
    let (mut second, _) = Rig::open(&place.path, 1);
    second.ack_rows(2);
    assert!(second.closings().is_empty(), "a row is held");
    second.ack_rows(1);
    assert_eq!(second.closings(), [exact(epoch, 3)]);
    assert!(second.side.epochs().contains_key(&epoch));
    second.ack(Acked { closings: vec![epoch], ..Acked::default() });
    assert!(second.closings().is_empty());
    assert!(!second.side.epochs().contains_key(&epoch));
}

#[test]
fn a_drained_clean_stop_can_close_its_own_epoch() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(3);
    rig.ack_rows(3);
    assert!(rig.closings().is_empty());
    rig.store.seal().expect("sealed");
    assert_eq!(rig.closings(), [exact(rig.store.epoch(), 3)]);
}

#[test]
fn an_epoch_without_seqs_has_no_closing() {
    let place = place();
    Rig::open(&place.path, 0).0.stop();
    drop(Rig::open(&place.path, 1).0);
    let (rig, opened) = Rig::open(&place.path, 2);
    assert_eq!((rig.closings(), opened.lost), (vec![], vec![]));
    assert!(rig.side.epochs().is_empty());
}

#[test]
fn a_crash_between_mark_and_commit_claims_no_loss() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.side.allow(rig.store.epoch(), Seq(0), Seq(1), 0).expect("a mark");
    drop(rig);
    let (rig, opened) = Rig::open(&place.path, 1);
    assert_eq!((rig.closings(), opened.lost), (vec![], vec![]));
}

#[test]
fn a_repeat_is_recognised_for_ten_minutes_also_across_a_restart() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    assert_eq!(rig.append([Some(1), Some(2), Some(1)]), 2);
    rig.ack_all();
    assert_eq!(rig.append([Some(2), Some(3)]), 1);
    drop(rig);
    let (mut rig, _) = Rig::open(&place.path, 599);
    assert_eq!(rig.append([Some(1), Some(2), Some(3)]), 0);
    rig.tick(2);
    rig.store.prune(Linger::WhileRemembered).expect("pruned");
    assert_eq!(rig.append([Some(1), Some(2), Some(3)]), 3);
    drop(rig);
    let (mut rig, _) = Rig::open(&place.path, 1_000);
    assert_eq!(rig.append([Some(1)]), 0);
}

#[test]
fn a_row_lingers_as_long_as_it_is_remembered_and_is_then_deleted() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(5);
    rig.ack_rows(3);
    assert_eq!(rig.store.prune(Linger::WhileRemembered).expect("pruned"), 0);
    rig.tick(601);
    assert!(rig.store.has_prunable().expect("readable"));
    assert_eq!(rig.store.prune(Linger::WhileRemembered).expect("pruned"), 3);
    assert_eq!(rig.seqs(), [4, 5]);
    assert_eq!(rig.books(), Books { stored: 5, acked: 3, held: 2, ..Books::default() });
}

#[test]
fn the_database_deleted_after_a_clean_stop_is_an_exact_closing() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(7);
    rig.ack_rows(2);
    let epoch = rig.store.epoch();
    rig.stop();
    std::fs::remove_file(&place.path).expect("deleted");
    let (rig, opened) = Rig::open(&place.path, 1);
    assert_eq!(opened.lost.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [epoch]);
    assert_eq!(rig.closings(), [exact(epoch, 7)]);
    assert_eq!(rig.books(), Books { closings_held: 1, ..Books::default() });
}

#[test]
fn the_database_deleted_after_a_kill_is_an_unknown_loss_with_its_mark() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(7);
    let epoch = rig.store.epoch();
    drop(rig);
    for file in ["outbox.db", "outbox.db-wal", "outbox.db-shm"] {
        std::fs::remove_file(place.path.with_file_name(file)).ok();
    }
    let (mut rig, _) = Rig::open(&place.path, 1);
    let [Closing { epoch: lost, last: None, mark: Some(mark) }] = rig.closings()[..] else {
        panic!("{:?}", rig.closings())
    };
    assert!(lost == epoch && Seq(7) <= mark, "{mark}");
    // Lost again before the hub knows: it is still named.
    rig.many(1);
    drop(rig);
    std::fs::remove_file(&place.path).expect("deleted");
    let (rig, _) = Rig::open(&place.path, 2);
    assert_eq!(rig.closings().len(), 2);
}

#[test]
fn an_old_copy_put_back_reuses_no_id_and_loses_nothing_that_was_drained() {
    let place = place();
    let copy = place.path.with_file_name("copy.db");
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(5);
    let first = rig.store.epoch();
    rig.stop();
    std::fs::copy(&place.path, &copy).expect("copied");

    let (mut rig, _) = Rig::open(&place.path, 1);
    rig.many(4);
    rig.ack_all();
    let second = rig.store.epoch();
    rig.seal();
    rig.ack_all();
    rig.store.checkpoint().expect("checkpointed");
    drop(rig);
    std::fs::copy(&copy, &place.path).expect("put back");

    let (mut rig, opened) = Rig::open(&place.path, 2);
    assert_eq!((opened.lost.len(), opened.held), (0, 5), "{second} was closed; {first} goes again");
    rig.many(2);
    assert!(rig.held().iter().all(|(_, epoch, _)| *epoch == first || *epoch == rig.store.epoch()));
    rig.ack_all();
    assert!(rig.closings().is_empty() && !rig.side.epochs().contains_key(&first));
}

#[test]
fn an_old_copy_put_back_over_rows_that_were_not_drained_names_them() {
    let place = place();
    let copy = place.path.with_file_name("copy.db");
    Rig::open(&place.path, 0).0.stop();
    std::fs::copy(&place.path, &copy).expect("copied");
    let (mut rig, _) = Rig::open(&place.path, 1);
    rig.many(4);
    let lost = rig.store.epoch();
    rig.stop();
    std::fs::copy(&copy, &place.path).expect("put back");
    let (rig, opened) = Rig::open(&place.path, 2);
    assert_eq!(opened.lost.len(), 1);
    assert_eq!(rig.closings(), [exact(lost, 4)]);
}

#[test]
fn a_copy_from_the_middle_of_an_epoch_is_closed_by_the_later_end() {
    let place = place();
    let copy = place.path.with_file_name("copy.db");
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(3);
    rig.store.checkpoint().expect("checkpointed");
    std::fs::copy(&place.path, &copy).expect("copied");
    rig.many(5);
    rig.ack_all();
    let epoch = rig.store.epoch();
    rig.stop();
    std::fs::copy(&copy, &place.path).expect("put back");
    let (mut rig, _) = Rig::open(&place.path, 1);
    rig.ack_rows(10);
    assert_eq!(rig.closings(), [exact(epoch, 8)]);
}

#[test]
fn an_unreadable_database_is_moved_aside_and_its_loss_named() {
    for damage in ["zeros", "text", "short", "other"] {
        let place = place();
        let (mut rig, _) = Rig::open(&place.path, 0);
        rig.many(300);
        let epoch = rig.store.epoch();
        rig.stop();
        let bytes = std::fs::read(&place.path).expect("there");
        let spoiled = match damage {
            "zeros" => vec![0; bytes.len()],
            "text" => b"no database at all, only some words that somebody left here".to_vec(),
            "short" => bytes[..bytes.len() / 2].to_vec(),
            _ => {
                std::fs::remove_file(&place.path).expect("deleted");
                let other = rusqlite::Connection::open(&place.path).expect("opens");
                other.execute_batch("CREATE TABLE songs (title TEXT)").expect("made");
                drop(other);
                std::fs::read(&place.path).expect("there")
            }
        };
        std::fs::write(&place.path, &spoiled).expect("spoiled");
        let (mut rig, opened) = Rig::open(&place.path, 1);
        let (aside, why) = opened.moved_aside.clone().unwrap_or_else(|| panic!("{damage} was read: {opened:?}"));
        assert!(std::fs::read(&aside).expect("kept") == spoiled, "{damage}: {why}");
        assert_eq!(rig.closings(), [exact(epoch, 300)], "{damage}");
        rig.many(1);
        assert_eq!(rig.seqs(), [1], "{damage}");
    }
}

#[test]
fn a_page_spoiled_in_the_middle_is_found_at_start() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(2_000);
    rig.stop();
    let mut bytes = std::fs::read(&place.path).expect("there");
    let middle = bytes.len() / 8192 * 4096;
    bytes[middle..middle + 4096].fill(0xee);
    std::fs::write(&place.path, bytes).expect("spoiled");
    let (_, opened) = Rig::open(&place.path, 1);
    assert!(opened.moved_aside.is_some());
}

#[test]
fn a_missing_side_file_is_said_and_made_again() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(2);
    let epoch = rig.store.epoch();
    rig.stop();
    std::fs::remove_file(place.path.with_file_name("outbox.db.epochs")).expect("deleted");
    let (rig, opened) = Rig::open(&place.path, 1);
    assert!(opened.side_absent);
    assert!(rig.side.epochs().contains_key(&epoch));
}

#[test]
fn a_database_of_a_later_version_is_refused_and_left_alone() {
    let place = place();
    Rig::open(&place.path, 0).0.stop();
    let connection = rusqlite::Connection::open(&place.path).expect("opens");
    connection.pragma_update(None, "user_version", 99).expect("set");
    drop(connection);
    let (mut side, found) = Side::open(&place.path, now(1).wall).expect("a side file");
    let refused = Store::open(&config(&place.path), "r", &mut side, &found, now(1));
    assert!(matches!(refused, Err(StoreError::Later { has: 99, .. })), "{refused:?}");
    assert!(place.path.exists());
}

#[test]
fn rows_given_up_leave_gaps_of_seqs_without_holes_and_readings_per_device() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(10);
    let epoch = rig.store.epoch();
    let ids: Vec<RowId> = rig.held().into_iter().map(|(id, ..)| id).collect();
    rig.ack(Acked { rows: vec![ids[4]], ..Acked::default() });
    let selection = Selection { epoch: Some(epoch), from: Some(Seq(3)), to: Some(Seq(8)), upto: RowId(0) };
    let selection = rig.store.pin(selection).expect("pinned");
    assert_eq!(rig.store.give_up(&selection, "dropped").expect("given up"), 5);
    assert_eq!(rig.store.give_up(&selection, "dropped").expect("given up"), 0);
    let gaps = rig.store.gaps_pending().expect("readable");
    let ranges: Vec<_> = gaps.iter().map(|held| (held.gap.from.0, held.gap.to.0, held.gap.readings["d"])).collect();
    assert_eq!(ranges, [(3, 4, 2), (6, 8, 3)]);
    assert_eq!(rig.seqs(), [1, 2, 9, 10]);
    assert_eq!(rig.books(), Books { stored: 10, acked: 1, given_up: 5, held: 4, gaps_held: 2, ..Books::default() });
    // The PUBACK of an Envelope that was in flight when its rows were given up changes nothing here.
    rig.ack(Acked { rows: vec![ids[2]], ..Acked::default() });
    assert_eq!(rig.books().given_up, 5);
    rig.ack_rows(10);
    rig.store.seal().expect("sealed");
    assert!(rig.closings().is_empty(), "two gaps are held");
    let gaps = gaps.into_iter().map(|held| held.id).collect();
    rig.ack(Acked { gaps, ..Acked::default() });
    assert_eq!(rig.closings(), [exact(epoch, 10)]);
}

#[test]
fn rows_sent_again_keep_their_ids_and_come_behind_what_is_pending() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(4);
    rig.ack_rows(2);
    let selection = rig.store.pin(Selection::default()).expect("pinned");
    assert_eq!(rig.store.resend(&selection).expect("marked"), 2);
    assert_eq!(rig.store.resend(&selection).expect("marked"), 0);
    assert_eq!(rig.seqs(), [3, 4, 1, 2]);
    assert_eq!(rig.books(), Books { stored: 4, held: 4, ..Books::default() });
    rig.ack_rows(10);
    assert_eq!(rig.books(), Books { stored: 4, acked: 4, ..Books::default() });
}

#[test]
fn a_long_refused_payload_stays_whole_for_quarantine_days() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    let row = Prepared::new(NewRow { item: refusal(100_000), key: None, boot_time: BootTime::default() });
    rig.store.commit(&[&row], 0, &[]).expect("stored");
    let page = rig.store.pending(RowId(0), 10, 10).expect("readable");
    let HeldItem::Rejected { rejected, raw_len, .. } = &page[0].item else { panic!("a refusal") };
    assert_eq!((rejected.raw.len(), *raw_len), (32 * 1024, 100_000));
    let kept = |path: &Path| {
        let rows = super::Glimpse::open(path)
            .and_then(|glimpse| glimpse.rows(RowId(0), &Selection::default(), super::Which::All));
        rows.expect("readable")[0].payload.as_ref().map(Vec::len)
    };
    assert_eq!(kept(&place.path), Some(100_000));
    rig.tick(8 * 86_400);
    rig.store.tidy().expect("tidied");
    assert_eq!(kept(&place.path), None);
}

#[test]
fn at_bytes_max_nothing_more_fits_until_rows_leave() {
    let place = place();
    let config = Config { bytes_max: Size::new(1 << 20), ..config(&place.path) };
    let (mut side, found) = Side::open(&place.path, now(0).wall).expect("a side file");
    let (store, _) = Store::open(&config, "r", &mut side, &found, now(0)).expect("opens");
    let mut rig = Rig { store, side, second: 0 };
    let mut rounds = 0;
    while rig.store.room_for(20_000).is_ok() {
        rig.many(200);
        rounds += 1;
        assert!(rounds < 1_000, "it never fills");
    }
    assert!(rig.store.bytes() <= 1 << 20, "{} bytes", rig.store.bytes());
    let error = rig.store.room_for(20_000).expect_err("full").to_string();
    assert!(error.contains("raise `outbox.bytes-max`"), "{error}");
    rig.ack_rows(400);
    assert!(rig.store.room_for(20_000).is_err(), "acknowledged rows linger");
    assert_eq!(rig.store.prune(Linger::KeyAlone).expect("pruned"), 400);
    rig.store.room_for(20_000).expect("there is room again");
    rig.ack_rows(100_000);
    while 0 < rig.store.prune(Linger::KeyAlone).expect("pruned") {}
    rig.store.shrink().expect("shrunk");
    rig.store.checkpoint().expect("checkpointed");
    assert!(rig.store.bytes() < 1 << 18, "{} bytes", rig.store.bytes());
}

#[derive(Debug, Clone)]
enum Deed {
    Append(Vec<Option<u64>>),
    Ack(usize),
    GiveUp(usize),
    Resend,
    Restart,
    Kill,
    Wait(i64),
    Prune,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => proptest::collection::vec(proptest::option::of(0..30u64), 1..20).prop_map(Deed::Append),
        3 => (0..30usize).prop_map(Deed::Ack),
        1 => (0..10usize).prop_map(Deed::GiveUp),
        1 => Just(Deed::Resend),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Kill),
        1 => (1..400i64).prop_map(Deed::Wait),
        1 => Just(Deed::Prune),
    ]
}

/// What the outbox is to be, without a disk.
#[derive(Default)]
struct Model {
    /// Held rows in the order of sending.
    held: std::collections::VecDeque<(Epoch, i64)>,
    /// Keys with the second they were stored.
    keys: Vec<(u64, i64)>,
    stored: u64,
    given_up: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_outbox_is_a_queue_that_survives_whatever_happens(deeds in proptest::collection::vec(deed(), 1..40)) {
        let place = place();
        let (mut rig, _) = Rig::open(&place.path, 0);
        let mut model = Model::default();
        for deed in deeds {
            let second = rig.second;
            match deed {
                Deed::Append(keys) => {
                    let epoch = rig.store.epoch();
                    let mut seq = rig.store.high().0;
                    for number in &keys {
                        let known = number.is_some_and(|number| {
                            model.keys.iter().any(|(known, at)| *known == number && second - at <= 600)
                        });
                        if !known {
                            seq += 1;
                            model.stored += 1;
                            model.held.push_back((epoch, seq));
                            model.keys.extend(number.map(|number| (number, second)));
                        }
                    }
                    // The worker looks for what to forget in every commit.
                    rig.store.has_prunable().expect("readable");
                    rig.append(keys);
                }
                Deed::Ack(count) => {
                    rig.ack_rows(count);
                    model.held.drain(..count.min(model.held.len()));
                }
                Deed::GiveUp(count) => {
                    let ids: Vec<_> = rig.held().into_iter().take(count).collect();
                    for (id, ..) in ids {
                        rig.store.give_up_rows(&[id], "dropped").expect("given up");
                        model.held.pop_front();
                        model.given_up += 1;
                    }
                }
                Deed::Resend => {
                    // Which rows linger is the store's to decide; the model takes its word for the number and the ids.
                    let before = rig.held().len();
                    let given_up = rig.books().given_up;
                    let selection = rig.store.pin(Selection::default()).expect("pinned");
                    while 0 < rig.store.resend(&selection).expect("marked") {}
                    let again: Vec<_> = rig.held().split_off(before);
                    model.held.extend(again.iter().map(|(_, epoch, seq)| (*epoch, seq.0)));
                    model.given_up -= given_up - rig.books().given_up;
                }
                Deed::Restart => {
                    let second = rig.second;
                    rig.stop();
                    rig = Rig::open(&place.path, second).0;
                }
                Deed::Kill => {
                    let second = rig.second;
                    drop(rig);
                    rig = Rig::open(&place.path, second).0;
                }
                Deed::Wait(seconds) => rig.tick(seconds),
                Deed::Prune => {
                    rig.store.prune(Linger::WhileRemembered).expect("pruned");
                }
            }
            let held: Vec<_> = rig.held().into_iter().map(|(_, epoch, seq)| (epoch, seq.0)).collect();
            prop_assert_eq!(&held, &Vec::from(model.held.clone()));
            let books = rig.books();
            prop_assert_eq!((books.stored, books.held, books.given_up), (model.stored, held.len() as u64, model.given_up));
        }
    }
}
