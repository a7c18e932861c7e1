//! What one device-to-cloud message is in the log, and its bytes on disk.
//!
//! A record is `length u32 | checksum u32 | payload`, little endian, the checksum over the payload. The payload is the
//! sequence number, the enqueued time, the fields in the order of the struct, and last the body.

use bytes::Bytes;
use shared::time::Timestamp;

/// Length and checksum in front of each payload.
pub(super) const FRAME: usize = 8;

/// A longer payload is not ours: 256 KB of body and properties leave far more than enough room.
pub(super) const PAYLOAD_MAX: usize = 4 * 1024 * 1024;

const ABSENT: u32 = u32::MAX;

/// System properties a device may set, absent unless it did. All are text, as they arrive in the topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SystemProperties {
    /// `$.mid`
    pub message_id: Option<String>,
    /// `$.cid`
    pub correlation_id: Option<String>,
    /// `$.uid`
    pub user_id: Option<String>,
    /// `$.ct`
    pub content_type: Option<String>,
    /// `$.ce`
    pub content_encoding: Option<String>,
    /// `$.exp`, RFC 3339
    pub absolute_expiry_time: Option<String>,
    /// `$.ctime`, RFC 3339
    pub creation_time: Option<String>,
    /// `$.sub`, the component of a plug-and-play device
    pub subject: Option<String>,
    /// `$.on`, the output of a module
    pub output: Option<String>,
    /// `$.ifid`, the interface of a plug-and-play device of the first generation
    pub interface_id: Option<String>,
    /// The model a device named in its user name
    pub model_id: Option<String>,
}

/// Reads the time in a system property: RFC 3339, or as Microsoft's Python SDK writes it, without an offset; then it is UTC.
pub fn moment(text: &str) -> Option<Timestamp> {
    let whole = || Timestamp::parse_rfc3339(&format!("{text}Z"));
    Timestamp::parse_rfc3339(text).or_else(whole).or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")))
}

/// One message to be appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEvent {
    /// The device the connection belongs to: stamped by the hub, never taken from the message.
    pub device_id: String,
    /// The module, if the connection is a module's.
    pub module_id: Option<String>,
    /// How the connection was authenticated, as the JSON the service puts into `iothub-connection-auth-method`.
    pub auth_method: String,
    /// Generation of the device's identity.
    pub auth_generation_id: String,
    /// `Telemetry` for device-to-cloud messages.
    pub message_source: String,
    /// What the device said about the message.
    pub system: SystemProperties,
    /// Application properties in the order sent.
    pub properties: Vec<(String, String)>,
    /// The payload as sent.
    pub body: Bytes,
}

/// One message as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// 0, 1, 2 … per partition without holes.
    pub sequence_number: i64,
    /// Grows with the sequence number, but not by one: its place in bytes.
    pub offset: String,
    /// When it was stored, whole milliseconds; never earlier than the event before it.
    pub enqueued_time: Timestamp,
    /// See [`NewEvent::device_id`].
    pub device_id: String,
    /// See [`NewEvent::module_id`].
    pub module_id: Option<String>,
    /// See [`NewEvent::auth_method`].
    pub auth_method: String,
    /// See [`NewEvent::auth_generation_id`].
    pub auth_generation_id: String,
    /// See [`NewEvent::message_source`].
    pub message_source: String,
    /// See [`NewEvent::system`].
    pub system: SystemProperties,
    /// See [`NewEvent::properties`].
    pub properties: Vec<(String, String)>,
    /// See [`NewEvent::body`].
    pub body: Bytes,
}

/// Appends one record to `buffer`.
pub(super) fn encode(buffer: &mut Vec<u8>, sequence: i64, enqueued: Timestamp, event: &NewEvent) {
    let frame = buffer.len();
    buffer.extend_from_slice(&[0; FRAME]);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&enqueued.micros().to_le_bytes());
    text(buffer, &event.device_id);
    optional(buffer, event.module_id.as_deref());
    text(buffer, &event.auth_method);
    text(buffer, &event.auth_generation_id);
    text(buffer, &event.message_source);
    for field in event.system.fields() {
        optional(buffer, field.as_deref());
    }
    number(buffer, event.properties.len());
    for (key, value) in &event.properties {
        text(buffer, key);
        text(buffer, value);
    }
    buffer.extend_from_slice(&event.body);

    let payload = frame + FRAME;
    let length = u32::try_from(buffer.len() - payload).expect("a message is far below 4 GiB");
    let checksum = crc32(&buffer[payload..]);
    buffer[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
    buffer[frame + 4..payload].copy_from_slice(&checksum.to_le_bytes());
}

fn number(buffer: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("a message is far below 4 GiB");
    buffer.extend_from_slice(&number.to_le_bytes());
}

fn text(buffer: &mut Vec<u8>, text: &str) {
    number(buffer, text.len());
    buffer.extend_from_slice(text.as_bytes());
}

fn optional(buffer: &mut Vec<u8>, field: Option<&str>) {
    match field {
        Some(field) => text(buffer, field),
        None => buffer.extend_from_slice(&ABSENT.to_le_bytes()),
    }
}

/// What stands at the start of some bytes of a segment.
pub(super) enum Peek {
    /// A whole record: its payload is `FRAME..FRAME + payload`, and its checksum is right.
    Whole { payload: usize, sequence: i64, enqueued: Timestamp },
    /// The beginning of a record of this many bytes in all.
    Part { needed: usize },
    /// Not a record.
    Broken,
}

/// Looks at the record at the start of `bytes`.
pub(super) fn peek(bytes: &[u8]) -> Peek {
    if bytes.len() < FRAME {
        return Peek::Part { needed: FRAME };
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (length, checksum) = (word(0) as usize, word(4));
    if !(16..=PAYLOAD_MAX).contains(&length) {
        return Peek::Broken;
    }
    let Some(payload) = bytes.get(FRAME..FRAME + length) else {
        return Peek::Part { needed: FRAME + length };
    };
    if crc32(payload) != checksum {
        return Peek::Broken;
    }
    let long = |at: usize| i64::from_le_bytes(payload[at..at + 8].try_into().expect("eight bytes"));
    Peek::Whole { payload: length, sequence: long(0), enqueued: Timestamp::from_micros(long(8)) }
}

/// Reads the payload of a record whose checksum is right; `None` if it was not written by [`encode`].
pub(super) fn decode(payload: &Bytes, offset: i64) -> Option<StoredEvent> {
    let mut at = Cursor { bytes: payload, at: 0 };
    let sequence_number = at.long()?;
    let enqueued_time = Timestamp::from_micros(at.long()?);
    let device_id = at.text()?;
    let module_id = at.optional()?;
    let auth_method = at.text()?;
    let auth_generation_id = at.text()?;
    let message_source = at.text()?;
    let mut system = SystemProperties::default();
    for field in system.fields_mut() {
        *field = at.optional()?;
    }
    let count = at.number()?;
    let properties = (0..count).map(|_| Some((at.text()?, at.text()?))).collect::<Option<Vec<_>>>()?;
    Some(StoredEvent {
        sequence_number,
        offset: offset.to_string(),
        enqueued_time,
        device_id,
        module_id,
        auth_method,
        auth_generation_id,
        message_source,
        system,
        properties,
        body: payload.slice(at.at..),
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn long(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn optional(&mut self) -> Option<Option<String>> {
        let length = self.number()?;
        if length == ABSENT {
            return Some(None);
        }
        let text = std::str::from_utf8(self.take(length as usize)?).ok()?;
        Some(Some(text.to_owned()))
    }

    fn text(&mut self) -> Option<String> {
        self.optional()?
    }
}

impl SystemProperties {
    fn fields(&self) -> [&Option<String>; 11] {
        [
            &self.message_id,
            &self.correlation_id,
            &self.user_id,
            &self.content_type,
            &self.content_encoding,
            &self.absolute_expiry_time,
            &self.creation_time,
            &self.subject,
            &self.output,
            &self.interface_id,
            &self.model_id,
        ]
    }

    fn fields_mut(&mut self) -> [&mut Option<String>; 11] {
        [
            &mut self.message_id,
            &mut self.correlation_id,
            &mut self.user_id,
            &mut self.content_type,
            &mut self.content_encoding,
            &mut self.absolute_expiry_time,
            &mut self.creation_time,
            &mut self.subject,
            &mut self.output,
            &mut self.interface_id,
            &mut self.model_id,
        ]
    }
}

/// CRC-32 (IEEE), one table made at compile time: a torn write must be noticed, nobody has to be kept out.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [[u32; 256]; 4] = crc32_tables();
    let mut crc = u32::MAX;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mixed = crc ^ u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        crc = TABLE[3][(mixed & 0xff) as usize]
            ^ TABLE[2][(mixed >> 8 & 0xff) as usize]
            ^ TABLE[1][(mixed >> 16 & 0xff) as usize]
            ^ TABLE[0][(mixed >> 24) as usize];
    }
    for byte in words.remainder() {
        crc = TABLE[0][((crc ^ u32::from(*byte)) & 0xff) as usize] ^ crc >> 8;
    }
    !crc
}

const fn crc32_tables() -> [[u32; 256]; 4] {
    let mut tables = [[0u32; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut table = 1;
        while table < 4 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            table += 1;
        }
        byte += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_devices_are_read_with_or_without_an_offset() {
        for (text, millis) in [
            ("2026-11-23T10:00:00.5Z", Some(1_795_428_000_500)),
            ("2026-11-23T12:00:00+02:00", Some(1_795_428_000_000)),
            ("2026-11-23T10:00:00", Some(1_795_428_000_000)),
            ("2026-11-23", Some(1_795_392_000_000)),
            ("10:00", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(moment(text).map(Timestamp::millis), millis, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            texts in proptest::collection::vec(prop_oneof![Just(ABSENT), 0u32..9, any::<u32>()], 0..40),
        ) {
            let _ = decode(&Bytes::from(bytes), 0);
            // Lengths that lie, where lengths stand.
            let mut payload = vec![0; 16];
            for length in texts {
                payload.extend_from_slice(&length.to_le_bytes());
                payload.resize(payload.len() + (length % 9) as usize, b'a');
            }
            let _ = decode(&Bytes::from(payload.clone()), 0);
            let _ = peek(&payload);
        }
    }

    #[test]
    fn the_checksum_is_the_common_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"The quick brown fox jumps over the lazy dog"), 0x414f_a339);
    }

    #[test]
    fn an_event_reads_back_as_it_was_written() {
        let event = NewEvent {
            device_id: "gw-01".to_owned(),
            module_id: Some("m".to_owned()),
            auth_method: "{}".to_owned(),
            system: SystemProperties {
                message_id: Some("a:1-2".to_owned()),
                model_id: Some(String::new()),
                ..SystemProperties::default()
            },
            properties: vec![("enc".to_owned(), "zstd".to_owned()), ("é".to_owned(), String::new())],
            body: Bytes::from_static(b"\0\xff body"),
            ..NewEvent::default()
        };
        let mut bytes = vec![];
        encode(&mut bytes, 7, Timestamp::from_millis(5), &event);
        let Peek::Whole { payload, sequence: 7, .. } = peek(&bytes) else { panic!("not a record") };
        assert_eq!(FRAME + payload, bytes.len());
        let read = decode(&Bytes::copy_from_slice(&bytes[FRAME..]), 40).expect("decodes");
        assert_eq!((read.sequence_number, read.offset.as_str()), (7, "40"));
        assert_eq!(read.enqueued_time, Timestamp::from_millis(5));
        assert_eq!((read.device_id, read.module_id), (event.device_id, event.module_id));
        assert_eq!((read.system, read.properties, read.body), (event.system, event.properties, event.body));

        for cut in 0..bytes.len() {
            assert!(matches!(peek(&bytes[..cut]), Peek::Part { .. }), "{cut}");
        }
        for flipped in FRAME..bytes.len() {
            let mut broken = bytes.clone();
            broken[flipped] ^= 1;
            assert!(matches!(peek(&broken), Peek::Broken), "{flipped}");
        }
    }
}
