//! The store through its life: epochs, restarts, repeats, rows that leave. And the rig for its other tests.

mod copies;
mod damage;
mod model;
mod room;

use std::path::{Path, PathBuf};

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
fn a_new_database_and_what_lies_beside_it_are_not_everybodys() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    let (mut rig, _) = Rig::open(&path, 0);
    rig.many(3);
    for name in ["outbox.db", "outbox.db-wal", "outbox.db-shm"] {
        let Ok(known) = std::fs::metadata(dir.path().join(name)) else { continue };
        assert_eq!(known.permissions().mode() & 0o027, 0, "{name}: {:o}", known.permissions().mode());
    }
    assert!(path.exists());
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
