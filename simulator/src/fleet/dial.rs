//! What devices connect to: a broker for all, or an IoT Hub that knows each of them.

use std::time::Duration;

use rumqttc::MqttOptions;

use super::broker::Broker;
use super::direct::Hub;

/// Where devices connect.
#[derive(Debug, Clone)]
pub enum Dial {
    /// A broker, or the gateway's own listener.
    Broker(Broker),
    /// An IoT Hub.
    Hub(Box<Hub>),
}

/// How one connection is made.
pub(crate) struct Options {
    pub(crate) mqtt: MqttOptions,
    /// How long it may last, before it has to be made anew.
    pub(crate) lasts: Option<Duration>,
}

impl Dial {
    /// Whether `device` can be let in at all.
    pub(crate) fn knows(&self, device: &str) -> bool {
        match self {
            Dial::Broker(_) => true,
            Dial::Hub(hub) => hub.identity(device).is_some(),
        }
    }

    /// Who `device` is, where it sends through azure_iot_sdk.
    #[cfg(feature = "azure-iot-sdk")]
    pub(crate) fn best_effort(&self, device: &str) -> Option<super::direct::identities::Identity> {
        match self {
            Dial::Hub(hub) if hub.through() == super::direct::Through::AzureIotSdk => hub.identity(device),
            _ => None,
        }
    }

    /// Options of one connection of `device`, with room for `inflight` unacknowledged publishes; `None` if it is not
    /// known.
    pub(crate) fn options(&self, device: &str, inflight: u16) -> Option<Options> {
        let (mut mqtt, lasts) = match self {
            Dial::Broker(broker) => (broker.options(device), None),
            Dial::Hub(hub) => hub.options(device).map(|(options, lasts)| (options, Some(lasts)))?,
        };
        mqtt.set_keep_alive(Duration::from_secs(30));
        mqtt.set_clean_session(true); // the ledger is the session: it knows what is unacknowledged
        mqtt.set_inflight(inflight);
        mqtt.set_max_packet_size(64 * 1024, 1024 * 1024);
        Some(Options { mqtt, lasts })
    }
}
