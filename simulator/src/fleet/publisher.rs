//! One device on one connection: ledger, then wire, then PUBACK, then ledger. QoS 1; order per device is kept.
//!
//! Every connection is a new client: what is unacknowledged is published again from our own window, in order, and the
//! client's list of pending packets is never used (rumqtt#1056: a client that lost its session can loop for ever).

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Outgoing, Packet, QoS};
use shared::backoff::Backoff;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::counters::{Counters, Held};
use super::dial::Dial;
use super::ledger::{Ledger, LedgerError, Sent};
use super::send::Draft;

/// Longest wait for a connection; a hub or broker under load is slow to greet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection on which a send waits so long for its PUBACK is given up and made anew.
const ACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a goodbye to be written.
const GOODBYE: Duration = Duration::from_secs(1);
/// How often a connection is looked at: whether its time is over, or a PUBACK overdue.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long a connection that has to be made anew may wait for its PUBACKs.
const RENEWAL: Duration = Duration::from_secs(5);

/// Where a device's sends come from.
pub(crate) trait Source: Send {
    /// Waits until the next send is due and makes it; `None`: there are no more. May be dropped while it waits.
    fn next(&mut self) -> impl Future<Output = Option<Draft>> + Send;

    /// Makes the next send if it is due already: what is due together is written down together.
    fn ready(&mut self) -> Option<Draft> {
        None
    }
}

/// What all devices share.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) dial: Arc<Dial>,
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
    /// When this connection got it.
    since: Instant,
}

/// Why a connection is left.
enum Left {
    /// All is done.
    Done,
    /// Its time is over.
    Renew,
    /// It broke.
    Lost(String),
}

/// A connection, or an attempt at one.
struct Connection {
    eventloop: EventLoop,
    line: Line,
    /// When it has to be made anew.
    renew_at: Option<Instant>,
}

/// What a connection knows: which packet is which send.
struct Line {
    client: AsyncClient,
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
        unacked.into_iter().map(|sent| Outstanding { acks_due: sent.copies, sent, since: Instant::now() }).collect();
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
                let left = talk(&wire, &mut connection, &mut window, &mut source, &mut ended).await?;
                drop(held);
                let worked = connection.line.worked;
                match left {
                    Left::Done => {
                        connection.goodbye().await;
                        return Ok(());
                    }
                    Left::Renew => {
                        connection.goodbye().await;
                        continue;
                    }
                    Left::Lost(why) => wire.counters.trouble(why),
                }
                if worked {
                    backoff.reset(); // a kick after that is not a refusal
                }
            }
            Err(error) => {
                debug!(device = name, %error, "cannot connect");
                wire.counters.trouble(explain(&error));
            }
        }
        sleep(backoff.next_wait()).await;
    }
}

/// Sends and hears until all is done or the connection is left.
async fn talk<S: Source>(
    wire: &Wire,
    connection: &mut Connection,
    window: &mut VecDeque<Outstanding>,
    source: &mut S,
    ended: &mut bool,
) -> Result<Left, LedgerError> {
    let Connection { eventloop, line, renew_at } = connection;
    // The first so many of the window this connection has got. The rest goes as PUBACKs make room: an earlier run with
    // this ledger may have had a larger window.
    let mut handed = 0;
    let mut renewing = false;
    // Made once: each of them costs a lock to make, and this is gone through for every packet.
    let mut stopped = std::pin::pin!(wire.stop.cancelled());
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        while let Some(outstanding) = window.get_mut(handed).filter(|_| handed < wire.window) {
            outstanding.since = Instant::now();
            line.publish(&outstanding.sent, outstanding.acks_due);
            Counters::add(&wire.counters.again, 1);
            handed += 1;
        }
        let event = {
            // Held until it is done: a poll that is dropped half-way can lose a packet.
            let mut poll = std::pin::pin!(eventloop.poll());
            loop {
                if !line.unnumbered.is_empty() {
                    break poll.await; // what was handed over goes out first
                }
                if window.is_empty() && *ended {
                    return Ok(Left::Done);
                }
                if window.is_empty() && renewing {
                    return Ok(Left::Renew);
                }
                tokio::select! {
                    event = &mut poll => break event,
                    draft = source.next(), if !*ended && !renewing && window.len() < wire.window => {
                        let Some(draft) = draft else {
                            *ended = true;
                            continue;
                        };
                        let room = wire.window - window.len() - 1;
                        let drafts = std::iter::once(draft).chain(std::iter::from_fn(|| source.ready()).take(room));
                        let since = Instant::now();
                        for sent in wire.note(drafts)? {
                            line.publish(&sent, sent.copies);
                            handed += 1;
                            window.push_back(Outstanding { acks_due: sent.copies, sent, since });
                        }
                    }
                    () = &mut stopped, if !*ended => *ended = true,
                    now = look.tick() => {
                        renewing |= renew_at.is_some_and(|at| at <= now);
                        if renew_at.is_some_and(|at| at + RENEWAL <= now) {
                            return Ok(Left::Renew);
                        }
                        if window.front().is_some_and(|oldest| oldest.since + ACK_TIMEOUT <= now) {
                            return Ok(Left::Lost(format!("no PUBACK within {} s", ACK_TIMEOUT.as_secs())));
                        }
                    }
                }
            }
        };
        let (mut event, lost) = match event {
            Ok(event) => (Some(event), None),
            Err(error) => (eventloop.state.events.pop_front(), Some(explain(&error))),
        };
        while let Some(heard) = event {
            if let Some(id) = line.acked(&heard) {
                line.worked = true;
                // Whatever is acknowledged was handed over.
                handed -= usize::from(acknowledge(wire, window, id)?);
            }
            // What came in the same breath needs no poll of its own, and counts where it was the connection's last.
            event = eventloop.state.events.pop_front();
        }
        if let Some(why) = lost {
            return Ok(Left::Lost(why));
        }
    }
}

impl Wire {
    /// Numbers drafts, writes them down together and counts them.
    pub(crate) fn note(&self, drafts: impl Iterator<Item = Draft>) -> Result<Vec<Sent>, LedgerError> {
        let sent = self.ledger.send_all(drafts)?;
        let values = sent.iter().map(|sent| sent.expect.len() as u64).sum();
        Counters::add(&self.counters.values, values);
        Counters::add(&self.counters.sends, sent.len() as u64);
        let promised = sent.iter().filter(|sent| !sent.best_effort).count();
        Counters::add(&self.counters.unacked, promised as u64);
        Ok(sent)
    }
}

/// Notes one PUBACK; true if it was the last one due, and the send has left the window.
fn acknowledge(wire: &Wire, window: &mut VecDeque<Outstanding>, id: u64) -> Result<bool, LedgerError> {
    let Some(at) = window.iter().position(|outstanding| outstanding.sent.id == id) else { return Ok(false) };
    window[at].acks_due -= 1;
    if window[at].acks_due != 0 {
        return Ok(false);
    }
    window.remove(at);
    wire.ledger.ack(id)?;
    Counters::add(&wire.counters.acked, 1);
    Counters::sub(&wire.counters.unacked, 1);
    Ok(true)
}

/// What failed, and what to do where that is known.
fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword),
        ) => format!("refused ({code:?}): check key or password, that the device is enabled, and this machine's clock"),
        error => error.to_string(),
    }
}

impl Connection {
    /// Dials, and waits for the CONNACK.
    async fn open(wire: &Wire, name: &str) -> Result<Self, ConnectionError> {
        // Two copies at most of each send in the window; twice that, so that packet ids never collide.
        let room = wire.window * 2;
        let inflight = u16::try_from(room * 2).unwrap_or(u16::MAX - 1);
        let options = wire.dial.options(name, inflight).ok_or(ConnectionError::NotConnAck(Packet::Disconnect))?;
        let renew_at = options.lasts.map(|lasts| Instant::now() + lasts);
        let (client, mut eventloop) = AsyncClient::new(options.mqtt, room + 8);
        eventloop.network_options.set_tcp_nodelay(true);
        eventloop.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        match timeout(CONNECT_TIMEOUT, eventloop.poll()).await {
            Ok(Ok(_connack)) => {
                let line = Line { client, unnumbered: VecDeque::new(), numbered: HashMap::new(), worked: false };
                Ok(Self { eventloop, line, renew_at })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ConnectionError::NetworkTimeout),
        }
    }

    async fn goodbye(mut self) {
        if self.line.client.try_disconnect().is_ok() {
            let written = async {
                while !matches!(self.eventloop.poll().await, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {}
            };
            let _ = timeout(GOODBYE, written).await;
        }
    }
}

impl Line {
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
}

#[cfg(test)]
mod tests;
