//! What devices ask about their twins and answer to methods: topics below `$iothub/`. A pure core.

/// Longer request ids are not answered: the response topic would be too long.
const RID_MAX: usize = 256;

/// A publish below `$iothub/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A question about the twin, to be answered under its `$rid`.
    Twin { ask: Ask, rid: String },
    /// The answer to a direct method.
    Answer { status: i32, request: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// What it is.
    Get,
    /// To change what the device reports.
    Report,
}

impl Ask {
    /// As it stands in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Ask::Get => "get",
            Ask::Report => "report",
        }
    }
}

/// Reads what follows `$iothub/`; `None` if it is nothing a device may publish.
pub(super) fn request(topic: &str) -> Option<Request> {
    if let Some(rest) = topic.strip_prefix("methods/res/") {
        let (status, query) = rest.split_once('/')?;
        // Whatever number it is: that nobody waits for it is no violation.
        let request = u64::from_str_radix(rid(query)?, 16).unwrap_or(0);
        return Some(Request::Answer { status: status.parse().ok()?, request });
    }
    let twin = |ask, query| Some(Request::Twin { ask, rid: rid(query)?.to_owned() });
    if let Some(query) = topic.strip_prefix("twin/GET/") {
        return twin(Ask::Get, query);
    }
    twin(Ask::Report, topic.strip_prefix("twin/PATCH/properties/reported/")?)
}

/// The `$rid` as it was sent; empty if there is none.
fn rid(query: &str) -> Option<&str> {
    let query = query.strip_prefix('?').or_else(|| query.is_empty().then_some(""))?;
    let rid = query.split('&').find_map(|pair| pair.strip_prefix("$rid=").or_else(|| pair.strip_prefix("%24rid=")));
    Some(rid.unwrap_or_default()).filter(|rid| rid.len() <= RID_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn topics_of_the_sdks_are_read_and_others_are_not() {
        let twin = |ask, rid: &str| Some(Request::Twin { ask, rid: rid.to_owned() });
        let answer = |status, request| Some(Request::Answer { status, request });
        for (topic, read) in [
            ("twin/GET/?$rid=1", twin(Ask::Get, "1")),
            ("twin/GET/?%24rid=a%20b", twin(Ask::Get, "a%20b")),
            ("twin/GET/", twin(Ask::Get, "")),
            ("twin/PATCH/properties/reported/?$rid=0a-f&$version=3", twin(Ask::Report, "0a-f")),
            ("methods/res/200/?$rid=1f", answer(200, 0x1f)),
            ("methods/res/-7/?$rid=stranger", answer(-7, 0)),
            ("methods/res/", None),
            ("methods/res/ok/?$rid=1", None),
            ("methods/POST/x/?$rid=1", None),
            ("twin/PATCH/properties/desired/?$version=1", None),
            ("twin/GET/x?$rid=1", None),
            ("x", None),
        ] {
            assert_eq!(request(topic), read, "{topic}");
        }
        assert_eq!(request(&format!("twin/GET/?$rid={}", "x".repeat(257))), None);
    }

    proptest! {
        #[test]
        fn no_topic_makes_it_panic(topic in ".{0,60}", query in "[a-z0-9%&=$?+/-]{0,60}") {
            let _ = request(&topic);
            for tree in ["methods/res/", "twin/GET/", "twin/PATCH/properties/reported/"] {
                let _ = request(&format!("{tree}{query}"));
            }
        }
    }
}
