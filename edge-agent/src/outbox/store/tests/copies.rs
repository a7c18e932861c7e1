//! Copies of the database put back.

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
