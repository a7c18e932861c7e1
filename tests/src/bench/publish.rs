//! The load: devices that publish at QoS 1 over TLS as fast as they are acknowledged, a window each.
//!
//! Packets are encoded once, PUBACKs are only counted, and what fits the window leaves in one write: on one thread it
//! drives several times what a server on the same machine takes (the benchmark prints how much).

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::dial::Credentials;
use super::mqtt::{self, Publish};
use super::speak::{self, Line};

/// How often a load by bytes looks how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// Pings are not what is measured.
const KEEP_ALIVE_S: u16 = 600;

/// Arguments of the load.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `simulator hub connection-strings --json` printed
    #[arg(long)]
    credentials: PathBuf,
    /// The server
    #[arg(long)]
    addr: SocketAddr,
    /// Devices, one connection each
    #[arg(long)]
    connections: usize,
    /// Unacknowledged publishes of one connection
    #[arg(long)]
    window: u64,
    /// Bytes of a message
    #[arg(long)]
    body: usize,
    /// Before measuring begins
    #[arg(long, default_value_t = 0.0)]
    warm_up_s: f64,
    /// How long is measured
    #[arg(long, default_value_t = 0.0)]
    measure_s: f64,
    /// Instead: so many bytes of messages, with a mark at each tenth
    #[arg(long)]
    bytes: Option<u64>,
    /// Before, a client subscribes to everything and leaves; its session stays
    #[arg(long)]
    subscriber_away: bool,
}

/// Publishes, measures, says how many were acknowledged.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let credentials = Credentials::read(&args.credentials)?;
    if args.subscriber_away {
        subscribe_and_leave(&credentials, args.addr).await?;
    }
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    let mut streams = vec![];
    for device in credentials.devices().into_iter().take(args.connections) {
        let stream = credentials.connect(args.addr, &credentials.who(&device)?, KEEP_ALIVE_S, true).await?;
        streams.push((device, stream));
    }
    if streams.len() < args.connections {
        return Err(io::Error::other(format!("{} devices are registered", streams.len())));
    }
    for (device, stream) in streams {
        let publish = Publish::new(&format!("devices/{device}/messages/events/"), &body(args.body));
        connections.spawn(drive(stream, publish, args.window, Arc::clone(&acknowledged)));
    }
    tokio::select! {
        done = measure(&args, &acknowledged) => done?,
        Some(ended) = connections.join_next() => {
            let why = ended.map_err(io::Error::other)?.err();
            return Err(why.unwrap_or_else(|| io::Error::other("a connection was closed")));
        }
    }
    connections.shutdown().await;
    speak::until_told().await;
    Ok(())
}

/// Looks like a small reading in JSON.
fn body(bytes: usize) -> Vec<u8> {
    br#"{"device":"press-3","at":"2026-11-23T10:00:00Z","temperature":21.5} "#.iter().copied().cycle().take(bytes).collect()
}

async fn measure(args: &Args, acknowledged: &AtomicU64) -> io::Result<()> {
    tokio::time::sleep(Duration::from_secs_f64(args.warm_up_s)).await;
    Line::Begin.say()?;
    let (begun, before) = (Instant::now(), acknowledged.load(Relaxed));
    let count = || acknowledged.load(Relaxed) - before;
    match args.bytes {
        None => tokio::time::sleep(Duration::from_secs_f64(args.measure_s)).await,
        Some(bytes) => {
            for tenth in 1..=10 {
                while count() * args.body as u64 * 10 < bytes * tenth {
                    tokio::time::sleep(LOOK).await;
                }
                Line::Mark.say()?;
            }
        }
    }
    Line::End { count: count(), took: begun.elapsed(), all: acknowledged.load(Relaxed) }.say()
}

async fn drive(
    mut stream: TlsStream<TcpStream>,
    publish: Publish,
    window: u64,
    acknowledged: Arc<AtomicU64>,
) -> io::Result<()> {
    let (mut out, mut inbox) = (vec![], bytes::BytesMut::with_capacity(16 * 1024));
    let (mut under_way, mut id) = (0, 0_u16);
    loop {
        while under_way < window {
            id = id.checked_add(1).unwrap_or(1);
            publish.push(&mut out, id);
            under_way += 1;
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
        if stream.read_buf(&mut inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut count = 0;
        while let Some(seen) = mqtt::first(&inbox) {
            count += u64::from(seen.kind == mqtt::PUBACK_KIND);
            let length = seen.length;
            bytes::Buf::advance(&mut inbox, length);
        }
        under_way -= count;
        acknowledged.fetch_add(count, Relaxed);
    }
}

async fn subscribe_and_leave(credentials: &Credentials, addr: SocketAddr) -> io::Result<()> {
    let who = mqtt::Who { client_id: "away".to_owned(), user: "away".to_owned(), password: "away".to_owned() };
    let mut stream = credentials.connect(addr, &who, KEEP_ALIVE_S, false).await?;
    stream.write_all(&mqtt::subscribe("devices/#")).await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    if answer[0] >> 4 != mqtt::SUBACK_KIND || answer[4] != 1 {
        return Err(io::Error::other(format!("the subscriber was refused: {answer:?}")));
    }
    stream.write_all(&mqtt::DISCONNECT).await?;
    stream.shutdown().await
}
