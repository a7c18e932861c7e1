//! [p] What devices call themselves, where they ask, and where they are answered.
//!
//! ```text
//! user name   {idScope}/registrations/{registrationId}/[?]api-version=…[&ClientVersion=…]
//! asks        $dps/registrations/PUT/iotdps-register/?$rid={rid}
//!             $dps/registrations/GET/iotdps-get-operationstatus/?$rid={rid}&operationId={operation}
//! is answered $dps/registrations/res/{status}/?$rid={rid}[&retry-after={seconds}]
//! ```
//!
//! Source: Azure IoT, "Communicate with DPS using the MQTT protocol"; the SDKs for Python and Node.

use shared::topic;

const REGISTRATIONS: &str = "$dps/registrations/";
const ANSWERS: &str = "$dps/registrations/res/";
/// Of a request's id; the SDKs' are UUIDs. A longer one closes the connection.
const RID_BYTES_MAX: usize = 256;

/// A user name as read, not yet believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UserName<'a> {
    pub(super) id_scope: &'a str,
    pub(super) registration_id: &'a str,
}

/// Reads a user name; `None` if it is none. Every api-version will do.
pub(super) fn user_name(text: &str) -> Option<UserName<'_>> {
    let mut parts = text.splitn(4, '/');
    let (id_scope, registrations, registration_id) = (parts.next()?, parts.next()?, parts.next()?);
    let query = parts.next().unwrap_or_default();
    let query = query.strip_prefix('?').unwrap_or(query);
    let whole = !id_scope.is_empty()
        && registrations == "registrations"
        && registration_id_fault(registration_id).is_none()
        && (query.is_empty() || query.starts_with("api-version="));
    whole.then_some(UserName { id_scope, registration_id })
}

/// What is wrong with a registration id, in the words of the service's rules; `None` if nothing is.
pub(super) fn registration_id_fault(id: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    let ends_well = id.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let fits = id.len() <= 128 && ends_well && id.bytes().all(allowed);
    (!fits).then_some("must be 1 to 128 ASCII letters, digits and - . _ : and end in a letter, a digit or -")
}

/// What a device asks; `rid` is as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Register {
        rid: &'a str,
    },
    Status {
        rid: &'a str,
        operation_id: String,
    },
    /// A method or a resource that the service does not have.
    Other {
        rid: &'a str,
    },
}

/// Reads the topic of a publish; `None` if it is none of the service's.
pub(super) fn request(topic: &str) -> Option<Request<'_>> {
    let rest = topic.strip_prefix(REGISTRATIONS).filter(|rest| !rest.starts_with("res/"))?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let rid = rid(query).unwrap_or_default();
    if RID_BYTES_MAX < rid.len() {
        return None;
    }
    Some(match path.trim_end_matches('/') {
        "PUT/iotdps-register" => Request::Register { rid },
        "GET/iotdps-get-operationstatus" => {
            let values = topic::parse_bag(query).unwrap_or_default();
            let operation_id = values.into_iter().find_map(|(name, value)| (name == "operationId").then_some(value));
            Request::Status { rid, operation_id: operation_id.unwrap_or_default() }
        }
        _ => Request::Other { rid },
    })
}

/// The request's id, as it was sent.
fn rid(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        ["$rid", "%24rid"].contains(&name).then_some(value)
    })
}

/// The topic of an answer.
pub(super) fn answer(status: u16, rid: &str, retry_after_s: Option<u64>) -> String {
    let wait = retry_after_s.map(|seconds| format!("&retry-after={seconds}")).unwrap_or_default();
    format!("{ANSWERS}{status}/?$rid={rid}{wait}")
}

/// True for the filter of all answers, and for a narrower one.
pub(super) fn is_answers(filter: &str) -> bool {
    filter.starts_with(ANSWERS) && ANSWERS.len() < filter.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_user_names_that_the_sdks_send_are_read() {
        for text in [
            "0ne0000CAFE/registrations/press-7/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.14.0",
            "0ne0000CAFE/registrations/press-7/api-version=2019-03-31",
            "0ne0000CAFE/registrations/press-7/?api-version=2021-06-01",
            "0ne0000CAFE/registrations/press-7/api-version=2019-03-31&ClientVersion=a/b",
            "0ne0000CAFE/registrations/press-7/",
            "0ne0000CAFE/registrations/press-7",
        ] {
            let read = user_name(text).expect(text);
            assert_eq!((read.id_scope, read.registration_id), ("0ne0000CAFE", "press-7"), "{text}");
        }
        for text in [
            "",
            "0ne0000CAFE",
            "/registrations/press-7/",
            "0ne0000CAFE/registrations//api-version=1",
            "0ne0000CAFE/devices/press-7/api-version=1",
            "0ne0000CAFE/registrations/press-7/version=1",
            "0ne0000CAFE/registrations/press 7/",
            "0ne0000CAFE/registrations/press-7./",
        ] {
            assert_eq!(user_name(text), None, "{text}");
        }
    }

    #[test]
    fn what_the_sdks_ask_is_read_and_the_answer_carries_their_request_id() {
        let rid = "0f1e-2d";
        assert_eq!(request("$dps/registrations/PUT/iotdps-register/?$rid=0f1e-2d"), Some(Request::Register { rid }));
        assert_eq!(
            request("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=0f1e-2d&operationId=4.a%2Fb"),
            Some(Request::Status { rid, operation_id: "4.a/b".to_owned() })
        );
        assert_eq!(request("$dps/registrations/PUT/iotdps-register/?%24rid=0f1e-2d"), Some(Request::Register { rid }));
        assert_eq!(request("$dps/registrations/PUT/iotdps-register"), Some(Request::Register { rid: "" }));
        assert_eq!(request("$dps/registrations/POST/iotdps-register/?$rid=0f1e-2d"), Some(Request::Other { rid }));
        for other in ["", "a/b", "$dps/", "$dps/registrations/res/200/?$rid=1", "$iothub/twin/GET/?$rid=1"] {
            assert_eq!(request(other), None, "{other}");
        }
        assert_eq!(request(&format!("$dps/registrations/PUT/iotdps-register/?$rid={}", "r".repeat(257))), None);
        assert_eq!(answer(202, rid, Some(3)), "$dps/registrations/res/202/?$rid=0f1e-2d&retry-after=3");
        assert_eq!(answer(200, rid, None), "$dps/registrations/res/200/?$rid=0f1e-2d");
        assert!(is_answers("$dps/registrations/res/#") && is_answers("$dps/registrations/res/+/+"));
        assert!(!is_answers("$dps/registrations/#") && !is_answers("#") && !is_answers("$dps/registrations/res/"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            any in ".{0,80}",
            like in "(\\$dps|registrations|PUT|GET|iotdps-register|iotdps-get-operationstatus|operationId|\\$rid|/|[?]|=|&|%[0-9a-f]{0,2}|[a-z0-9]){0,20}",
        ) {
            for text in [&any, &like, &format!("{REGISTRATIONS}{like}"), &format!("0ne/registrations/{like}")] {
                let _ = user_name(text);
                if let Some(Request::Register { rid } | Request::Status { rid, .. } | Request::Other { rid }) = request(text) {
                    prop_assert!(text.contains(rid) && rid.len() <= RID_BYTES_MAX);
                }
            }
        }
    }
}
