//! `/messages/serviceBound/feedback`: what became of commands, told to one receiver at a time, and to the next one if it
//! does not settle it. And `/messages/serviceBound/filenotifications`, where there is never anything to tell.
//!
//! | the receiver                             | what it was told         |
//! |------------------------------------------|--------------------------|
//! | accepts, or rejects                      | is done with             |
//! | releases, or modifies                    | is told again            |
//! | says nothing for `feedback-lock-duration` | is told again            |
//! | goes                                     | is told to somebody else |

use std::mem;

use fe2o3_amqp::link::Sender;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::definitions::AmqpError;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{Data, Message, MessageAnnotations, MessageId, Outcome, Properties};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Timestamp, Value};
use tokio::time::timeout;

use super::address::{FEEDBACK, FILE_NOTIFICATIONS};
use super::cbs::Realm;
use super::connection::{Shared, error};
use crate::hub::commands::{Commands, FEEDBACK_CONTENT_TYPE, FeedbackRecord};

/// Records of one message.
const RECORDS_MAX: usize = 64;

/// Tells until the peer detaches the link or its token ends.
pub(super) async fn tell(mut sender: Sender, shared: Shared) {
    let tokens = shared.tokens.clone();
    tokio::select! {
        () = lots(&mut sender, &shared) => return,
        () = tokens.expired(Realm::Hub, FEEDBACK, shared.hub.clock()) => {}
    }
    end(sender).await;
}

/// Says nothing until the peer detaches the link or its token ends.
pub(super) async fn stay_silent(mut sender: Sender, shared: Shared) {
    tokio::select! {
        _ = sender.on_detach() => return,
        () = shared.tokens.expired(Realm::Hub, FILE_NOTIFICATIONS, shared.hub.clock()) => {}
    }
    end(sender).await;
}

async fn end(sender: Sender) {
    let why = "The token for this link has expired.".to_owned();
    let _ = sender.close_with_error(error(AmqpError::UnauthorizedAccess, why)).await;
}

/// Records that are with a receiver; they are given back if it is not done with them.
struct Held<'a> {
    commands: &'a Commands,
    records: Vec<FeedbackRecord>,
}

impl Held<'_> {
    /// The body of their message.
    fn json(&self) -> Vec<u8> {
        serde_json::Value::from_iter(self.records.iter().map(FeedbackRecord::to_json)).to_string().into_bytes()
    }

    fn done(mut self) {
        let records = mem::take(&mut self.records);
        if let Err(error) = self.commands.settle_feedback(&records, true) {
            tracing::error!(%error, "failed to forget feedback");
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.commands.settle_feedback(&self.records, false) {
            tracing::error!(%error, "failed to give feedback back");
        }
    }
}

/// Returns when the peer has gone.
async fn lots(sender: &mut Sender, shared: &Shared) {
    let desk = shared.hub.desk();
    let commands = &desk.commands;
    for number in 0_u64.. {
        let records = tokio::select! {
            records = commands.feedback(RECORDS_MAX) => records,
            _ = sender.on_detach() => return,
        };
        let held = Held { commands, records };
        let now = shared.hub.clock().now();
        let id = format!("{}-{number}", now.micros());
        let message = message(held.json(), id, shared.hub.name(), now.millis());
        match timeout(commands.feedback_lock(), told(sender, message)).await {
            Ok(Some(true)) => {
                shared.hub.books().feedback_settled();
                held.done();
            }
            Ok(Some(false)) => tracing::debug!("feedback was given back"),
            Ok(None) => return,
            Err(_) => tracing::debug!("feedback was not settled in time"),
        }
    }
}

/// Whether the peer is done with it; `None` if it has gone.
async fn told(sender: &mut Sender, message: Message<Data>) -> Option<bool> {
    let sendable = Sendable { message, message_format: 0, settled: Some(false) };
    let settled = sender.send_batchable(sendable).await.ok()?;
    tokio::select! {
        outcome = settled => match outcome.ok()? {
            Outcome::Accepted(_) | Outcome::Rejected(_) => Some(true),
            Outcome::Released(_) | Outcome::Modified(_) => Some(false),
        },
        _ = sender.on_detach() => None,
    }
}

/// Feedback as the service sends it: a JSON array in one data section.
fn message(records: Vec<u8>, id: String, hub: &str, now_ms: i64) -> Message<Data> {
    let enqueued = Value::Timestamp(Timestamp::from_milliseconds(now_ms));
    let annotations = [(OwnedKey::from("iothub-enqueuedtime"), enqueued)];
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(annotations.into_iter().collect())),
        properties: Some(Properties {
            message_id: Some(MessageId::String(id)),
            user_id: Some(Binary::from(hub.as_bytes().to_vec())),
            content_type: Some(Symbol::from(FEEDBACK_CONTENT_TYPE)),
            ..Properties::new()
        }),
        application_properties: None,
        body: Data(Binary::from(records)),
        footer: None,
    }
}
