//! The listener's parsers with thousands of inputs no device would send, the same ones every time: committed beginnings
//! (`testdata/corpus`), mangled. `PROPTEST_CASES` says how many; a plain run has sixteen times as many.
//!
//! What holds for each: no panic, no byte is lost or taken twice however the stream is cut, nothing is acknowledged
//! that was not published, and after the end nothing more happens.

use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

use super::super::session::{Act, Owed, Session, Terms};
use super::super::websocket::fuzzed;

fn fuzz() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: 16 * usual.cases, rng_seed: RngSeed::Fixed(5), failure_persistence: None, ..usual }
}

/// What real devices said, one stream a line, in hex. `#` begins a comment.
fn corpus(text: &str) -> Vec<Vec<u8>> {
    let stream = |line: &str| {
        let digits: Vec<u8> = line.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(pair, 16).expect("two hex digits")
        };
        digits.chunks(2).map(byte).collect()
    };
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(stream).collect()
}

/// A change to a stream of bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize),
    /// The tail of another stream.
    Splice(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    // Bytes that mean something: bounds of lengths, types of packets, ids of properties.
    let byte =
        prop_oneof![any::<u8>(), prop::sample::select(vec![0, 1, 0x7f, 0x80, 0xff, 0x10, 0x30, 0x32, 0x23, 0xe0])];
    let at = 0_usize..600;
    prop_oneof![
        (at.clone(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at.clone(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        (at.clone(), prop::collection::vec(byte, 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at.clone(), 1_usize..40).prop_map(|(at, count)| Change::Remove(at, count)),
        (at.clone(), 1_usize..40).prop_map(|(at, count)| Change::Repeat(at, count)),
        (at, any::<prop::sample::Index>()).prop_map(|(at, other)| Change::Splice(at, other.index(1000))),
    ]
}

fn mangled(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let streams = corpus(text);
    let count = streams.len();
    (0..count, prop::collection::vec(change(), 0..6)).prop_map(move |(first, changes)| {
        let mut bytes = streams[first].clone();
        for change in changes {
            apply(&mut bytes, change, &streams);
        }
        bytes
    })
}

fn apply(bytes: &mut Vec<u8>, change: Change, streams: &[Vec<u8>]) {
    let length = bytes.len();
    let within = |at: usize| if length == 0 { 0 } else { at % length };
    match change {
        Change::Set(at, byte) => bytes.iter_mut().skip(within(at)).take(1).for_each(|old| *old = byte),
        Change::Flip(at, bit) => bytes.iter_mut().skip(within(at)).take(1).for_each(|old| *old ^= bit),
        Change::Insert(at, more) => drop(bytes.splice(within(at)..within(at), more)),
        Change::Remove(at, count) => drop(bytes.drain(within(at)..length.min(within(at) + count))),
        Change::Repeat(at, count) => {
            let piece = bytes[within(at)..length.min(within(at) + count)].to_vec();
            bytes.splice(within(at)..within(at), piece);
        }
        Change::Splice(at, other) => {
            let other = &streams[other % streams.len()];
            bytes.truncate(within(at));
            bytes.extend_from_slice(&other[other.len().min(at)..]);
        }
    }
}

/// What a session did with a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    sent: Vec<u8>,
    published: Vec<(String, Vec<u8>, Option<u16>)>,
    ended: Option<String>,
}

/// Feeds a stream in pieces of this size, as the connection does: packets are taken while there are any, CONNECT is
/// accepted, publishes are acknowledged at once.
fn converse(bytes: &[u8], piece: usize) -> Done {
    let mut session = Session::new(Terms { packet_bytes_max: 4096, receive_max: 10 });
    let (mut done, mut inbox) = (Done::default(), Vec::new());
    for piece in bytes.chunks(piece) {
        inbox.extend_from_slice(piece);
        while !inbox.is_empty() && done.ended.is_none() {
            let mut acts = Vec::new();
            let taken = session.feed(&inbox, &mut acts);
            assert!(0 < taken && taken <= inbox.len(), "{taken} of {}", inbox.len());
            inbox.drain(..taken);
            perform(&mut session, acts, &mut done);
        }
    }
    if done.ended.is_some() {
        let mut acts = Vec::new();
        assert_eq!(session.feed(&[0xc0, 0], &mut acts), 0, "after the end nothing is taken");
        assert!(acts.is_empty(), "after the end nothing happens: {acts:?}");
    }
    done
}

fn perform(session: &mut Session, acts: Vec<Act>, done: &mut Done) {
    for act in acts {
        assert!(done.ended.is_none() || matches!(act, Act::Quiet(_)), "after the end: {act:?}");
        let mut more = Vec::new();
        match act {
            Act::Connect(_) => session.accept(Some("auto-1"), &mut more),
            Act::Send(bytes) => done.sent.extend(bytes),
            Act::Publish(publish) => {
                assert!(!publish.topic.contains(['+', '#', '\0']) && !publish.topic.starts_with('$'));
                assert!((1..=1024).contains(&publish.topic.len()));
                if let Some(packet_id) = publish.packet_id {
                    assert_ne!(packet_id, 0);
                    session.acknowledge(Owed { packet_id, barred: packet_id % 2 == 0 }, &mut more);
                }
                done.published.push((publish.topic, publish.payload.to_vec(), publish.packet_id));
            }
            Act::Quiet(_) => {}
            Act::Goodbye(_) => done.ended = Some("goodbye".into()),
            Act::Close(fault) => done.ended = Some(fault.as_str().into()),
        }
        perform(session, more, done);
    }
}

proptest! {
    #![proptest_config(fuzz())]

    #[test]
    fn a_session_bears_anything_and_does_the_same_however_its_stream_is_cut(
        bytes in mangled(include_str!("../testdata/corpus/mqtt.hex")),
        piece in 1_usize..40,
    ) {
        let whole = converse(&bytes, usize::MAX);
        let cut = converse(&bytes, piece);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn websocket_frames_bear_anything_and_are_the_same_however_they_are_cut(
        bytes in mangled(include_str!("../testdata/corpus/websocket.hex")),
        piece in 1_usize..40,
    ) {
        prop_assert_eq!(fuzzed(&bytes, usize::MAX), fuzzed(&bytes, piece));
    }

    #[test]
    fn certificates_bear_anything(bytes in mangled(include_str!("../testdata/corpus/certificates.hex"))) {
        let name = super::super::tls::name_of(&rustls::pki_types::CertificateDer::from(bytes));
        prop_assert!(name.is_none_or(|name| !name.is_empty()));
    }
}

#[test]
fn the_beginnings_themselves_are_understood() {
    let mut endings = std::collections::BTreeMap::new();
    let mut published = 0;
    for stream in corpus(include_str!("../testdata/corpus/mqtt.hex")) {
        let done = converse(&stream, usize::MAX);
        published += done.published.len();
        *endings.entry(done.ended).or_insert(0) += 1;
    }
    assert_eq!(endings.keys().cloned().collect::<Vec<_>>(), [None, Some("goodbye".to_owned())], "{endings:?}");
    assert!(10 < published, "{published}");
    for stream in corpus(include_str!("../testdata/corpus/websocket.hex")) {
        let (read, _, fault) = fuzzed(&stream, usize::MAX);
        assert!(fault.is_none() && !read.is_empty());
    }
    for certificate in corpus(include_str!("../testdata/corpus/certificates.hex")) {
        assert!(super::super::tls::name_of(&rustls::pki_types::CertificateDer::from(certificate)).is_some());
    }
}
