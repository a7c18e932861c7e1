//! One registration: what to ask, and what an answer means. No socket, no clock.
//!
//! ```text
//! register --202--> ask what became of it, after `retry-after` --202--> …  --200 assigned--> the hub
//!     ^                  |
//!     +------ 404: the service has forgotten the operation
//! ```
//!
//! Source: Azure IoT, "Communicate with DPS using the MQTT protocol"; the SDKs for Python and Node.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value as Json;
use shared::topic;

/// The filter of all answers.
pub const ANSWERS: &str = "$dps/registrations/res/#";
/// Wait before the next question where the service says none; what Microsoft's SDKs take.
const WAIT: Duration = Duration::from_secs(2);
/// Longest wait that is believed.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// Of what the service says, so much is repeated to people.
const WORDS_MAX: usize = 300;

/// A hub, and our name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The hub's name.
    pub hub: String,
    /// Our device id there.
    pub device: String,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ask [`Exchange::ask`] again after this long.
    Wait(Duration),
    /// The service cannot now, and may say when it can: wait for at least this long, and longer each time.
    Later(Duration),
    /// Done.
    Assigned(Assigned),
    /// The service says no; asking again soon is pointless.
    Refused(Refusal),
}

/// Why the service says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 401, or the connection was refused.
    #[error(
        "the provisioning service refuses this gateway's key{0}; check `provisioning.key` (or `group-key`) and `id-scope`, \
         that `registration-id` is enrolled there, and that this machine's clock is right"
    )]
    Unauthorized(String),
    /// 404 on registering.
    #[error(
        "the provisioning service knows no enrolment for this `registration-id`{0}; enrol it, or correct `id-scope`"
    )]
    Unknown(String),
    /// The enrolment is not enabled.
    #[error("this gateway's enrolment is disabled; enable it in the provisioning service")]
    Disabled,
    /// It was asked and could not.
    #[error("the provisioning service could not assign a hub{0}")]
    Failed(String),
    /// Another status.
    #[error("the provisioning service answers {0}{1}")]
    Status(u16, String),
    /// The answer names no hub that could be one.
    #[error("the provisioning service's answer makes no sense: {0}")]
    Garbled(&'static str),
}

/// One registration under way.
#[derive(Debug)]
pub struct Exchange {
    registration_id: String,
    operation: Option<String>,
    /// Of the last question.
    rid: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    operation_id: Option<String>,
    status: Option<String>,
    registration_state: Option<State>,
    /// Where it is refused.
    error_code: Option<Json>,
    message: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    assigned_hub: Option<String>,
    device_id: Option<String>,
    error_code: Option<Json>,
    error_message: Option<String>,
}

impl Exchange {
    /// Of the gateway with this registration id.
    pub fn new(registration_id: &str) -> Self {
        Self { registration_id: registration_id.to_owned(), operation: None, rid: 0 }
    }

    /// The next question: topic and payload.
    pub fn ask(&mut self) -> (String, String) {
        self.rid += 1;
        let rid = self.rid;
        match &self.operation {
            None => {
                let body = serde_json::json!({ "registrationId": self.registration_id });
                (format!("$dps/registrations/PUT/iotdps-register/?$rid={rid}"), body.to_string())
            }
            Some(operation) => {
                let operation = topic::print_bag(&[("operationId".to_owned(), operation.clone())]);
                let path = "$dps/registrations/GET/iotdps-get-operationstatus";
                (format!("{path}/?$rid={rid}&{operation}"), " ".to_owned())
            }
        }
    }

    /// What came; `None` if it is no answer to the last question.
    pub fn heard(&mut self, topic: &str, payload: &[u8]) -> Option<Verdict> {
        let (status, wait) = self.answer(topic)?;
        if ANSWER_BYTES_MAX < payload.len() {
            return Some(Verdict::Refused(Refusal::Garbled("it is too long")));
        }
        let body: Body = serde_json::from_slice(payload).unwrap_or_default();
        Some(match status {
            200..300 => self.became(body, wait.unwrap_or(WAIT)),
            429 | 500.. => Verdict::Later(wait.unwrap_or_default()),
            401 | 403 => Verdict::Refused(Refusal::Unauthorized(words(body.error_code, body.message))),
            // A service that was started again, or has forgotten.
            404 if self.operation.take().is_some() => Verdict::Later(wait.unwrap_or_default()),
            404 => Verdict::Refused(Refusal::Unknown(words(body.error_code, body.message))),
            _ => Verdict::Refused(Refusal::Status(status, words(body.error_code, body.message))),
        })
    }

    /// Status and `retry-after` of an answer to the last question.
    fn answer(&self, topic: &str) -> Option<(u16, Option<Duration>)> {
        let (status, query) = topic.strip_prefix("$dps/registrations/res/")?.split_once("/?")?;
        let bag = topic::parse_bag(query)?;
        let value = |wanted: &str| bag.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        if value("$rid")? != self.rid.to_string() {
            return None;
        }
        let wait = value("retry-after").and_then(|text| text.parse().ok());
        let wait = wait.map(|seconds| Duration::from_secs(seconds).clamp(Duration::from_secs(1), WAIT_MAX));
        Some((status.parse().ok()?, wait))
    }

    fn became(&mut self, body: Body, wait: Duration) -> Verdict {
        let state = body.registration_state.unwrap_or_default();
        match body.status.as_deref() {
            Some("assigned") => match (state.assigned_hub, state.device_id) {
                (Some(hub), Some(device)) if is_host(&hub) && crate::hub::is_device_id(&device) => {
                    Verdict::Assigned(Assigned { hub, device })
                }
                (Some(_), Some(_)) => Verdict::Refused(Refusal::Garbled("hub or device id cannot be one")),
                _ => Verdict::Refused(Refusal::Garbled("it names no hub")),
            },
            Some("assigning") => match body.operation_id {
                Some(operation) if !operation.is_empty() && operation.len() <= 1_024 => {
                    self.operation = Some(operation);
                    Verdict::Wait(wait)
                }
                _ if self.operation.is_some() => Verdict::Wait(wait),
                _ => Verdict::Refused(Refusal::Garbled("it names no operation")),
            },
            Some("disabled") => Verdict::Refused(Refusal::Disabled),
            Some("unassigned") => {
                self.operation = None;
                Verdict::Later(wait)
            }
            Some("failed") => Verdict::Refused(Refusal::Failed(words(state.error_code, state.error_message))),
            Some(_) => Verdict::Refused(Refusal::Garbled("its status is unknown")),
            None => Verdict::Refused(Refusal::Garbled("it is not the JSON of a registration")),
        }
    }
}

/// A name that can stand in a user name, a token and a URL.
pub(super) fn is_host(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    !text.is_empty() && text.len() <= 253 && text.bytes().all(allowed)
}

/// ` (401002: CA certificate not found.)`, as far as it is there and fit for a log.
fn words(code: Option<Json>, message: Option<String>) -> String {
    let plain = |text: &str| text.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect::<String>();
    let code = code.map(|code| plain(code.as_str().unwrap_or(&code.to_string())));
    let message = message.map(|message| plain(&message)).filter(|message| !message.is_empty());
    match (code, message) {
        (Some(code), Some(message)) => format!(" ({code}: {message})"),
        (Some(text), None) | (None, Some(text)) => format!(" ({text})"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(exchange: &mut Exchange, status: &str, payload: &str) -> Option<Verdict> {
        exchange.ask();
        let topic = format!("$dps/registrations/res/{status}/?$rid={}", exchange.rid);
        exchange.heard(&topic, payload.as_bytes())
    }

    #[test]
    fn it_registers_asks_what_became_of_it_and_ends_with_the_hub() {
        let mut exchange = Exchange::new("gw-01");
        let (topic, payload) = exchange.ask();
        assert_eq!(topic, "$dps/registrations/PUT/iotdps-register/?$rid=1");
        assert_eq!(payload, r#"{"registrationId":"gw-01"}"#);
        let answer = "$dps/registrations/res/202/?$rid=1&retry-after=3";
        let verdict = exchange.heard(answer, br#"{"operationId":"4.a/b","status":"assigning"}"#);
        assert_eq!(verdict, Some(Verdict::Wait(Duration::from_secs(3))));
        let (topic, _) = exchange.ask();
        assert_eq!(topic, "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=4.a%2Fb");
        assert_eq!(
            exchange.heard("$dps/registrations/res/200/?$rid=1", b"{}"),
            None,
            "an answer to an earlier question"
        );
        let done =
            r#"{"status":"assigned","registrationState":{"assignedHub":"h.azure-devices.net","deviceId":"d-1"}}"#;
        let verdict = exchange.heard("$dps/registrations/res/200/?$rid=2", done.as_bytes());
        let assigned = Assigned { hub: "h.azure-devices.net".into(), device: "d-1".into() };
        assert_eq!(verdict, Some(Verdict::Assigned(assigned)));
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let failed = r#"{"status":"failed","registrationState":{"errorCode":400207,"errorMessage":"no\nhub"}}"#;
        let unknown = r#"{"errorCode":404201,"message":"Enrollment not found"}"#;
        for (status, payload, part) in [
            (
                "401",
                r#"{"errorCode":401002,"message":"Unauthorized"}"#,
                "(401002: Unauthorized); check `provisioning.key`",
            ),
            ("401", "", "key; check"),
            ("404", unknown, "(404201: Enrollment not found); enrol it"),
            ("200", r#"{"status":"disabled"}"#, "disabled; enable it"),
            ("200", failed, "could not assign a hub (400207: nohub)"),
            ("400", r#"{"message":"bad"}"#, "answers 400 (bad)"),
            ("200", r#"{"status":"assigned"}"#, "names no hub"),
            (
                "200",
                r#"{"status":"assigned","registrationState":{"assignedHub":"a/b","deviceId":"d"}}"#,
                "cannot be one",
            ),
            (
                "200",
                r#"{"status":"assigned","registrationState":{"assignedHub":"a","deviceId":"d/e"}}"#,
                "cannot be one",
            ),
            ("200", "[]", "not the JSON"),
            ("200", "", "not the JSON"),
            ("202", r#"{"status":"assigning"}"#, "names no operation"),
        ] {
            match heard(&mut Exchange::new("gw-01"), status, payload) {
                Some(Verdict::Refused(refusal)) => {
                    assert!(refusal.to_string().contains(part), "{status} {payload}: {refusal}");
                }
                other => panic!("{status} {payload}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_service_that_cannot_now_is_asked_later_and_one_that_forgot_is_asked_anew() {
        let seconds = Duration::from_secs;
        for (status, wait) in [("429", seconds(0)), ("429/?retry-after=7", seconds(7)), ("503", seconds(0))] {
            let mut exchange = Exchange::new("gw-01");
            exchange.ask();
            let (status, more) = status.split_once("/?").map_or((status, String::new()), |(s, m)| (s, format!("&{m}")));
            let verdict = exchange.heard(&format!("$dps/registrations/res/{status}/?$rid=1{more}"), b"");
            assert_eq!(verdict, Some(Verdict::Later(wait)), "{status}");
        }
        let mut exchange = Exchange::new("gw-01");
        assert!(matches!(
            heard(&mut exchange, "202", r#"{"operationId":"o","status":"assigning"}"#),
            Some(Verdict::Wait(WAIT))
        ));
        assert_eq!(heard(&mut exchange, "404", ""), Some(Verdict::Later(Duration::ZERO)));
        assert!(exchange.ask().0.contains("iotdps-register"), "it registers again");
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            topic in "(\\$dps/registrations/res/)?([0-9]{0,5}|.{0,5})(/\\?)?(\\$rid=1)?(&retry-after=[0-9]{0,24})?.{0,5}",
            payload in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..80),
                "\\{\"status\":\"(assigned|assigning|failed|disabled|x)\",\"(operationId|registrationState)\":.{0,30}".prop_map(String::into_bytes),
            ],
        ) {
            let mut exchange = Exchange::new("gw-01");
            exchange.ask();
            if let Some(Verdict::Wait(wait) | Verdict::Later(wait)) = exchange.heard(&topic, &payload) {
                prop_assert!(wait <= WAIT_MAX);
            }
        }
    }
}
