use proptest::prelude::*;

use super::*;

const CONNECT: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b'd'];

fn run(session: &mut Session, mut bytes: &[u8]) -> Vec<Act> {
    let mut acts = vec![];
    loop {
        let taken = session.feed(bytes, &mut acts);
        if taken == 0 {
            return acts;
        }
        bytes = &bytes[taken..];
        if matches!(acts.last(), Some(Act::Connect(_))) {
            session.accept(false, &mut acts);
        }
    }
}

#[test]
fn whatever_comes_before_connect_closes() {
    for (bytes, fault) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "NotConnect"),
        (&[0xc0, 0], "NotConnect"),
        (&[0x10, 0xff, 0xff, 0xff, 0xff, 0x7f], "Garbage"),
        (&[0x10, 0xff, 0xff, 0xff, 0x7f], "TooLarge"),
        (&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 1, b'd'], "Version"),
        (&[0x10, 15, 0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, 2, 0, 60, 0, 1, b'd'], "Version"),
        (&[0x10, 0x8d, 0x00, 0, 4, b'M', b'Q', b'T', b'T', 5, 2], "Version"),
    ] {
        let acts = run(&mut Session::new(1024), bytes);
        let last = format!("{:?}", acts.last());
        assert!(last.contains("Close") && last.contains(fault), "{bytes:?}: {last}");
    }
}

#[test]
fn subscribing_and_unsubscribing_are_answered_once_they_are_kept() {
    for (sent, answer) in [
        (&[0x82, 6, 0, 7, 0, 1, b'a', 1][..], &[0x90, 3, 0, 7, 1][..]),
        (&[0xa2, 5, 0, 7, 0, 1, b'a'], &[0xb0, 2, 0, 7]),
    ] {
        let mut session = Session::new(1024);
        run(&mut session, CONNECT);
        let mut acts = run(&mut session, sent);
        let answers = |acts: &[Act]| acts.iter().filter(|act| matches!(act, Act::Send(_))).count();
        assert_eq!(answers(&acts), 0, "{acts:?}");
        if acts.iter().any(|act| matches!(act, Act::Subscribe { packet_id: 7, .. })) {
            session.subscribed(7, vec![SubackReturnCode::SuccessMaximumQos1], &mut acts);
        } else if acts.iter().any(|act| matches!(act, Act::Unsubscribe { packet_id: 7, .. })) {
            session.unsubscribed(7, &mut acts);
        }
        assert!(matches!(acts.last(), Some(Act::Send(bytes)) if bytes == answer), "{acts:?}");
    }
}

#[test]
fn a_stranger_gets_no_more_memory_than_a_connect_needs() {
    for (head, closed) in [(&[0x10, 0x80, 0x80, 0x05][..], false), (&[0x10, 0x81, 0x80, 0x05], true)] {
        let (mut whole, mut bytewise) = (Session::new(1 << 20), Session::new(1 << 20));
        let acts = run(&mut whole, head);
        assert_eq!(matches!(acts.last(), Some(Act::Close(Fault::TooLarge))), closed, "{head:?}");
        let acts: Vec<_> = head.iter().flat_map(|byte| run(&mut bytewise, &[*byte])).collect();
        assert_eq!(matches!(acts.last(), Some(Act::Close(Fault::TooLarge))), closed, "{head:?}, byte by byte");
    }
    let mut session = Session::new(1 << 20);
    let other = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2];
    let acts: Vec<_> = other.iter().flat_map(|byte| run(&mut session, &[*byte])).collect();
    assert!(matches!(acts.last(), Some(Act::Close(Fault::Version))), "byte by byte: {acts:?}");
    assert_eq!(remaining_length(&[0x10, 0xff, 0xff, 0xff, 0x7f]), Some(268_435_455));
    assert_eq!(remaining_length(&[0x10, 0xff]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), greeted: bool) {
        let mut session = Session::new(1024);
        if greeted {
            run(&mut session, CONNECT);
        }
        run(&mut session, &tail);
    }

    #[test]
    fn no_packet_makes_it_panic(kind in 0u8..=255, tail in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut session = Session::new(1024);
        run(&mut session, CONNECT);
        let mut bytes = vec![kind, u8::try_from(tail.len()).expect("short")];
        bytes.extend(tail);
        run(&mut session, &bytes);
    }
}
