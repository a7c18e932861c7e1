//! Room: what is given up for it, and what is not.

use super::*;

fn small(place: &Place, second: i64) -> Rig {
    let config = Config { bytes_max: Size::new(1 << 20), ..config(&place.path) };
    let (mut side, found) = Side::open(&place.path, now(second).wall).expect("a side file");
    let (store, _) = Store::open(&config, "rules", &mut side, &found, now(second)).expect("opens");
    Rig { store, side, second }
}

#[test]
fn a_key_outlives_its_row_that_made_room_and_then_a_kill() {
    let place = place();
    let mut rig = small(&place, 0);
    rig.append((0..500).map(Some));
    rig.ack_rows(500);
    while 0 < rig.store.prune(Linger::KeyAlone).expect("pruned") {}
    drop(rig);
    let mut rig = small(&place, 500);
    assert_eq!(rig.append((0..501).map(Some)), 1, "five hundred are repeats");
    rig.ack_rows(1);
    while 0 < rig.store.prune(Linger::KeyAlone).expect("pruned") {}
    rig.tick(101);
    assert_eq!(rig.append((0..501).map(Some)), 500, "ten minutes are over");
}

#[test]
fn keys_alone_take_at_most_an_eighth_and_the_oldest_go_first() {
    let place = place();
    let mut rig = small(&place, 0);
    let keys_max = u64::try_from(rig.store.keys_max).expect("a count");
    let mut dropped = 0;
    for round in 0..8 {
        rig.append((round * 500..(round + 1) * 500).map(Some));
        rig.ack_rows(500);
        while 0 < rig.store.prune(Linger::KeyAlone).expect("pruned") {}
        dropped += rig.store.take_keys_dropped();
    }
    assert_eq!(dropped, 4_000 - keys_max);
    rig.store.shrink().expect("shrunk");
    rig.store.checkpoint().expect("checkpointed");
    assert!(rig.store.bytes() < (1 << 20) / 8 + 100_000, "{} bytes", rig.store.bytes());
    drop(rig);
    let mut rig = small(&place, 1);
    assert_eq!(rig.append((4_000 - keys_max..4_000).map(Some)), 0);
    assert_eq!(rig.append((0..10).map(Some)), 10);
}

#[test]
fn rows_that_made_room_are_neither_shown_nor_sent_again_and_that_is_said() {
    let place = place();
    let mut rig = small(&place, 0);
    rig.append((0..20).map(Some));
    rig.ack_rows(15);
    while 0 < rig.store.prune(Linger::KeyAlone).expect("pruned") {}
    let selection = rig.store.pin(Selection::default()).expect("pinned");
    assert_eq!(rig.store.resend(&selection).expect("marked"), 0);
    let glimpse = super::super::Glimpse::open(&place.path).expect("opens");
    let shown = glimpse.rows(RowId(0), &Selection::default(), super::super::Which::All).expect("readable");
    assert_eq!(shown.len(), 5);
    assert_eq!(glimpse.spent(&Selection::default()).expect("readable"), 15);
    let few = Selection { epoch: Some(rig.store.epoch()), from: Some(Seq(14)), ..Selection::default() };
    assert_eq!(glimpse.spent(&few).expect("readable"), 2);
    assert_eq!(rig.books(), Books { stored: 20, acked: 15, held: 5, ..Books::default() });
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
        let rows = super::super::Glimpse::open(path)
            .and_then(|glimpse| glimpse.rows(RowId(0), &Selection::default(), super::super::Which::All));
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
