//! The handle and its worker: what a caller sees.

use std::path::Path;

use shared::config::Size;
use shared::reading::{DeviceId, MetricName, Reading, Seq, TimeQuality, Value};
use shared::telemetry::Registry;
use shared::time::Timestamp;

use super::store::Selection;
use super::{Acked, Appended, BootTime, Config, HeldItem, Metrics, NewRow, Outbox, OutboxError, RowId, SourceKey};

fn open(path: &Path, bytes_max: u64) -> Outbox {
    let config = Config { path: path.to_owned(), bytes_max: Size::new(bytes_max), quarantine_days: 7 };
    Outbox::open(&config, "rules", Metrics::register(&mut Registry::default())).expect("opens").0
}

fn rows(keys: impl IntoIterator<Item = u8>) -> Vec<NewRow> {
    let row = |key| {
        let reading = Reading {
            device: DeviceId::new("d"),
            metric: MetricName::new("m"),
            value: Value::Text("x".repeat(100)),
            unit: None,
            event_time: Timestamp::from_micros(1),
            received_time: Timestamp::from_micros(2),
            time_quality: TimeQuality::Device,
            source_seq: None,
        };
        let key = (key != 0).then_some(SourceKey([key; 16]));
        NewRow { item: HeldItem::Reading(reading), key, boot_time: BootTime::default() }
    };
    keys.into_iter().map(row).collect()
}

async fn ids(outbox: &Outbox) -> Vec<RowId> {
    outbox.pending(RowId(0), 100_000, usize::MAX).await.expect("readable").into_iter().map(|row| row.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_appended_is_there_after_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 64 << 20);
    let mut changed = outbox.changed();
    changed.mark_unchanged();
    assert_eq!(outbox.append(rows([1, 2, 1])).await.expect("stored"), Appended { stored: 2, duplicates: 1 });
    changed.changed().await.expect("told");
    assert_eq!(outbox.append(vec![]).await.expect("nothing to do"), Appended::default());
    assert_eq!((outbox.high(outbox.epoch()), outbox.view().books.held), (Seq(2), 2));
    let before = outbox.epoch();
    drop(outbox); // the worker ends without sealing

    let outbox = open(&path, 64 << 20);
    assert_eq!(outbox.append(rows([1, 2, 3])).await.expect("stored"), Appended { stored: 1, duplicates: 2 });
    let held = outbox.pending(RowId(0), 10, 10_000).await.expect("readable");
    let told: Vec<_> = held.iter().map(|row| (row.epoch == before, row.seq.0)).collect();
    assert_eq!(told, [(true, 1), (true, 2), (false, 1)]);
    assert_eq!(outbox.high(before), Seq(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_that_wait_share_a_commit_and_each_gets_its_own_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let outbox = open(&dir.path().join("outbox.db"), 64 << 20);
    let appends = (0..200).map(|_| {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.append(rows([0, 0, 7])).await.expect("stored") })
    });
    let appends: Vec<_> = appends.collect();
    let (mut stored, mut duplicates) = (0, 0);
    for append in appends {
        let appended = append.await.expect("no panic");
        assert_eq!(appended.stored + appended.duplicates, 3);
        stored += appended.stored;
        duplicates += appended.duplicates;
    }
    assert_eq!((stored, duplicates), (401, 199));
    let seqs: Vec<i64> =
        outbox.pending(RowId(0), 1_000, usize::MAX).await.expect("readable").into_iter().map(|row| row.seq.0).collect();
    assert_eq!(seqs, (1..=401).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_keeps_appends_waiting_until_rows_leave() {
    let dir = tempfile::tempdir().expect("a directory");
    let outbox = open(&dir.path().join("outbox.db"), 1 << 20);
    let mut appended = 0;
    let waiting = loop {
        let append = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.append(rows([0; 500])).await }
        });
        while !append.is_finished() && outbox.view().full.is_none() {
            tokio::task::yield_now().await;
        }
        if outbox.view().full.is_some() {
            break append;
        }
        appended += append.await.expect("no panic").expect("stored").stored;
        assert!(appended < 1_000_000, "it never fills");
    };
    assert!(outbox.view().bytes <= 1 << 20, "{} bytes", outbox.view().bytes);
    let all = ids(&outbox).await;
    outbox.done(Acked { rows: all, ..Acked::default() }).await.expect("marked while full");
    assert_eq!(waiting.await.expect("no panic").expect("stored").stored, 500);
    assert_eq!(outbox.view().full, None);
    let books = outbox.view().books;
    assert_eq!(books.stored, appended + 500);
    assert_eq!(books.stored, books.acked + books.held);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_ends_the_epoch_and_fails_appends_that_wait() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 64 << 20);
    outbox.append(rows([1])).await.expect("stored");
    assert_eq!(outbox.closings_pending().await.expect("readable"), []);
    outbox.seal().await.expect("sealed");
    assert!(matches!(outbox.append(rows([2])).await, Err(OutboxError::Sealed)));
    let all = ids(&outbox).await;
    outbox.done(Acked { rows: all, ..Acked::default() }).await.expect("marked");
    let closings = outbox.closings_pending().await.expect("readable");
    assert_eq!(
        closings.iter().map(|closing| (closing.epoch, closing.last)).collect::<Vec<_>>(),
        [(outbox.epoch(), Some(Seq(1)))]
    );
    outbox.done(Acked { closings: vec![outbox.epoch()], ..Acked::default() }).await.expect("marked");
    assert_eq!(outbox.closings_pending().await.expect("readable"), []);
    outbox.seal().await.expect("sealed already");
    outbox.close().await;
    let side = std::fs::read_to_string(dir.path().join("outbox.db.epochs")).expect("a side file");
    assert_eq!(side.trim(), r#"{"v":1,"suspect":false,"epochs":{}}"#);
    assert!(matches!(outbox.append(rows([3])).await, Err(OutboxError::Gone)));
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_goes_in_steps_and_takes_only_what_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let outbox = open(&dir.path().join("outbox.db"), 64 << 20);
    for _ in 0..3 {
        outbox.append(rows([0; 2_000])).await.expect("stored");
    }
    assert_eq!(outbox.give_up(Selection::default(), "dropped".into()).await.expect("given up"), 6_000);
    let gaps = outbox.gaps_pending().await.expect("readable");
    assert_eq!(gaps.iter().map(|held| held.gap.to.0 - held.gap.from.0 + 1).sum::<i64>(), 6_000);
    assert_eq!(outbox.view().books.given_up, 6_000);
    assert_eq!(outbox.resend(Selection::default()).await.expect("marked"), 6_000);
    assert_eq!((outbox.view().books.given_up, outbox.view().books.held), (0, 6_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_was_full_says_so_no_longer_once_rows_have_left_though_nobody_appends() {
    let dir = tempfile::tempdir().expect("a directory");
    let outbox = open(&dir.path().join("outbox.db"), 1 << 20);
    while outbox.view().full.is_none() {
        let append = outbox.append(rows([0; 500]));
        // The append that finds no room is cancelled: its sender has gone.
        tokio::select! {
            stored = append => drop(stored.expect("stored")),
            () = async { while outbox.view().full.is_none() { tokio::task::yield_now().await } } => {}
        }
    }
    while outbox.view().full.is_some() {
        let all = ids(&outbox).await;
        outbox.done(Acked { rows: all, ..Acked::default() }).await.expect("marked");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_deleted_under_a_running_agent_takes_no_more_and_the_loss_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 64 << 20);
    outbox.append(rows([1, 2])).await.expect("stored");
    let epoch = outbox.epoch();
    for entry in std::fs::read_dir(dir.path()).expect("lists") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    outbox.append(rows([3])).await.expect_err("what goes into a deleted file is not acknowledged");
    drop(outbox);

    let config = Config { path, bytes_max: Size::new(64 << 20), quarantine_days: 7 };
    let (_outbox, opened) = Outbox::open(&config, "rules", Metrics::register(&mut Registry::default())).expect("opens");
    assert!(opened.lost.iter().any(|(lost, _)| *lost == epoch), "{opened:?}");
}

fn keyed(keys: std::ops::Range<u64>, bytes: usize) -> Vec<NewRow> {
    let row = |number: u64| {
        let mut key = [0xee; 16];
        key[..8].copy_from_slice(&number.to_be_bytes());
        let mut row = rows([0]).remove(0);
        if let HeldItem::Reading(reading) = &mut row.item {
            reading.value = Value::Text("x".repeat(bytes));
        }
        NewRow { key: Some(SourceKey(key)), ..row }
    };
    keys.map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_known_after_a_kill_though_its_row_made_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 1 << 20);
    for round in 0..15 {
        outbox.append(keyed(round * 100..(round + 1) * 100, 2_000)).await.expect("stored");
        let all = ids(&outbox).await;
        outbox.done(Acked { rows: all, ..Acked::default() }).await.expect("marked");
    }
    drop(outbox);
    let outbox = open(&path, 1 << 20);
    // Taken for new, they would find no room.
    let again = tokio::time::timeout(std::time::Duration::from_secs(20), outbox.append(keyed(0..1_500, 2_000))).await;
    let again = again.expect("in time").expect("recognised");
    assert_eq!(again, Appended { stored: 0, duplicates: 1_500 });
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_rows_are_told_to_whoever_waits_for_gaps() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 64 << 20);
    outbox.append(rows([1, 2])).await.expect("stored");
    let other = rusqlite::Connection::open(&path).expect("opens");
    other.execute("UPDATE rows SET body = x'ff'", []).expect("spoiled");
    let mut changed = outbox.changed();
    changed.mark_unchanged();
    assert_eq!(ids(&outbox).await, []);
    let told = tokio::time::timeout(std::time::Duration::from_secs(10), changed.changed()).await;
    told.expect("in time").expect("the writer lives");
    assert_eq!(outbox.view().books.given_up, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_repeats_survive_kills_and_runs_that_store_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 64 << 20);
    outbox.append(rows([1, 2])).await.expect("stored");
    for duplicates in 1..=4 {
        let outbox = if duplicates == 1 { outbox.clone() } else { open(&path, 64 << 20) };
        outbox.append(rows([1])).await.expect("recognised");
        assert_eq!(outbox.view().books.duplicates, duplicates);
        if duplicates == 3 {
            outbox.seal().await.expect("sealed");
            outbox.close().await;
        }
    }
    assert_eq!(open(&path, 64 << 20).view().books.duplicates, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_cut_short_by_the_stop_is_not_acknowledged_and_its_repeat_counts_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("outbox.db");
    let outbox = open(&path, 1 << 20);
    // Far more than fits: what fits is stored, the rest waits.
    let append = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.append(keyed(0..1_000, 2_000)).await }
    });
    while outbox.view().full.is_none() {
        tokio::task::yield_now().await;
    }
    outbox.seal().await.expect("sealed");
    assert!(matches!(append.await.expect("no panic"), Err(OutboxError::Sealed)));
    let stored = outbox.view().books.stored;
    assert!(0 < stored && stored < 1_000, "{stored} stored");
    outbox.close().await;

    let outbox = open(&path, 64 << 20);
    let again = outbox.append(keyed(0..1_000, 2_000)).await.expect("stored");
    assert_eq!(again, Appended { stored: 1_000 - stored, duplicates: stored });
    assert_eq!(outbox.view().books.stored, 1_000);
}
