//! A stored event as the AMQP message a service receives.

use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Data, DeliveryAnnotations, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, OrderedMap, SimpleValue, Symbol, Timestamp, Value};
use shared::time::Timestamp as Instant;

use crate::hub::log::{PartitionInfo, StoredEvent, SystemProperties, moment};

/// The message of an event, one data section. Takes the event apart: each event passes here, and its texts are not copied.
pub(super) fn message(event: StoredEvent) -> Message<Data> {
    let mut system = event.system;
    let text = |text: String| Some(Value::String(text));
    let optional = |text: Option<String>| text.map(Value::String);
    // Of what the hub itself says there is no connection.
    let given = |text: String| Some(text).filter(|text| !text.is_empty()).map(Value::String);
    let annotations = [
        ("x-opt-sequence-number", Some(Value::Long(event.sequence_number))),
        ("x-opt-offset", text(event.offset)),
        ("x-opt-enqueued-time", Some(timestamp(event.enqueued_time))),
        ("iothub-connection-device-id", text(event.device_id)),
        ("iothub-connection-module-id", optional(event.module_id)),
        ("iothub-connection-auth-method", given(event.auth_method)),
        ("iothub-connection-auth-generation-id", given(event.auth_generation_id)),
        ("iothub-enqueuedtime", Some(timestamp(event.enqueued_time))),
        ("iothub-message-source", text(event.message_source)),
        ("iothub-interface-id", optional(system.interface_id.take())),
        ("iothub-outputname", optional(system.output.take())),
        ("dt-dataschema", optional(system.model_id.take())),
        ("dt-subject", optional(system.subject.take())),
    ];
    let present = annotations.into_iter().filter_map(|(key, value)| Some((OwnedKey::from(key), value?)));
    let application: OrderedMap<String, SimpleValue> =
        event.properties.into_iter().map(|(key, value)| (key, SimpleValue::String(value))).collect();
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(present.collect())),
        properties: properties(system),
        application_properties: (!application.is_empty()).then_some(ApplicationProperties(application)),
        body: Data(Binary::from(Vec::from(event.body))),
        footer: None,
    }
}

/// Where the partition ends, for receivers that asked to be told with every event.
pub(super) fn runtime_metrics(info: &PartitionInfo, now: Instant) -> DeliveryAnnotations {
    let entries = [
        ("last_enqueued_sequence_number", Value::Long(info.last_enqueued_sequence_number)),
        ("last_enqueued_offset", Value::from(info.last_enqueued_offset.as_str())),
        ("last_enqueued_time_utc", timestamp(info.last_enqueued_time)),
        ("runtime_info_retrieval_time_utc", timestamp(now)),
    ];
    DeliveryAnnotations(entries.into_iter().map(|(key, value)| (OwnedKey::from(key), value)).collect())
}

/// `None` if the device set none.
fn properties(system: SystemProperties) -> Option<Properties> {
    let time = |text: Option<String>| text.as_deref().and_then(moment).map(milliseconds);
    let properties = Properties {
        message_id: system.message_id.map(MessageId::String),
        user_id: system.user_id.map(|id| Binary::from(id.into_bytes())),
        correlation_id: system.correlation_id.map(MessageId::String),
        content_type: system.content_type.map(Symbol::from),
        content_encoding: system.content_encoding.map(Symbol::from),
        absolute_expiry_time: time(system.absolute_expiry_time),
        creation_time: time(system.creation_time),
        ..Properties::new()
    };
    (properties != Properties::new()).then_some(properties)
}

fn milliseconds(at: Instant) -> Timestamp {
    Timestamp::from_milliseconds(at.millis())
}

fn timestamp(at: Instant) -> Value {
    Value::Timestamp(milliseconds(at))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn event(system: SystemProperties, properties: Vec<(String, String)>) -> StoredEvent {
        StoredEvent {
            sequence_number: 7,
            offset: "4711".to_owned(),
            enqueued_time: Instant::from_millis(1_790_000_000_123),
            device_id: "gw-01".to_owned(),
            module_id: None,
            auth_method: "{}".to_owned(),
            auth_generation_id: "1".to_owned(),
            message_source: "Telemetry".to_owned(),
            system,
            properties,
            body: Bytes::from_static(b"body"),
        }
    }

    #[test]
    fn what_a_device_did_not_set_is_absent() {
        let message = message(event(SystemProperties::default(), vec![]));
        assert_eq!((message.properties, message.application_properties), (None, None));
        assert_eq!(message.body.0.as_slice(), b"body");
        let annotations = message.message_annotations.expect("always there");
        let of = |key: &str| annotations.get(&OwnedKey::from(key)).cloned();
        assert_eq!(of("x-opt-sequence-number"), Some(Value::Long(7)));
        assert_eq!(of("x-opt-offset"), Some(Value::from("4711")));
        let enqueued = Value::Timestamp(Timestamp::from_milliseconds(1_790_000_000_123));
        assert_eq!(of("x-opt-enqueued-time"), Some(enqueued.clone()));
        assert_eq!(of("iothub-enqueuedtime"), Some(enqueued));
        assert_eq!(of("iothub-connection-device-id"), Some(Value::from("gw-01")));
        assert_eq!(of("iothub-message-source"), Some(Value::from("Telemetry")));
        assert_eq!((of("iothub-connection-module-id"), of("dt-dataschema")), (None, None));
        assert_eq!(annotations.len(), 8);
    }

    #[test]
    fn what_a_device_set_has_the_types_of_the_service() {
        let set = |text: &str| Some(text.to_owned());
        let system = SystemProperties {
            message_id: set("m"),
            correlation_id: set("c"),
            user_id: set("u"),
            content_type: set("application/json"),
            content_encoding: set("utf-8"),
            absolute_expiry_time: set("2026-11-23T10:00:00.5Z"),
            creation_time: set("not a time"),
            ..SystemProperties::default()
        };
        let message = message(event(system, vec![("enc".to_owned(), "zstd".to_owned())]));
        let properties = message.properties.expect("set");
        assert_eq!(properties.message_id, Some(MessageId::String("m".to_owned())));
        assert_eq!(properties.user_id, Some(Binary::from(b"u".to_vec())));
        assert_eq!(properties.content_type, Some(Symbol::from("application/json")));
        assert_eq!(properties.absolute_expiry_time, Some(Timestamp::from_milliseconds(1_795_428_000_500)));
        assert_eq!(properties.creation_time, None);
        let application = message.application_properties.expect("set");
        assert_eq!(application.get("enc"), Some(&SimpleValue::String("zstd".to_owned())));
    }
}
