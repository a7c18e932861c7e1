//! Rows that cannot be read.

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
