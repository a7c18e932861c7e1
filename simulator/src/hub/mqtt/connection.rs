//! One connection: a socket, a [`Session`], and what is on its way to disk.
//!
//! Publishes are handed to the log in the order they came and acknowledged in that order, each after the fsync that
//! stored it.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqtt_protocol_core::mqtt::packet::Qos;
use mqtt_protocol_core::mqtt::result_code::SubackReturnCode;
use shared::crash;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::Door;
use super::auth::{self, Denied, Guest, Rules};
use super::certificates::Chain;
use super::seats::Seat;
use super::session::{Act, Fault, Hello, Publish, Session};
use super::sessions::Filter;
use super::telemetry::{self, Said, Violation};
use crate::hub::faults::Action;
use crate::hub::log::{AppendError, Appended, Appending, NewEvent};

/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// At a stop, this long is waited for what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// The service hangs up after this much silence, whatever the device asked for.
const QUIET_MAX: Duration = Duration::from_secs(1767);
const READ_BYTES: usize = 8 * 1024;

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
    #[error("{0}")]
    Violation(#[from] Violation),
    #[error("no TLS or no CONNECT within `hub.mqtt.connect-timeout`")]
    ConnectTimeout,
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `hub.mqtt.packet-timeout`")]
    Slow,
    #[error("its token expired")]
    Expired,
    #[error("another connection came with the same device id")]
    TakenOver,
    #[error("a PUBACK was to be lost")]
    PubackLost,
    #[error("{0}")]
    NotStored(#[from] AppendError),
    #[error("its subscriptions cannot be kept: {0}")]
    NotKept(io::Error),
    #[error("the hub stops")]
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
            End::Violation(violation) => Some(violation.as_str()),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Tls(_) => Some("tls"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
            End::Expired => Some("token-ended"),
            End::TakenOver => Some("taken-over"),
            End::PubackLost => Some("puback-lost"),
            End::NotStored(_) => Some("not-stored"),
            End::NotKept(_) => Some("not-kept"),
        }
    }
}

/// A publish on its way to disk.
struct Stored {
    packet_id: Option<u16>,
    loses_puback: bool,
    appending: Option<Appending>,
}

/// What is owed to the device for a publish that is stored.
struct Puback {
    /// None for QoS 0.
    packet_id: Option<u16>,
    lost: bool,
}

/// A device that was let in.
struct Admitted {
    guest: Guest,
    seat: Seat,
    will: Option<Box<NewEvent>>,
}

pub(super) struct Connection<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    outgoing: Vec<u8>,
    stored: VecDeque<Stored>,
    filters: Vec<Filter>,
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
    Unsubscribe(Vec<String>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, door: Arc<Door>) -> Self {
        Self {
            session: Session::new(telemetry::PACKET_BYTES_MAX),
            stream,
            inbox: BytesMut::new(),
            outgoing: vec![],
            stored: VecDeque::new(),
            filters: vec![],
            quiet: QUIET_MAX,
            quiet_at: Instant::now() + QUIET_MAX,
            partial_since: None,
            door,
        }
    }

    /// Serves the connection of whoever showed `chain` to its end; CONNECT must have come by `patience`.
    pub(super) async fn serve(mut self, chain: Chain, patience: Instant) -> End {
        let stop = self.door.stop.clone();
        let greeted = tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            greeted = tokio::time::timeout_at(patience, self.greet(chain)) => greeted,
        };
        let admitted = match greeted {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(end)) => return end,
            Err(_) => return End::ConnectTimeout,
        };
        let end = self.run(&admitted).await.unwrap_or_else(|end| end);
        if matches!(end, End::Stopping) {
            // A failure here leaves publishes unacknowledged: their devices send them again.
            let _ = timeout(DRAIN, self.drain()).await;
        }
        if let Some(will) = admitted.will.filter(|_| !matches!(end, End::Left | End::Stopping)) {
            // The device is gone; nobody is left to be told.
            let _ = self.door.log.append(*will).await;
        }
        let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
        end
    }

    async fn greet(&mut self, chain: Chain) -> Result<Admitted, End> {
        loop {
            while !self.inbox.is_empty() {
                if let Came::Hello(hello) = self.feed().await? {
                    return self.welcome(&hello, &chain).await;
                }
            }
            read_some(&mut self.stream, &mut self.inbox).await?;
        }
    }

    async fn welcome(&mut self, hello: &Hello, chain: &Chain) -> Result<Admitted, End> {
        let mut acts = vec![];
        match self.judge(hello, chain) {
            Ok((guest, will)) => {
                let client_id = guest.client_id();
                let seat = self.door.seats.take(&client_id);
                let kept = self.door.sessions.begin(&client_id, hello.clean).map_err(End::NotKept)?;
                self.session.accept(kept.is_some(), &mut acts);
                self.filters = kept.unwrap_or_default();
                self.perform(acts).await?;
                tracing::debug!(client_id, "connected");
                Ok(Admitted { guest, seat, will })
            }
            Err(denied) => {
                let client_id: String = hello.client_id.chars().take(128).collect();
                tracing::info!(client_id = %client_id.escape_debug(), %denied, "refused a device");
                self.session.refuse(denied.code(), &mut acts);
                self.perform(acts).await?;
                let _ = timeout(WRITE_TIMEOUT, self.stream.shutdown()).await;
                Err(denied.into())
            }
        }
    }

    fn judge(&self, hello: &Hello, chain: &Chain) -> Result<(Guest, Option<Box<NewEvent>>), Denied> {
        let door = &self.door;
        let rules = Rules {
            hosts: &door.hosts,
            known: &door.registry.now(),
            authorities: &door.authorities,
            clock_skew: door.limits.clock_skew.duration(),
            now: door.clock.now(),
        };
        let guest = auth::admit(hello, chain, &rules)?;
        let Some(will) = &hello.will else { return Ok((guest, None)) };
        match telemetry::said(&guest, will) {
            Ok(Said::Event { mut event, .. }) => {
                event.properties.push(("iothub-MessageType".to_owned(), "Will".to_owned()));
                Ok((guest, Some(event)))
            }
            _ => Err(Denied::Will),
        }
    }

    async fn run(&mut self, admitted: &Admitted) -> Result<End, End> {
        let door = Arc::clone(&self.door);
        loop {
            self.digest(&admitted.guest).await?;
            let blocked = door.limits.unacknowledged_max <= self.stored.len();
            // While we do not read, the device cannot be heard: its silence is ours.
            let partial =
                self.partial_since.filter(|_| !blocked).map(|since| since + door.limits.packet_timeout.duration());
            let quiet = Some(self.quiet_at).filter(|_| !blocked);
            tokio::select! {
                () = door.stop.cancelled() => return Ok(End::Stopping),
                () = admitted.seat.leave.cancelled() => return Ok(End::TakenOver),
                () = door.clock.sleep_until(admitted.guest.expires) => return Ok(End::Expired),
                read = read_some(&mut self.stream, &mut self.inbox), if !blocked => read?,
                stored = first_stored(&mut self.stored) => self.acknowledge(stored?).await?,
                () = sleep_until_some(partial) => return Err(End::Slow),
                () = sleep_until_some(quiet) => return Err(End::Quiet),
            }
        }
    }

    /// Takes packets out of the inbox until it is empty or too many publishes are on their way. Then the rest stays
    /// where it is, and TCP makes the device wait.
    async fn digest(&mut self, guest: &Guest) -> Result<(), End> {
        while !self.inbox.is_empty() && self.stored.len() < self.door.limits.unacknowledged_max {
            let came = self.feed().await?;
            self.partial_since = match (self.session.mid_packet(), self.partial_since) {
                (false, _) => None,
                (true, since) => since.or_else(|| Some(Instant::now())),
            };
            match came {
                Came::Nothing => {}
                Came::Hello(_) => return Err(Fault::Protocol.into()),
                Came::Publish(publish) => self.take(guest, publish).await?,
                Came::Subscribe(packet_id, filters) => self.subscribe(guest, packet_id, filters).await?,
                Came::Unsubscribe(filters) => {
                    self.filters.retain(|(held, _)| !filters.contains(held));
                    self.keep(guest)?;
                }
            }
        }
        if self.inbox.is_empty() && 4 * READ_BYTES < self.inbox.capacity() {
            self.inbox = BytesMut::new(); // a large packet came once; its memory need not stay
        }
        Ok(())
    }

    async fn subscribe(&mut self, guest: &Guest, packet_id: u16, filters: Vec<(String, Qos)>) -> Result<(), End> {
        let filters: Vec<Filter> = filters.into_iter().map(|(filter, qos)| (filter, qos as u8)).collect();
        self.filters = telemetry::subscribe(guest, mem::take(&mut self.filters), &filters)?;
        self.keep(guest)?;
        let code = |(_, qos): &Filter| match qos {
            0 => SubackReturnCode::SuccessMaximumQos0,
            _ => SubackReturnCode::SuccessMaximumQos1,
        };
        let mut acts = vec![];
        self.session.subscribed(packet_id, filters.iter().map(code).collect(), &mut acts);
        self.perform(acts).await.map(|_| ())
    }

    fn keep(&self, guest: &Guest) -> Result<(), End> {
        self.door.sessions.keep(&guest.client_id(), &self.filters).map_err(End::NotKept)
    }

    async fn take(&mut self, guest: &Guest, publish: Publish) -> Result<(), End> {
        let appending = match telemetry::said(guest, &publish)? {
            Said::Event { event, metered_units } => {
                self.door.metrics.took(event.body.len() as u64, metered_units);
                let _ = self.door.tier.lock().send(self.door.clock.now(), metered_units);
                Some(self.door.log.submit(*event).await)
            }
            Said::Unasked => None,
        };
        let loses_puback = self.door.faults.message(&guest.device_id).contains(&Action::LosePuback);
        self.stored.push_back(Stored { packet_id: publish.packet_id, loses_puback, appending });
        Ok(())
    }

    /// Acknowledges what is stored by now, in one write.
    async fn acknowledge(&mut self, first: Puback) -> Result<(), End> {
        let mut acts = vec![];
        let mut next = Some(first);
        let mut lost = false;
        while let Some(puback) = next {
            if let Some(packet_id) = puback.packet_id {
                crash::here("hub-stored");
                if puback.lost {
                    lost = true;
                    break;
                }
                self.session.acknowledge(packet_id, &mut acts);
            }
            next = match self.stored.front_mut() {
                Some(stored) => stored.already()?,
                None => None,
            };
            if next.is_some() {
                self.stored.pop_front();
            }
        }
        self.perform(acts).await?;
        if lost { Err(End::PubackLost) } else { Ok(()) }
    }

    async fn drain(&mut self) -> Result<(), End> {
        while !self.stored.is_empty() {
            let stored = first_stored(&mut self.stored).await?;
            self.acknowledge(stored).await?;
        }
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
                Act::Subscribe { packet_id, filters } => came = Came::Subscribe(packet_id, filters),
                Act::Unsubscribe(filters) => came = Came::Unsubscribe(filters),
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
}

impl Stored {
    /// `Some` once it is stored; holds the id to acknowledge, if there is one.
    fn already(&mut self) -> Result<Option<Puback>, AppendError> {
        match &mut self.appending {
            None => Ok(Some(self.puback())),
            Some(appending) => Ok(appending.already()?.map(|_| self.puback())),
        }
    }

    fn puback(&self) -> Puback {
        Puback { packet_id: self.packet_id, lost: self.loses_puback }
    }
}

/// Waits for the first publish on its way to be stored; for ever if there is none. May be dropped and called again.
async fn first_stored(stored: &mut VecDeque<Stored>) -> Result<Puback, AppendError> {
    let Some(first) = stored.front_mut() else { return pending().await };
    if let Some(appending) = &mut first.appending {
        let _: Appended = appending.wait().await?;
    }
    let first = stored.pop_front().expect("it is still the first");
    Ok(first.puback())
}

/// Reads what has come; the end of the stream is [`End::Vanished`]. May be dropped and called again.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, inbox: &mut BytesMut) -> Result<(), End> {
    inbox.reserve(READ_BYTES);
    match stream.read_buf(inbox).await? {
        0 => Err(End::Vanished),
        _ => Ok(()),
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
