//! A reading, a refusal, and the ids both carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Longest metric name, in bytes of UTF-8.
pub const METRIC_BYTES_MAX: usize = 128;
/// Longest device name, in bytes of UTF-8: what IoT Hub allows a device id.
pub const DEVICE_BYTES_MAX: usize = 128;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(
    /// A gateway: its device id at IoT Hub.
    GatewayId
);
text_id!(
    /// A device behind a gateway, or one that talks to the hub directly.
    DeviceId
);
text_id!(
    /// What is measured, as the device names it: UTF-8 without control characters, at most [`METRIC_BYTES_MAX`].
    MetricName
);

impl MetricName {
    /// Why `text` cannot be a metric name; `None` if it can.
    pub fn fault(text: &str) -> Option<String> {
        name_fault("metric", text, METRIC_BYTES_MAX)
    }

    /// The name that is nearest to `text`, for a refusal of what stands under a name that cannot be: control characters
    /// are written out, what is too long is cut, and nothing is `(empty)`.
    pub fn nearest(text: &str) -> Self {
        let mut name = String::new();
        for letter in text.chars() {
            match letter.is_control() {
                true => name.extend(letter.escape_default()),
                false => name.push(letter),
            }
            if METRIC_BYTES_MAX < name.len() {
                name.truncate(name.floor_char_boundary(METRIC_BYTES_MAX - '…'.len_utf8()));
                name.push('…');
                break;
            }
        }
        if name.is_empty() { Self::new("(empty)") } else { Self(name) }
    }
}

impl DeviceId {
    /// Why `text` cannot be a device name; `None` if it can.
    pub fn fault(text: &str) -> Option<String> {
        name_fault("device", text, DEVICE_BYTES_MAX)
    }
}

fn name_fault(what: &str, text: &str, bytes_max: usize) -> Option<String> {
    if text.is_empty() {
        Some(format!("name: the {what} name is empty"))
    } else if bytes_max < text.len() {
        Some(format!("name: the {what} name has {} bytes, {bytes_max} are allowed", text.len()))
    } else if text.chars().any(char::is_control) {
        Some(format!("name: the {what} name holds a control character"))
    } else {
        None
    }
}

/// One run of a gateway's agent: 64 random bits, printed as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// Draws a new one from the operating system's random source.
    pub fn draw() -> Self {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has a random source");
        Self(u64::from_be_bytes(bytes))
    }

    /// The epoch with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is not an epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an epoch is 16 lower-case hex digits, not {0:?}")]
pub struct EpochError(String);

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, EpochError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let bits = text.bytes().try_fold(0_u64, |bits, byte| Some(bits << 4 | u64::from(digit(byte)?)));
        match bits.filter(|_| text.len() == 16) {
            Some(bits) => Ok(Self(bits)),
            None => Err(EpochError(text.chars().take(40).collect())),
        }
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// 1, 2, 3 … without holes within one epoch of one gateway; 0 means "none given yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub i64);

impl Seq {
    /// The seq after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a reading or refusal that came through a gateway, printed `gateway/epoch/seq`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadingId {
    /// The gateway's device id at the hub.
    pub gateway: GatewayId,
    /// The agent run that stored it.
    pub epoch: Epoch,
    /// Its number within that run.
    pub seq: Seq,
}

impl fmt::Display for ReadingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.gateway, self.epoch, self.seq)
    }
}

/// What was measured. A number is finite: JSON has no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// A number in the reading's unit.
    Number(f64),
    /// On or off.
    Bool(bool),
    /// A state or a label.
    Text(String),
}

impl Value {
    /// `number`, `bool` or `text`: what `value_kind` holds in silver.
    pub const fn kind(&self) -> &'static str {
        match self {
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            Value::Text(_) => "text",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => number.fmt(f),
            Value::Bool(on) => on.fmt(f),
            Value::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// Whose clock the event time is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeQuality {
    /// The device sent it.
    Device,
    /// The gateway's clock, known good.
    Gateway,
    /// The gateway's clock before it was set.
    GatewayUnsynced,
    /// The gateway's clock, put right afterwards.
    Corrected,
}

impl TimeQuality {
    /// As it stands in Envelopes and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            TimeQuality::Device => "device",
            TimeQuality::Gateway => "gateway",
            TimeQuality::GatewayUnsynced => "gateway-unsynced",
            TimeQuality::Corrected => "corrected",
        }
    }
}

/// One value of one metric of one device at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Who measured.
    pub device: DeviceId,
    /// What was measured.
    pub metric: MetricName,
    /// The value.
    pub value: Value,
    /// UCUM unit, if the device or a rule names one.
    pub unit: Option<String>,
    /// When it was measured.
    pub event_time: Timestamp,
    /// When the gateway received it.
    pub received_time: Timestamp,
    /// Whose clock `event_time` is from.
    pub time_quality: TimeQuality,
    /// The device's own number `n`.
    pub source_seq: Option<i64>,
}

/// A value that was refused, with all the reasons and the bytes it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Who sent it.
    pub device: DeviceId,
    /// The metric, or the name nearest to what cannot be one; `None` where the payload could not be read as a whole.
    pub metric: Option<MetricName>,
    /// The topic it came on.
    pub topic: String,
    /// Why, each as `kind: detail`.
    pub reasons: Vec<String>,
    /// The whole payload.
    pub raw: Vec<u8>,
    /// When the gateway received it.
    pub received_time: Timestamp,
    /// The payload's own time, where it could be read.
    pub event_time: Option<Timestamp>,
    /// The device's own number `n`, where it could be read.
    pub source_seq: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_sixteen_lower_case_hex_digits() {
        let epoch: Epoch = "00ab34cd56ef7890".parse().expect("well-formed");
        assert_eq!(epoch.to_string(), "00ab34cd56ef7890");
        for bad in ["", "ab", "00AB34CD56EF7890", "+0ab34cd56ef7890", "00ab34cd56ef78901", "é0ab34cd56ef789"] {
            assert!(bad.parse::<Epoch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_kept_as_sent_but_for_control_characters_and_length() {
        assert_eq!(MetricName::fault("PT08.S1(CO) é"), None);
        assert!(MetricName::fault("").is_some());
        assert!(MetricName::fault("a\u{0}b").is_some());
        assert_eq!(MetricName::fault(&"m".repeat(128)), None);
        assert!(MetricName::fault(&"m".repeat(129)).is_some());
    }

    #[test]
    fn what_cannot_be_a_name_has_a_nearest_one_that_can() {
        let long = "m".repeat(200);
        let cut = format!("{}…", &long[..125]);
        for (text, name) in [
            ("", "(empty)"),
            ("a\u{0}b\n\u{9b}", r"a\u{0}b\n\u{9b}"),
            (&long, &cut),
            (&long[..128], &long[..128]),
            (&format!("{}é", &long[..127]), &cut),
            (&"\u{1}".repeat(100), &(r"\u{1}".repeat(25) + "…")),
        ] {
            let nearest = MetricName::nearest(text);
            assert_eq!(nearest.as_str(), name, "{text:?}");
            assert_eq!(MetricName::fault(nearest.as_str()), None);
        }
    }
}
