//! Whoever connects without speaking the protocol, or without end.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use shared::clock::Clock;
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::Limits;
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
const ANONYMOUS: &[u8] = b"\0\0\0\x1f\x02\x01\0\0\0\x53\x41\xc0\x12\x03\xa3\x09ANONYMOUS\x40\xa1\x01h";
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
