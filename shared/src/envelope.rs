//! What crosses the cloud boundary: one device-to-cloud message with readings, refusals, gaps and closings.
//!
//! UTF-8 JSON; the field names are short because the hub bills by the byte. Old readers meet new fields: unknown ones
//! are kept in `rest`, never an error.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use crate::reading::{Epoch, GatewayId, Reading, Rejected, Seq, Value};
use crate::topic::Bag;

/// The version this code writes.
pub const VERSION: u32 = 1;
/// Largest device-to-cloud message, counted as [`Message::hub_bytes`] does.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes for which the hub charges one message.
pub const METERING_UNIT_BYTES: usize = 4 * 1024;
/// Largest body after transport compression is undone.
pub const UNPACKED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most bytes of a refused payload that travel with it.
pub const RAW_BYTES_MAX: usize = 32 * 1024;

/// One device-to-cloud message, before it is packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Version of this shape.
    pub v: u32,
    /// The gateway.
    pub gw: GatewayId,
    /// The epoch of all rows in here.
    pub epoch: Epoch,
    /// The highest seq given in `epoch` when this was cut; 0 if none.
    pub high: Seq,
    /// Digest of the rules the gateway judged by.
    #[serde(default)]
    pub rules: String,
    /// Readings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<WireReading>,
    /// Refusals.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<WireRejected>,
    /// Ranges given up, of any epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Epochs closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<Closing>,
    /// Fields this code does not know.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

/// A reading on the wire. Exactly one of `v`, `vb`, `vs` stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireReading {
    /// Seq.
    pub s: Seq,
    /// Device.
    pub d: String,
    /// Metric.
    pub m: String,
    /// A number.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nearest")]
    pub v: Option<f64>,
    /// A boolean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vb: Option<bool>,
    /// A text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vs: Option<String>,
    /// UCUM unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub u: Option<String>,
    /// Event time, microseconds UTC.
    pub t: i64,
    /// Received at the gateway, microseconds UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<i64>,
    /// Time quality.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    /// The device's own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// Fields this code does not know.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

/// Reads a number as the double nearest to it, which serde_json alone does not promise.
fn nearest<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let Some(raw) = Option::<Box<serde_json::value::RawValue>>::deserialize(from)? else { return Ok(None) };
    let refuse = || serde::de::Error::custom(format!("`v` is no number that a double can hold: {}", raw.get()));
    crate::payload::number_of(raw.get()).map(Some).ok_or_else(refuse)
}

impl WireReading {
    /// `reading` under `seq`.
    pub fn new(seq: Seq, reading: &Reading) -> Self {
        let (v, vb, vs) = match &reading.value {
            Value::Number(number) => (Some(*number), None, None),
            Value::Bool(on) => (None, Some(*on), None),
            Value::Text(text) => (None, None, Some(text.clone())),
        };
        Self {
            s: seq,
            d: reading.device.as_str().to_owned(),
            m: reading.metric.as_str().to_owned(),
            v,
            vb,
            vs,
            u: reading.unit.clone(),
            t: reading.event_time.micros(),
            r: Some(reading.received_time.micros()),
            q: Some(reading.time_quality.as_str().to_owned()),
            n: reading.source_seq,
            rest: Map::new(),
        }
    }

    /// The value, if exactly one stands.
    pub fn value(&self) -> Option<Value> {
        match (self.v, self.vb, &self.vs) {
            (Some(number), None, None) => Some(Value::Number(number)),
            (None, Some(on), None) => Some(Value::Bool(on)),
            (None, None, Some(text)) => Some(Value::Text(text.clone())),
            _ => None,
        }
    }
}

/// A refusal on the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireRejected {
    /// Seq.
    pub s: Seq,
    /// Device.
    pub d: String,
    /// Metric; absent where the payload could not be read as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub m: Option<String>,
    /// Topic it came on.
    #[serde(default)]
    pub topic: String,
    /// Why.
    pub reasons: Vec<String>,
    /// At most [`RAW_BYTES_MAX`] bytes of the payload, base64.
    #[serde(default)]
    pub raw: String,
    /// Length of the whole payload.
    #[serde(default)]
    pub raw_len: i64,
    /// SHA-256 of the whole payload, hex.
    #[serde(default)]
    pub raw_sha256: String,
    /// The device's own number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
    /// Fields this code does not know.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

impl WireRejected {
    /// `rejected` under `seq`.
    pub fn new(seq: Seq, rejected: &Rejected) -> Self {
        let kept = &rejected.raw[..rejected.raw.len().min(RAW_BYTES_MAX)];
        Self {
            s: seq,
            d: rejected.device.as_str().to_owned(),
            m: rejected.metric.as_ref().map(|m| m.as_str().to_owned()),
            topic: rejected.topic.clone(),
            reasons: rejected.reasons.clone(),
            raw: STANDARD.encode(kept),
            raw_len: i64::try_from(rejected.raw.len()).unwrap_or(i64::MAX),
            raw_sha256: sha256_hex(&rejected.raw),
            n: rejected.source_seq,
            rest: Map::new(),
        }
    }

    /// The bytes of the payload that travelled; `None` if they are no base64.
    pub fn raw_bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.raw).ok()
    }
}

/// Seqs that the gateway gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Of which epoch.
    pub epoch: Epoch,
    /// First seq.
    pub from: Seq,
    /// Last seq.
    pub to: Seq,
    /// Why, such as `dropped` or `disk-bound`.
    #[serde(default)]
    pub reason: String,
    /// How many readings of each device it holds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readings: BTreeMap<String, i64>,
}

/// The end of an epoch: its last seq, or, where that is not known, a mark above which none was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Which epoch.
    pub epoch: Epoch,
    /// Its last seq; `None` where the gateway lost it.
    pub last: Option<Seq>,
    /// No seq above this was given. Stands only where `last` is `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Seq>,
}

/// How a body travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// As JSON: what hub routing queries on the body need.
    None,
    /// Zstandard: fewer metered units.
    #[default]
    Zstd,
}

/// A message as the hub takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The body.
    pub body: Vec<u8>,
    /// System properties first (`$.mid`, `$.ct`, `$.ce`), then our own.
    pub bag: Bag,
}

impl Message {
    /// Its size as the hub counts it: body, values of system properties, names and values of our own.
    pub fn hub_bytes(&self) -> usize {
        let bag: usize = self
            .bag
            .iter()
            .map(|(name, value)| if name.starts_with("$.") { value.len() } else { name.len() + value.len() })
            .sum();
        self.body.len() + bag
    }

    /// For how many messages the hub charges.
    pub fn metered_units(&self) -> usize {
        self.hub_bytes().div_ceil(METERING_UNIT_BYTES).max(1)
    }
}

impl Envelope {
    /// An empty one.
    pub fn new(gw: GatewayId, epoch: Epoch, high: Seq, rules: String) -> Self {
        Self {
            v: VERSION,
            gw,
            epoch,
            high,
            rules,
            readings: vec![],
            rejected: vec![],
            gaps: vec![],
            closed: vec![],
            rest: Map::new(),
        }
    }

    /// Lowest and highest seq of its rows.
    pub fn seqs(&self) -> Option<(Seq, Seq)> {
        let seqs = || self.readings.iter().map(|r| r.s).chain(self.rejected.iter().map(|r| r.s));
        Some((seqs().min()?, seqs().max()?))
    }

    /// The message id, for people: `epoch:first-last`.
    pub fn message_id(&self) -> String {
        let (first, last) = self.seqs().unwrap_or_default();
        format!("{}:{first}-{last}", self.epoch)
    }

    /// The JSON body.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope is plain data with text keys")
    }

    /// Packs it for the hub.
    pub fn pack(&self, compression: Compression) -> Message {
        self.pack_json(self.to_json(), compression)
    }

    /// As [`Envelope::pack`], of the JSON body that is at hand already.
    pub fn pack_json(&self, json: Vec<u8>, compression: Compression) -> Message {
        let mid = ("$.mid".to_owned(), self.message_id());
        let ct = |value: &str| ("$.ct".to_owned(), value.to_owned());
        match compression {
            Compression::None => {
                Message { body: json, bag: vec![mid, ct("application/json"), ("$.ce".into(), "utf-8".into())] }
            }
            Compression::Zstd => {
                Message { body: compress(&json), bag: vec![mid, ct("application/zstd"), ("enc".into(), "zstd".into())] }
            }
        }
    }

    /// Reads a JSON body.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// True if a JSON body is meant to be an Envelope: it has `v`, `gw` and `epoch`.
pub fn is_envelope(body: &Json) -> bool {
    ["v", "gw", "epoch"].iter().all(|field| body.get(field).is_some())
}

/// Compresses a body with Zstandard.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).expect("compressing memory to memory does not fail")
}

/// Why a body cannot be unpacked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is not Zstandard, or torn.
    #[error("body is not Zstandard: {0}")]
    Malformed(String),
    /// It is larger than [`UNPACKED_BYTES_MAX`] when unpacked.
    #[error("body has more than {UNPACKED_BYTES_MAX} bytes when unpacked")]
    TooLarge,
}

/// Undoes Zstandard, to at most [`UNPACKED_BYTES_MAX`] bytes; never holds more than that.
pub fn decompress(bytes: &[u8]) -> Result<Vec<u8>, UnpackError> {
    use std::io::Read as _;

    let malformed = |e: std::io::Error| UnpackError::Malformed(e.to_string());
    let reader = zstd::stream::read::Decoder::new(bytes).map_err(malformed)?;
    let mut unpacked = Vec::new();
    let limit = u64::try_from(UNPACKED_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    reader.take(limit).read_to_end(&mut unpacked).map_err(malformed)?;
    if UNPACKED_BYTES_MAX < unpacked.len() { Err(UnpackError::TooLarge) } else { Ok(unpacked) }
}

/// SHA-256 as hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod nearest_tests {
    use super::*;

    #[test]
    fn a_number_crosses_the_wire_to_the_last_bit() {
        for v in [92.277_980_599_999_99, 0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX, -1.0 / 3.0] {
            let json = format!(r#"{{"s":1,"d":"a","m":"b","v":{v},"t":5,"unknown":1.5}}"#);
            let read: WireReading = serde_json::from_str(&json).expect("a reading");
            assert_eq!((read.v.map(f64::to_bits), read.rest.len()), (Some(v.to_bits()), 1), "{v}");
            let again: WireReading =
                serde_json::from_value(serde_json::to_value(&read).expect("plain")).expect("a reading");
            assert_eq!(again.v.map(f64::to_bits), Some(v.to_bits()), "{v}");
        }
        let absent = |v: &str| serde_json::from_str::<WireReading>(&format!(r#"{{"s":1,"d":"a","m":"b",{v}"t":5}}"#));
        assert_eq!(absent("").expect("no value").v, None);
        assert_eq!(absent(r#""v":null,"#).expect("no value").v, None);
        assert!(absent(r#""v":"1","#).is_err());
        assert!(absent(r#""v":1e400,"#).is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{DeviceId, MetricName, TimeQuality};
    use crate::time::Timestamp;

    fn envelope() -> Envelope {
        let epoch = Epoch::from_bits(0x9f3c);
        let mut envelope = Envelope::new(GatewayId::new("gw-01"), epoch, Seq(4711), "d1".into());
        let reading = Reading {
            device: DeviceId::new("press-3"),
            metric: MetricName::new("temperature"),
            value: Value::Number(21.5),
            unit: Some("Cel".into()),
            event_time: Timestamp::from_micros(1_790_000_000_000_000),
            received_time: Timestamp::from_micros(1_790_000_000_120_000),
            time_quality: TimeQuality::Device,
            source_seq: None,
        };
        envelope.readings.push(WireReading::new(Seq(17), &reading));
        let text = Reading { value: Value::Text("idle".into()), unit: None, source_seq: Some(8812), ..reading };
        envelope.readings.push(WireReading::new(Seq(19), &text));
        envelope.gaps.push(Gap {
            epoch,
            from: Seq(21),
            to: Seq(40),
            reason: "disk-bound".into(),
            readings: [("press-3".into(), 20)].into(),
        });
        envelope.closed.push(Closing { epoch, last: None, mark: Some(Seq(9)) });
        envelope
    }

    #[test]
    fn the_wire_is_as_the_contract_writes_it() {
        let json = String::from_utf8(envelope().to_json()).expect("utf-8");
        expect_test::expect![[r#"{"v":1,"gw":"gw-01","epoch":"0000000000009f3c","high":4711,"rules":"d1","readings":[{"s":17,"d":"press-3","m":"temperature","v":21.5,"u":"Cel","t":1790000000000000,"r":1790000000120000,"q":"device"},{"s":19,"d":"press-3","m":"temperature","vs":"idle","t":1790000000000000,"r":1790000000120000,"q":"device","n":8812}],"gaps":[{"epoch":"0000000000009f3c","from":21,"to":40,"reason":"disk-bound","readings":{"press-3":20}}],"closed":[{"epoch":"0000000000009f3c","last":null,"mark":9}]}"#]].assert_eq(&json);
        assert_eq!(Envelope::from_json(json.as_bytes()).expect("reads back"), envelope());
        assert_eq!(envelope().message_id(), "0000000000009f3c:17-19");
    }

    #[test]
    fn a_packed_envelope_unpacks_to_the_same_json() {
        let message = envelope().pack(Compression::Zstd);
        assert_eq!(decompress(&message.body).expect("zstd"), envelope().to_json());
        let plain = envelope().pack(Compression::None);
        assert_eq!(plain.hub_bytes(), plain.body.len() + "0000000000009f3c:17-19application/jsonutf-8".len());
    }

    #[test]
    fn a_body_that_unpacks_past_the_limit_is_refused_without_being_held() {
        let bomb = compress(&vec![0; UNPACKED_BYTES_MAX + 1]);
        assert_eq!(decompress(&bomb), Err(UnpackError::TooLarge));
        assert_eq!(decompress(&compress(&vec![0; UNPACKED_BYTES_MAX])).map(|b| b.len()), Ok(UNPACKED_BYTES_MAX));
        assert!(matches!(decompress(b"not zstd"), Err(UnpackError::Malformed(_))));
    }

    #[test]
    fn fields_of_a_later_version_are_kept() {
        let text = r#"{"v":2,"gw":"g","epoch":"0000000000009f3c","high":1,"colour":"red","readings":[{"s":1,"d":"d","m":"m","v":1,"t":0,"z":[1]}]}"#;
        let read = Envelope::from_json(text.as_bytes()).expect("reads");
        assert_eq!(read.rest["colour"], "red");
        assert_eq!(read.readings[0].rest["z"], serde_json::json!([1]));
    }
}
