use proptest::prelude::*;

use super::super::frame::{OPEN, performative};
use super::super::tests::fuzz;
use super::*;

const TRUE: &[u8] = &[0x41];
const FALSE: &[u8] = &[0x42];
const NULL: &[u8] = &[0x40];

fn frame(channel: u16, code: u8, fields: &[&[u8]]) -> Vec<u8> {
    let list = fields.concat();
    let word = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
    let head = [&[0, 0x53, code, 0xd0][..], &word(4 + list.len()), &word(fields.len())].concat();
    [&word(8 + head.len() + list.len())[..], &[2, 0], &channel.to_be_bytes(), &head, &list].concat()
}

fn uint(number: u32) -> Vec<u8> {
    [&[0x70][..], &number.to_be_bytes()].concat()
}

/// A peer's frames come in, a hub's go out.
#[derive(Default)]
struct Bench {
    quota: Quota,
}

impl Bench {
    fn comes(&mut self, frame: &[u8]) -> Result<(), Exceeded> {
        self.quota.incoming(frame, &performative(frame).expect("a performative"))
    }

    fn leaves(&mut self, frame: &mut [u8]) {
        let performative = performative(frame).expect("a performative");
        self.quota.outgoing(frame, &performative);
    }

    /// A session on the peer's channel 3 and the hub's 7.
    fn begun() -> Self {
        let mut bench = Self::default();
        bench.comes(&frame(3, BEGIN, &[NULL])).expect("a session");
        bench.leaves(&mut frame(7, BEGIN, &[&[0x60, 0, 3]]));
        bench
    }

    /// A link by the peer's handle, and by the hub's, which is ten more.
    fn attached(&mut self, handle: u32, peer_sends: bool) {
        let name = [&[0xa1, 4][..], &handle.to_be_bytes()].concat();
        let (theirs, ours) = if peer_sends { (FALSE, TRUE) } else { (TRUE, FALSE) };
        self.comes(&frame(3, ATTACH, &[&name, &uint(handle), theirs])).expect("a link");
        self.leaves(&mut frame(7, ATTACH, &[&name, &uint(handle + 10), ours]));
    }

    fn flow(handle: u32, count: u32, credit: u32) -> Vec<u8> {
        frame(7, FLOW, &[NULL, &uint(1), &uint(1), &uint(1), &uint(handle + 10), &uint(count), &uint(credit)])
    }

    fn transfer(handle: u32, more: &[u8]) -> Vec<u8> {
        frame(3, TRANSFER, &[&uint(handle), NULL, NULL, NULL, NULL, more])
    }
}

#[test]
fn a_peer_sends_as_much_as_it_has_credit_for_and_a_delivery_may_span_frames() {
    let mut bench = Bench::begun();
    bench.attached(0, true);
    bench.attached(1, true);
    let mut flow = Bench::flow(0, 100, 200);
    bench.leaves(&mut flow);
    assert_eq!(flow, Bench::flow(0, 100, CREDIT), "the acceptor's own number does not leave");
    for _ in 0..CREDIT {
        bench.comes(&Bench::transfer(0, TRUE)).expect("credit");
        bench.comes(&Bench::transfer(0, TRUE)).expect("the same delivery");
        bench.comes(&Bench::transfer(0, FALSE)).expect("the same delivery");
    }
    assert_eq!(bench.comes(&Bench::transfer(0, FALSE)), Err(Exceeded::Credit));
    bench.leaves(&mut Bench::flow(0, 100 + CREDIT / 2, CREDIT));
    for _ in 0..CREDIT / 2 {
        bench.comes(&Bench::transfer(0, FALSE)).expect("credit");
    }
    assert_eq!(bench.comes(&Bench::transfer(0, FALSE)), Err(Exceeded::Credit));
    for _ in 0..CREDIT {
        bench.comes(&Bench::transfer(1, FALSE)).expect("each link has its own, though nobody has said so yet");
    }
    assert_eq!(bench.comes(&Bench::transfer(1, FALSE)), Err(Exceeded::Credit));
}

#[test]
fn what_is_said_of_links_has_to_be_about_one_that_is_there() {
    let mut bench = Bench::begun();
    let flow = |handle: u32| frame(3, FLOW, &[NULL, NULL, NULL, NULL, &uint(handle)]);
    assert_eq!(bench.comes(&frame(3, FLOW, &[NULL, &uint(1)])), Ok(()), "about the session");
    bench.attached(5, false);
    for _ in 0..2 * STRAY_MAX {
        bench.comes(&flow(5)).expect("there");
    }
    bench.comes(&frame(3, DETACH, &[&uint(5)])).expect("there");
    for _ in 0..STRAY_MAX {
        bench.comes(&flow(5)).expect("it may have been on its way");
    }
    for stray in [flow(5), Bench::transfer(5, FALSE), frame(3, DETACH, &[&uint(5)])] {
        assert_eq!(bench.comes(&stray), Err(Exceeded::Link));
    }
    let attach = |handle: u32| frame(3, ATTACH, &[&[0xa1, 1, b'x'], &uint(handle), FALSE]);
    assert_eq!(bench.comes(&attach(HANDLE_MAX + 1)), Err(Exceeded::Link));
    bench.comes(&attach(HANDLE_MAX)).expect("the last one");
    assert_eq!(bench.comes(&frame(4, FLOW, &[NULL])), Ok(()), "the acceptor knows what to do without a session");
    let long = frame(3, DETACH, &[&uint(5), FALSE, &[&[0xb1, 0, 0, 0x40, 0][..], &[b'x'; 0x4000]].concat()]);
    assert_eq!(bench.comes(&long), Err(Exceeded::Length));
}

#[test]
fn links_that_are_not_answered_are_few_and_so_is_what_is_said_of_them() {
    let mut bench = Bench::begun();
    let attach = |handle: u32| frame(3, ATTACH, &[&[0xa1, 1, b'x'], &uint(handle), FALSE]);
    let flow = frame(3, FLOW, &[NULL, NULL, NULL, NULL, &uint(0)]);
    bench.comes(&attach(0)).expect("a link");
    for _ in 0..EARLY_MAX {
        bench.comes(&flow).expect("early");
    }
    assert_eq!(bench.comes(&flow), Err(Exceeded::Unanswered));
    bench.leaves(&mut frame(7, ATTACH, &[&[0xa1, 1, b'x'], &uint(0), TRUE]));
    for _ in 0..2 * EARLY_MAX {
        bench.comes(&flow).expect("in time");
    }
    let mut kept = Ok(());
    for round in 0..2 * UNANSWERED_MAX {
        kept = kept.and_then(|()| bench.comes(&attach(1))).and_then(|()| bench.comes(&frame(3, DETACH, &[&uint(1)])));
        if kept.is_err() {
            assert_eq!((kept, round), (Err(Exceeded::Unanswered), UNANSWERED_MAX));
            return;
        }
    }
    panic!("attached and detached without end");
}

#[tokio::test]
async fn the_log_is_read_as_fast_as_events_leave() {
    let mut bench = Bench::begun();
    let ahead = bench.quota.sessions().of(3);
    ahead.count("\0\0\0\u{1}");
    bench.attached(1, false);
    bench.attached(2, false);
    let leaves = |bench: &mut Bench, handle: u32, more: &[u8]| {
        bench.leaves(&mut frame(7, TRANSFER, &[&uint(handle + 10), NULL, NULL, NULL, NULL, more]));
    };
    let length = usize::try_from(AHEAD_BYTES_MAX / 8).expect("positive");
    for _ in 0..8 {
        assert!(ahead.has_room(length));
        ahead.handed();
    }
    leaves(&mut bench, 2, FALSE);
    leaves(&mut bench, 1, TRUE);
    assert!(!ahead.has_room(length) && ahead.has_room(1), "another link's, and half a one");
    let waiting = tokio::spawn({
        let ahead = Arc::clone(&ahead);
        async move { ahead.room(length).await }
    });
    tokio::task::yield_now().await;
    leaves(&mut bench, 1, FALSE);
    waiting.await.expect("no panic");
    for _ in 0..AHEAD_MAX {
        ahead.handed();
    }
    assert!(!ahead.has_room(0));
}

proptest! {
    #![proptest_config(fuzz())]

    #[test]
    fn no_frames_make_it_panic(
        frames in proptest::collection::vec(
            (any::<bool>(), OPEN..0x19u8, proptest::collection::vec(prop_oneof![
                Just(vec![0x40]), Just(vec![0x41]), Just(vec![0x42]), Just(vec![0x43]), Just(vec![0xa1, 1, b'x']),
                Just(vec![0x60, 0, 3]), Just(vec![0x52, 16]), any::<u8>().prop_map(|byte| vec![byte]),
            ], 0..11)),
            0..20,
        ),
    ) {
        let mut quota = Quota::default();
        for (comes, code, fields) in frames {
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            let mut frame = frame(3, code, &fields);
            let Some(performative) = performative(&frame) else { continue };
            if comes {
                let _ = quota.incoming(&frame, &performative);
            } else {
                quota.outgoing(&mut frame, &performative);
            }
        }
    }
}
