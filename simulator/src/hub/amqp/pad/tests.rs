use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::frame::DISPOSITION;
use super::super::nest::tests::nested;
use super::super::tests::fuzz;
use super::*;

fn frame(channel: u8, code: u8, fields: &[u8], count: u8) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
    let list = match u8::try_from(fields.len() + 1) {
        Ok(size) => vec![0xc0, size, count],
        Err(_) => [&[0xd0][..], &word(fields.len() + 4), &[0, 0, 0, count]].concat(),
    };
    let length = word(8 + 3 + list.len() + fields.len());
    [&length[..], &[2, 0, 0, channel, 0, 0x53, code], &list, fields].concat()
}

fn padded(frame: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::push_padded(&mut out, frame, frame::performative(frame).as_ref());
    out.to_vec()
}

const HEADER: &[u8] = b"AMQP\0\x01\0\0";

fn detach(channel: u8) -> Vec<u8> {
    frame(channel, DETACH, &[0x43, 0x41], 2)
}

fn end(channel: u8) -> Vec<u8> {
    frame(channel, END, &[], 0)
}

/// What leaves at once, and what leaves after the hold, in order.
fn check(written: &[Vec<u8>], at_once: &[Vec<u8>], later: &[Vec<u8>]) {
    let now = Instant::now();
    let mut outgoing = Outgoing::default();
    for frame in written {
        outgoing.push(frame, now, &mut Quota::default());
    }
    assert_eq!(outgoing.ready.to_vec(), at_once.concat());
    outgoing.ready.clear();
    outgoing.release(|held| held.due <= now + HOLD);
    assert_eq!(outgoing.ready.to_vec(), later.concat());
}

#[tokio::test]
async fn a_detach_waits_and_is_dropped_if_the_end_overtakes_it() {
    let transfer = frame(1, TRANSFER, &[0x43], 1);
    let attach = frame(1, ATTACH, &[0xa1, 1, b'n', 0x43], 2);
    let close = frame(0, CLOSE, &[], 0);
    check(&[detach(1)], &[], &[padded(&detach(1))]);
    check(&[detach(1), transfer.clone()], &[padded(&transfer)], &[padded(&detach(1))]);
    check(&[detach(1), detach(2), end(1)], &[padded(&end(1))], &[padded(&detach(2))]);
    check(&[detach(1), attach.clone()], &[padded(&detach(1)), padded(&attach)], &[]);
    check(&[detach(2), attach.clone()], &[padded(&attach)], &[padded(&detach(2))]);
    check(&[detach(1), close.clone()], &[padded(&close)], &[]);
}

#[tokio::test]
async fn any_split_of_the_same_bytes_leaves_alike() {
    let payload = vec![b'x'; 300_000];
    let long = {
        let head = [0, 0x53, TRANSFER, 0xc0, 2, 1, 0x43];
        let length = u32::try_from(8 + head.len() + payload.len()).expect("short").to_be_bytes();
        [&length[..], &[2, 0, 0, 1], &head, &payload].concat()
    };
    let frames = [HEADER.to_vec(), frame(0, 0x10, &[0xa1, 1, b'c'], 1), long, end(1)];
    let whole: Vec<u8> = frames.concat();
    let expected: Vec<u8> = frames.iter().map(|frame| padded(frame)).collect::<Vec<_>>().concat();
    for step in [1, 3, 7, 8, 1000, 65_536, whole.len()] {
        let mut outgoing = Outgoing::default();
        for bytes in whole.chunks(step) {
            outgoing.push(bytes, Instant::now(), &mut Quota::default());
        }
        assert_eq!(outgoing.ready.len(), expected.len(), "{step}");
        assert!(outgoing.ready == expected, "{step}");
    }
}

#[tokio::test]
async fn a_held_detach_leaves_while_the_acceptor_only_reads() {
    let (hub, mut peer) = tokio::io::duplex(1024);
    let mut hub = PadIo::new(hub);
    hub.write_all(&detach(3)).await.expect("written");
    hub.flush().await.expect("flushed");
    let reading = tokio::spawn(async move {
        let mut bytes = [0; 8];
        let _ = hub.read_exact(&mut bytes).await;
        bytes
    });
    let mut left = vec![0; padded(&detach(3)).len()];
    peer.read_exact(&mut left).await.expect("the detach");
    assert_eq!(left, padded(&detach(3)));
    peer.write_all(HEADER).await.expect("written");
    assert_eq!(reading.await.expect("no panic"), HEADER);
}

#[tokio::test]
async fn transfers_leave_together_and_everything_else_at_once() {
    let transfer = frame(1, TRANSFER, &[0x43], 1);
    let (hub, mut peer) = tokio::io::duplex(1024 * 1024);
    let mut hub = PadIo::new(hub);
    let mut left = vec![0; 1024 * 1024];
    for _ in 0..3 {
        hub.write_all(&transfer).await.expect("written");
        hub.flush().await.expect("flushed");
    }
    let nothing = tokio::time::timeout(Duration::from_millis(10), peer.read(&mut left));
    assert!(nothing.await.is_err(), "more may follow");
    hub.write_all(&end(1)).await.expect("written");
    hub.flush().await.expect("flushed");
    let count = peer.read(&mut left).await.expect("left");
    assert_eq!(left[..count], [padded(&transfer).repeat(3), padded(&end(1))].concat());

    for _ in 0..2000 {
        hub.write_all(&transfer).await.expect("written");
        hub.flush().await.expect("flushed");
    }
    let count = peer.read(&mut left).await.expect("left");
    assert!(TOGETHER_MAX <= count, "{count}: not all of them wait");
    let rest = padded(&transfer).len() * 2000 - count;
    assert_ne!(rest, 0);
    let reading = tokio::spawn(async move { hub.read_u8().await });
    peer.read_exact(&mut left[..rest]).await.expect("left as soon as the acceptor only reads");
    drop(peer);
    assert!(reading.await.expect("no panic").is_err());
}

#[tokio::test]
async fn what_arrives_is_the_same_but_for_the_idle_timeout() {
    let long = frame(3, TRANSFER, &[0x43], 1);
    let long: Vec<u8> = long.repeat(1000);
    let fields = |idle: [u8; 4]| [&[0xa1, 1, b'c', 0x40, 0x70, 0, 1, 0, 0, 0x60, 1, 0, 0x70], &idle[..]].concat();
    let open = frame(0, 0x10, &fields(60_000_u32.to_be_bytes()), 5);
    let halved = frame(0, 0x10, &fields(30_000_u32.to_be_bytes()), 5);
    let sent = [HEADER, &open, &detach(1), &long].concat();
    let expected = [HEADER, &halved, &detach(1), &long].concat();
    for step in [1, 5, 29, sent.len()] {
        let (hub, mut peer) = tokio::io::duplex(64);
        let mut hub = PadIo::new(hub);
        let bytes = sent.clone();
        tokio::spawn(async move {
            for bytes in bytes.chunks(step) {
                peer.write_all(bytes).await.expect("written");
            }
        });
        let mut read = vec![];
        hub.read_to_end(&mut read).await.expect("read");
        assert!(read == expected, "{step}");
    }
}

#[test]
fn what_cannot_be_decoded_does_not_reach_the_acceptor() {
    let with = |value: &[u8]| {
        let fields = [&[0xa1, 1, b'c'][..], &[0x40; 8], value].concat();
        [HEADER, &frame(0, 0x10, &fields, 10)].concat()
    };
    let sasl = |value: &[u8]| {
        let mut bytes = with(value);
        bytes[HEADER.len() + 5] = 1;
        bytes
    };
    // handle, delivery-id, delivery-tag, message-format, settled, more
    let transfer = |more: &[u8]| frame(1, TRANSFER, &[&[0x43, 0x43, 0xa0, 1, 0, 0x43, 0x41], more].concat(), 6);
    let end = |last: Vec<u8>| {
        let whole = [&last[8..], &nested("list", 1000)].concat();
        let length = u32::try_from(8 + whole.len()).expect("short").to_be_bytes();
        [&length[..], &last[4..8], &whole].concat()
    };
    // role, first, last
    let disposition = |last: &[u8]| frame(1, DISPOSITION, &[&[0x41, 0x43], last].concat(), 3);
    for (name, bytes, is) in [
        ("a disposition", disposition(&[0x70, 0, 0, 0x27, 0x0f]), Ok(())),
        ("a disposition about more", disposition(&[0x70, 0, 0, 0x27, 0x10]), Err(Unfit::Deliveries)),
        ("a disposition about everything", disposition(&[0x70, 255, 255, 255, 255]), Err(Unfit::Deliveries)),
        ("a shallow value", with(&nested("map", 5)), Ok(())),
        ("a deep value", with(&nested("described", 5000)), Err(Unfit::Values)),
        ("a deep value over SASL", sasl(&nested("list", 1000)), Err(Unfit::Values)),
        ("a long frame", vec![0, 1, 0, 1, 2, 0, 0, 0], Err(Unfit::Bytes)),
        ("a transfer", transfer(&[0x42]), Ok(())),
        ("a transfer with more", transfer(&[0x41]), Ok(())),
        ("a transfer with a deep value", [transfer(&[0x41]), end(transfer(&[0x42]))].concat(), Err(Unfit::Values)),
    ] {
        assert_eq!(Incoming::default().push(&bytes, &mut Quota::default()), is, "{name}");
    }
}

proptest! {
    #![proptest_config(fuzz())]

    #[test]
    fn any_frames_in_any_pieces_pass_or_are_refused_alike(
        frames in proptest::collection::vec((0x0f..0x1au8, proptest::collection::vec(any::<u8>(), 0..60)), 1..8),
        step in 1..40usize,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(code, body)| {
            let head = [0, 0x53, *code];
            let length = u32::try_from(8 + head.len() + body.len()).expect("short").to_be_bytes();
            [&length[..], &[2, 0, 0, 1], &head, body].concat()
        }).collect();
        let mut whole = Incoming::default();
        let at_once = whole.push(&bytes, &mut Quota::default());
        let (mut pieces, mut quota) = (Incoming::default(), Quota::default());
        let in_pieces = bytes.chunks(step).try_for_each(|bytes| pieces.push(bytes, &mut quota));
        prop_assert_eq!((at_once, &whole.ready), (in_pieces, &pieces.ready));

        let (mut whole, mut pieces) = (Outgoing::default(), Outgoing::default());
        let now = Instant::now();
        whole.push(&bytes, now, &mut Quota::default());
        let mut quota = Quota::default();
        bytes.chunks(step).for_each(|bytes| pieces.push(bytes, now, &mut quota));
        prop_assert_eq!(&whole.ready, &pieces.ready);
    }
}

#[tokio::test]
async fn something_else_than_amqp_is_an_error() {
    let (hub, mut peer) = tokio::io::duplex(64);
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let error = PadIo::new(hub).read_u8().await.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
