//! Client of an MQTT broker: QoS 1, a session that persists, acknowledgements only after the outbox has committed.
//!
//! Every connection gets a new rumqttc client. An old client would deliver, on the new connection, packet ids of the
//! old one, and an acknowledgement of such an id may hit another message. The broker keeps the session and repeats what
//! was not acknowledged; repeats are recognised by presilver's source keys.
//!
//! What senders are asked for (a Sparkplug rebirth) is published at QoS 0 beside all that.
//!
//! Retained values are stored once: when the session is new. A broker sends them again at every SUBSCRIBE; where it knows
//! the session they are acknowledged and counted, for what was published since has come by the session itself. One that is
//! a redelivery (`dup`) was perhaps taken when the session was new and never stored: that one is stored.
//!
//! A message larger than `max-packet` would end the connection, and every later one, for the broker sends it again. So it
//! is cut on its way to rumqttc (`line::sieve`), refused by presilver with its beginning, and acknowledged like others.

mod config; // what can be set

mod manner; // how it is connected to, and why it is not

use std::collections::VecDeque;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use serde::Serialize;
use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::config::SecretError;
use shared::reading::GatewayId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::config::Config;
use self::manner::{Manner, refusal};
use super::acks::{Acks, Refused};
use super::metrics::WayMetrics;
use super::{Ack, Ask, Learns, Metrics, RawMessage};
use crate::line::Cuts;
use crate::trust::TrustError;

/// On stop, this long is waited for commits of what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// TCP, TLS and CONNACK must be done in this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Asks that may wait to be written.
const ASKS_OUT_MAX: usize = 4;

/// The client cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The password cannot be had.
    #[error("the password for the broker: {0}")]
    Password(#[from] SecretError),
    /// No certificate authority can be had.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The connection to the broker, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Host and port.
    pub broker: String,
    /// Whether it has let us in.
    pub connected: bool,
    /// Why it is not connected; null while it is.
    pub last_error: Option<String>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the agent stops")]
    Stopping,
    #[error("{0}")]
    Connection(Box<ConnectionError>),
    #[error("this machine has no socket for it: {0}")]
    Socket(#[from] std::io::Error),
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("`intake.broker.unacked-max` messages wait for their commit; the broker keeps the rest")]
    Full,
    #[error("the broker refuses the subscription to {0}; allow it there, or correct `intake.broker.topics`")]
    Subscription(String),
}

impl From<ConnectionError> for End {
    fn from(error: ConnectionError) -> Self {
        End::Connection(Box::new(error))
    }
}

/// Takes messages from the broker until `stop`; a broker that is away is tried again for ever. What senders are asked for
/// is published, and retained values that somebody learns from are passed on again.
///
/// # Errors
/// A file that the settings name cannot be used: the operator must act.
pub async fn run_broker(
    config: Config,
    gateway: &GatewayId,
    clock: Clock,
    tx: mpsc::Sender<RawMessage>,
    (mut asks, learns): (mpsc::Receiver<Ask>, Learns),
    stop: CancellationToken,
    metrics: Metrics,
) -> Result<(), BrokerError> {
    let manner = Manner::of(&config, gateway)?;
    let tell = |connected, last_error| {
        let broker = format!("{} port {}", config.host, config.port);
        metrics.broker.send_replace(Some(Link { broker, connected, last_error }));
    };
    tell(false, None);
    let metrics = metrics.of("broker");
    let seed = clock.now().micros().unsigned_abs();
    let mut backoff = Backoff::new(config.backoff_min.duration(), config.backoff_max.duration(), seed);
    loop {
        let (lasted, end, fault) = match manner.lay() {
            Err(error) => (Duration::ZERO, error.into(), None),
            Ok((options, mut tunnel, cuts)) => {
                let (beside, line) = ((&mut asks, &learns), (options, cuts));
                let mut connection = Connection::new(&config, line, &clock, &tx, beside, &metrics);
                let end = tokio::select! {
                    end = connection.run(&stop, || tell(true, None)) => end,
                    () = late(&stop) => End::Stopping,
                };
                // One that never came about lasted for nothing.
                let lasted = connection.up_since.map(|since| since.elapsed()).unwrap_or_default();
                drop(connection);
                let fault = tunnel.broken().fault().cloned();
                // Until the last acknowledgements are out.
                tunnel.drain().await;
                (lasted, end, fault)
            }
        };
        let (broker, port) = (&config.host, config.port);
        let why = match (&end, fault) {
            (End::Connection(error), fault) => {
                refusal(error).or(fault.map(|fault| fault.text)).unwrap_or_else(|| end.to_string())
            }
            _ => end.to_string(),
        };
        match &end {
            End::Stopping => return Ok(()),
            End::Full | End::Refused(_) => warn!("connection to the broker given up for a while: {why}"),
            End::Subscription(_) => error!("failed to subscribe: {why}"),
            End::Connection(error) if refusal(error).is_some() => error!(broker, port, "{why}"),
            End::Connection(_) | End::Socket(_) => warn!(broker, port, "no connection to the broker: {why}"),
        }
        tell(false, Some(why));
        if config.stable.duration() <= lasted {
            backoff.reset();
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(backoff.next_wait()) => {}
        }
    }
}

/// The end of patience after the stop.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

/// One connection and what came over it.
struct Connection<'a> {
    config: &'a Config,
    metrics: &'a WayMetrics,
    events: EventLoop,
    taken: Taken<'a>,
    up_since: Option<Instant>,
}

/// The half that handles what `poll` yields, so that `poll` can go on meanwhile.
struct Taken<'a> {
    config: &'a Config,
    clock: &'a Clock,
    tx: &'a mpsc::Sender<RawMessage>,
    /// What senders are to be asked for.
    asks: &'a mut mpsc::Receiver<Ask>,
    /// Asks given to the client and not yet written.
    asks_out: usize,
    learns: &'a Learns,
    metrics: &'a WayMetrics,
    client: AsyncClient,
    /// Messages that were too large.
    cuts: Cuts,
    /// Messages of this connection.
    publishes: u64,
    /// Messages taken and not yet acknowledged; at most `unacked_max`.
    acks: Acks,
    /// Those of them that found the way to presilver full.
    hold: VecDeque<RawMessage>,
    connected: bool,
    /// The broker kept our session.
    session_present: bool,
    stopping: bool,
}

impl<'a> Connection<'a> {
    fn new(
        config: &'a Config,
        (options, cuts): (MqttOptions, Cuts),
        clock: &'a Clock,
        tx: &'a mpsc::Sender<RawMessage>,
        (asks, learns): (&'a mut mpsc::Receiver<Ask>, &'a Learns),
        metrics: &'a WayMetrics,
    ) -> Self {
        // Room for an acknowledgement of every message that can wait, for asks, the subscription and the goodbye:
        // `try_ack` never finds it full.
        let requests = usize::from(config.unacked_max) + ASKS_OUT_MAX + 8;
        let (client, mut events) = AsyncClient::new(options, requests);
        events.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        let taken = Taken {
            config,
            clock,
            tx,
            asks,
            asks_out: 0,
            learns,
            metrics,
            client,
            cuts,
            publishes: 0,
            acks: Acks::default(),
            hold: VecDeque::new(),
            connected: false,
            session_present: false,
            stopping: false,
        };
        Self { config, metrics, events, taken, up_since: None }
    }

    async fn run(&mut self, stop: &CancellationToken, connected: impl Fn()) -> End {
        let mut open = None;
        loop {
            // `poll` must not be dropped half way (a packet would be lost between its queues), nor ever wait for us
            // (it sends the pings). So it is pinned until it yields, and the rest goes on beside it.
            let event = {
                let poll = std::pin::pin!(self.events.poll());
                match self.taken.beside(poll, stop).await {
                    Ok(event) => event,
                    Err(end) => return end,
                }
            };
            let outcome = match event {
                Ok(Event::Incoming(Packet::ConnAck(connack))) => {
                    info!(
                        broker = %self.config.host,
                        port = self.config.port,
                        session = connack.session_present,
                        "connected to the broker"
                    );
                    self.up_since = Some(Instant::now());
                    open = Some(self.metrics.open());
                    connected();
                    self.taken.session_present = connack.session_present;
                    self.taken.subscribe()
                }
                Ok(Event::Incoming(Packet::SubAck(suback))) => self.taken.subscribed(&suback.return_codes),
                Ok(Event::Incoming(Packet::Publish(publish))) => self.taken.take(publish),
                Ok(Event::Outgoing(Outgoing::Publish(_))) => {
                    self.taken.asks_out = self.taken.asks_out.saturating_sub(1);
                    Ok(())
                }
                // After our goodbye too: the broker hangs up once it has read all our acknowledgements. Gone before
                // that, the next run would find them repeated.
                Ok(_) => Ok(()),
                Err(error) if self.taken.stopping => {
                    drop(error);
                    Err(End::Stopping)
                }
                Err(error) => Err(error.into()),
            };
            if let Err(end) = outcome {
                drop(open);
                return end;
            }
        }
    }
}

impl Taken<'_> {
    /// Waits for `poll`; meanwhile acknowledges what is committed and passes on what was held.
    async fn beside<P>(&mut self, mut poll: std::pin::Pin<&mut P>, stop: &CancellationToken) -> Result<P::Output, End>
    where
        P: Future,
    {
        loop {
            tokio::select! {
                () = stop.cancelled(), if !self.stopping => self.begin_to_stop()?,
                event = &mut poll => return Ok(event),
                acked = self.acks.next() => self.acknowledge(acked)?,
                Some(ask) = self.asks.recv(), if self.asks_now() => self.ask(ask)?,
                permit = self.tx.reserve(), if !self.hold.is_empty() => {
                    let (Ok(permit), Some(message)) = (permit, self.hold.pop_front()) else { return Err(End::Stopping) };
                    permit.send(message);
                }
            }
        }
    }

    /// True if there is room for an ask beside the acknowledgements.
    fn asks_now(&self) -> bool {
        self.connected && !self.stopping && self.asks_out < ASKS_OUT_MAX
    }

    fn ask(&mut self, ask: Ask) -> Result<(), End> {
        self.asks_out += 1;
        let published = self.client.try_publish(ask.topic, QoS::AtMostOnce, false, ask.payload);
        published.map_err(|_| ConnectionError::RequestsDone)?;
        Ok(())
    }

    /// Subscribes, on every connection: the broker may have lost the session, or the filters may be new.
    fn subscribe(&mut self) -> Result<(), End> {
        self.connected = true;
        let filters = self.config.topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
        self.client.try_subscribe_many(filters).map_err(|_| ConnectionError::RequestsDone)?;
        Ok(())
    }

    fn subscribed(&mut self, codes: &[SubscribeReasonCode]) -> Result<(), End> {
        let refused: Vec<&str> = self
            .config
            .topics
            .iter()
            .zip(codes)
            .filter(|(_, code)| matches!(code, SubscribeReasonCode::Failure))
            .map(|(topic, _)| topic.as_str())
            .collect();
        match refused[..] {
            [] => Ok(()),
            _ => Err(End::Subscription(refused.join(", "))),
        }
    }

    fn take(&mut self, publish: Publish) -> Result<(), End> {
        self.publishes += 1;
        let cut = self.cuts.of(self.publishes);
        if self.stopping {
            return Ok(()); // not acknowledged, so it comes again
        }
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(cut.as_ref().map_or(publish.payload.len() as u64, |cut| cut.bytes));
        let waits = publish.qos != QoS::AtMostOnce;
        let again = publish.retain && self.session_present && !publish.dup;
        if again {
            self.metrics.retained.inc();
        }
        if again && !(self.learns)(&publish.topic) {
            if waits {
                // In its turn: behind the messages that came before it. Nothing is held for it, so no bound is met.
                let (ack, done) = Ack::channel();
                ack.done();
                self.acks.push(publish.pkid, done);
            }
            return Ok(());
        }
        let ack = if waits {
            if usize::from(self.config.unacked_max) <= self.acks.len() {
                return Err(End::Full);
            }
            let (ack, done) = Ack::channel();
            self.acks.push(publish.pkid, done);
            ack
        } else {
            Ack::none()
        };
        let received = self.clock.now();
        let message = RawMessage { topic: publish.topic, payload: publish.payload, cut, received, again, ack };
        if waits && !self.hold.is_empty() {
            self.hold.push_back(message); // behind those that came before it
            return Ok(());
        }
        match self.tx.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(message)) => {
                if waits {
                    self.hold.push_back(message);
                } else {
                    self.metrics.dropped.inc();
                }
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(End::Stopping),
        }
    }

    fn acknowledge(&mut self, acked: Result<u16, Refused>) -> Result<(), End> {
        match acked {
            Ok(packet_id) => {
                self.metrics.acked.inc();
                let mut publish = Publish::new("", QoS::AtLeastOnce, Vec::new());
                publish.pkid = packet_id;
                self.client.try_ack(&publish).map_err(|_| ConnectionError::RequestsDone)?;
            }
            // What was held back at the stop will come again.
            Err(Refused) if self.stopping => self.acks = Acks::default(),
            Err(refused) => return Err(refused.into()),
        }
        if self.stopping && self.acks.is_empty() { self.say_goodbye() } else { Ok(()) }
    }

    fn begin_to_stop(&mut self) -> Result<(), End> {
        if !self.connected {
            return Err(End::Stopping);
        }
        self.stopping = true;
        self.hold.clear();
        if self.acks.is_empty() { self.say_goodbye() } else { Ok(()) }
    }

    fn say_goodbye(&mut self) -> Result<(), End> {
        self.client.try_disconnect().map_err(|_| End::Stopping)
    }
}

#[cfg(test)]
mod tests;
