//! What a device is subscribed to, and at which quality of service it is told something. A pure core.

use super::seats::Hears;
use super::sessions::Filter;

/// The highest quality of service granted for a topic; `None` if nothing fits it.
pub(super) fn granted(filters: &[Filter], topic: &str) -> Option<u8> {
    filters.iter().filter(|(filter, _)| fits(filter, topic)).map(|(_, qos)| *qos).max()
}

/// What others have to know of the filters: bits of [`Hears`].
pub(super) fn hears(filters: &[Filter]) -> u8 {
    let bits = filters.iter().map(|(filter, _)| {
        if filter.starts_with("$iothub/methods/POST/") {
            Hears::Methods as u8
        } else if filter.starts_with("$iothub/twin/PATCH/properties/desired/") {
            Hears::Desired as u8
        } else if filter.starts_with("devices/") {
            Hears::Commands as u8
        } else {
            0
        }
    });
    bits.fold(0, |all, bit| all | bit)
}

/// Level by level, as MQTT 3.1.1 says in 4.7. Filters begin with a level that is spelled out: they were granted.
fn fits(filter: &str, topic: &str) -> bool {
    let (mut levels, mut wanted) = (topic.split('/'), filter.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit_the_topics_they_are_for() {
        for (filter, topic, fit) in [
            ("$iothub/methods/POST/#", "$iothub/methods/POST/reboot/?$rid=1", true),
            ("$iothub/methods/POST/reboot/#", "$iothub/methods/POST/reboot/?$rid=1", true),
            ("$iothub/methods/POST/reboot/#", "$iothub/methods/POST/stop/?$rid=1", false),
            ("$iothub/methods/POST/+/+", "$iothub/methods/POST/stop/?$rid=1", true),
            ("$iothub/twin/res/#", "$iothub/twin/res/200/?$rid=1", true),
            ("$iothub/twin/res/#", "$iothub/twin/res", true),
            ("devices/d/messages/devicebound/#", "devices/d/messages/devicebound/%24.to=%2Fd", true),
            ("devices/d/messages/devicebound/x", "devices/d/messages/devicebound", false),
        ] {
            assert_eq!(fits(filter, topic), fit, "{filter} {topic}");
        }
        let filters = [("a/#".to_owned(), 0), ("a/b".to_owned(), 1)];
        assert_eq!(
            (granted(&filters, "a/b"), granted(&filters, "a/c"), granted(&filters, "b")),
            (Some(1), Some(0), None)
        );
    }
}
