//! What a device publishes, and what it may publish and subscribe to.

use shared::topic;

use super::auth::Guest;
use super::requests::{Request, request};
use super::sessions::Filter;
use crate::gate::Publish;
use crate::hub::log::{NewEvent, SystemProperties, moment};

/// Body and properties together, as the service counts.
pub(super) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// A packet may be larger by its topic, whose names and percent signs do not count.
pub(super) const PACKET_BYTES_MAX: u32 = 256 * 1024 + 64 * 1024 + 16;
const MESSAGE_ID_MAX: usize = 128;
/// What a message id may have beside letters and digits of ASCII.
const MESSAGE_ID_SIGNS: &str = "-:.+%_#*?!(),=@;$'";
/// Properties of one message. The service names no number; a topic has room for 32,700, and they would take megabytes.
const PROPERTIES_MAX: usize = 1_000;
/// What a property takes of memory beside its texts, about.
pub(super) const PAIR_BYTES: usize = 64;

/// Filters of one connection at once.
pub(super) const SUBSCRIPTIONS_MAX: usize = 5;

/// What closes the connection, as the service does without saying why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a publish to `{}`, which is not one of the device's own topics", .0.escape_debug())]
    Topic(String),
    #[error("a message of {bytes} bytes; {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge { bytes: usize },
    #[error("a message with {0} properties; {PROPERTIES_MAX} are allowed")]
    Properties(usize),
    #[error(
        "a message id of more than {MESSAGE_ID_MAX} characters, or of others than letters, digits and `{MESSAGE_ID_SIGNS}`"
    )]
    MessageId,
    #[error("`{0}`, which is a time, says something else")]
    Time(&'static str),
    #[error("a subscription to `{}`, which is not one of the device's own filters", .0.escape_debug())]
    Filter(String),
    #[error("more than {SUBSCRIPTIONS_MAX} subscriptions")]
    Subscriptions,
}

impl Violation {
    /// As it stands in metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Violation::Topic(_) => "topic",
            Violation::TooLarge { .. } => "message-too-large",
            Violation::Properties(_) => "properties",
            Violation::MessageId => "message-id",
            Violation::Time(_) => "time",
            Violation::Filter(_) => "filter",
            Violation::Subscriptions => "subscriptions",
        }
    }
}

/// What a publish is.
#[derive(Debug)]
pub(super) enum Said {
    /// A message for the log.
    Event {
        event: Box<NewEvent>,
        /// Body and properties, as the service counts.
        bytes: usize,
    },
    /// Something about twins or methods.
    Request(Request),
}

/// Judges a publish of `guest`.
pub(super) fn said(guest: &Guest, publish: &Publish) -> Result<Said, Violation> {
    let foreign = || Violation::Topic(publish.topic.clone());
    if let Some(rest) = publish.topic.strip_prefix("$iothub/") {
        return request(rest).map(Said::Request).ok_or_else(foreign);
    }
    let topic = topic::parse_events(&publish.topic).ok_or_else(foreign)?;
    if topic.device != guest.device_id || topic.module != guest.module_id.as_deref() {
        return Err(foreign());
    }
    if PROPERTIES_MAX < topic.bag.len() {
        return Err(Violation::Properties(topic.bag.len()));
    }
    let mut system = SystemProperties { model_id: guest.model_id.clone(), ..SystemProperties::default() };
    let mut properties = vec![];
    let mut bytes = publish.payload.len();
    for (name, value) in topic.bag {
        bytes += value.len();
        match field(&mut system, &name) {
            Some(field) => *field = Some(value),
            None => {
                bytes += name.len();
                properties.push((name, value));
            }
        }
    }
    if publish.retain {
        properties.push(("mqtt-retain".to_owned(), "true".to_owned()));
    }
    if MESSAGE_BYTES_MAX < bytes {
        return Err(Violation::TooLarge { bytes });
    }
    if !system.message_id.as_deref().is_none_or(is_message_id) {
        return Err(Violation::MessageId);
    }
    for (name, time) in [("$.exp", &system.absolute_expiry_time), ("$.ctime", &system.creation_time)] {
        if time.as_deref().is_some_and(|time| moment(time).is_none()) {
            return Err(Violation::Time(name));
        }
    }
    let event = NewEvent {
        device_id: guest.device_id.clone(),
        module_id: guest.module_id.clone(),
        auth_method: guest.auth_method.to_owned(),
        auth_generation_id: guest.generation_id.clone(),
        message_source: "Telemetry".to_owned(),
        system,
        properties,
        body: publish.payload.clone(),
    };
    Ok(Said::Event { event: Box::new(event), bytes })
}

fn is_message_id(id: &str) -> bool {
    id.len() <= MESSAGE_ID_MAX && id.chars().all(|char| char.is_ascii_alphanumeric() || MESSAGE_ID_SIGNS.contains(char))
}

fn field<'a>(system: &'a mut SystemProperties, name: &str) -> Option<&'a mut Option<String>> {
    Some(match name {
        "$.mid" => &mut system.message_id,
        "$.cid" => &mut system.correlation_id,
        "$.uid" => &mut system.user_id,
        "$.ct" => &mut system.content_type,
        "$.ce" => &mut system.content_encoding,
        "$.exp" => &mut system.absolute_expiry_time,
        "$.ctime" => &mut system.creation_time,
        "$.sub" => &mut system.subject,
        "$.on" => &mut system.output,
        "$.ifid" => &mut system.interface_id,
        _ => return None,
    })
}

/// What a device is subscribed to once it has asked for `filters` too, each with the quality of service granted: what
/// it asked for, but at most 1.
pub(super) fn subscribe(guest: &Guest, mut held: Vec<Filter>, filters: &[Filter]) -> Result<Vec<Filter>, Violation> {
    for (filter, qos) in filters {
        if !is_own(guest, filter) {
            return Err(Violation::Filter(filter.clone()));
        }
        match held.iter_mut().find(|(other, _)| other == filter) {
            Some((_, granted)) => *granted = (*qos).min(1),
            None => held.push((filter.clone(), (*qos).min(1))),
        }
        if SUBSCRIPTIONS_MAX < held.len() {
            return Err(Violation::Subscriptions);
        }
    }
    Ok(held)
}

/// True for filters of twins, methods and cloud-to-device messages, and for narrower ones than the documented.
fn is_own(guest: &Guest, filter: &str) -> bool {
    let shared = ["$iothub/twin/res/", "$iothub/twin/PATCH/properties/desired/", "$iothub/methods/POST/"];
    let below = |rest: &str| !rest.is_empty();
    if shared.iter().any(|tree| filter.strip_prefix(tree).is_some_and(below)) {
        return true;
    }
    let own = filter.strip_prefix("devices/").and_then(|rest| rest.strip_prefix(guest.device_id.as_str()));
    let own = own.and_then(|rest| rest.strip_prefix('/'));
    match &guest.module_id {
        None => own.and_then(|rest| rest.strip_prefix("messages/devicebound/")).is_some_and(below),
        Some(module) => own
            .and_then(|rest| rest.strip_prefix("modules/"))
            .and_then(|rest| rest.strip_prefix(module.as_str()))
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|rest| {
                rest == "#" || rest.starts_with("inputs/") || rest.starts_with("messages/devicebound/")
            }),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn guest() -> Guest {
        Guest {
            device_id: "d".to_owned(),
            module_id: None,
            generation_id: "1".to_owned(),
            auth_method: "{}",
            model_id: None,
            expires: None,
        }
    }

    fn publish(topic: &str, bytes: usize, retain: bool) -> Result<Said, Violation> {
        let payload = Bytes::from(vec![0; bytes]);
        said(&guest(), &Publish { topic: topic.to_owned(), payload, retain, packet_id: None })
    }

    #[test]
    fn properties_land_where_they_belong() {
        let topic = "devices/d/messages/events/%24.mid=a%3A1-2&%24.ct=application%2Fzstd&enc=zstd";
        let Ok(Said::Event { event, .. }) = publish(topic, 4_000, true) else { panic!("an event") };
        assert_eq!(event.system.message_id.as_deref(), Some("a:1-2"));
        assert_eq!(event.system.content_type.as_deref(), Some("application/zstd"));
        let pairs: Vec<_> = event.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("enc", "zstd"), ("mqtt-retain", "true")]);
    }

    #[test]
    fn size_counts_the_body_and_properties() {
        for (topic, bytes, counted) in [
            ("devices/d/messages/events/", 0, Ok(0)),
            ("devices/d/messages/events/a=b", 4_096, Ok(4_098)),
            ("devices/d/messages/events/%24.ct=b", 4_095, Ok(4_096)),
            ("devices/d/messages/events/", 262_144, Ok(262_144)),
            ("devices/d/messages/events/", 262_145, Err(262_145)),
            ("devices/d/messages/events/aa=b", 262_142, Err(262_145)),
        ] {
            let found = match publish(topic, bytes, false) {
                Ok(Said::Event { bytes, .. }) => Ok(bytes),
                Err(Violation::TooLarge { bytes }) => Err(bytes),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, counted, "{topic} {bytes}");
        }
    }

    #[test]
    fn a_device_has_its_own_topics_and_no_others() {
        for topic in ["", "a", "devices/e/messages/events/", "devices/d/modules/m/messages/events/", "$iothub/x"] {
            assert!(matches!(publish(topic, 1, false), Err(Violation::Topic(_))), "{topic}");
        }
        assert!(matches!(publish("$iothub/twin/GET/?$rid=1", 1, false), Ok(Said::Request(Request::Twin { .. }))));

        let ask = |filters: &[&str]| filters.iter().map(|filter| ((*filter).to_owned(), 2)).collect::<Vec<_>>();
        let own = ask(&["$iothub/twin/res/#", "devices/d/messages/devicebound/#", "$iothub/methods/POST/#"]);
        let held = subscribe(&guest(), vec![], &own).expect("granted");
        assert!(held.len() == 3 && held.iter().all(|(_, qos)| *qos == 1));
        assert_eq!(subscribe(&guest(), held.clone(), &own), Ok(held.clone()), "again is not more");
        for filter in ["#", "", "devices/e/messages/devicebound/#", "devices/d/messages/events/#", "$iothub/#"] {
            let refused = subscribe(&guest(), vec![], &ask(&[filter]));
            assert_eq!(refused, Err(Violation::Filter(filter.to_owned())));
        }
        let more = ask(&["$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/reboot/#"]);
        let held = subscribe(&guest(), held, &more).expect("five");
        assert_eq!(subscribe(&guest(), held, &ask(&["$iothub/methods/POST/x/#"])), Err(Violation::Subscriptions));
    }

    #[test]
    fn a_module_has_topics_of_its_own() {
        let guest = Guest { module_id: Some("m".to_owned()), ..guest() };
        let said = |topic: &str| {
            let payload = Bytes::new();
            said(&guest, &Publish { topic: topic.to_owned(), payload, retain: false, packet_id: None })
        };
        let Ok(Said::Event { event, .. }) = said("devices/d/modules/m/messages/events/%24.on=out") else {
            panic!("an event")
        };
        assert_eq!((event.module_id.as_deref(), event.system.output.as_deref()), (Some("m"), Some("out")));
        for topic in ["devices/d/messages/events/", "devices/d/modules/n/messages/events/"] {
            assert!(matches!(said(topic), Err(Violation::Topic(_))), "{topic}");
        }
        for (filter, granted) in [
            ("devices/d/modules/m/#", true),
            ("devices/d/modules/m/inputs/#", true),
            ("devices/d/messages/devicebound/#", false),
            ("devices/d/modules/n/#", false),
        ] {
            assert_eq!(subscribe(&guest, vec![], &[(filter.to_owned(), 1)]).is_ok(), granted, "{filter}");
        }
    }

    proptest! {
        #[test]
        fn no_topic_makes_it_panic(topic in ".{0,60}", bag in "[a-z0-9%&=$.+/-]{0,60}") {
            let _ = publish(&topic, 1, false);
            let _ = publish(&format!("devices/d/messages/events/{bag}"), 1, true);
            let _ = subscribe(&guest(), vec![], &[(topic, 2)]);
        }
    }
}
