//! The load on the gateway: devices that publish readings at QoS 1 as fast as they are acknowledged, a window each; or
//! that are only connected.
//!
//! Packets are encoded once. Only the device's own number changes from publish to publish, at a fixed place and width:
//! without it the gateway would know each for a repeat, and store none.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::mqtt::{self, Publish, Who};
use super::speak::{self, Line};

/// Pings are not what is measured.
const KEEP_ALIVE_S: u16 = 600;
/// Handshakes at once.
const AT_ONCE: usize = 64;
/// The first number of each device: the next billions have as many digits.
const FIRST: u64 = 1_000_000_000;

/// Arguments of the devices.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The listener
    #[arg(long)]
    addr: SocketAddr,
    /// TLS, with this authority
    #[arg(long)]
    ca: Option<PathBuf>,
    /// Devices, one connection each
    #[arg(long)]
    connections: usize,
    /// Unacknowledged publishes of one connection; 0: connected and silent
    #[arg(long, default_value_t = 0)]
    window: u64,
    /// Readings in each publish
    #[arg(long, default_value_t = 1)]
    values: u64,
    /// Before measuring begins
    #[arg(long, default_value_t = 0.0)]
    warm_up_s: f64,
    /// How long is measured
    #[arg(long, default_value_t = 0.0)]
    measure_s: f64,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What a device publishes: `values` metrics in one object.
pub(super) fn payload(number: u64, values: u64) -> String {
    let metrics: Vec<String> =
        (0..values).map(|metric| format!("\"temperature-{metric}\":{{\"v\":21.5,\"u\":\"Cel\"}}")).collect();
    format!("{{\"n\":{number},{}}}", metrics.join(","))
}

/// Publishes, measures, says how many readings were acknowledged.
pub(super) async fn run(args: Args) -> io::Result<()> {
    // Whether that was enough is seen at once.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let tls = args.ca.as_deref().map(connector).transpose()?;
    let (mut dialling, mut streams, mut next) = (JoinSet::new(), vec![], 0);
    loop {
        while dialling.len() < AT_ONCE && next < args.connections {
            dialling.spawn(dial(args.addr, tls.clone(), next));
            next += 1;
        }
        let Some(dialled) = dialling.join_next().await else { break };
        streams.push(dialled.map_err(io::Error::other)??);
    }
    if args.window == 0 {
        Line::Begin.say()?;
        speak::until_told().await;
        drop(streams);
        return Ok(());
    }
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut devices = JoinSet::new();
    for (number, stream) in streams.into_iter().enumerate() {
        let publish = Publish::new(&format!("telemetry/press-{number}"), payload(FIRST, args.values).as_bytes());
        devices.spawn(drive(stream, publish, args.window, Arc::clone(&acknowledged)));
    }
    tokio::select! {
        done = measure(&args, &acknowledged) => done?,
        Some(ended) = devices.join_next() => {
            let why = ended.map_err(io::Error::other)?.err();
            return Err(why.unwrap_or_else(|| io::Error::other("a connection was closed")));
        }
    }
    devices.shutdown().await;
    speak::until_told().await;
    Ok(())
}

fn connector(ca: &Path) -> io::Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).map_err(io::Error::other)?).map_err(io::Error::other)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn dial(addr: SocketAddr, tls: Option<TlsConnector>, number: usize) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.connect(ServerName::from(addr.ip()), stream).await?),
    };
    let name = format!("press-{number}");
    let who = Who { client_id: name.clone(), user: name, password: "none".to_owned() };
    stream.write_all(&mqtt::connect(&who, KEEP_ALIVE_S, true)).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    match answer {
        mqtt::CONNACK => Ok(stream),
        other => Err(io::Error::other(format!("{} was refused: {other:?}", who.client_id))),
    }
}

async fn measure(args: &Args, acknowledged: &AtomicU64) -> io::Result<()> {
    tokio::time::sleep(Duration::from_secs_f64(args.warm_up_s)).await;
    Line::Begin.say()?;
    let (begun, before) = (Instant::now(), acknowledged.load(Relaxed));
    tokio::time::sleep(Duration::from_secs_f64(args.measure_s)).await;
    let all = acknowledged.load(Relaxed);
    let count = (all - before) * args.values;
    Line::End { count, took: begun.elapsed(), all: all * args.values }.say()
}

async fn drive(
    mut stream: Box<dyn Stream>,
    publish: Publish,
    window: u64,
    acknowledged: Arc<AtomicU64>,
) -> io::Result<()> {
    let (mut out, mut inbox) = (vec![], BytesMut::with_capacity(16 * 1024));
    let (mut under_way, mut id, mut number) = (0, 0_u16, FIRST);
    let width = FIRST.to_string().len();
    // Where the number stands, from the end of the packet.
    let mut sample = vec![];
    publish.push(&mut sample, 1);
    let at = sample.windows(4).position(|part| part == b"\"n\":").map_or(0, |at| at + 4);
    loop {
        while under_way < window {
            id = id.checked_add(1).unwrap_or(1);
            let start = out.len();
            publish.push(&mut out, id);
            out[start + at..start + at + width].copy_from_slice(number.to_string().as_bytes());
            number += 1;
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
            inbox.advance(length);
        }
        under_way -= count;
        acknowledged.fetch_add(count, Relaxed);
    }
}
