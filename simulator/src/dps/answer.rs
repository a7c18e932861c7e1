//! [p] What devices are told: JSON as the service's REST interface has it, which MQTT carries unchanged.

use std::time::Duration;

use serde_json::{Map, Value, json};
use shared::time::Timestamp;

use super::registrations::{Outcome, Registration};

/// A body and the status of its topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after_s: Option<u64>,
    pub(super) body: Value,
}

/// Why a request is refused. Codes of three more digits than HTTP's are Azure's where we know them (401000, 401002,
/// 429001), else its status and 000.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The body.
    #[error("Bad request: {0}")]
    Malformed(String),
    /// A token that no enrolment's key signed, or that has ended.
    #[error("Unauthorized")]
    Unauthorized,
    /// Of an individual enrolment.
    #[error("Invalid certificate")]
    Certificate,
    /// None of a group's vouches for the certificate.
    #[error("CA certificate not found.")]
    Authority,
    /// Of another registration, or of a service that has been started again.
    #[error("Operation not found")]
    Operation,
    /// A method or resource that there is not.
    #[error("Method not allowed")]
    Method,
    /// Too many requests.
    #[error("Operations are being throttled")]
    Throttled(Duration),
}

impl Refused {
    /// The status of the topic.
    pub(super) const fn status(&self) -> u16 {
        match self {
            Refused::Malformed(_) => 400,
            Refused::Unauthorized | Refused::Certificate | Refused::Authority => 401,
            Refused::Operation => 404,
            Refused::Method => 405,
            Refused::Throttled(_) => 429,
        }
    }

    /// `errorCode` of the body.
    pub(super) const fn code(&self) -> u32 {
        match self {
            Refused::Malformed(_) => 400_000,
            Refused::Unauthorized => 401_000,
            Refused::Certificate | Refused::Authority => 401_002,
            Refused::Operation => 404_000,
            Refused::Method => 405_000,
            Refused::Throttled(_) => 429_001,
        }
    }

    /// As the device is told.
    pub(super) fn answer(&self, tracking_id: &str, now: Timestamp) -> Answer {
        let retry_after_s = match self {
            Refused::Throttled(wait) => Some(seconds(*wait).max(1)),
            _ => None,
        };
        let body = json!({
            "errorCode": self.code(),
            "trackingId": tracking_id,
            "message": self.to_string(),
            "timestampUtc": now.to_string(),
        });
        Answer { status: self.status(), retry_after_s, body }
    }
}

/// Whole seconds, rounded up: topics carry no others.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(0 < wait.subsec_nanos())
}

/// The device is to ask again.
pub(super) fn assigning(operation_id: &str, registration_id: &str, retry_after: Duration) -> Answer {
    let state = json!({ "registrationId": registration_id, "status": "assigning" });
    let body = json!({ "operationId": operation_id, "status": "assigning", "registrationState": state });
    Answer { status: 202, retry_after_s: Some(seconds(retry_after)), body }
}

/// The enrolment is not enabled.
pub(super) fn disabled(operation_id: &str, registration_id: &str) -> Answer {
    let state = json!({ "registrationId": registration_id, "status": "disabled" });
    let body = json!({ "operationId": operation_id, "status": "disabled", "registrationState": state });
    Answer { status: 200, retry_after_s: None, body }
}

/// What became of a registration.
pub(super) fn done(registration: &Registration) -> Answer {
    let mut state = Map::new();
    let mut say = |name: &str, value: Value| drop(state.insert(name.to_owned(), value));
    let group = registration.group.as_ref();
    let means = if registration.by_certificate { "x509" } else { "symmetricKey" };
    say(means, group.map_or_else(|| json!({}), |group| json!({ "enrollmentGroupId": group })));
    say("registrationId", json!(registration.registration_id));
    say("createdDateTimeUtc", json!(registration.created_at.to_string()));
    say("lastUpdatedDateTimeUtc", json!(registration.updated_at.to_string()));
    say("etag", json!(registration.etag));
    let status = match &registration.outcome {
        Outcome::Assigned => {
            if let Some(assigned) = &registration.assigned {
                say("assignedHub", json!(assigned.hub));
                say("deviceId", json!(assigned.device_id));
                say("substatus", json!(assigned.substatus));
            }
            if let Some(payload) = &registration.payload {
                say("payload", payload.clone());
            }
            "assigned"
        }
        Outcome::Failed { code, message } => {
            say("errorCode", json!(code));
            say("errorMessage", json!(message));
            "failed"
        }
    };
    say("status", json!(status));
    let body = json!({ "operationId": registration.operation_id, "status": status, "registrationState": state });
    Answer { status: 200, retry_after_s: None, body }
}

/// A random UUID of sixteen random bytes.
pub(super) fn uuid(random: [u8; 16]) -> String {
    let mut bits = u128::from_be_bytes(random);
    bits = bits & !(0xf << 76) | 0x4 << 76;
    bits = bits & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::super::registrations::{Assigned, Substatus};
    use super::*;

    fn registration() -> Registration {
        Registration {
            registration_id: "press-7".to_owned(),
            group: Some("line-1".to_owned()),
            by_certificate: false,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(1_000),
            operation_id: "4.0.x".to_owned(),
            etag: "ZQ==".to_owned(),
            first_hub: Some("east".to_owned()),
            assigned: Some(Assigned {
                hub: "east".to_owned(),
                device_id: "d".to_owned(),
                substatus: Substatus::InitialAssignment,
            }),
            outcome: Outcome::Assigned,
            payload: Some(json!({ "a": 1 })),
        }
    }

    #[test]
    fn an_assignment_says_what_the_sdks_read() {
        let answer = done(&registration());
        assert_eq!((answer.status, answer.retry_after_s), (200, None));
        assert_eq!(
            answer.body,
            json!({
                "operationId": "4.0.x",
                "status": "assigned",
                "registrationState": {
                    "symmetricKey": { "enrollmentGroupId": "line-1" },
                    "registrationId": "press-7",
                    "createdDateTimeUtc": "1970-01-01T00:00:00Z",
                    "lastUpdatedDateTimeUtc": "1970-01-01T00:00:01Z",
                    "etag": "ZQ==",
                    "assignedHub": "east",
                    "deviceId": "d",
                    "substatus": "initialAssignment",
                    "payload": { "a": 1 },
                    "status": "assigned",
                },
            })
        );
        let outcome = Outcome::Failed { code: 400_000, message: "why".to_owned() };
        let failed = done(&Registration { outcome, group: None, by_certificate: true, ..registration() }).body;
        assert_eq!((&failed["status"], &failed["registrationState"]["errorCode"]), (&json!("failed"), &json!(400_000)));
        assert_eq!(failed["registrationState"]["x509"], json!({}));
        assert!(failed["registrationState"]["assignedHub"].is_null());
    }

    #[test]
    fn what_is_under_way_says_when_to_ask_again_and_what_is_refused_says_why() {
        let answer = assigning("4.0.x", "press-7", Duration::from_millis(2_100));
        assert_eq!((answer.status, answer.retry_after_s, &answer.body["status"]), (202, Some(3), &json!("assigning")));
        let now = Timestamp::from_millis(0);
        let refused = Refused::Throttled(Duration::from_millis(10)).answer("t", now);
        assert_eq!((refused.status, refused.retry_after_s), (429, Some(1)));
        let refused = Refused::Authority.answer("t", now);
        assert_eq!(
            refused.body,
            json!({
                "errorCode": 401_002,
                "trackingId": "t",
                "message": "CA certificate not found.",
                "timestampUtc": "1970-01-01T00:00:00Z",
            })
        );
        assert_eq!(disabled("4.0.x", "d").body["status"], json!("disabled"));
    }

    #[test]
    fn a_uuid_is_of_version_four() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
