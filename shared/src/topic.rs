//! IoT Hub's topics and the property bag in them.
//!
//! Device-to-cloud: `devices/{device}[/modules/{module}]/messages/events/{bag}`, the bag being `name=value` pairs joined
//! by `&`, percent-encoded (a `+` is a plus). System properties start with `$.`. Source: Azure IoT Hub, "Communicate
//! with an IoT hub using the MQTT protocol"; the spelling `%24.mid` is what Microsoft's SDKs send.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// RFC 3986's unreserved characters stay; everything else is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A property bag in the order sent.
pub type Bag = Vec<(String, String)>;

/// The topic of a device's own telemetry with `bag`; system properties go first by their place in `bag`.
pub fn events(device: &str, bag: &[(String, String)]) -> String {
    format!("devices/{device}/messages/events/{}", print_bag(bag))
}

/// A device-to-cloud topic, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Events<'a> {
    /// The device named in the topic.
    pub device: &'a str,
    /// The module named in the topic.
    pub module: Option<&'a str>,
    /// Its properties, decoded.
    pub bag: Bag,
}

/// Reads a device-to-cloud topic; `None` if it is another one or its bag is malformed.
pub fn parse_events(topic: &str) -> Option<Events<'_>> {
    let rest = topic.strip_prefix("devices/")?;
    let (device, rest) = rest.split_once('/')?;
    let (module, rest) = match rest.strip_prefix("modules/") {
        Some(rest) => {
            let (module, rest) = rest.split_once('/')?;
            (Some(module), rest)
        }
        None => (None, rest),
    };
    let bag = match rest.strip_prefix("messages/events")? {
        "" => "",
        rest => rest.strip_prefix('/')?,
    };
    if device.is_empty() || module == Some("") {
        return None;
    }
    Some(Events { device, module, bag: parse_bag(bag.trim_end_matches('/'))? })
}

/// Prints a bag: `a%20b=x%3Dy&…`.
pub fn print_bag(bag: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in bag {
        if !text.is_empty() {
            text.push('&');
        }
        text.extend(utf8_percent_encode(name, ENCODED));
        text.push('=');
        text.extend(utf8_percent_encode(value, ENCODED));
    }
    text
}

/// Reads a bag, with or without a leading `?`. A name without `=` has an empty value. `None` if it is not UTF-8.
pub fn parse_bag(text: &str) -> Option<Bag> {
    let decode = |part: &str| percent_decode_str(part).decode_utf8().ok().map(|text| text.into_owned());
    text.strip_prefix('?')
        .unwrap_or(text)
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_topics_that_the_sdks_send_are_read() {
        let topic = "devices/dev-1/messages/events/%24.mid=id%201%2F2&%24.ct=application%2Fjson&a%20b=x%3Dy%26z&u=%C3%A9&p=1+1&flag";
        let read = parse_events(topic).expect("well-formed");
        assert_eq!((read.device, read.module), ("dev-1", None));
        let pairs: Vec<_> = read.bag.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(
            pairs,
            [
                ("$.mid", "id 1/2"),
                ("$.ct", "application/json"),
                ("a b", "x=y&z"),
                ("u", "é"),
                ("p", "1+1"),
                ("flag", "")
            ]
        );
        assert_eq!(parse_events("devices/d/modules/m/messages/events/").expect("module").module, Some("m"));
        assert!(parse_events("devices/d/messages/events").expect("no bag").bag.is_empty());
        for other in [
            "devices/d/messages/eventsx",
            "devices//messages/events/",
            "devices/d",
            "a/b",
            "devices/d/messages/events/a=%FF",
        ] {
            assert_eq!(parse_events(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_bag_comes_back_as_it_was_sent(bag in proptest::collection::vec(("[^\u{0}]{1,8}", ".{0,8}"), 0..5)) {
            prop_assert_eq!(parse_bag(&print_bag(&bag)), Some(bag));
        }

        #[test]
        fn no_topic_makes_it_panic(any in ".{0,60}", like in "(devices|modules|messages|events|/|d|%[0-9a-f]{0,2}|=|&|[?]){0,20}") {
            let _ = parse_events(&any);
            if let Some(read) = parse_events(&like) {
                prop_assert!(!read.device.is_empty() && read.module != Some(""));
            }
            let _ = parse_bag(&any);
        }
    }
}
