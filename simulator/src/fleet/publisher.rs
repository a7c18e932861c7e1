//! One device on one connection: ledger, then wire, then PUBACK, then ledger. QoS 1; order per device is kept.
//!
//! Every connection is a new client: what is unacknowledged is published again from our own window, in order, and the
//! client's list of pending packets is never used (rumqtt#1056: a client that lost its session can loop for ever).

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, Outgoing, Packet, QoS};
use shared::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::broker::Broker;
use super::counters::{Counters, Held};
use super::ledger::{Ledger, LedgerError, Sent};
use super::send::Draft;

/// Longest wait for a connection; a hub or broker under load is slow to greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection on which nothing was acknowledged for so long is given up and made anew.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a goodbye to be written.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where a device's sends come from.
pub(crate) trait Source: Send {
    /// Waits until the next send is due and makes it; `None`: there are no more. May be dropped while it waits.
    fn next(&mut self) -> impl Future<Output = Option<Draft>> + Send;
}

/// What all devices share.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) broker: Arc<Broker>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) counters: Arc<Counters>,
    /// Most sends of a device without PUBACK; then it waits.
    pub(crate) window: usize,
    pub(crate) stop: CancellationToken,
}

/// A send on its way.
struct Outstanding {
    sent: Sent,
    acks_due: u8,
}

/// What a connection knows: which packet is which send.
struct Connection {
    client: AsyncClient,
    events: mpsc::UnboundedReceiver<Result<Event, ConnectionError>>,
    driver: AbortOnDropHandle<()>,
    /// Handed to the client, no packet id yet; the client numbers in order.
    unnumbered: VecDeque<u64>,
    numbered: HashMap<u16, u64>,
    /// Something was acknowledged on it.
    worked: bool,
}

/// Runs the device `name` until its source ends or `stop` is cancelled, and everything is acknowledged. `unacked` of an
/// earlier run goes first.
///
/// # Errors
/// The ledger cannot be written. Trouble with the broker is never an error: it is tried again.
pub(crate) async fn run<S: Source>(
    wire: Wire,
    name: &str,
    unacked: Vec<Sent>,
    mut source: S,
) -> Result<(), LedgerError> {
    let seed = name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), seed);
    let mut window: VecDeque<Outstanding> =
        unacked.into_iter().map(|sent| Outstanding { acks_due: sent.copies, sent }).collect();
    Counters::add(&wire.counters.unacked, window.len() as u64);
    let mut ended = false;
    loop {
        let ending = ended || wire.stop.is_cancelled();
        if ending && window.is_empty() {
            return Ok(());
        }
        match Connection::open(&wire, name).await {
            Ok(mut connection) => {
                let held = Held::new(&wire.counters.connected);
                Counters::add(&wire.counters.connects, 1);
                let lost = talk(&wire, &mut connection, &mut window, &mut source, &mut ended).await?;
                drop(held);
                match lost {
                    None => {
                        connection.goodbye().await;
                        return Ok(());
                    }
                    Some(why) => wire.counters.trouble(why),
                }
                if connection.worked {
                    backoff.reset(); // a kick after that is not a refusal
                }
            }
            Err(error) => {
                debug!(device = name, %error, "cannot connect");
                wire.counters.trouble(error.to_string());
            }
        }
        sleep(backoff.next_wait()).await;
    }
}

/// Sends and hears until all is done (`None`) or the connection is lost (why).
async fn talk<S: Source>(
    wire: &Wire,
    connection: &mut Connection,
    window: &mut VecDeque<Outstanding>,
    source: &mut S,
    ended: &mut bool,
) -> Result<Option<String>, LedgerError> {
    for outstanding in window.iter() {
        connection.publish(&outstanding.sent, outstanding.acks_due);
    }
    Counters::add(&wire.counters.again, window.len() as u64);
    let mut heard = Instant::now();
    loop {
        if (*ended || wire.stop.is_cancelled()) && window.is_empty() {
            return Ok(None);
        }
        tokio::select! {
            event = connection.events.recv() => {
                let event = match event {
                    Some(Ok(event)) => event,
                    Some(Err(error)) => return Ok(Some(error.to_string())),
                    None => return Ok(Some("the connection ended".into())),
                };
                if let Some(id) = connection.acked(&event) {
                    heard = Instant::now();
                    connection.worked = true;
                    acknowledge(wire, window, id)?;
                }
            }
            draft = source.next(), if !*ended && !wire.stop.is_cancelled() && window.len() < wire.window => {
                let Some(draft) = draft else {
                    *ended = true;
                    continue;
                };
                if window.is_empty() {
                    heard = Instant::now();
                }
                Counters::add(&wire.counters.values, draft.expect.len() as u64);
                let sent = wire.ledger.send(draft)?;
                Counters::add(&wire.counters.sends, 1);
                Counters::add(&wire.counters.unacked, 1);
                connection.publish(&sent, sent.copies);
                window.push_back(Outstanding { acks_due: sent.copies, sent });
            }
            () = wire.stop.cancelled(), if !*ended => *ended = true,
            () = sleep_until(heard + ACK_TIMEOUT), if !window.is_empty() => {
                return Ok(Some(format!("no PUBACK within {} s", ACK_TIMEOUT.as_secs())));
            }
        }
    }
}

fn acknowledge(wire: &Wire, window: &mut VecDeque<Outstanding>, id: u64) -> Result<(), LedgerError> {
    let Some(at) = window.iter().position(|outstanding| outstanding.sent.id == id) else { return Ok(()) };
    window[at].acks_due -= 1;
    if window[at].acks_due == 0 {
        window.remove(at);
        wire.ledger.ack(id)?;
        Counters::add(&wire.counters.acked, 1);
        Counters::sub(&wire.counters.unacked, 1);
    }
    Ok(())
}

impl Connection {
    /// Dials, and waits for the CONNACK.
    async fn open(wire: &Wire, name: &str) -> Result<Self, ConnectionError> {
        // Two copies at most of each send in the window; twice that, so that packet ids never collide.
        let room = wire.window * 2;
        let inflight = u16::try_from(room * 2).unwrap_or(u16::MAX - 1);
        let (client, eventloop) = AsyncClient::new(wire.broker.options(name, inflight), room + 8);
        // Unbounded, and yet bounded: two events for each publish in the window, and the pings.
        let (tell, mut events) = mpsc::unbounded_channel();
        let driver = AbortOnDropHandle::new(tokio::spawn(drive(eventloop, tell)));
        match timeout(CONNECT_TIMEOUT, events.recv()).await {
            Ok(Some(Ok(_connack))) => Ok(Self {
                client,
                events,
                driver,
                unnumbered: VecDeque::new(),
                numbered: HashMap::new(),
                worked: false,
            }),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) | Err(_) => Err(ConnectionError::NetworkTimeout),
        }
    }

    /// Hands `copies` of a send to the client. What the client does not take is published on the next connection.
    fn publish(&mut self, sent: &Sent, copies: u8) {
        for _ in 0..copies {
            if self.client.try_publish(&sent.topic, QoS::AtLeastOnce, false, sent.payload()).is_ok() {
                self.unnumbered.push_back(sent.id);
            }
        }
    }

    /// The send that `event` acknowledges one copy of.
    fn acked(&mut self, event: &Event) -> Option<u64> {
        match event {
            Event::Outgoing(Outgoing::Publish(packet)) => {
                let id = self.unnumbered.pop_front()?;
                self.numbered.insert(*packet, id);
                None
            }
            Event::Incoming(Packet::PubAck(ack)) => self.numbered.remove(&ack.pkid),
            _ => None,
        }
    }

    async fn goodbye(mut self) {
        if self.client.try_disconnect().is_ok() {
            let _ = timeout(GOODBYE, &mut self.driver).await;
        }
    }
}

/// Polls the client in a task of its own: a poll that is dropped half-way can lose a packet.
async fn drive(mut eventloop: EventLoop, tell: mpsc::UnboundedSender<Result<Event, ConnectionError>>) {
    eventloop.network_options.set_tcp_nodelay(true);
    eventloop.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
    loop {
        let event = eventloop.poll().await;
        let last = matches!(event, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect)));
        if tell.send(event).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
