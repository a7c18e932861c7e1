//! Direct methods: what a call asks for, and how its answer looks.

use std::str::FromStr as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use shared::config::Span;

use super::level;

/// IoT Hub's limit of an answer.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// What these methods are told is short.
const PAYLOAD_BYTES_MAX: usize = 4 * 1024;
/// Longest `for`.
const FOR_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long a flush is waited for unless said otherwise, and at most: as long as a caller waits.
const FLUSH: Duration = Duration::from_secs(10);
const FLUSH_MAX: Duration = Duration::from_secs(300);
/// Of a name, so much is repeated.
const NAME_LETTERS_MAX: usize = 64;

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The agent's status.
    Status,
    /// Log otherwise; without a level as before.
    LogLevel {
        /// The filter.
        level: Option<String>,
        /// For how long.
        span: Option<Duration>,
    },
    /// Send what is held, now.
    Flush {
        /// Answer after this long at the latest.
        within: Duration,
    },
    /// Connect anew, with credentials read anew.
    RestartUplink,
    /// What became of a [`Call::Flush`]: answer this.
    Flushed {
        /// As in HTTP.
        status: u16,
        /// The answer.
        body: Json,
    },
    /// No call: answer this.
    Refused {
        /// As in HTTP.
        status: u16,
        /// A sentence.
        message: String,
    },
}

impl Call {
    /// As a metric's label.
    pub const fn name(&self) -> &'static str {
        match self {
            Call::Status => "status",
            Call::LogLevel { .. } => "log-level",
            Call::Flush { .. } | Call::Flushed { .. } => "flush",
            Call::RestartUplink => "restart-uplink",
            Call::Refused { .. } => "refused",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flush {
    #[serde(default, rename = "for")]
    span: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevel {
    // Present even where it is null, so that a misspelt one is no wish to go back.
    #[serde(deserialize_with = "Option::deserialize")]
    level: Option<String>,
    #[serde(default, rename = "for")]
    span: Option<String>,
}

/// Reads a call.
pub fn read(method: &str, payload: &[u8]) -> Call {
    let refused = |status, message: String| Call::Refused { status, message };
    if PAYLOAD_BYTES_MAX < payload.len() {
        return refused(400, format!("the payload has {} bytes, at most {PAYLOAD_BYTES_MAX} are read", payload.len()));
    }
    match method {
        "status" => Call::Status,
        "log-level" => match log_level(payload) {
            Ok((level, span)) => Call::LogLevel { level, span },
            Err(message) => refused(400, message),
        },
        "flush" => match flush(payload) {
            Ok(within) => Call::Flush { within },
            Err(message) => refused(400, message),
        },
        "restart-uplink" => Call::RestartUplink,
        other => {
            let name: String = other.chars().filter(|letter| !letter.is_control()).take(NAME_LETTERS_MAX).collect();
            refused(
                404,
                format!("there is no method `{name}`; there are `status`, `log-level`, `flush` and `restart-uplink`"),
            )
        }
    }
}

fn log_level(payload: &[u8]) -> Result<(Option<String>, Option<Duration>), String> {
    let told: LogLevel = serde_json::from_slice(payload).map_err(|error| {
        format!("the payload cannot be read ({error}); write {{\"level\": \"debug\", \"for\": \"10m\"}}, or {{\"level\": null}} to go back")
    })?;
    let span = match told.span.as_deref().map(Span::from_str).transpose()?.map(Span::duration) {
        Some(span) if span.is_zero() || FOR_MAX < span => {
            return Err("`for` must be above 0 and at most 7d, write e.g. \"10m\"".to_owned());
        }
        span => span,
    };
    if let Some(level) = &told.level {
        level::check(level).map_err(|error| format!("`level`: {error}"))?;
    }
    Ok((told.level, span))
}

fn flush(payload: &[u8]) -> Result<Duration, String> {
    // Microsoft's SDK for Python sends `""` where it is given no payload.
    if [&b""[..], b"null", b"\"\""].contains(&payload.trim_ascii()) {
        return Ok(FLUSH);
    }
    let told: Flush = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload cannot be read ({error}); write {{\"for\": \"10s\"}}, or nothing"))?;
    match told.span.as_deref().map(Span::from_str).transpose()?.map(Span::duration) {
        Some(span) if span.is_zero() || FLUSH_MAX < span => {
            Err("`for` must be above 0 and at most 5m, write e.g. \"10s\"".to_owned())
        }
        span => Ok(span.unwrap_or(FLUSH)),
    }
}

/// The body of a refusal.
pub fn refusal(message: &str) -> Json {
    json!({ "error": message })
}

/// An answer within the hub's limit: what is largest is left out, and named, until it fits.
pub fn fit(mut answer: Json, bytes_max: usize) -> Vec<u8> {
    loop {
        let bytes = serde_json::to_vec(&answer).expect("an answer is plain data");
        if bytes.len() <= bytes_max {
            return bytes;
        }
        let size = |value: &Json| serde_json::to_vec(value).map_or(0, |bytes| bytes.len());
        let Json::Object(parts) = &mut answer else { return b"null".to_vec() };
        let largest = parts.iter().filter(|(name, _)| *name != "left-out").max_by_key(|(_, value)| size(value));
        let Some(name) = largest.map(|(name, _)| name.clone()) else { return b"{}".to_vec() };
        parts.remove(&name);
        match parts.entry("left-out").or_insert_with(|| json!([])) {
            Json::Array(names) => names.push(Json::String(name)),
            other => *other = json!([name]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_are_read() {
        let minutes = |n: u64| Some(Duration::from_secs(n * 60));
        let level = |level: Option<&str>, span| Call::LogLevel { level: level.map(str::to_owned), span };
        for (method, payload, call) in [
            ("status", "", Call::Status),
            ("status", "null", Call::Status),
            ("status", r#""""#, Call::Status),
            ("status", "{}", Call::Status),
            ("log-level", r#"{"level":"debug","for":"10m"}"#, level(Some("debug"), minutes(10))),
            ("log-level", r#"{"level":"info,rumqttc=warn"}"#, level(Some("info,rumqttc=warn"), None)),
            ("log-level", r#"{"level":null}"#, level(None, None)),
            ("flush", "", Call::Flush { within: FLUSH }),
            ("flush", "null", Call::Flush { within: FLUSH }),
            ("flush", "{}", Call::Flush { within: FLUSH }),
            ("flush", r#""""#, Call::Flush { within: FLUSH }),
            ("flush", r#"{"for":"1m"}"#, Call::Flush { within: Duration::from_secs(60) }),
            ("restart-uplink", "null", Call::RestartUplink),
            ("restart-uplink", r#""""#, Call::RestartUplink),
        ] {
            assert_eq!(read(method, payload.as_bytes()), call, "{payload}");
        }
        for (method, payload, status, part) in [
            ("log-level", "", 400, "write {\"level\""),
            ("log-level", "null", 400, "write {\"level\""),
            ("log-level", "{}", 400, "level"),
            ("log-level", r#"{"level":"debug","fro":"10m"}"#, 400, "fro"),
            ("log-level", r#"{"level":"debug","for":"soon"}"#, 400, "soon"),
            ("log-level", r#"{"level":"debug","for":"0s"}"#, 400, "at most 7d"),
            ("log-level", r#"{"level":"debug","for":"8d"}"#, 400, "at most 7d"),
            ("log-level", r#"{"level":"verbose"}"#, 400, "no level for everything"),
            ("log-level", r#"{"level":3}"#, 400, "cannot be read"),
            ("flush", r#"{"for":"6m"}"#, 400, "at most 5m"),
            ("flush", r#"{"fro":"1m"}"#, 400, "fro"),
            ("flush", "7", 400, "or nothing"),
            ("flush", r#""10s""#, 400, "or nothing"),
            ("reboot", "", 404, "no method `reboot`"),
            ("Status", "", 404, "there are `status`"),
        ] {
            match read(method, payload.as_bytes()) {
                Call::Refused { status: said, message } => {
                    assert!(said == status && message.contains(part), "{payload}: {said} {message}");
                }
                other => panic!("{payload}: {other:?}"),
            }
        }
        assert!(matches!(read("status", &[b' '; 5_000]), Call::Refused { status: 400, .. }));
    }

    #[test]
    fn an_answer_that_is_too_large_loses_its_largest_parts_by_name() {
        let answer = json!({ "a": "x".repeat(100), "b": 1, "c": "y".repeat(200) });
        let fitted = |max| serde_json::from_slice::<Json>(&fit(answer.clone(), max)).expect("json");
        assert_eq!(fitted(1_000), answer);
        assert_eq!(fitted(200), json!({ "a": "x".repeat(100), "b": 1, "left-out": ["c"] }));
        assert_eq!(fitted(60), json!({ "b": 1, "left-out": ["c", "a"] }));
        assert!(fit(answer.clone(), 2).len() <= 2);
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), like in "\\{\"(level|for)\":\"?.{0,20}", name in ".{0,80}") {
            let _ = read(&name, &bytes);
            let _ = read("log-level", &bytes);
            let _ = read("flush", &bytes);
            let _ = read("flush", like.as_bytes());
            let _ = read("log-level", like.as_bytes());
        }

        #[test]
        fn an_answer_always_fits(parts in proptest::collection::btree_map(".{0,20}", ".{0,50}", 0..8), max in 4usize..200) {
            prop_assert!(fit(json!(parts), max).len() <= max);
        }
    }
}
