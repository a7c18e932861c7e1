//! `/messages/devicebound`: each message is stored in the queue of the device it is for, then accepted; or rejected with
//! the service's condition. Order on a link is order in the queue.

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::RecvError;
use fe2o3_amqp_types::definitions::{self, AmqpError, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::{Body, Message};
use fe2o3_amqp_types::primitives::{Symbol, Value};

use super::address::DEVICE_BOUND;
use super::cbs::Realm;
use super::command::command;
use super::connection::{Shared, error};
use crate::hub::commands::CommandFault;

/// The service's condition for what it cannot make sense of.
const ARGUMENT: &str = "com.microsoft:argument-error";

/// Takes commands until the peer detaches the link or its token ends.
pub(super) async fn take(mut receiver: Receiver, shared: Shared) {
    loop {
        let received = tokio::select! {
            received = receiver.recv::<Body<Value>>() => received,
            () = shared.tokens.expired(Realm::Hub, DEVICE_BOUND, shared.hub.clock()) => {
                let why = "The token for this link has expired.".to_owned();
                let _ = receiver.close_with_error(error(AmqpError::UnauthorizedAccess, why)).await;
                return;
            }
        };
        let settled = match received {
            Ok(delivery) => {
                let (info, message) =
                    (fe2o3_amqp::link::delivery::DeliveryInfo::from(&delivery), delivery.into_message());
                let stored = store(message, &shared).await;
                shared.hub.books().command(stored.is_ok());
                match stored {
                    Ok(()) => receiver.accept(info).await,
                    Err(error) => {
                        tracing::debug!(%error, "rejected a command");
                        receiver.reject(info, error).await
                    }
                }
            }
            Err(RecvError::MessageDecode(bad)) => {
                shared.hub.books().command(false);
                receiver.reject(bad.info, error(AmqpError::DecodeError, "The message cannot be read.".to_owned())).await
            }
            Err(error) => {
                tracing::debug!(%error, "the link for commands ended");
                return;
            }
        };
        if settled.is_err() {
            return;
        }
    }
}

/// Returns once the command is stored.
async fn store(message: Message<Body<Value>>, shared: &Shared) -> Result<(), definitions::Error> {
    let (who, command) = command(message).map_err(|bad| {
        let condition = ErrorCondition::Custom(Symbol::from(ARGUMENT));
        definitions::Error::new(condition, bad.to_string(), None)
    })?;
    shared.hub.desk().send(&who, command).await.map_err(|fault| refusal(&fault))
}

fn refusal(fault: &CommandFault) -> definitions::Error {
    let condition: ErrorCondition = match fault {
        CommandFault::NoSuchDevice(_) => AmqpError::NotFound.into(),
        CommandFault::Full | CommandFault::Throttled | CommandFault::Quota => AmqpError::ResourceLimitExceeded.into(),
        CommandFault::TooLarge { .. } => LinkError::MessageSizeExceeded.into(),
        CommandFault::Disk(_) => {
            tracing::error!(%fault, "failed to store a command");
            AmqpError::InternalError.into()
        }
    };
    definitions::Error::new(condition, fault.to_string(), None)
}
