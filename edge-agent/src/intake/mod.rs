//! Intake: the world -> [`RawMessage`].
//!
//! Two ways in: [`broker`] is a client of an MQTT broker, [`listener`] is a server to which devices connect straight.
//! Either way a device's publish is acknowledged only after the outbox has committed what was in it, and in the order
//! it came. What is not acknowledged is bounded, and stays with the sender. Intake never looks into a payload.

mod acks; // acknowledgements given, in the order the messages came

pub mod broker; // client of a broker

pub mod listener; // publish-only MQTT server, 3.1.1 and 5

mod room; // how many bytes may wait

mod metrics;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use shared::config::Mistakes;
use shared::time::Timestamp;
use tokio::sync::{mpsc, oneshot};

pub use self::broker::run_broker;
pub use self::listener::run_listener;
pub use self::metrics::Metrics;
pub use crate::line::Cut;

use self::room::Held;

/// Messages between intake and presilver, which judges as many at once and hands them over while a commit runs. When it is
/// full, QoS 1 messages wait unacknowledged (each sender has a bound of its own) and QoS 0 messages are dropped and
/// counted. (Never "stop polling": rumqttc sends its keep-alive pings from `poll`.)
pub const CAPACITY: usize = 256;

/// One publish, as it came.
#[derive(Debug)]
pub struct RawMessage {
    /// The topic it was published on.
    pub topic: String,
    /// Its bytes, unread.
    pub payload: Bytes,
    /// It was larger than is taken: what it was, and `payload` is its beginning.
    pub cut: Option<Cut>,
    /// When it was received here.
    pub received: Timestamp,
    /// A retained value that was here before: nothing to store, but a convention may learn from it.
    pub again: bool,
    /// Tells the sender that the message is on disk.
    pub ack: Ack,
}

/// A message that a sender should get, at QoS 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Where it is published.
    pub topic: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Requests that may wait for the broker. They can be made again: one that finds no room is dropped and counted.
pub const ASKS_CAPACITY: usize = 16;

/// The way back to senders; only through a broker there is one.
#[derive(Debug, Clone, Default)]
pub struct Senders(Option<mpsc::Sender<Ask>>);

impl Senders {
    /// A way back, and its end at the broker.
    pub fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(ASKS_CAPACITY);
        (Self(Some(sender)), receiver)
    }

    /// Sends a request, if there is a way and room on it.
    pub fn ask(&self, ask: Ask) -> bool {
        self.0.as_ref().is_some_and(|sender| sender.try_send(ask).is_ok())
    }
}

/// Says of a topic whether retained values on it are wanted again and again: a convention learns from them.
pub type Learns = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The right to acknowledge one message. Dropped without [`Ack::done`], the message is never acknowledged and its
/// sender will repeat it.
#[derive(Debug)]
pub struct Ack {
    done: Option<oneshot::Sender<()>>,
    /// The room the message takes until then.
    _held: Option<Held>,
}

impl Ack {
    /// For a message whose sender waits for nothing (QoS 0).
    pub const fn none() -> Self {
        Self { done: None, _held: None }
    }

    /// An acknowledgement and the end at which it is seen.
    pub fn channel() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { done: Some(sender), _held: None }, receiver)
    }

    /// With the message, this room is let go.
    fn holding(self, held: Held) -> Self {
        Self { _held: Some(held), ..self }
    }

    /// Everything in the message is committed.
    pub fn done(self) {
        if let Some(sender) = self.done {
            // The connection may be gone; then the sender repeats, and the repeat is recognised.
            let _ = sender.send(());
        }
    }
}

/// `[intake]`: the two ways in. (Its mappings belong to presilver.)
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Client of a broker.
    pub broker: broker::Config,
    /// Own listener.
    pub listener: listener::Config,
}

impl Config {
    /// Limits between settings; paths are those of the whole configuration.
    pub fn check(&self, mistakes: &mut Mistakes) {
        self.broker.check(mistakes);
        self.listener.check(mistakes);
    }
}
