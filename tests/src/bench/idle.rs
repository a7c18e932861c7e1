//! Devices that are connected and say nothing but that they live.

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
use super::mqtt;
use super::speak::{self, Line};

/// Handshakes at once; the hub's patience for each is what limits it.
const AT_ONCE: usize = 64;

/// Arguments of the idle devices.
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
    /// The keep-alive they ask for; they ping at half of it
    #[arg(long)]
    keep_alive_s: u16,
    /// How long is measured once all are connected
    #[arg(long)]
    measure_s: f64,
}

/// Connects all, keeps them alive, says how many pings were answered.
pub(super) async fn run(args: Args) -> io::Result<()> {
    // Whether that was enough is seen at once.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let credentials = Arc::new(Credentials::read(&args.credentials)?);
    let answered = Arc::new(AtomicU64::new(0));
    let mut devices = credentials.devices().into_iter().take(args.connections);
    let (mut dialling, mut connected) = (JoinSet::new(), JoinSet::new());
    loop {
        while dialling.len() < AT_ONCE
            && let Some(device) = devices.next()
        {
            let (credentials, addr, keep_alive_s) = (Arc::clone(&credentials), args.addr, args.keep_alive_s);
            dialling
                .spawn(async move { credentials.connect(addr, &credentials.who(&device)?, keep_alive_s, true).await });
        }
        let Some(stream) = dialling.join_next().await else { break };
        let stream = stream.map_err(io::Error::other)??;
        let every = Duration::from_secs_f64(f64::from(args.keep_alive_s) / 2.0);
        connected.spawn(ping(stream, every, Arc::clone(&answered)));
    }
    if connected.len() < args.connections {
        return Err(io::Error::other(format!("{} devices are connected", connected.len())));
    }
    Line::Begin.say()?;
    let (begun, before) = (Instant::now(), answered.load(Relaxed));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(args.measure_s)) => {}
        Some(ended) = connected.join_next() => {
            let why = ended.map_err(io::Error::other)?.err();
            return Err(why.unwrap_or_else(|| io::Error::other("a connection was closed")));
        }
    }
    let all = answered.load(Relaxed);
    Line::End { count: all - before, took: begun.elapsed(), all }.say()?;
    speak::until_told().await;
    Ok(())
}

async fn ping(mut stream: TlsStream<TcpStream>, every: Duration, answered: Arc<AtomicU64>) -> io::Result<()> {
    loop {
        tokio::time::sleep(every).await;
        stream.write_all(&mqtt::PINGREQ).await?;
        stream.flush().await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        if answer[0] >> 4 != mqtt::PINGRESP_KIND {
            return Err(io::Error::other("a ping was not answered by one"));
        }
        answered.fetch_add(1, Relaxed);
    }
}
