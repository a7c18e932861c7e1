//! Against a gateway of a few lines, which can lose PUBACKs and connections.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::json;
use shared::time::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::broker::Config;
use super::super::ledger::{Start, VERSION};
use super::super::send::{Expect, Fate};
use super::*;

/// What a gateway does wrong.
#[derive(Debug, Clone, Copy, Default)]
struct Moods {
    /// Closes each of the first connections after so many publishes, without a PUBACK for the last of them.
    hang_up_after: Option<usize>,
    /// Connections that end so.
    hang_ups: usize,
    /// Never answers a publish.
    mute: bool,
}

/// Every publish it took, in order, by connection.
type Taken = Arc<Mutex<Vec<Vec<Vec<u8>>>>>;

async fn gateway(moods: Moods) -> (String, Taken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    let taken = Taken::default();
    let books = Arc::clone(&taken);
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            books.lock().expect("no test panics here").push(Vec::new());
            let moods = if number < moods.hang_ups { moods } else { Moods { hang_up_after: None, ..moods } };
            tokio::spawn(serve(stream, number, moods, Arc::clone(&books)));
        }
    });
    (url, taken)
}

async fn serve(mut stream: TcpStream, number: usize, moods: Moods, taken: Taken) -> Option<()> {
    let mut publishes = 0;
    loop {
        let kind = stream.read_u8().await.ok()? >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        match kind {
            1 => stream.write_all(&[0x20, 2, 0, 0]).await.ok()?,
            3 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let packet = [body[2 + topic], body[3 + topic]];
                taken.lock().expect("no test panics here")[number].push(body[4 + topic..].to_vec());
                publishes += 1;
                if moods.hang_up_after == Some(publishes) {
                    return None;
                }
                if !moods.mute {
                    stream.write_all(&[0x40, 2, packet[0], packet[1]]).await.ok()?;
                }
            }
            12 => stream.write_all(&[0xd0, 0]).await.ok()?,
            _ => return None,
        }
    }
}

/// So many sends, as fast as they are taken; every third goes out twice.
struct Count {
    n: i64,
    last: i64,
}

impl Source for Count {
    async fn next(&mut self) -> Option<Draft> {
        if self.n == self.last {
            return None;
        }
        self.n += 1;
        let expect = Expect { metric: Some("t".into()), value: Some(json!(1)), unit: None, fate: Fate::Reading };
        Some(Draft {
            device: "a".into(),
            n: self.n,
            topic: "telemetry/a".into(),
            payload: format!("payload {}", self.n).into_bytes(),
            time: Timestamp::from_micros(1),
            copies: if self.n % 3 == 0 { 2 } else { 1 },
            best_effort: false,
            fault: None,
            expect: vec![expect],
        })
    }
}

struct Bench {
    wire: Wire,
    taken: Taken,
    dir: tempfile::TempDir,
}

async fn bench(moods: Moods, window: usize) -> Bench {
    let (url, taken) = gateway(moods).await;
    let broker = Config { url, user: None, password: None, ca_file: None }.open().expect("an address");
    let dir = tempfile::tempdir().expect("a directory");
    let (ledger, _) = open(&dir);
    let wire = Wire {
        dial: Arc::new(Dial::Broker(broker)),
        ledger: Arc::new(ledger),
        counters: Arc::default(),
        window,
        stop: CancellationToken::new(),
    };
    Bench { wire, taken, dir }
}

fn open(dir: &tempfile::TempDir) -> (Ledger, super::super::ledger::Recovered) {
    let start = Start { version: VERSION, kind: "devices".into(), source: "seed 1".into(), shift: 0 };
    Ledger::open(Some(&dir.path().join("ledger.jsonl")), start).expect("a ledger")
}

#[tokio::test]
async fn what_was_not_acknowledged_is_published_again_in_order_and_byte_for_byte() {
    let moods = Moods { hang_up_after: Some(7), hang_ups: 3, ..Moods::default() };
    let bench = bench(moods, 5).await;
    run(bench.wire.clone(), "a", Vec::new(), Count { n: 0, last: 40 }).await.expect("a ledger on disk");
    let progress = bench.wire.counters.progress();
    assert_eq!((progress.sends, progress.acked, progress.unacked, progress.connects), (40, 40, 0, 4));
    assert!(0 < progress.again);
    let taken = bench.taken.lock().expect("no test panics here").clone();
    let number = |payload: &Vec<u8>| -> i64 {
        let text = String::from_utf8(payload.clone()).expect("text");
        text.strip_prefix("payload ").and_then(|n| n.parse().ok()).expect("the bytes that were drafted")
    };
    let mut times: BTreeMap<i64, usize> = BTreeMap::new();
    for connection in &taken {
        let numbers: Vec<i64> = connection.iter().map(number).collect();
        assert!(numbers.is_sorted(), "in order: {numbers:?}");
        numbers.iter().for_each(|n| *times.entry(*n).or_default() += 1);
    }
    assert_eq!(times.len(), 40);
    assert!(times.iter().all(|(n, count)| if n % 3 == 0 { 2 <= *count } else { 1 <= *count }), "{times:?}");
}

#[tokio::test]
async fn only_a_puback_acknowledges_and_the_window_holds() {
    let bench = bench(Moods { mute: true, ..Moods::default() }, 5).await;
    let task = tokio::spawn(run(bench.wire.clone(), "a", Vec::new(), Count { n: 0, last: 40 }));
    let full = async {
        while bench.taken.lock().expect("no test panics here").first().is_none_or(|all| all.len() < 6) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), full).await.expect("the window fills: five sends, one of them twice");
    bench.wire.stop.cancel();
    tokio::task::yield_now().await;
    assert!(!task.is_finished(), "stopping waits for the PUBACKs");
    task.abort();
    let _ = task.await;
    let progress = bench.wire.counters.progress();
    assert_eq!((progress.sends, progress.acked, progress.unacked), (5, 0, 5));
    // Whoever opens the ledger next has five sends to publish again.
    let Bench { wire, dir, .. } = bench;
    drop(wire);
    let (_, recovered) = open(&dir);
    assert_eq!(recovered.unacked.values().map(|sent| sent.n).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn the_unacknowledged_of_an_earlier_run_go_first() {
    let bench = bench(Moods::default(), 5).await;
    let mut source = Count { n: 0, last: 9 };
    let mut left = Vec::new();
    for _ in 0..2 {
        let draft = source.next().await.expect("there are nine");
        left.push(bench.wire.ledger.send(draft).expect("written"));
    }
    run(bench.wire.clone(), "a", left, source).await.expect("a ledger on disk");
    let taken = bench.taken.lock().expect("no test panics here").concat();
    assert_eq!(taken.first().map(Vec::as_slice), Some(b"payload 1".as_slice()));
    assert_eq!(bench.wire.counters.progress().acked, 9);
}

#[tokio::test]
async fn what_a_run_with_a_larger_window_left_goes_in_order_as_pubacks_make_room() {
    let bench = bench(Moods::default(), 5).await;
    let mut source = Count { n: 0, last: 100 };
    let mut left = Vec::new();
    for _ in 0..90 {
        let draft = source.next().await.expect("there are a hundred");
        left.push(bench.wire.ledger.send(draft).expect("written"));
    }
    let ran = timeout(ACK_TIMEOUT / 2, run(bench.wire.clone(), "a", left, source)).await;
    ran.expect("nothing waits for a PUBACK of what was never published").expect("a ledger on disk");
    let progress = bench.wire.counters.progress();
    assert_eq!((progress.acked, progress.unacked, progress.connects), (100, 0, 1));
    let taken = bench.taken.lock().expect("no test panics here").concat();
    let numbers: Vec<i64> = taken
        .iter()
        .map(|payload| {
            String::from_utf8_lossy(payload).strip_prefix("payload ").and_then(|n| n.parse().ok()).expect("a number")
        })
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}
