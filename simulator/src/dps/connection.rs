//! One connection: its [`Wire`], and the answers to what the device asks.
//!
//! A publish is acknowledged, then answered in its topic if the device is subscribed to answers. Nothing outlives the
//! connection: every session is a clean one.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::Door;
use super::answer::{Answer, Refused};
use super::attest::{self, Denied, Guest};
use super::seats::Seat;
use super::throttle::Bucket;
use super::topic::{self, Request};
use crate::gate::{self, Act, Came, Chain, Fault, Hello, Publish, Qos, Session, SubackReturnCode, Wire};

/// The service's own limit of a message.
const MESSAGE_BYTES_MAX: usize = 96 * 1024;
/// A packet is larger by its topic.
const PACKET_BYTES_MAX: u32 = 98 * 1024;
/// Answers a device has not acknowledged; it asks for one at a time.
const UNACKNOWLEDGED_MAX: usize = 32;
/// The service's own limit of questions about an operation.
const POLLS: (u32, Duration) = (5, Duration::from_secs(10));

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error(transparent)]
    Gate(#[from] gate::End),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("it asked for no WebSocket")]
    NoWebSocket,
    #[error("a publish to `{}`, which is no topic of the service", .0.escape_debug())]
    Topic(String),
    #[error("a subscription to `{}`, which is no filter of the service", .0.escape_debug())]
    Filter(String),
    #[error("a message of {0} bytes; {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("no enrolment knows it, and `dps.mqtt.connect-timeout` is over")]
    Unknown,
    #[error("its token expired")]
    Expired,
    #[error("another connection came with the same registration id")]
    TakenOver,
    #[error("more than {UNACKNOWLEDGED_MAX} answers are not acknowledged")]
    Unacknowledged,
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Gate(end) => end.as_str(),
            End::Denied(denied) => Some(denied.as_str()),
            End::NoWebSocket => Some("no-websocket"),
            End::Topic(_) => Some("topic"),
            End::Filter(_) => Some("filter"),
            End::TooLarge(_) => Some("message-too-large"),
            End::Unknown => Some("unknown-device"),
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
    wire: Wire<S>,
    /// What it is subscribed to answers with.
    qos: Option<Qos>,
    /// Ids of answers that it has not acknowledged.
    unacknowledged: Vec<u16>,
    polls: Bucket,
    door: Arc<Door>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, door: Arc<Door>) -> Self {
        Self {
            wire: Wire::new(stream, PACKET_BYTES_MAX, door.limits.packet_timeout.duration()),
            qos: None,
            unacknowledged: vec![],
            polls: Bucket::new(POLLS.0, POLLS.1),
            door,
        }
    }

    /// Serves the connection of whoever showed `chain` to its end; CONNECT must have come by `patience`.
    pub(super) async fn serve(mut self, chain: Chain, patience: Instant) -> End {
        let end = self.serve_until(chain, patience).await.unwrap_or_else(|end| end);
        self.wire.close().await;
        end
    }

    async fn serve_until(&mut self, chain: Chain, patience: Instant) -> Result<End, End> {
        let stop = self.door.stop.clone();
        let hello = self.wire.greet(patience, &stop).await?;
        let admitted = self.welcome(&hello, &chain).await?;
        drop((hello, chain));
        self.run(&admitted).await
    }

    async fn welcome(&mut self, hello: &Hello, chain: &Chain) -> Result<Admitted, End> {
        let door = Arc::clone(&self.door);
        match attest::admit(hello, chain, &door.id_scope, door.service.clock.now()) {
            Ok(guest) => {
                let seat = door.service.knows(&guest);
                let seat = seat.then(|| door.seats.take(&guest.registration_id));
                self.wire.say(|session, acts| session.accept(false, acts)).await?;
                Ok(Admitted { guest, seat })
            }
            Err(denied) => {
                let client_id: String = hello.client_id.chars().take(128).collect();
                tracing::info!(client_id = %client_id.escape_debug(), %denied, "refused a device that registers");
                self.wire.say(|session, acts| session.refuse(denied.code(), acts)).await?;
                Err(denied.into())
            }
        }
    }

    async fn run(&mut self, admitted: &Admitted) -> Result<End, End> {
        let door = Arc::clone(&self.door);
        let stranger = admitted.seat.is_none().then(|| Instant::now() + door.limits.connect_timeout.duration());
        loop {
            self.digest(admitted).await?;
            let taken_over = async {
                match &admitted.seat {
                    Some(seat) => seat.leave.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = door.stop.cancelled() => return Ok(gate::End::Stopping.into()),
                () = taken_over => return Ok(End::TakenOver),
                () = door.service.clock.sleep_until(admitted.guest.expires()) => return Ok(End::Expired),
                read = self.wire.read() => read?,
                () = sleep_until_some(stranger) => return Err(End::Unknown),
            }
        }
    }

    /// Takes packets out of the inbox until it is empty.
    async fn digest(&mut self, admitted: &Admitted) -> Result<(), End> {
        while let Some(came) = self.wire.next().await? {
            match came {
                Came::Nothing => {}
                Came::Hello(_) => return Err(gate::End::from(Fault::Protocol).into()),
                Came::Publish(publish) => self.take(&admitted.guest, publish).await?,
                Came::Heard(packet_id) => self.unacknowledged.retain(|waiting| *waiting != packet_id),
                Came::Subscribe(packet_id, filters) => self.subscribe(packet_id, &filters).await?,
                Came::Unsubscribe(packet_id, filters) => {
                    if filters.iter().any(|filter| topic::is_answers(filter)) {
                        self.qos = None;
                    }
                    self.wire.say(|session, acts| session.unsubscribed(packet_id, acts)).await?;
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
        Ok(self.wire.say(|session, acts| session.subscribed(packet_id, codes, acts)).await?)
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
        // Who is not subscribed is not told, as anywhere.
        let qos = self.qos;
        if qos.is_some() && UNACKNOWLEDGED_MAX <= self.unacknowledged.len() {
            return Err(End::Unacknowledged);
        }
        let said = self.wire.say(|session, acts| {
            if let Some(packet_id) = publish.packet_id {
                session.acknowledge(packet_id, acts);
            }
            qos.and_then(|qos| say(session, rid, &answer, qos, acts))
        });
        self.unacknowledged.extend(said.await?);
        Ok(())
    }
}

fn say(session: &mut Session, rid: &str, answer: &Answer, qos: Qos, acts: &mut Vec<Act>) -> Option<u16> {
    let topic = topic::answer(answer.status, rid, answer.retry_after_s);
    session.say(topic, answer.body.to_string().into(), qos, acts)
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
