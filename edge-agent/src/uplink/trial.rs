//! A connection that carries nothing, to see whether the hub lets us in: for `check`.

use std::time::Duration;

use shared::time::Timestamp;
use tokio::time::timeout;

use super::iothub::{Dialer, Happening};
use super::{Config, HubTarget};
use crate::line::{Choice, Way, Ways};
use crate::trust;

/// It did not let us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For people.
    pub(crate) text: String,
    /// It was asked, and refuses our key or certificate.
    pub(crate) denied: bool,
}

/// CONNECT by `way`, CONNACK, DISCONNECT; nothing is subscribed to or published. The hub ends any other connection of the
/// same device, so this is not for where the agent runs.
///
/// # Errors
/// Why the hub did not let us in, each step of the way within `patience`.
pub(crate) async fn enter(
    target: &HubTarget,
    way: Way,
    config: &Config,
    patience: Duration,
    now: Timestamp,
) -> Result<(), Refusal> {
    let failed = |text: String| Refusal { text, denied: false };
    let trusted = || trust::client_as(target.ca_file.as_deref(), target.identity.certificate());
    let tls = match target.tls {
        true => Some(trusted().map_err(|error| failed(format!("cannot {error}")))?),
        false => None,
    };
    let choice = match way {
        Way::Mqtt => Choice::Mqtt,
        Way::WebSocket => Choice::WebSocket,
    };
    let dialer = Dialer {
        target: target.clone(),
        tls,
        ways: Ways::new(choice),
        keep_alive: config.keep_alive.duration(),
        connect_timeout: patience,
        token_life: config.token_life.duration(),
        envelopes_max: 1,
    };
    let mut client = dialer.dial(now);
    // The line, then MQTT over it.
    let told = timeout(2 * patience, client.next()).await;
    match told {
        Ok(Some(Happening::Connected)) => {
            client.say_goodbye().await;
            Ok(())
        }
        Ok(Some(Happening::Lost(lost))) => Err(Refusal { text: lost.text, denied: lost.denied }),
        Ok(_) => Err(failed("the connection ended".to_owned())),
        Err(_) => Err(failed("it does not answer CONNECT".to_owned())),
    }
}
