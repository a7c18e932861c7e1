//! What became of a command, for the service that sent it. A pure core.
//!
//! Source: "Send cloud-to-device messages from IoT Hub" (Microsoft), message feedback.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::time::Timestamp;

use super::queue::Lock;

/// Content type of a message with feedback.
pub const FEEDBACK_CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// Which ends of a command its sender wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// That it was completed.
    Positive,
    /// That it was not.
    Negative,
    /// Both.
    Full,
}

impl Ack {
    /// Reads the property `iothub-ack`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "none" => Ack::None,
            "positive" => Ack::Positive,
            "negative" => Ack::Negative,
            "full" => Ack::Full,
            _ => return None,
        })
    }

    /// As it stands in the property.
    pub const fn as_str(self) -> &'static str {
        match self {
            Ack::None => "none",
            Ack::Positive => "positive",
            Ack::Negative => "negative",
            Ack::Full => "full",
        }
    }

    /// True if the sender wants to hear of this end.
    pub fn wants(self, outcome: Outcome) -> bool {
        match self {
            Ack::None => false,
            Ack::Positive => outcome == Outcome::Success,
            Ack::Negative => outcome != Outcome::Success,
            Ack::Full => true,
        }
    }
}

/// How a command ended; serialized, the service's `statusCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The device completed it.
    Success,
    /// It was not in time.
    Expired,
    /// The device got it as often as is allowed, and never completed it.
    DeliveryCountExceeded,
    /// The device refused it. Over MQTT none can.
    Rejected,
    /// A service took it back.
    Purged,
}

impl Outcome {
    /// The service's `statusCode`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Success => "Success",
            Outcome::Expired => "Expired",
            Outcome::DeliveryCountExceeded => "DeliveryCountExceeded",
            Outcome::Rejected => "Rejected",
            Outcome::Purged => "Purged",
        }
    }
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedbackRecord {
    /// Of the command; empty if it had none.
    pub original_message_id: String,
    /// When it ended.
    pub enqueued_time: Timestamp,
    /// How.
    pub outcome: Outcome,
    /// Whose command it was.
    pub device_id: String,
    /// The identity's generation when it was sent.
    pub device_generation_id: String,
    /// By what the record is settled.
    pub(super) lock: Lock,
}

impl FeedbackRecord {
    /// As it stands in the array that is a feedback message's body.
    pub fn to_json(&self) -> Value {
        json!({
            "originalMessageId": self.original_message_id,
            "enqueuedTimeUtc": self.enqueued_time.to_string(),
            "statusCode": self.outcome.as_str(),
            "description": self.outcome.as_str(),
            "deviceId": self.device_id,
            "deviceGenerationId": self.device_generation_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_hears_of_the_ends_it_asked_for() {
        for (ack, success, expired) in
            [("none", false, false), ("Positive", true, false), ("negative", false, true), ("full", true, true)]
        {
            let ack = Ack::parse(ack).expect("one of ours");
            assert_eq!((ack.wants(Outcome::Success), ack.wants(Outcome::Expired)), (success, expired), "{ack:?}");
            assert_eq!(Ack::parse(ack.as_str()), Some(ack));
        }
        assert_eq!(Ack::parse("maybe"), None);
    }
}
