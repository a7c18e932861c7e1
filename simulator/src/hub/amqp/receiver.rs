//! One partition to one receiver: from disk, as fast as the receiver gives credit, then as events are stored.
//!
//! Events leave settled, so nothing is remembered of them. At most one read's worth is in memory.

use std::sync::Arc;

use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::link::{SendError, Sender};
use fe2o3_amqp_types::definitions::{self, AmqpError, ConnectionError, LinkError};
use tokio::sync::oneshot;

use super::cbs::Realm;
use super::connection::Shared;
use super::message;
use super::owners::Key;
use super::quota::Ahead;

/// Events read from disk at once.
const READ_EVENTS_MAX: usize = 512;
/// Bytes read from disk at once.
const READ_BYTES_MAX: usize = 512 * 1024;

/// What a receiver is to be given.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) partition: u32,
    /// The first event to deliver.
    pub(super) next: i64,
    /// The path the token must cover.
    pub(super) path: String,
    /// Whether each event tells where the partition ends.
    pub(super) metrics: bool,
}

/// Why a receiver has to leave.
#[derive(Debug)]
pub(super) enum Ending {
    /// Another one has its place; what to tell it.
    Stolen(String),
    /// Somebody wanted its link detached.
    Detached,
    /// Somebody wanted its connection closed.
    Moved,
}

impl Ending {
    /// What to close the link with; nothing if the connection will be closed.
    fn error(self, shared: &Shared, delivery: &str) -> Option<definitions::Error> {
        let (condition, why) = match self {
            Ending::Stolen(why) => (LinkError::Stolen, why),
            Ending::Detached => (LinkError::DetachForced, format!("The link to '{delivery}' is force detached.")),
            Ending::Moved => {
                let why = format!("The connection was closed by '{}': '{delivery}' has moved.", shared.hub.name());
                shared.close(definitions::Error::new(ConnectionError::ConnectionForced, why, None));
                return None;
            }
        };
        Some(definitions::Error::new(condition, why, None))
    }
}

/// A place among the receivers of a partition; given back when dropped.
pub(super) struct Place {
    pub(super) shared: Shared,
    pub(super) key: Key,
    pub(super) id: u64,
    /// Says why, once the place is lost.
    pub(super) lost: oneshot::Receiver<Ending>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.hub.owners().leave(&self.key, self.id);
    }
}

/// Delivers until the peer detaches the link, its token ends, or another receiver takes its place.
pub(super) async fn deliver(mut sender: Sender, mut place: Place, delivery: Delivery, ahead: Arc<Ahead>) {
    let shared = place.shared.clone();
    let path = delivery.path.clone();
    let end = tokio::select! {
        end = pump(&mut sender, &shared, delivery, &ahead) => end,
        Ok(ending) = &mut place.lost => ending.error(&shared, &path),
        () = shared.tokens.expired(Realm::Events, &path, shared.hub.clock()) => {
            let why = "The token for this link has expired.".to_owned();
            Some(definitions::Error::new(AmqpError::UnauthorizedAccess, why, None))
        }
    };
    drop(place);
    if let Some(error) = end {
        tracing::debug!(%path, %error, "ended a receiver");
        let _ = sender.close_with_error(error).await;
    }
}

/// Returns what to tell the peer, or nothing if it has gone.
async fn pump(sender: &mut Sender, shared: &Shared, delivery: Delivery, ahead: &Ahead) -> Option<definitions::Error> {
    let Delivery { partition, mut next, metrics, .. } = delivery;
    let log = shared.hub.log();
    let mut stored = log.watch(partition).expect("the partition was looked up");
    loop {
        stored.borrow_and_update();
        let events = match log.read(partition, next, READ_EVENTS_MAX, READ_BYTES_MAX).await {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(partition, next, %error, "failed to read the log");
                let why = format!("the log of partition {partition} cannot be read");
                return Some(definitions::Error::new(AmqpError::InternalError, why, None));
            }
        };
        if events.is_empty() {
            tokio::select! {
                changed = stored.changed() => changed.ok()?,
                _ = sender.on_detach() => return None,
            }
        }
        for event in events {
            next = event.sequence_number + 1;
            let bytes = event.body.len();
            if !ahead.has_room(bytes) {
                tokio::select! {
                    () = ahead.room(bytes) => {}
                    _ = sender.on_detach() => return None,
                }
            }
            let mut message = message::message(event);
            if metrics {
                let now = shared.hub.clock().now();
                message.delivery_annotations = log.info(partition).map(|info| message::runtime_metrics(&info, now));
            }
            let sendable = Sendable { message, message_format: 0, settled: Some(true) };
            // Waits for credit; the future it returns is that of a settled delivery, so there is nothing to wait for.
            match sender.send_batchable(sendable).await {
                Ok(_) => {
                    ahead.handed();
                    shared.hub.books().delivered(bytes);
                }
                Err(SendError::MessageSizeExceeded(exceeded)) => {
                    let why = exceeded.to_string();
                    return Some(definitions::Error::new(LinkError::MessageSizeExceeded, why, None));
                }
                Err(error) => {
                    tracing::debug!(partition, %error, "the receiver has gone");
                    return None;
                }
            }
        }
    }
}
