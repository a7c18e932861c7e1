//! The service side over AMQP 1.0, as Microsoft's SDKs are: an Event-Hubs-compatible endpoint, and the hub's own for commands.
//!
//! ```text
//! socket ── line ── TLS? ── WebSocket? ── pad ── acceptor ── sasl ──> sessions ──> links
//!                                                  ├─ $cbs         tokens, checked
//!                                                  ├─ $management  the hub and its partitions
//!                                                  ├─ {hub}/ConsumerGroups/{group}/Partitions/{n}  events from the log
//!                                                  ├─ /messages/devicebound            commands, into their queues
//!                                                  └─ /messages/serviceBound/feedback  what became of them
//! ```
//!
//! Never: an event to a link without a token that covers it; a command accepted before it is stored; memory that grows
//! with what is stored.

mod listener; // the port

mod line; // a socket that can fail on demand
mod websocket; // AMQP inside WebSocket messages

mod frame; // [p] frames as bytes, and two edits
mod nest; // [p] what must not be decoded

mod quota; // what a peer may have under way

mod pad; // the stream those edits happen in

mod connection; // sessions, links, and what each is for
mod sasl; // who may come in: everybody

mod address; // [p] what an address names
mod cbs; // tokens: who may do what
mod management;
mod request; // questions and answers over two links // [p] what the hub says about itself

mod claim; // what a receiver of events asks for
mod filter; // [p] where a receiver begins
mod message; // [p] event -> AMQP message
mod owners; // [p] who receives from a partition
mod receiver; // a partition to a link

mod command; // [p] AMQP message -> command
mod commands; // a link's messages to the queues
mod feedback; // what became of commands to a link

mod faults; // what tests do to peers

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use shared::clock::Clock;
use shared::config::Secret;
use shared::sas::Key;
use tokio::sync::oneshot;

use self::cbs::{House, Tokens};
pub use self::faults::Break;
pub(super) use self::line::{Line, LineIo};
pub(super) use self::listener::attend;
pub use self::listener::{Wrapping, serve};
use self::owners::Owners;
use self::receiver::Ending;
use super::desk::Desk;
use super::log::Log;

/// A shared-access policy that may read. A policy with two keys is two of these.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name, as in `SharedAccessKeyName`.
    pub name: String,
    key: Secret,
}

impl Policy {
    /// A policy and one of its keys, as in `SharedAccessKey`: the text as it is, though it looks like base64.
    pub fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self { name: name.into(), key: Secret::new(key) }
    }

    /// What signs tokens for the Event-Hubs-compatible endpoint.
    fn key(&self) -> Key {
        Key::service(self.key.reveal())
    }

    /// What signs tokens for the IoT hub itself; nothing, if the key is no base64.
    fn hub_key(&self) -> Option<Key> {
        Key::device(self.key.reveal())
    }

    fn has_key(&self, key: &[u8]) -> bool {
        // Through a signature, so that the time it takes tells nothing.
        let token = shared::sas::sign("", &self.key(), 1, None);
        let asked = std::str::from_utf8(key).map(Key::service);
        let token = shared::sas::Token::parse(&token);
        asked.is_ok_and(|asked| token.is_ok_and(|token| token.check([&asked], 0).is_ok()))
    }
}

/// How much the endpoint puts up with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of one listener; more are closed at once.
    pub connections_max: usize,
    /// How long TLS, after it WebSocket, and after it SASL and `open`, may take.
    pub handshake: Duration,
    /// A peer that is silent for this long is given up; half of it is what the peer is told.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 1000, handshake: Duration::from_secs(10), silence: Duration::from_secs(120) }
    }
}

/// Who may read as of now; asked for each token.
pub type Policies = Arc<dyn Fn() -> Vec<Policy> + Send + Sync>;

/// What a hub's services are told and asked.
#[derive(Clone)]
pub struct Setup {
    /// The Event-Hubs-compatible name: the `EntityPath`.
    pub name: String,
    /// Where commands go, and the names the hub goes by.
    pub desk: Desk,
    /// Who may read, and command.
    pub policies: Policies,
    /// Consumer groups that exist, in any case of letters.
    pub consumer_groups: Vec<String>,
    /// How much it puts up with.
    pub limits: Limits,
}

/// The group every hub has.
pub const DEFAULT_GROUP: &str = "$Default";

/// A hub as its services see it; clones are the same hub. Several listeners may serve one.
#[derive(Clone)]
pub struct AmqpHub {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    setup: Setup,
    clock: Clock,
    owners: Mutex<Owners<oneshot::Sender<Ending>>>,
    peers: Mutex<Peers>,
    ended: Mutex<HashMap<u64, i64>>,
    books: Arc<Books>,
}

/// Everybody connected, for those who want to disturb them.
#[derive(Default)]
struct Peers {
    next: u64,
    peers: Vec<Peer>,
}

struct Peer {
    id: u64,
    line: Arc<Line>,
    tokens: Arc<Tokens>,
}

/// Keeps a peer among the [`Peers`] until it is dropped.
struct Here {
    hub: AmqpHub,
    id: u64,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.hub.peers().peers.retain(|peer| peer.id != self.id);
    }
}

impl AmqpHub {
    /// A hub as set up.
    pub fn new(log: Log, setup: Setup, clock: Clock) -> Self {
        let inner = Inner {
            log,
            setup,
            clock,
            owners: Mutex::default(),
            peers: Mutex::default(),
            ended: Mutex::default(),
            books: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the endpoint has done since it started, and who is there now.
    pub fn status(&self) -> Status {
        let books = &self.inner.books;
        Status {
            connections: books.connections.load(Relaxed),
            receivers: self.owners().len(),
            connections_refused: books.connections_refused.load(Relaxed),
            handshakes_failed: books.handshakes_failed.load(Relaxed),
            links_refused: books.links_refused.load(Relaxed),
            tokens_refused: books.tokens_refused.load(Relaxed),
            events_delivered: books.events_delivered.load(Relaxed),
            bytes_delivered: books.bytes_delivered.load(Relaxed),
            commands_accepted: books.commands_accepted.load(Relaxed),
            commands_rejected: books.commands_rejected.load(Relaxed),
            feedback_settled: books.feedback_settled.load(Relaxed),
        }
    }

    fn log(&self) -> &Log {
        &self.inner.log
    }

    fn name(&self) -> &str {
        &self.inner.setup.name
    }

    /// Whether there is such a consumer group.
    fn has_group(&self, name: &str) -> bool {
        let mut groups = self.inner.setup.consumer_groups.iter().map(String::as_str).chain([DEFAULT_GROUP]);
        groups.any(|group| group.eq_ignore_ascii_case(name))
    }

    fn policies(&self) -> Vec<Policy> {
        (self.inner.setup.policies)()
    }

    fn desk(&self) -> &Desk {
        &self.inner.setup.desk
    }

    /// Whom tokens have to do with.
    fn house<'a>(&'a self, policies: &'a [Policy]) -> House<'a> {
        House { entity: self.name(), hosts: &self.desk().hosts, policies }
    }

    /// In Unix seconds.
    fn now_s(&self) -> i64 {
        self.clock().now().millis().div_euclid(1000)
    }

    fn limits(&self) -> &Limits {
        &self.inner.setup.limits
    }

    fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    fn books(&self) -> &Arc<Books> {
        &self.inner.books
    }

    fn owners(&self) -> MutexGuard<'_, Owners<oneshot::Sender<Ending>>> {
        self.inner.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.inner.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens that a fault ended before their time, by their marks, and when. They are not taken again, or no service would
    /// ever have to make another.
    fn ended(&self) -> MutexGuard<'_, HashMap<u64, i64>> {
        self.inner.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, line: Arc<Line>, tokens: Arc<Tokens>) -> Here {
        let mut peers = self.peers();
        peers.next += 1;
        let id = peers.next;
        peers.peers.push(Peer { id, line, tokens });
        Here { hub: self.clone(), id }
    }
}

/// See [`AmqpHub::status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// Connections open now.
    pub connections: u64,
    /// Receivers attached to partitions now.
    pub receivers: usize,
    /// Connections closed at once because too many were open.
    pub connections_refused: u64,
    /// Connections that came to nothing: too slow, not TLS, not AMQP, a wrong key over SASL.
    pub handshakes_failed: u64,
    /// Links closed at once: no token, nothing there, place taken.
    pub links_refused: u64,
    /// Tokens not taken.
    pub tokens_refused: u64,
    /// Events handed to receivers.
    pub events_delivered: u64,
    /// Bytes of their bodies.
    pub bytes_delivered: u64,
    /// Commands stored.
    pub commands_accepted: u64,
    /// Commands not stored: no such device, its queue full, too long, unreadable.
    pub commands_rejected: u64,
    /// Feedback messages settled by services.
    pub feedback_settled: u64,
}

#[derive(Debug, Default)]
struct Books {
    connections: AtomicU64,
    connections_refused: AtomicU64,
    handshakes_failed: AtomicU64,
    links_refused: AtomicU64,
    tokens_refused: AtomicU64,
    events_delivered: AtomicU64,
    bytes_delivered: AtomicU64,
    commands_accepted: AtomicU64,
    commands_rejected: AtomicU64,
    feedback_settled: AtomicU64,
}

impl Books {
    fn connection_opened(self: &Arc<Self>) -> OpenConnection {
        self.connections.fetch_add(1, Relaxed);
        OpenConnection(Arc::clone(self))
    }

    fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }

    fn handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Relaxed);
    }

    fn link_refused(&self) {
        self.links_refused.fetch_add(1, Relaxed);
    }

    fn tokens_refused(&self) {
        self.tokens_refused.fetch_add(1, Relaxed);
    }

    fn command(&self, accepted: bool) {
        let count = if accepted { &self.commands_accepted } else { &self.commands_rejected };
        count.fetch_add(1, Relaxed);
    }

    fn feedback_settled(&self) {
        self.feedback_settled.fetch_add(1, Relaxed);
    }

    fn delivered(&self, bytes: usize) {
        self.events_delivered.fetch_add(1, Relaxed);
        self.bytes_delivered.fetch_add(bytes as u64, Relaxed);
    }
}

/// Counts a connection as open until it is dropped.
struct OpenConnection(Arc<Books>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}
