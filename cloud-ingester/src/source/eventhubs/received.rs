//! The SDK's message as an Event.

use azure_messaging_eventhubs::models::{AmqpSimpleValue, AmqpValue, MessageId, ReceivedEventData};
use bytes::Bytes;
use shared::time::Timestamp;

use crate::source::{Event, Stream};

const DEVICE_ID: &str = "iothub-connection-device-id";

/// Converts a message.
///
/// # Errors
/// When it has no sequence number, without which it has no place.
pub(super) fn event(stream: &Stream, message: &ReceivedEventData) -> Result<Event, String> {
    let sequence_number =
        message.sequence_number().ok_or_else(|| format!("a message of {stream} has no sequence number"))?;
    let data = message.event_data();
    let annotations = message.system_properties();
    let mut system: Vec<(String, String)> =
        annotations.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    if let Some(standard) = &message.raw_amqp_message().properties {
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                system.push((name.to_owned(), value));
            }
        };
        add("message-id", data.message_id().map(id));
        add("correlation-id", data.correlation_id().map(id));
        add("user-id", standard.user_id.as_ref().map(|user| String::from_utf8_lossy(user).into_owned()));
        add("to", standard.to.clone());
        add("subject", standard.subject.clone());
        add("content-type", standard.content_type.as_ref().map(|name| name.0.clone()));
        add("content-encoding", standard.content_encoding.as_ref().map(|name| name.0.clone()));
        add("absolute-expiry-time", standard.absolute_expiry_time.as_ref().and_then(|at| at.0).map(time_text));
        add("creation-time", standard.creation_time.as_ref().and_then(|at| at.0).map(time_text));
    }
    system.sort();
    let mut properties: Vec<(String, String)> =
        data.properties().into_iter().flatten().map(|(name, value)| (name.clone(), simple_text(value))).collect();
    properties.sort();
    Ok(Event {
        stream: stream.clone(),
        sequence_number,
        offset: message.offset().clone(),
        enqueued_time: message.enqueued_time().map(timestamp),
        device_id: annotations.get(DEVICE_ID).map(text),
        message_id: data.message_id().map(id),
        content_type: data.content_type().map(ToOwned::to_owned),
        properties,
        system_properties: system,
        body: Bytes::copy_from_slice(data.body().unwrap_or_default()),
        body_encoding: None,
    })
}

fn timestamp(at: std::time::SystemTime) -> Timestamp {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    match at.duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => Timestamp::from_micros(micros(since)),
        Err(before) => Timestamp::from_micros(-micros(before.duration())),
    }
}

fn time_text(at: std::time::SystemTime) -> String {
    timestamp(at).to_string()
}

fn text_of_debug(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

fn id(id: &MessageId) -> String {
    match id {
        MessageId::String(text) => text.clone(),
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Uuid(uuid) => uuid.to_string(),
        MessageId::Binary(bytes) => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &AmqpValue) -> String {
    match value {
        AmqpValue::Null => String::new(),
        AmqpValue::String(text) => text.clone(),
        AmqpValue::Symbol(symbol) => symbol.0.clone(),
        AmqpValue::Boolean(truth) => truth.to_string(),
        AmqpValue::UByte(number) => number.to_string(),
        AmqpValue::UShort(number) => number.to_string(),
        AmqpValue::UInt(number) => number.to_string(),
        AmqpValue::ULong(number) => number.to_string(),
        AmqpValue::Byte(number) => number.to_string(),
        AmqpValue::Short(number) => number.to_string(),
        AmqpValue::Int(number) => number.to_string(),
        AmqpValue::Long(number) => number.to_string(),
        AmqpValue::Float(number) => number.to_string(),
        AmqpValue::Double(number) => number.to_string(),
        AmqpValue::TimeStamp(at) => at.0.map(time_text).unwrap_or_default(),
        AmqpValue::Uuid(uuid) => uuid.to_string(),
        AmqpValue::Binary(bytes) => hex(bytes),
        other => text_of_debug(other),
    }
}

fn simple_text(value: &AmqpSimpleValue) -> String {
    use AmqpSimpleValue as Simple;
    match value.clone() {
        Simple::Null => String::new(),
        Simple::String(text) => text,
        Simple::Symbol(symbol) => symbol.0,
        Simple::Boolean(truth) => truth.to_string(),
        Simple::UByte(number) => number.to_string(),
        Simple::UShort(number) => number.to_string(),
        Simple::UInt(number) => number.to_string(),
        Simple::ULong(number) => number.to_string(),
        Simple::Byte(number) => number.to_string(),
        Simple::Short(number) => number.to_string(),
        Simple::Int(number) => number.to_string(),
        Simple::Long(number) => number.to_string(),
        Simple::Float(number) => number.to_string(),
        Simple::Double(number) => number.to_string(),
        Simple::Char(letter) => letter.to_string(),
        Simple::TimeStamp(at) => at.0.map(time_text).unwrap_or_default(),
        Simple::Uuid(uuid) => uuid.to_string(),
        Simple::Binary(bytes) => hex(&bytes),
        other => text_of_debug(&other),
    }
}
