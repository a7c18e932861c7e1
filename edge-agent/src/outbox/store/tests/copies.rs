//! Databases deleted, and copies put back.

use super::*;

#[test]
fn a_copy_of_a_live_epoch_put_back_after_a_kill_ends_it_at_an_unknown_seq() {
    let place = place();
    let copy = place.path.with_file_name("copy.db");
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(3);
    rig.store.checkpoint().expect("checkpointed");
    std::fs::copy(&place.path, &copy).expect("copied");
    rig.many(600);
    rig.many(600);
    let epoch = rig.store.epoch();
    drop(rig);
    for opened_before in [false, true] {
        // Whatever the first start wrote down, the second finds the same copy.
        std::fs::copy(&copy, &place.path).expect("put back");
        let (mut rig, opened) = Rig::open(&place.path, 1);
        assert_eq!(opened.lost.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(), [epoch], "{opened_before}");
        assert_ne!(rig.store.epoch(), epoch);
        assert!(rig.closings().is_empty(), "three rows are held");
        rig.ack_rows(10);
        let [Closing { epoch: closed, last: None, mark: Some(mark) }] = rig.closings()[..] else {
            panic!("{:?}", rig.closings())
        };
        assert!(closed == epoch && Seq(1_203) <= mark, "{mark}");
        assert_eq!(rig.books().stored, 3);
    }
}

#[test]
fn a_copy_a_moment_old_put_back_after_a_kill_is_known_as_one() {
    let place = place();
    let copy = place.path.with_file_name("copy.db");
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(3);
    rig.store.checkpoint().expect("checkpointed");
    std::fs::copy(&place.path, &copy).expect("copied");
    rig.many(1);
    let epoch = rig.store.epoch();
    drop(rig);
    std::fs::copy(&copy, &place.path).expect("put back");
    let (_, opened) = Rig::open(&place.path, 1);
    let [(lost, words)] = &opened.lost[..] else { panic!("{opened:?}") };
    assert!(*lost == epoch && words.contains("ends at seq 3; 4 was stored"), "{words}");
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
