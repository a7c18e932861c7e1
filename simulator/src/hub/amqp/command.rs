//! An AMQP message put to `/messages/devicebound`, as the command it is, and the device it is for.

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::messaging::{AmqpValue, Body, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use percent_encoding::percent_decode_str;
use shared::time::Timestamp;

use crate::hub::commands::{Ack, Command};
use crate::hub::who::Who;

/// Says when there is to be feedback; not handed to the device as a property of its own.
const ACK: &str = "iothub-ack";

/// Why a message is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadCommand {
    /// It is not for a device.
    #[error(
        "`to` is '{0}'; it must be /devices/{{id}}/messages/devicebound, or /devices/{{id}}/modules/{{id}}/messages/devicebound"
    )]
    To(String),
    /// It wants feedback that there is not.
    #[error("`{ACK}` is '{0}'; it must be none, positive, negative or full")]
    Ack(String),
    /// Its body has no bytes that a device could be handed.
    #[error("the body must be data sections, or a value that is text or bytes")]
    Body,
}

/// Takes a message apart.
pub(super) fn command(message: Message<Body<Value>>) -> Result<(Who, Command), BadCommand> {
    let properties = message.properties.unwrap_or_default();
    let to = properties.to.unwrap_or_default();
    let who = who(&to).ok_or_else(|| BadCommand::To(to.clone()))?;
    let mut ack = Ack::None;
    let mut application = vec![];
    for (name, value) in message.application_properties.unwrap_or_default().0 {
        let value = text(value);
        if name == ACK {
            ack = Ack::parse(&value).ok_or(BadCommand::Ack(value))?;
        } else {
            application.push((name, value));
        }
    }
    let Properties { message_id, correlation_id, user_id, content_type, content_encoding, .. } = properties;
    let command = Command {
        message_id: message_id.map(id),
        correlation_id: correlation_id.map(id),
        user_id: user_id.map(|id| lossy(&id)),
        to: Some(to),
        content_type: content_type.map(|kind| kind.as_str().to_owned()),
        content_encoding: content_encoding.map(|encoding| encoding.as_str().to_owned()),
        expiry: properties.absolute_expiry_time.map(|at| Timestamp::from_millis(at.milliseconds())),
        ack,
        properties: application,
        body: body(message.body)?,
    };
    Ok((who, command))
}

/// Reads `/devices/{id}/messages/devicebound`, percent-encoded or not.
fn who(to: &str) -> Option<Who> {
    let segments: Option<Vec<String>> = super::address::path(to)
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8().ok().map(|text| text.into_owned()))
        .collect();
    let segments = segments?;
    let is = |at: usize, word: &str| segments.get(at).is_some_and(|segment| segment.eq_ignore_ascii_case(word));
    let ends = |at| is(at, "messages") && is(at + 1, "devicebound") && segments.len() == at + 2;
    let named = |at: usize| segments.get(at).filter(|id| !id.is_empty()).cloned();
    if !is(0, "devices") {
        None
    } else if ends(2) {
        Some(Who { device: named(1)?, module: None })
    } else if is(2, "modules") && ends(4) {
        Some(Who { device: named(1)?, module: Some(named(3)?) })
    } else {
        None
    }
}

/// An id as text, in every way it is sent; devices are handed nothing else.
fn id(id: MessageId) -> String {
    match id {
        MessageId::String(text) => text,
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Binary(bytes) => lossy(&bytes),
        MessageId::Uuid(id) => hyphenated(id.as_inner()),
    }
}

fn hyphenated(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn text(value: SimpleValue) -> String {
    match value {
        SimpleValue::Null => String::new(),
        SimpleValue::Bool(value) => value.to_string(),
        SimpleValue::Ubyte(value) => value.to_string(),
        SimpleValue::Ushort(value) => value.to_string(),
        SimpleValue::Uint(value) => value.to_string(),
        SimpleValue::Ulong(value) => value.to_string(),
        SimpleValue::Byte(value) => value.to_string(),
        SimpleValue::Short(value) => value.to_string(),
        SimpleValue::Int(value) => value.to_string(),
        SimpleValue::Long(value) => value.to_string(),
        SimpleValue::Float(value) => value.0.to_string(),
        SimpleValue::Double(value) => value.0.to_string(),
        SimpleValue::Char(value) => value.to_string(),
        SimpleValue::Timestamp(at) => Timestamp::from_millis(at.milliseconds()).to_string(),
        SimpleValue::Uuid(id) => hyphenated(id.as_inner()),
        SimpleValue::Binary(bytes) => lossy(&bytes),
        SimpleValue::String(text) => text,
        SimpleValue::Symbol(symbol) => symbol.as_str().to_owned(),
        // Decimals are in none of the SDKs' languages.
        value => format!("{value:?}"),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn body(body: Body<Value>) -> Result<Bytes, BadCommand> {
    match body {
        Body::Data(sections) => {
            let mut sections = sections.into_iter().map(|section| Bytes::from(section.0.into_vec()));
            let first = sections.next().unwrap_or_default();
            let mut whole = BytesMut::from(first);
            sections.for_each(|section| whole.extend_from_slice(&section));
            Ok(whole.freeze())
        }
        Body::Value(AmqpValue(Value::String(text))) => Ok(Bytes::from(text)),
        Body::Value(AmqpValue(Value::Binary(bytes))) => Ok(Bytes::from(bytes.into_vec())),
        Body::Value(AmqpValue(Value::Null)) | Body::Empty => Ok(Bytes::new()),
        Body::Value(_) | Body::Sequence(_) => Err(BadCommand::Body),
    }
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::messaging::{ApplicationProperties, Data};
    use fe2o3_amqp_types::primitives::{Binary, Symbol, Uuid};
    use proptest::prelude::*;

    use super::*;

    fn message(properties: Properties, application: &[(&str, SimpleValue)]) -> Message<Body<Value>> {
        let application = application.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Message {
            header: None,
            delivery_annotations: None,
            message_annotations: None,
            properties: Some(properties),
            application_properties: Some(ApplicationProperties(application)),
            body: Body::Data(vec![Data(Binary::from(b"on".to_vec())), Data(Binary::from(b"off".to_vec()))].into()),
            footer: None,
        }
    }

    fn to(to: &str) -> Properties {
        Properties { to: Some(to.to_owned()), ..Properties::new() }
    }

    #[test]
    fn whom_it_is_for_is_read_from_its_to() {
        let who = |device: &str, module: Option<&str>| {
            Some(Who { device: device.to_owned(), module: module.map(str::to_owned) })
        };
        for (to, is) in [
            ("/devices/d/messages/devicebound", who("d", None)),
            ("devices/d/messages/deviceBound/", who("d", None)),
            ("/devices/a%2Bb%20c/messages/devicebound", who("a+b c", None)),
            ("/devices/d/modules/m/messages/devicebound", who("d", Some("m"))),
            ("amqps://h.example/devices/d/messages/devicebound", who("d", None)),
            ("/devices//messages/devicebound", None),
            ("/devices/d/modules//messages/devicebound", None),
            ("/devices/d/messages/events", None),
            ("/devices/d/messages/devicebound/x", None),
            ("/devices/%ff/messages/devicebound", None),
            ("/messages/devicebound", None),
            ("", None),
        ] {
            assert_eq!(super::who(to), is, "{to}");
        }
    }

    #[test]
    fn everything_a_service_sets_is_handed_on() {
        let properties = Properties {
            message_id: Some(MessageId::String("m".to_owned())),
            correlation_id: Some(MessageId::Uuid(Uuid::from(
                *b"\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x55\x44\x00\x00",
            ))),
            user_id: Some(Binary::from(b"u".to_vec())),
            content_type: Some(Symbol::from("application/json")),
            content_encoding: Some(Symbol::from("utf-8")),
            absolute_expiry_time: Some(fe2o3_amqp_types::primitives::Timestamp::from_milliseconds(1_790_000_000_123)),
            ..to("/devices/d/messages/devicebound")
        };
        let application = [
            ("iothub-ack", SimpleValue::from("full")),
            ("colour", SimpleValue::from("blue")),
            ("n", SimpleValue::Int(-3)),
            ("b", SimpleValue::Bool(true)),
        ];
        let (who, mut command) = command(message(properties, &application)).expect("a command");
        command.properties.sort();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(who, Who { device: "d".to_owned(), module: None });
        assert_eq!(command.message_id, text("m"));
        assert_eq!(command.correlation_id, text("123e4567-e89b-12d3-a456-426655440000"));
        assert_eq!((command.user_id, command.to), (text("u"), text("/devices/d/messages/devicebound")));
        assert_eq!((command.content_type, command.content_encoding), (text("application/json"), text("utf-8")));
        assert_eq!(command.expiry, Some(Timestamp::from_millis(1_790_000_000_123)));
        assert_eq!(command.ack, Ack::Full);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(command.properties, [pair("b", "true"), pair("colour", "blue"), pair("n", "-3")]);
        assert_eq!(command.body, &b"onoff"[..]);
    }

    #[test]
    fn what_is_no_command_is_told_why() {
        let for_d = || to("/devices/d/messages/devicebound");
        let ack = |value: &str| [("iothub-ack", SimpleValue::from(value))];
        assert_eq!(command(message(to("d"), &[])), Err(BadCommand::To("d".to_owned())));
        assert_eq!(command(message(Properties::new(), &[])), Err(BadCommand::To(String::new())));
        assert_eq!(command(message(for_d(), &ack("sometimes"))), Err(BadCommand::Ack("sometimes".to_owned())));
        let body = Body::Value(AmqpValue(Value::Int(1)));
        assert_eq!(command(Message { body, ..message(for_d(), &[]) }), Err(BadCommand::Body));
        for (body, is) in [(Body::Value(AmqpValue(Value::String("text".to_owned()))), &b"text"[..]), (Body::Empty, b"")]
        {
            let (_, command) = command(Message { body, ..message(for_d(), &ack("none")) }).expect("a command");
            assert_eq!(command.body, is);
        }
    }

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_text_makes_it_panic(any in "\\PC{0,40}", like in "(/|devices|modules|messages|devicebound|%[0-9a-f]{0,2}|é){0,9}") {
            let _ = (who(&any), who(&like));
        }
    }
}
