//! Rows, databases and side files that cannot be read.

use super::*;

#[test]
fn damaged_rows_at_the_front_are_stepped_over_counted_and_named() {
    let place = place();
    let (mut rig, _) = Rig::open(&place.path, 0);
    rig.many(250);
    let other = rusqlite::Connection::open(&place.path).expect("opens");
    other.execute("UPDATE rows SET body = x'ff' WHERE seq <= 220", []).expect("spoiled");
    let page = rig.store.pending(RowId(0), 100, 10_000).expect("readable");
    assert_eq!(page.iter().map(|row| row.seq.0).collect::<Vec<_>>(), (221..=250).collect::<Vec<_>>());
    let gaps = rig.store.gaps_pending().expect("readable");
    assert!(gaps.iter().all(|held| held.gap.reason == "damaged"));
    assert_eq!(gaps.iter().map(|held| held.gap.to.0 - held.gap.from.0 + 1).sum::<i64>(), 220);
    assert!(gaps.len() <= 3, "a run of seqs is one gap, not {}", gaps.len());
    assert_eq!(rig.books().given_up, 220);
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
