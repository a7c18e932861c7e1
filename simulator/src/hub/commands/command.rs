//! [p] One command: what it holds, how large it is, and the topic it comes under.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::time::Timestamp;
use shared::topic;

use super::feedback::Ack;
use crate::hub::who::Who;

/// Body and properties, as the service counts.
pub const COMMAND_BYTES_MAX: usize = 64 * 1024;
/// MQTT's topics have no room for more.
const TOPIC_BYTES_MAX: usize = u16::MAX as usize;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Command {
    /// Feedback speaks of it.
    pub message_id: Option<String>,
    /// For the device.
    pub correlation_id: Option<String>,
    /// For the device.
    pub user_id: Option<String>,
    /// `/devices/{id}/messages/devicebound` if it is not given.
    pub to: Option<String>,
    /// For the device.
    pub content_type: Option<String>,
    /// For the device.
    pub content_encoding: Option<String>,
    /// `None`: after the hub's `time-to-live`.
    pub expiry: Option<Timestamp>,
    /// Which ends the sender wants to hear of.
    pub ack: Ack,
    /// Application properties, in the order sent.
    pub properties: Vec<(String, String)>,
    /// The payload.
    #[serde(with = "base64_bytes")]
    pub body: Bytes,
}

impl Command {
    /// Body and properties, as the service counts.
    pub fn bytes(&self) -> usize {
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.user_id,
            &self.to,
            &self.content_type,
            &self.content_encoding,
        ];
        let system: usize = system.into_iter().flatten().map(String::len).sum();
        let own: usize = self.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + system + own
    }

    /// True if the service would take it, and a topic of MQTT can hold what stands in it.
    pub(super) fn fits(&self, who: &Who) -> bool {
        self.bytes() <= COMMAND_BYTES_MAX && self.topic(who).len() <= TOPIC_BYTES_MAX
    }

    /// The topic a device gets it under: its properties are in it.
    pub(in crate::hub) fn topic(&self, who: &Who) -> String {
        let path = match &who.module {
            None => format!("devices/{}/messages/devicebound", who.device),
            Some(module) => format!("devices/{}/modules/{module}/messages/devicebound", who.device),
        };
        let to = self.to.clone().unwrap_or_else(|| format!("/{path}"));
        let system = [
            ("$.mid", self.message_id.clone()),
            ("$.to", Some(to)),
            ("$.cid", self.correlation_id.clone()),
            ("$.uid", self.user_id.clone()),
            ("$.ct", self.content_type.clone()),
            ("$.ce", self.content_encoding.clone()),
            ("$.exp", self.expiry.map(|expiry| expiry.to_string())),
            ("iothub-ack", (self.ack != Ack::None).then(|| self.ack.as_str().to_owned())),
        ];
        let system = system.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let bag: Vec<_> = system.chain(self.properties.iter().cloned()).collect();
        format!("{path}/{}", topic::print_bag(&bag))
    }
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}
