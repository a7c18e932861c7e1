//! IoT Hub's topics of twins and direct methods: what is heard, and where it is answered.
//!
//! Source: Azure IoT Hub, "Communicate with an IoT hub using the MQTT protocol".

use shared::topic::parse_bag;

/// What is subscribed to.
pub const FILTERS: [&str; 3] =
    ["$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"];
/// Of a caller's request id and of a method's name; what is longer is not answered.
const NAME_BYTES_MAX: usize = 256;

/// What came, by its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'t> {
    /// An answer to a question of ours about the twin.
    Answer {
        /// As in HTTP.
        status: u16,
        /// Of the question.
        rid: u64,
    },
    /// Desired properties were changed.
    Desired {
        /// Their version since then.
        version: Option<i64>,
    },
    /// A direct method is called.
    Call {
        /// Which.
        method: &'t str,
        /// To be answered under this, as it is.
        rid: &'t str,
    },
}

/// Reads a topic; `None` for one that is not of twins and methods.
pub fn parse(topic: &str) -> Option<Heard<'_>> {
    let rest = topic.strip_prefix("$iothub/")?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    if let Some(status) = path.strip_prefix("twin/res/") {
        return Some(Heard::Answer { status: status.parse().ok()?, rid: raw(query, "$rid")?.parse().ok()? });
    }
    if path == "twin/PATCH/properties/desired" {
        let bag = parse_bag(query)?;
        let version = bag.iter().find(|(name, _)| name == "$version").and_then(|(_, value)| value.parse().ok());
        return Some(Heard::Desired { version });
    }
    let method = path.strip_prefix("methods/POST/")?;
    let rid = raw(query, "$rid")?;
    let whole = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(['/', '+', '#', '\0']);
    (whole(method) && whole(rid)).then_some(Heard::Call { method, rid })
}

/// A value as it was sent.
fn raw<'t>(query: &'t str, wanted: &str) -> Option<&'t str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == wanted).map(|(_, value)| value))
}

/// Asks for the whole twin.
pub fn get_twin(rid: u64) -> String {
    format!("$iothub/twin/GET/?$rid={rid}")
}

/// Changes reported properties.
pub fn patch_reported(rid: u64) -> String {
    format!("$iothub/twin/PATCH/properties/reported/?$rid={rid}")
}

/// Answers a call.
pub fn answer(status: u16, rid: &str) -> String {
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_hub_publishes_is_read() {
        for (topic, heard) in [
            ("$iothub/twin/res/200/?$rid=7", Heard::Answer { status: 200, rid: 7 }),
            ("$iothub/twin/res/204/?$rid=8&$version=3", Heard::Answer { status: 204, rid: 8 }),
            ("$iothub/twin/PATCH/properties/desired/?$version=12", Heard::Desired { version: Some(12) }),
            ("$iothub/twin/PATCH/properties/desired/?%24version=12", Heard::Desired { version: Some(12) }),
            ("$iothub/twin/PATCH/properties/desired/", Heard::Desired { version: None }),
            ("$iothub/methods/POST/log-level/?$rid=a1-b", Heard::Call { method: "log-level", rid: "a1-b" }),
        ] {
            assert_eq!(parse(topic), Some(heard), "{topic}");
        }
        for topic in [
            "devices/d/messages/devicebound/",
            "$iothub/twin/res/ok/?$rid=7",
            "$iothub/twin/res/200/",
            "$iothub/methods/POST/?$rid=1",
            "$iothub/methods/POST/x/",
            "$iothub/methods/POST/a/b/?$rid=1",
            "$iothub/methods/POST/x/?$rid=",
            "$iothub/methods/POST/x/?$rid=a+b",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
        assert_eq!(answer(404, "a1-b"), "$iothub/methods/res/404/?$rid=a1-b");
    }

    proptest! {
        #[test]
        fn no_topic_makes_it_panic(any in ".{0,60}", like in "\\$iothub/(twin|methods|res|PATCH|POST|/|\\?|\\$rid|=|&|[0-9]|%[0-9a-f]{0,2}){0,16}") {
            let _ = parse(&any);
            let _ = parse(&like);
        }
    }
}
