//! Row <-> bytes: bincode over plain structs of this file, a version byte first.
//!
//! The structs are the disk format. They are never changed; a new shape gets a new version and the old one stays
//! readable, for rows outlive the program that wrote them.

use bincode::config::Configuration;
use bincode::{Decode, Encode};
use shared::envelope::RAW_BYTES_MAX;
use shared::reading::{DeviceId, MetricName, Reading, Rejected, TimeQuality, Value};
use shared::time::Timestamp;

use super::{BootTime, HeldItem};

const VERSION: u8 = 1;
const CONFIG: Configuration = bincode::config::standard();

#[derive(Encode, Decode)]
enum RowV1 {
    Reading {
        device: String,
        metric: String,
        value: ValueV1,
        unit: Option<String>,
        event_time: i64,
        received_time: i64,
        quality: u8,
        source_seq: Option<i64>,
        boot: [u8; 16],
        monotonic_us: i64,
    },
    Rejected {
        device: String,
        metric: Option<String>,
        topic: String,
        reasons: Vec<String>,
        raw: Vec<u8>,
        raw_len: u64,
        raw_sha256: String,
        received_time: i64,
        event_time: Option<i64>,
        source_seq: Option<i64>,
        boot: [u8; 16],
        monotonic_us: i64,
    },
}

#[derive(Encode, Decode)]
enum ValueV1 {
    Number(f64),
    Bool(bool),
    Text(String),
}

/// A stored row that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::outbox) enum CodecError {
    /// Written by a later version of this program.
    #[error("row has format {0}, this program knows {VERSION}")]
    Version(u8),
    /// Not what was written.
    #[error("row is damaged: {0}")]
    Damaged(String),
}

/// The bytes of a row. A refusal keeps the first 32 KiB of its payload, with length and digest of the whole.
pub(super) fn encode(item: &HeldItem, boot_time: BootTime) -> Vec<u8> {
    let BootTime { boot, monotonic_us } = boot_time;
    let row = match item {
        HeldItem::Reading(reading) => RowV1::Reading {
            device: reading.device.as_str().to_owned(),
            metric: reading.metric.as_str().to_owned(),
            value: match &reading.value {
                Value::Number(number) => ValueV1::Number(*number),
                Value::Bool(on) => ValueV1::Bool(*on),
                Value::Text(text) => ValueV1::Text(text.clone()),
            },
            unit: reading.unit.clone(),
            event_time: reading.event_time.micros(),
            received_time: reading.received_time.micros(),
            quality: quality_number(reading.time_quality),
            source_seq: reading.source_seq,
            boot,
            monotonic_us,
        },
        HeldItem::Rejected { rejected, raw_len, raw_sha256 } => RowV1::Rejected {
            device: rejected.device.as_str().to_owned(),
            metric: rejected.metric.as_ref().map(|metric| metric.as_str().to_owned()),
            topic: rejected.topic.clone(),
            reasons: rejected.reasons.clone(),
            raw: rejected.raw[..rejected.raw.len().min(RAW_BYTES_MAX)].to_vec(),
            raw_len: u64::try_from(*raw_len).unwrap_or(0),
            raw_sha256: raw_sha256.clone(),
            received_time: rejected.received_time.micros(),
            event_time: rejected.event_time.map(Timestamp::micros),
            source_seq: rejected.source_seq,
            boot,
            monotonic_us,
        },
    };
    let mut bytes = vec![VERSION];
    bytes.extend(bincode::encode_to_vec(row, CONFIG).expect("plain data is written to memory"));
    bytes
}

/// Reads a row back.
pub(super) fn decode(bytes: &[u8]) -> Result<(HeldItem, BootTime), CodecError> {
    let (&version, body) = bytes.split_first().ok_or_else(|| CodecError::Damaged("no bytes".into()))?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let (row, used): (RowV1, usize) =
        bincode::decode_from_slice(body, CONFIG).map_err(|error| CodecError::Damaged(error.to_string()))?;
    if used != body.len() {
        return Err(CodecError::Damaged(format!("{} bytes too many", body.len() - used)));
    }
    Ok(match row {
        RowV1::Reading {
            device,
            metric,
            value,
            unit,
            event_time,
            received_time,
            quality,
            source_seq,
            boot,
            monotonic_us,
        } => {
            let reading = Reading {
                device: DeviceId::new(device),
                metric: MetricName::new(metric),
                value: match value {
                    ValueV1::Number(number) => Value::Number(number),
                    ValueV1::Bool(on) => Value::Bool(on),
                    ValueV1::Text(text) => Value::Text(text),
                },
                unit,
                event_time: Timestamp::from_micros(event_time),
                received_time: Timestamp::from_micros(received_time),
                time_quality: quality_of(quality)?,
                source_seq,
            };
            (HeldItem::Reading(reading), BootTime { boot, monotonic_us })
        }
        RowV1::Rejected {
            device,
            metric,
            topic,
            reasons,
            raw,
            raw_len,
            raw_sha256,
            received_time,
            event_time,
            source_seq,
            boot,
            monotonic_us,
        } => {
            let rejected = Rejected {
                device: DeviceId::new(device),
                metric: metric.map(MetricName::new),
                topic,
                reasons,
                raw,
                received_time: Timestamp::from_micros(received_time),
                event_time: event_time.map(Timestamp::from_micros),
                source_seq,
            };
            let raw_len = i64::try_from(raw_len).unwrap_or(i64::MAX);
            (HeldItem::Rejected { rejected, raw_len, raw_sha256 }, BootTime { boot, monotonic_us })
        }
    })
}

fn quality_number(quality: TimeQuality) -> u8 {
    match quality {
        TimeQuality::Device => 0,
        TimeQuality::Gateway => 1,
        TimeQuality::GatewayUnsynced => 2,
        TimeQuality::Corrected => 3,
    }
}

fn quality_of(number: u8) -> Result<TimeQuality, CodecError> {
    match number {
        0 => Ok(TimeQuality::Device),
        1 => Ok(TimeQuality::Gateway),
        2 => Ok(TimeQuality::GatewayUnsynced),
        3 => Ok(TimeQuality::Corrected),
        _ => Err(CodecError::Damaged(format!("time quality {number}"))),
    }
}

#[cfg(test)]
mod tests {
    use shared::envelope::sha256_hex;

    use super::*;

    const BOOT: BootTime = BootTime { boot: [7; 16], monotonic_us: 12_345 };

    fn reading() -> Reading {
        Reading {
            device: DeviceId::new("press-3"),
            metric: MetricName::new("temperature"),
            value: Value::Number(21.5),
            unit: Some("Cel".into()),
            event_time: Timestamp::from_micros(1_790_000_000_000_000),
            received_time: Timestamp::from_micros(1_790_000_000_120_000),
            time_quality: TimeQuality::Device,
            source_seq: Some(-8812),
        }
    }

    fn rejected(raw: Vec<u8>) -> HeldItem {
        let (raw_len, raw_sha256) = (i64::try_from(raw.len()).expect("short"), sha256_hex(&raw));
        let rejected = Rejected {
            device: DeviceId::new("press-3"),
            metric: None,
            topic: "telemetry/press-3".into(),
            reasons: vec!["payload: not a JSON object".into(), "time: none".into()],
            raw,
            received_time: Timestamp::from_micros(-1),
            event_time: None,
            source_seq: None,
        };
        HeldItem::Rejected { rejected, raw_len, raw_sha256 }
    }

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        for value in [Value::Number(-0.0), Value::Bool(true), Value::Text("é\u{0}".into())] {
            let item = HeldItem::Reading(Reading { value, ..reading() });
            assert_eq!(decode(&encode(&item, BOOT)), Ok((item, BOOT)));
        }
        let item = rejected(vec![0xff; 9]);
        assert_eq!(decode(&encode(&item, BOOT)), Ok((item, BOOT)));
    }

    #[test]
    fn a_long_payload_is_cut_and_keeps_length_and_digest_of_the_whole() {
        let raw = vec![b'x'; RAW_BYTES_MAX + 1];
        let (held, _) = decode(&encode(&rejected(raw.clone()), BOOT)).expect("reads back");
        let HeldItem::Rejected { rejected, raw_len, raw_sha256 } = held else { panic!("a refusal") };
        assert_eq!((rejected.raw.len(), raw_len), (RAW_BYTES_MAX, 32_769));
        assert_eq!(raw_sha256, sha256_hex(&raw));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic() {
        let bytes = encode(&HeldItem::Reading(reading()), BOOT);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut later = bytes.clone();
        later[0] = 9;
        assert_eq!(decode(&later), Err(CodecError::Version(9)));
        let mut longer = bytes;
        longer.push(0);
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn the_bytes_of_version_one_stay_as_they_are() {
        let hex: String =
            encode(&HeldItem::Reading(reading()), BOOT).iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["01000770726573732d330b74656d7065726174757265000000000000803540010343656cfd00c04bb4fdb70c00fd80694fb4fdb70c000001fbd74407070707070707070707070707070707fb7260"].assert_eq(&hex);
    }
}
