//! Whoever connects without speaking the protocol, or without end.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::Limits;
use super::super::nest::tests::nested;
use super::kit::{TestHub, within};

static PANICS: AtomicUsize = AtomicUsize::new(0);

async fn connect(hub: &TestHub) -> TcpStream {
    TcpStream::connect(("127.0.0.1", hub.port)).await.expect("connected")
}

/// Reads until the hub closes the connection.
async fn closed(stream: &mut TcpStream) {
    let mut bytes = vec![];
    let _ = within(stream.read_to_end(&mut bytes)).await;
}

/// A frame of garbage where one is expected: after the SASL header, and after a whole SASL exchange and the AMQP header.
const SASL_HEADER: &[u8] = b"AMQP\x03\x01\0\0";
const ANONYMOUS: &[u8] = b"\0\0\0\x1d\x02\x01\0\0\0\x53\x41\xc0\x10\x03\xa3\x09ANONYMOUS\x40\xa1\x01h";
const HEADER: &[u8] = b"AMQP\0\x01\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn garbage_closes_a_connection_and_nothing_else() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The acceptor's own tasks panic unseen.
        if panic.location().is_some_and(|at| at.file().contains("amqp") && !at.file().contains("tests")) {
            PANICS.fetch_add(1, Relaxed);
        }
        shown(panic);
    }));
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        (0..length).map(|_| byte()).collect()
    };
    let greetings: [&[u8]; 5] =
        [b"", SASL_HEADER, &[SASL_HEADER, ANONYMOUS].concat(), &[SASL_HEADER, ANONYMOUS, HEADER].concat(), HEADER];
    for greeting in greetings {
        for length in [1, 8, 64, 4096] {
            for framed in [false, true] {
                let mut stream = connect(&hub).await;
                let mut bytes = noise(length);
                if framed {
                    let size = u32::try_from(length + 12).expect("short").to_be_bytes();
                    bytes = [&size[..], &[2, 0, 0, 0, 0, 0x53, 0x10, 0xd0], &bytes].concat();
                }
                let _ = stream.write_all(&[greeting, &bytes].concat()).await;
                let _ = stream.shutdown().await;
                closed(&mut stream).await;
            }
        }
    }
    let consumer = hub.consumer().await;
    within(consumer.get_eventhub_properties()).await.expect("the hub lives");
    assert_eq!(PANICS.load(Relaxed), 0);
    hub.stop().await;
}

/// A frame on channel 0 with a performative in it.
fn frame(code: u8, fields: &[&[u8]]) -> Vec<u8> {
    let list = fields.concat();
    let word = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
    let head = [&[0, 0x53, code, 0xd0][..], &word(4 + list.len()), &word(fields.len())].concat();
    [&word(8 + head.len() + list.len())[..], &[2, 0, 0, 0], &head, &list].concat()
}

/// `open` up to its idle timeout, and the rest of its fields.
fn open_frame(idle_time_out: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let null: &[u8] = &[0x40];
    frame(0x10, &[&[&[0xa1, 1, b'p'][..], null, null, null, idle_time_out], rest].concat())
}

/// `properties` with one entry.
fn properties(value: &[u8]) -> Vec<u8> {
    let entry = [&[0xa3, 1, b'k'][..], value].concat();
    let word = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
    [&[0xd1][..], &word(4 + entry.len()), &word(2), &entry].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_values_without_end_close_a_connection_and_nothing_else() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let greeting = [SASL_HEADER, ANONYMOUS, HEADER].concat();
    let null: &[u8] = &[0x40];
    let attach = |value: &[u8]| {
        [open_frame(null, &[]), begin_frame(), cbs_frame(&[null, null, null, null, null, null, &properties(value)])]
            .concat()
    };
    let huge: &[u8] = &[0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40];
    for (kind, depth) in [("described", 20_000), ("list", 6_000), ("map", 4_000), ("array", 6_000)] {
        let value = nested(kind, depth);
        let open = open_frame(null, &[null, null, null, null, &properties(&value)]);
        for bytes in [open, attach(&value), attach(huge)] {
            let mut stream = connect(&hub).await;
            stream.write_all(&[&greeting[..], &bytes].concat()).await.expect("written");
            closed(&mut stream).await;
        }
    }
    let consumer = hub.consumer().await;
    within(consumer.get_eventhub_properties()).await.expect("the hub lives");
    hub.stop().await;
}

/// A session on channel 0, as a peer begins it.
fn begin_frame() -> Vec<u8> {
    frame(0x11, &[&[0x40], &[0x43], &[0x52, 100], &[0x52, 100], &[0x52, 10]])
}

/// A receiver (it says) of `$cbs`, and the fields after its target.
fn cbs_frame(rest: &[&[u8]]) -> Vec<u8> {
    let null: &[u8] = &[0x40];
    let source: &[u8] = &[0x00, 0x53, 0x28, 0xc0, 7, 1, 0xa1, 4, b'$', b'c', b'b', b's'];
    let target: &[u8] = &[0x00, 0x53, 0x29, 0x45];
    frame(0x12, &[&[&[0xa1, 1, b'l'][..], &[0x43], &[0x41], null, null, source, target], rest].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_without_credit_or_of_links_that_are_not_there_is_closed() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let null: &[u8] = &[0x40];
    let greeting = [SASL_HEADER, ANONYMOUS, HEADER, &open_frame(null, &[]), &begin_frame()].concat();
    let source: &[u8] = &[0x00, 0x53, 0x28, 0x45];
    let target: &[u8] = &[0x00, 0x53, 0x29, 0xc0, 7, 1, 0xa1, 4, b'$', b'c', b'b', b's'];
    let attach = frame(0x12, &[&[0xa1, 1, b's'], &[0x43], &[0x42], null, null, source, target, null, null, &[0x43]]);
    // A transfer whose payload fills the frame.
    let mut transfer = frame(0x14, &[&[0x43], &[0x43], &[0xa0, 1, 0], &[0x43], &[0x41]]);
    transfer.resize(60_000, 0);
    transfer[..4].copy_from_slice(&60_000_u32.to_be_bytes());
    let flow = frame(0x13, &[null, &[0x52, 1], &[0x43], &[0x52, 1], &[0x52, 9], &[0x43], &[0x52, 1]]);
    for (what, flood) in [("transfers", [attach, transfer.repeat(64)].concat()), ("flows", flow.repeat(2000))] {
        let mut stream = connect(&hub).await;
        stream.write_all(&greeting).await.expect("written");
        let _ = stream.write_all(&flood).await;
        // Without a bound the hub keeps them, and keeps the connection.
        closed(&mut stream).await;
        within(hub.until(|status| status.connections == 0)).await;
        assert_eq!(hub.hub.status().events_delivered, 0, "{what}");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_has_few_links() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let null: &[u8] = &[0x40];
    let mut stream = connect(&hub).await;
    let greeting = [SASL_HEADER, ANONYMOUS, HEADER, &open_frame(null, &[]), &begin_frame()].concat();
    stream.write_all(&greeting).await.expect("written");
    for handle in 0..20 {
        let (name, handle): (&[u8], &[u8]) = (&[0xa1, 1, b'a' + handle], &[0x52, handle]);
        let source: &[u8] = &[0x00, 0x53, 0x28, 0xc0, 7, 1, 0xa1, 4, b'$', b'c', b'b', b's'];
        let attach = frame(0x12, &[name, handle, &[0x41], null, null, source, &[0x00, 0x53, 0x29, 0x45]]);
        let _ = stream.write_all(&attach).await;
    }
    closed(&mut stream).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_short_frame_about_all_deliveries_there_can_be_costs_the_hub_nothing() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let everything = frame(0x15, &[&[0x41], &[0x43], &[0x70, 255, 255, 255, 255], &[0x41]]);
    let bytes = [SASL_HEADER, ANONYMOUS, HEADER, &open_frame(&[0x40], &[]), &begin_frame(), &everything].concat();
    let mut streams = vec![];
    for _ in 0..8 {
        let mut stream = connect(&hub).await;
        stream.write_all(&bytes).await.expect("written");
        streams.push(stream);
    }
    for stream in &mut streams {
        closed(stream).await;
    }
    within(hub.until(|status| status.connections == 0)).await;
    let consumer = hub.consumer().await;
    within(consumer.get_eventhub_properties()).await.expect("no thread is busy with them");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_given_up_and_the_hub_itself_is_not_silent() {
    let directory = tempdir().expect("a directory");
    let limits = Limits { silence: Duration::from_secs(1), ..Limits::default() };
    let hub = TestHub::start_with(directory.path(), 0, limits, Clock::Real).await;
    let mut stream = connect(&hub).await;
    // It wants to hear something every 600 ms, and says nothing itself.
    let open = open_frame(&[0x70, 0, 0, 2, 88], &[]);
    stream.write_all(&[SASL_HEADER, ANONYMOUS, HEADER, &open].concat()).await.expect("written");
    let started = Instant::now();
    let mut bytes = vec![];
    let _ = within(stream.read_to_end(&mut bytes)).await;
    let silence = started.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&silence), "{silence:?}");
    let heartbeats = bytes.windows(8).filter(|bytes| *bytes == [0, 0, 0, 8, 2, 0, 0, 0]).count();
    assert!(2 <= heartbeats, "{heartbeats} in {silence:?}");
    // 0x70: the peer was told half of the second.
    assert!(bytes.windows(5).any(|bytes| bytes == [0x70, 0, 0, 1, 244]), "{bytes:x?}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_is_refused_with_a_count() {
    let directory = tempdir().expect("a directory");
    let limits = Limits { connections_max: 20, ..Limits::default() };
    let hub = TestHub::start_with(directory.path(), 0, limits, Clock::Real).await;
    let mut streams = vec![];
    for _ in 0..400 {
        streams.push(connect(&hub).await);
    }
    within(hub.until(|status| status.connections_refused == 380)).await;
    assert_eq!(hub.hub.status().connections, 20);
    drop(streams);
    within(hub.until(|status| status.connections == 0)).await;
    let consumer = hub.consumer().await;
    within(consumer.get_eventhub_properties()).await.expect("there is room again");
    assert_eq!(hub.hub.status().handshakes_failed, 20);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dawdles_over_the_handshake_is_sent_away() {
    let directory = tempdir().expect("a directory");
    let limits = Limits { handshake: Duration::from_millis(200), ..Limits::default() };
    let hub = TestHub::start_with(directory.path(), 0, limits, Clock::Real).await;
    for greeting in [&b""[..], b"AMQP", SASL_HEADER, &[SASL_HEADER, ANONYMOUS].concat()] {
        let mut stream = connect(&hub).await;
        stream.write_all(greeting).await.expect("written");
        closed(&mut stream).await;
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_limit_connections_are_closed_at_once_and_welcome_again_later() {
    let directory = tempdir().expect("a directory");
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let hub = TestHub::start_with(directory.path(), 0, limits, Clock::Real).await;
    let open = |hub: &TestHub| hub.hub.status().connections;
    let (one, two) = (connect(&hub).await, connect(&hub).await);
    within(async {
        while open(&hub) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    closed(&mut connect(&hub).await).await;
    assert_eq!(hub.hub.status().connections_refused, 1);
    drop((one, two));
    within(async {
        while 0 < open(&hub) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    hub.consumer().await;
    hub.stop().await;
}
