//! The load of `bench ingest`: gateways that publish Envelopes of their own at QoS 1 over TLS, at a rate or as fast as
//! they are acknowledged.
//!
//! Unlike [`super::publish`], whose packets are all the same, each Envelope has sequence numbers and times of its own: the
//! ingester is to find no repeats.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use shared::clock::Clock;
use shared::envelope::{Envelope, WireReading};
use shared::reading::{Epoch, GatewayId, Seq};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::client::TlsStream;

use super::dial::Credentials;
use super::mqtt::{self, Publish};
use super::speak::{self, Line};

/// Unacknowledged publishes of one gateway.
const WINDOW: u64 = 64;
/// Pings are not what is measured.
const KEEP_ALIVE_S: u16 = 600;
/// Devices behind each gateway.
const DEVICES: u64 = 100;

/// Arguments of the load.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `simulator hub connection-strings --json` printed
    #[arg(long)]
    credentials: PathBuf,
    /// The hub
    #[arg(long)]
    addr: SocketAddr,
    /// Gateways, one connection each
    #[arg(long)]
    gateways: u64,
    /// Readings in each Envelope
    #[arg(long)]
    per_message: u64,
    /// Envelopes of each gateway
    #[arg(long)]
    messages: u64,
    /// Readings per second of all together; 0: as fast as they are acknowledged
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

/// Publishes all, says how many readings were acknowledged.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let credentials = Credentials::read(&args.credentials)?;
    let mut streams = vec![];
    for device in credentials.devices().into_iter().take(usize::try_from(args.gateways).unwrap_or(usize::MAX)) {
        let stream = credentials.connect(args.addr, &credentials.who(&device)?, KEEP_ALIVE_S, true).await?;
        streams.push((device, stream));
    }
    if (streams.len() as u64) < args.gateways {
        return Err(io::Error::other(format!("{} devices are registered", streams.len())));
    }
    Line::Begin.say()?;
    let begun = Instant::now();
    let interval = match args.rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs_f64((args.gateways * args.per_message) as f64 / rate as f64),
    };
    let mut gateways = JoinSet::new();
    for (at, (device, stream)) in streams.into_iter().enumerate() {
        let gateway = Gateway {
            topic: format!("devices/{device}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8"),
            id: GatewayId::new(&device),
            epoch: format!("{:016x}", 0xbeac_0000 + at).parse().map_err(|_| io::Error::other("an epoch"))?,
            per_message: args.per_message,
            messages: args.messages,
            // They do not all begin in the same moment.
            begin: begun + interval.mul_f64(at as f64 / args.gateways as f64),
            interval,
        };
        gateways.spawn(gateway.drive(stream));
    }
    while let Some(ended) = gateways.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let messages = args.gateways * args.messages;
    Line::End { count: messages * args.per_message, took: begun.elapsed(), all: messages }.say()?;
    speak::until_told().await;
    Ok(())
}

struct Gateway {
    topic: String,
    id: GatewayId,
    epoch: Epoch,
    per_message: u64,
    messages: u64,
    begin: Instant,
    interval: Duration,
}

impl Gateway {
    async fn drive(self, mut stream: TlsStream<TcpStream>) -> io::Result<()> {
        let (mut out, mut inbox) = (vec![], bytes::BytesMut::with_capacity(4 * 1024));
        let (mut sent, mut acknowledged) = (0_u64, 0);
        while acknowledged < self.messages {
            let may = |sent: u64| sent < self.messages && sent - acknowledged < WINDOW;
            while may(sent) && self.due(sent) <= Instant::now() {
                let id = u16::try_from(sent % 60_000 + 1).unwrap_or(1);
                Publish::new(&self.topic, &self.envelope(sent)).push(&mut out, id);
                sent += 1;
            }
            if !out.is_empty() {
                stream.write_all(&out).await?;
                stream.flush().await?;
                out.clear();
            }
            tokio::select! {
                read = stream.read_buf(&mut inbox) => if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                },
                () = sleep_until(self.due(sent)), if may(sent) => {}
            }
            while let Some(seen) = mqtt::first(&inbox) {
                acknowledged += u64::from(seen.kind == mqtt::PUBACK_KIND);
                let length = seen.length;
                bytes::Buf::advance(&mut inbox, length);
            }
        }
        Ok(())
    }

    fn due(&self, message: u64) -> Instant {
        self.begin + self.interval.mul_f64(message as f64)
    }

    /// The `message`-th, of now.
    fn envelope(&self, message: u64) -> Vec<u8> {
        let now = Clock::Real.now().micros();
        let first = message * self.per_message;
        let high = Seq(signed(first + self.per_message));
        let mut envelope = Envelope::new(self.id.clone(), self.epoch, high, "d2409bb8ddc4eeb9".to_owned());
        envelope.readings = (first..first + self.per_message).map(|at| self.reading(at, now)).collect();
        envelope.to_json()
    }

    fn reading(&self, at: u64, now: i64) -> WireReading {
        let (metric, unit) = super::bronze::METRICS[usize::try_from(at % 4).unwrap_or(0)];
        // Spread like a sensor's last digits.
        let noise = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50;
        WireReading {
            s: Seq(signed(at + 1)),
            d: format!("{}-device-{:03}", self.id, at / 4 % DEVICES),
            m: metric.to_owned(),
            v: Some(20.0 + noise as f64 / 1000.0),
            vb: None,
            vs: None,
            u: Some(unit.to_owned()),
            t: now,
            r: Some(now),
            q: Some("device".to_owned()),
            n: Some(signed(at / 4)),
            rest: Default::default(),
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
