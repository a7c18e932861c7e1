//! One device through azure_iot_sdk 0.8: QoS 0, so that nobody ever says whether a send arrived. Each send is written
//! down, handed over once, and never again; nothing is promised of it.
//!
//! What the SDK does not do is done here: it is dialled anew, with a wait, when a send fails or its token grows old, and
//! a panic of it ends a connection and not the fleet. (It panics on a blank in a property: ours have none.)

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use azure_iot_sdk::{DeviceKeyTokenSource, IoTHubClient, Message};
use futures::FutureExt as _;
use shared::backoff::Backoff;
use shared::topic;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::identities::Identity;
use crate::fleet::counters::{Counters, Held};
use crate::fleet::ledger::{LedgerError, Sent};
use crate::fleet::publisher::{Source, Wire};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The SDK's tokens last a day.
const RENEW_AFTER: Duration = Duration::from_secs(23 * 3_600);
/// Nothing tells when the last send has arrived; a connection closed at once may take it along.
const LINGER: Duration = Duration::from_secs(2);

/// Runs the device until its source ends or it is told to stop.
///
/// # Errors
/// The ledger cannot be written.
pub(crate) async fn run<S: Source>(wire: Wire, identity: Identity, mut source: S) -> Result<(), LedgerError> {
    let seed = identity.device.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), seed);
    loop {
        let connected = tokio::select! {
            connected = connect(&identity) => connected,
            () = wire.stop.cancelled() => return Ok(()),
        };
        match connected {
            Ok(client) => {
                let _held = Held::new(&wire.counters.connected);
                Counters::add(&wire.counters.connects, 1);
                match talk(&wire, client, &mut source, &mut backoff).await? {
                    None => return Ok(()),
                    Some(why) => wire.counters.trouble(why),
                }
            }
            Err(why) => {
                debug!(device = identity.device, why, "cannot connect");
                wire.counters.trouble(why);
            }
        }
        sleep(backoff.next_wait()).await;
    }
}

async fn connect(identity: &Identity) -> Result<IoTHubClient, String> {
    let Identity { hub, device, .. } = identity;
    let key = identity.key_text().unwrap_or_default();
    let token = DeviceKeyTokenSource::new(hub, device, &key).map_err(|error| format!("{error:?}"))?;
    let client = caught(IoTHubClient::new(hub, device.clone(), token));
    timeout(CONNECT_TIMEOUT, client).await.map_err(|_| "no answer".to_owned())?
}

/// What the SDK gives, or why not; a panic is one more reason.
async fn caught<T>(work: impl Future<Output = azure_iot_sdk::Result<T>>) -> Result<T, String> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_panic) => Err("azure_iot_sdk panicked".to_owned()),
    }
}

/// Sends until there is no more to send (`None`), or the connection is to be made anew (why).
async fn talk<S: Source>(
    wire: &Wire,
    mut client: IoTHubClient,
    source: &mut S,
    backoff: &mut Backoff,
) -> Result<Option<String>, LedgerError> {
    let renew_at = Instant::now() + RENEW_AFTER;
    let mut worked = 0_u32;
    while Instant::now() < renew_at {
        let draft = tokio::select! {
            draft = source.next() => draft,
            () = wire.stop.cancelled() => None,
        };
        let Some(draft) = draft else {
            sleep(LINGER).await;
            return Ok(None);
        };
        for sent in wire.note(std::iter::once(draft))? {
            if let Err(why) = caught(client.send_message(message(&sent))).await {
                Counters::add(&wire.counters.failed, 1);
                return Ok(Some(why));
            }
            worked += 1;
            if worked == 10 {
                backoff.reset();
            }
        }
    }
    Ok(Some("its token grows old".to_owned()))
}

/// A send as the SDK wants it: the same properties, from the topic it would have been published to.
fn message(sent: &Sent) -> Message {
    let bag = topic::parse_events(&sent.topic).map(|events| events.bag).unwrap_or_default();
    bag.into_iter()
        .fold(Message::builder().set_body(sent.payload()), |message, (name, value)| match name.as_str() {
            "$.mid" => message.set_message_id(value),
            "$.ct" => message.set_content_type(value),
            "$.ce" => message.set_content_encoding(value),
            _ => message.add_message_property(name, value),
        })
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_sdk_is_a_reason_like_others() {
        let fine = caught(async { Ok(5) }).await;
        assert_eq!(fine, Ok(5));
        let refused = caught(async { Err::<(), _>("refused".into()) }).await;
        assert_eq!(refused, Err("refused".to_owned()));
        let panicked = caught(async { panic!("a blank in a property") }).await as Result<(), _>;
        assert_eq!(panicked, Err("azure_iot_sdk panicked".to_owned()));
    }
}
