//! Sparkplug B's protobuf: the fields we take, read where they lie. Unknown fields are stepped over.
//!
//! Numbers of fields as in Eclipse Sparkplug's `sparkplug_b.proto`.

/// The data type of a boolean.
const BOOLEAN: u64 = 11;

/// A payload, its metrics still unread.
#[derive(Debug, Default)]
pub(super) struct Payload<'b> {
    /// Milliseconds since the Unix epoch.
    pub(super) timestamp: Option<u64>,
    pub(super) metrics: Vec<&'b [u8]>,
    pub(super) seq: Option<u64>,
    pub(super) uuid: Option<&'b [u8]>,
}

/// A metric.
#[derive(Debug, Default)]
pub(super) struct Metric<'b> {
    pub(super) name: Option<&'b [u8]>,
    pub(super) alias: Option<u64>,
    pub(super) timestamp: Option<u64>,
    pub(super) datatype: Option<u64>,
    pub(super) is_null: bool,
    pub(super) properties: Option<&'b [u8]>,
    pub(super) value: Option<Raw<'b>>,
}

/// A value as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Raw<'b> {
    Int(u64),
    Long(u64),
    Float(f32),
    Double(f64),
    Bool(bool),
    Text(&'b [u8]),
    /// Bytes, a data set, a template, an extension.
    Other,
}

/// What properties of a metric we take.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Properties<'b> {
    pub(super) unit: Option<&'b [u8]>,
    pub(super) quality: Option<i64>,
}

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Field<'b> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
    Fixed32(u32),
}

/// The fields of a message, one by one.
struct Fields<'b>(&'b [u8]);

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Torn;

impl<'b> Fields<'b> {
    fn varint(&mut self) -> Result<u64, Torn> {
        let mut number = 0u64;
        for place in 0..10 {
            let (byte, rest) = self.0.split_first().ok_or(Torn)?;
            self.0 = rest;
            let low = u64::from(byte & 0x7f);
            if place == 9 && 1 < low {
                return Err(Torn);
            }
            number |= low << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Torn)
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], Torn> {
        let length = usize::try_from(length).map_err(|_| Torn)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Torn)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'b>)>, Torn> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Torn)?)),
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Torn)?)),
            _ => return Err(Torn),
        };
        if tag >> 3 == 0 { Err(Torn) } else { Ok(Some((tag >> 3, field))) }
    }
}

/// Reads a payload; at most `metrics_max` metrics are gathered, one more says that there were too many.
pub(super) fn payload(bytes: &[u8], metrics_max: usize) -> Result<Payload<'_>, Torn> {
    let mut fields = Fields(bytes);
    let mut payload = Payload::default();
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Varint(timestamp)) => payload.timestamp = Some(timestamp),
            (2, Field::Bytes(metric)) if payload.metrics.len() <= metrics_max => payload.metrics.push(metric),
            (2, Field::Bytes(_)) => {}
            (3, Field::Varint(seq)) => payload.seq = Some(seq),
            (4, Field::Bytes(uuid)) => payload.uuid = Some(uuid),
            (1..=4, _) => return Err(Torn),
            _ => {}
        }
    }
    Ok(payload)
}

/// Reads a metric.
pub(super) fn metric(bytes: &[u8]) -> Result<Metric<'_>, Torn> {
    let mut fields = Fields(bytes);
    let mut metric = Metric::default();
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(name)) => metric.name = Some(name),
            (2, Field::Varint(alias)) => metric.alias = Some(alias),
            (3, Field::Varint(timestamp)) => metric.timestamp = Some(timestamp),
            (4, Field::Varint(datatype)) => metric.datatype = Some(datatype),
            (7, Field::Varint(is_null)) => metric.is_null = is_null != 0,
            (9, Field::Bytes(properties)) => metric.properties = Some(properties),
            (10, Field::Varint(number)) => metric.value = Some(Raw::Int(number)),
            (11, Field::Varint(number)) => metric.value = Some(Raw::Long(number)),
            (12, Field::Fixed32(bits)) => metric.value = Some(Raw::Float(f32::from_bits(bits))),
            (13, Field::Fixed64(bits)) => metric.value = Some(Raw::Double(f64::from_bits(bits))),
            (14, Field::Varint(on)) => metric.value = Some(Raw::Bool(on != 0)),
            (15, Field::Bytes(text)) => metric.value = Some(Raw::Text(text)),
            (16..=19, Field::Bytes(_)) => metric.value = Some(Raw::Other),
            (1..=4 | 7 | 9..=19, _) => return Err(Torn),
            _ => {}
        }
    }
    Ok(metric)
}

/// Reads a set of properties: keys, and as many values beside them.
pub(super) fn properties(bytes: &[u8]) -> Result<Properties<'_>, Torn> {
    let mut fields = Fields(bytes);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    while let Some(field) = fields.next()? {
        match field {
            (1, Field::Bytes(key)) => keys.push(key),
            (2, Field::Bytes(value)) => values.push(value),
            _ => {}
        }
    }
    let mut properties = Properties::default();
    for (key, value) in keys.into_iter().zip(values) {
        let mut fields = Fields(value);
        while let Some(field) = fields.next()? {
            match (key, field) {
                (b"engUnit" | b"EngUnit" | b"Engineering Units", (8, Field::Bytes(text))) => {
                    properties.unit = Some(text)
                }
                // An Int32 is written as the unsigned number of the same bits.
                (b"Quality" | b"quality", (3, Field::Varint(number))) => {
                    properties.quality = Some(i64::from(number as u32 as i32));
                }
                (b"Quality" | b"quality", (4, Field::Varint(number))) => {
                    properties.quality = i64::try_from(number).ok()
                }
                _ => {}
            }
        }
    }
    Ok(properties)
}

/// A payload with one boolean metric that is true, as a command has it.
pub(super) fn command(name: &str, timestamp_ms: u64) -> Vec<u8> {
    let mut metric = Vec::new();
    bytes_field(&mut metric, 1, name.as_bytes());
    number_field(&mut metric, 3, timestamp_ms);
    number_field(&mut metric, 4, BOOLEAN);
    number_field(&mut metric, 14, 1);
    let mut payload = Vec::new();
    number_field(&mut payload, 1, timestamp_ms);
    bytes_field(&mut payload, 2, &metric);
    payload
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while 0x7f < number {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn number_field(to: &mut Vec<u8>, field: u64, number: u64) {
    varint(to, field << 3);
    varint(to, number);
}

fn bytes_field(to: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(to, field << 3 | 2);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}
