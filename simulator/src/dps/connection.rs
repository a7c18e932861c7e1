//! One connection: a socket, a session, and the answers to what it asks.
//!
//! A publish is acknowledged, then answered in its topic if the device is subscribed to answers. Nothing outlives the
//! connection: every session is a clean one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqtt::{Act, Chain, Fault, Hello, Publish, Qos, Session, SubackReturnCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::Door;
use super::answer::{Answer, Refused};
use super::attest::{self, Denied, Guest};
use super::seats::Seat;
use super::throttle::Bucket;
use super::topic::{self, Request};
use crate::hub::mqtt;

/// The service's own limit of a message.
const MESSAGE_BYTES_MAX: usize = 96 * 1024;
/// A packet is larger by its topic.
const PACKET_BYTES_MAX: u32 = 98 * 1024;
/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence of so long ends a connection, whatever it asked for.
const QUIET_MAX: Duration = Duration::from_secs(1767);
const READ_BYTES: usize = 1024;
/// Answers a device has not acknowledged; it asks for one at a time.
const UNACKNOWLEDGED_MAX: usize = 32;
/// The service's own limit of questions about an operation.
const POLLS: (u32, Duration) = (5, Duration::from_secs(10));

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the device left")]
    Left,
    #[error("the device closed the connection without DISCONNECT")]
    Vanished,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("a publish to `{}`, which is no topic of the service", .0.escape_debug())]
    Topic(String),
    #[error("a subscription to `{}`, which is no filter of the service", .0.escape_debug())]
    Filter(String),
    #[error("a message of {0} bytes; {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("no TLS or no CONNECT within `dps.mqtt.connect-timeout`")]
    ConnectTimeout,
    #[error("no enrolment knows it, and `dps.mqtt.connect-timeout` is over")]
    Unknown,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `dps.mqtt.packet-timeout`")]
    Slow,
    #[error("its token expired")]
    Expired,
    #[error("another connection came with the same registration id")]
    TakenOver,
    #[error("more than {UNACKNOWLEDGED_MAX} answers are not acknowledged")]
    Unacknowledged,
    #[error("the service stops")]
    Stopping,
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Left | End::Vanished | End::Io(_) | End::Stopping => None,
            End::Fault(fault) => Some(fault.as_str()),
            End::Denied(denied) => Some(denied.as_str()),
            End::Topic(_) => Some("topic"),
            End::Filter(_) => Some("filter"),
            End::TooLarge(_) => Some("message-too-large"),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Unknown => Some("unknown-device"),
            End::Tls(_) => Some("tls"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
            End::Expired => Some("token-ended"),
            End::TakenOver => Some("taken-over"),
            End::Unacknowledged => Some("unacknowledged"),
        }
    }
}

/// A device that was let in.
struct Admitted {
    guest: Guest,
    /// Of those whom an enrolment knows: a stranger drives nobody away.
    seat: Option<Seat>,
}

pub(super) struct Connection<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    outgoing: Vec<u8>,
    /// What it is subscribed to answers with.
    qos: Option<Qos>,
    /// Ids of answers that it has not acknowledged.
    unacknowledged: Vec<u16>,
    polls: Bucket,
    quiet: Duration,
    quiet_at: Instant,
    partial_since: Option<Instant>,
    door: Arc<Door>,
}

/// What came out of a round of acts.
enum Came {
    Nothing,
    Hello(Box<Hello>),
    Publish(Publish),
    Subscribe(u16, Vec<(String, Qos)>),
    Unsubscribe(u16, Vec<String>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, door: Arc<Door>) -> Self {
        Self {
            session: Session::new(PACKET_BYTES_MAX),
            stream,
            inbox: BytesMut::new(),
            outgoing: vec![],
            qos: None,
            unacknowledged: vec![],
            polls: Bucket::new(POLLS.0, POLLS.1),
            quiet: QUIET_MAX,
            quiet_at: Instant::now() + QUIET_MAX,
            partial_since: None,
            door,
        }
    }

    /// Serves the connection of whoever showed `chain` to its end; CONNECT must have come by `patience`.
    pub(super) async fn serve(mut self, chain: Chain, patience: Instant) -> End {
        let end = self.serve_until(chain, patience).await.unwrap_or_else(|end| end);
        let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        end
    }

    async fn serve_until(&mut self, chain: Chain, patience: Instant) -> Result<End, End> {
        let stop = self.door.stop.clone();
        let hello = tokio::select! {
            () = stop.cancelled() => return Ok(End::Stopping),
            greeted = tokio::time::timeout_at(patience, self.greet()) => greeted.map_err(|_| End::ConnectTimeout)??,
        };
        let admitted = self.welcome(&hello, &chain).await?;
        drop((hello, chain));
        self.run(&admitted).await
    }

    async fn greet(&mut self) -> Result<Box<Hello>, End> {
        loop {
            while !self.inbox.is_empty() {
                if let Came::Hello(hello) = self.feed().await? {
                    return Ok(hello);
                }
            }
            self.read().await?;
        }
    }

    async fn welcome(&mut self, hello: &Hello, chain: &Chain) -> Result<Admitted, End> {
        let door = Arc::clone(&self.door);
        let mut acts = vec![];
        match attest::admit(hello, chain, &door.id_scope, door.service.clock.now()) {
            Ok(guest) => {
                let seat = door.service.knows(&guest);
                let seat = seat.then(|| door.seats.take(&guest.registration_id));
                self.session.accept(false, &mut acts);
                self.perform(acts).await?;
                Ok(Admitted { guest, seat })
            }
            Err(denied) => {
                let client_id: String = hello.client_id.chars().take(128).collect();
                tracing::info!(client_id = %client_id.escape_debug(), %denied, "refused a device that registers");
                self.session.refuse(denied.code(), &mut acts);
                self.perform(acts).await?;
                Err(denied.into())
            }
        }
    }

    async fn run(&mut self, admitted: &Admitted) -> Result<End, End> {
        let door = Arc::clone(&self.door);
        let stranger = admitted.seat.is_none().then(|| Instant::now() + door.limits.connect_timeout.duration());
        loop {
            self.digest(admitted).await?;
            let partial = self.partial_since.map(|since| since + door.limits.packet_timeout.duration());
            let taken_over = async {
                match &admitted.seat {
                    Some(seat) => seat.leave.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            let quiet_at = self.quiet_at;
            tokio::select! {
                () = door.stop.cancelled() => return Ok(End::Stopping),
                () = taken_over => return Ok(End::TakenOver),
                () = door.service.clock.sleep_until(admitted.guest.expires()) => return Ok(End::Expired),
                read = self.read() => read?,
                () = sleep_until_some(partial) => return Err(End::Slow),
                () = sleep_until_some(stranger) => return Err(End::Unknown),
                () = sleep_until(quiet_at) => return Err(End::Quiet),
            }
        }
    }

    /// Takes packets out of the inbox until it is empty.
    async fn digest(&mut self, admitted: &Admitted) -> Result<(), End> {
        while !self.inbox.is_empty() {
            let came = self.feed().await?;
            self.partial_since = match (self.session.mid_packet(), self.partial_since) {
                (false, _) => None,
                (true, since) => since.or_else(|| Some(Instant::now())),
            };
            match came {
                Came::Nothing => {}
                Came::Hello(_) => return Err(Fault::Protocol.into()),
                Came::Publish(publish) => self.take(&admitted.guest, publish).await?,
                Came::Subscribe(packet_id, filters) => self.subscribe(packet_id, &filters).await?,
                Came::Unsubscribe(packet_id, filters) => {
                    if filters.iter().any(|filter| topic::is_answers(filter)) {
                        self.qos = None;
                    }
                    let mut acts = vec![];
                    self.session.unsubscribed(packet_id, &mut acts);
                    self.perform(acts).await?;
                }
            }
        }
        Ok(())
    }

    async fn subscribe(&mut self, packet_id: u16, filters: &[(String, Qos)]) -> Result<(), End> {
        let mut codes = vec![];
        for (filter, qos) in filters {
            if !topic::is_answers(filter) {
                return Err(End::Filter(filter.clone()));
            }
            let (granted, code) = match qos {
                Qos::AtMostOnce => (Qos::AtMostOnce, SubackReturnCode::SuccessMaximumQos0),
                Qos::AtLeastOnce | Qos::ExactlyOnce => (Qos::AtLeastOnce, SubackReturnCode::SuccessMaximumQos1),
            };
            self.qos = Some(granted);
            codes.push(code);
        }
        let mut acts = vec![];
        self.session.subscribed(packet_id, codes, &mut acts);
        self.perform(acts).await.map(|_| ())
    }

    async fn take(&mut self, guest: &Guest, publish: Publish) -> Result<(), End> {
        let bytes = publish.payload.len();
        if MESSAGE_BYTES_MAX < bytes {
            return Err(End::TooLarge(bytes));
        }
        let request = topic::request(&publish.topic).ok_or_else(|| End::Topic(publish.topic.clone()))?;
        let service = &self.door.service;
        let (rid, answer) = match request {
            Request::Register { rid } => (rid, service.register(guest, &publish.payload)),
            Request::Status { rid, operation_id } => match self.polls.take(service.clock.now()) {
                Ok(()) => (rid, service.status(guest, &operation_id)),
                Err(wait) => (rid, service.refuse(&Refused::Throttled(wait))),
            },
            Request::Other { rid } => (rid, service.refuse(&Refused::Method)),
        };
        let mut acts = vec![];
        if let Some(packet_id) = publish.packet_id {
            self.session.acknowledge(packet_id, &mut acts);
        }
        self.answer(rid, &answer, &mut acts)?;
        self.perform(acts).await.map(|_| ())
    }

    fn answer(&mut self, rid: &str, answer: &Answer, acts: &mut Vec<Act>) -> Result<(), End> {
        // Who is not subscribed is not told, as anywhere.
        let Some(qos) = self.qos else { return Ok(()) };
        if UNACKNOWLEDGED_MAX <= self.unacknowledged.len() {
            return Err(End::Unacknowledged);
        }
        let topic = topic::answer(answer.status, rid, answer.retry_after_s);
        self.unacknowledged.extend(self.session.say(topic, answer.body.to_string().into(), qos, acts));
        Ok(())
    }

    async fn feed(&mut self) -> Result<Came, End> {
        let mut acts = vec![];
        let taken = self.session.feed(&self.inbox, &mut acts);
        self.inbox.advance(taken);
        self.perform(acts).await
    }

    /// Does what the session asks; at most one packet came.
    async fn perform(&mut self, acts: Vec<Act>) -> Result<Came, End> {
        let mut came = Came::Nothing;
        let mut end = None;
        for act in acts {
            match act {
                Act::Connect(hello) => came = Came::Hello(Box::new(hello)),
                Act::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
                Act::Publish(publish) => came = Came::Publish(publish),
                Act::Heard(packet_id) => self.unacknowledged.retain(|waiting| *waiting != packet_id),
                Act::Subscribe { packet_id, filters } => came = Came::Subscribe(packet_id, filters),
                Act::Unsubscribe { packet_id, filters } => came = Came::Unsubscribe(packet_id, filters),
                Act::Quiet(length) => {
                    self.quiet = length.map_or(QUIET_MAX, |length| length.min(QUIET_MAX));
                    self.quiet_at = Instant::now() + self.quiet;
                }
                Act::Goodbye => end = Some(End::Left),
                Act::Close(fault) => end = Some(fault.into()),
            }
        }
        if !self.outgoing.is_empty() {
            let write = async {
                self.stream.write_all(&self.outgoing).await?;
                self.stream.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            self.outgoing.clear();
        }
        match end {
            Some(end) => Err(end),
            None => Ok(came),
        }
    }

    /// Reads what has come. May be dropped and called again.
    async fn read(&mut self) -> Result<(), End> {
        self.inbox.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(End::Vanished),
            _ => Ok(()),
        }
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
