//! `$management`: what the hub says about itself and its partitions.

use fe2o3_amqp_types::primitives::{Array, OrderedMap, Timestamp, Value};

use super::request::{Request, Response};
use crate::hub::log::Log;

const HUB: &str = "com.microsoft:eventhub";
const PARTITION: &str = "com.microsoft:partition";

/// Answers one question.
pub(super) fn answer(request: &Request, name: &str, log: &Log) -> Response {
    let text = |property| request.text(property).unwrap_or_default();
    if !text("operation").eq_ignore_ascii_case("READ") {
        return Response::refused(501, "the only operation is READ");
    }
    if !text("name").eq_ignore_ascii_case(name) {
        let asked = text("name");
        return Response::refused(
            404,
            format!("The messaging entity '{asked}' could not be found. This hub is '{name}'."),
        );
    }
    let attributes = match text("type").as_str() {
        HUB => Some(of_hub(name, log)),
        PARTITION => of_partition(name, &text("partition"), log),
        kind => return Response::refused(400, format!("'{kind}' cannot be read; use '{HUB}' or '{PARTITION}'")),
    };
    match attributes {
        Some(attributes) => {
            let body = attributes.into_iter().map(|(key, value)| (Value::from(key), value)).collect();
            Response { status: 200, description: "OK".to_owned(), body: Value::Map(body) }
        }
        None => Response::refused(404, no_partition(&text("partition"), log.partition_count())),
    }
}

/// What to tell a peer that asks for a partition the hub has not.
pub(super) fn no_partition(asked: &str, count: u32) -> String {
    format!("The specified partition is invalid for an EventHub: '{asked}'. It has the partitions 0 to {}.", count - 1)
}

/// Reads a partition's id as the service writes it: `0`, `1`, … without sign or zeros in front.
pub(super) fn partition_id(text: &str, count: u32) -> Option<u32> {
    text.parse().ok().filter(|id: &u32| *id < count && id.to_string() == text)
}

type Attributes = OrderedMap<&'static str, Value>;

fn of_hub(name: &str, log: &Log) -> Attributes {
    let ids = (0..log.partition_count()).map(|id| Value::from(id.to_string())).collect();
    [
        ("name", Value::from(name)),
        ("type", Value::from(HUB)),
        ("created_at", Value::Timestamp(Timestamp::from_milliseconds(log.created_at()))),
        ("partition_count", Value::Int(i32::try_from(log.partition_count()).unwrap_or(i32::MAX))),
        ("partition_ids", Value::Array(Array(ids))),
    ]
    .into_iter()
    .collect()
}

fn of_partition(name: &str, partition: &str, log: &Log) -> Option<Attributes> {
    let info = log.info(partition_id(partition, log.partition_count())?)?;
    let attributes = [
        ("name", Value::from(name)),
        ("type", Value::from(PARTITION)),
        ("partition", Value::from(partition)),
        ("begin_sequence_number", Value::Long(info.begin_sequence_number)),
        ("last_enqueued_sequence_number", Value::Long(info.last_enqueued_sequence_number)),
        ("last_enqueued_offset", Value::from(info.last_enqueued_offset)),
        ("last_enqueued_time_utc", Value::Timestamp(Timestamp::from_milliseconds(info.last_enqueued_time.millis()))),
        ("is_partition_empty", Value::Bool(info.is_empty)),
        // Microsoft's Rust SDK refuses an answer without it.
        ("last_enqueued_sequence_number_epoch", Value::Int(-1)),
    ];
    Some(attributes.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use shared::clock::{Clock, VirtualClock};

    use super::*;
    use crate::hub::log::Options;

    #[test]
    fn partition_ids_have_one_spelling() {
        for (text, is) in
            [("0", Some(0)), ("3", Some(3)), ("4", None), ("03", None), ("+1", None), ("-1", None), ("", None)]
        {
            assert_eq!(partition_id(text, 4), is, "{text}");
        }
    }

    #[test]
    fn a_question_is_answered_or_refused_with_the_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = Clock::Virtual(VirtualClock::at(shared::time::Timestamp::from_millis(1_790_000_000_123)));
        let options = Options::new(2, clock);
        let log = Log::open(&directory.path().join("log"), &options).expect("a log");
        for (operation, kind, name, partition, status) in [
            ("READ", HUB, "myhub", "", 200),
            ("read", HUB, "MyHub", "", 200),
            ("READ", PARTITION, "myhub", "1", 200),
            ("READ", PARTITION, "myhub", "2", 404),
            ("READ", PARTITION, "myhub", "", 404),
            ("READ", HUB, "other", "", 404),
            ("READ", "com.microsoft:colour", "myhub", "", 400),
            ("DELETE", HUB, "myhub", "", 501),
            ("", "", "", "", 501),
        ] {
            let properties = [("operation", operation), ("type", kind), ("name", name), ("partition", partition)];
            let response = answer(&Request::with(&properties), "myhub", &log);
            assert_eq!(response.status, status, "{properties:?}");
            assert_eq!(response.body == Value::Null, status != 200, "{properties:?}");
        }
        let created_at = of_hub("myhub", &log).get("created_at").cloned();
        assert_eq!(created_at, Some(Value::Timestamp(Timestamp::from_milliseconds(1_790_000_000_123))));
    }
}
