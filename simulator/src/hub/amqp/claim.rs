//! What a receiver of events asks for when it attaches: where it begins, whether it wants to be the only one.

use fe2o3_amqp_types::definitions::{self, AmqpError, ErrorCondition, LinkError};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::sync::oneshot;

use super::connection::{Shared, error, not_found};
use super::owners::Denied;
use super::receiver::{Delivery, Ending, Place};
use super::{address, filter, management};
use crate::hub::log::Position;

/// What asks for runtime metrics, and offers them.
pub(super) const METRICS: &str = "com.microsoft:enable-receiver-runtime-metric";
const EPOCH: &str = "com.microsoft:epoch";
const SELECTOR: &str = "apache.org:selector-filter:string";
/// The same, misspelt, by one SDK.
const RECEIVER_NAMES: [&str; 2] = ["com.microsoft:receiver-name", "com.microsoft.com:receiver-name"];

/// What a receiver is to be given, and its place among the receivers of the partition.
///
/// # Errors
/// With what the link is to be closed.
pub(super) async fn receive(
    attach: &Attach,
    address: &str,
    consumer_group: &str,
    partition: &str,
    shared: &Shared,
) -> Result<(Delivery, Place), definitions::Error> {
    let log = shared.hub.log();
    let count = log.partition_count();
    let id = management::partition_id(partition, count)
        .ok_or_else(|| not_found(management::no_partition(partition, count)))?;
    let position = position(attach).map_err(|bad| error(AmqpError::InvalidField, bad.to_string()))?;
    within(position, id, shared)?;
    let next = log.seek(id, position).await.map_err(|disk| {
        tracing::error!(partition = id, error = %disk, "failed to seek in the log");
        error(AmqpError::InternalError, format!("the log of partition {id} cannot be read"))
    })?;
    let place = claim(attach, consumer_group, id, shared)?;
    let desired = attach.desired_capabilities.as_ref();
    let metrics = desired.is_some_and(|desired| desired.iter().any(|capability| capability.as_str() == METRICS));
    let delivery = Delivery { partition: id, next, path: address::path(address).to_owned(), metrics };
    Ok((delivery, place))
}

/// Takes a place among the receivers, and tells those who lose theirs.
fn claim(attach: &Attach, consumer_group: &str, partition: u32, shared: &Shared) -> Result<Place, definitions::Error> {
    let level = property(attach, EPOCH).and_then(|value| match value {
        Value::Long(level) => Some(*level),
        Value::Int(level) => Some(i64::from(*level)),
        _ => None,
    });
    let name = RECEIVER_NAMES.iter().find_map(|name| property(attach, name)).and_then(|value| match value {
        Value::String(name) => Some(name.as_str()),
        _ => None,
    });
    let key = (consumer_group.to_ascii_lowercase(), partition);
    let (tell, lost) = oneshot::channel();
    let claimed = shared.hub.owners().claim(key.clone(), level, tell).map_err(|denied| {
        let condition: ErrorCondition = match denied {
            Denied::Owned { .. } => LinkError::Stolen.into(),
            Denied::Full => AmqpError::ResourceLimitExceeded.into(),
        };
        definitions::Error::new(condition, denied.to_string(), None)
    })?;
    for displaced in claimed.displaced {
        let (name, level) = (name.unwrap_or("nil"), level.unwrap_or_default());
        let why = format!(
            "New receiver '{name}' with higher epoch of '{level}' is created hence current receiver is getting \
             disconnected. If you are recreating the receiver, make sure a higher epoch is used."
        );
        // Who has just gone by itself need not be told.
        let _ = displaced.send(Ending::Stolen(why));
    }
    Ok(Place { shared: shared.clone(), key, id: claimed.id, lost })
}

/// Refuses a position behind the end: it is one of another log, and waiting for it would hide a loss.
fn within(position: Position, partition: u32, shared: &Shared) -> Result<(), definitions::Error> {
    let Some(info) = shared.hub.log().info(partition) else { return Ok(()) };
    let last_offset = info.last_enqueued_offset.parse().unwrap_or(-1_i64);
    let (what, asked, last) = match position {
        Position::Offset { offset, .. } if last_offset < offset => ("offset", offset, last_offset),
        Position::Sequence { sequence_number, inclusive } => {
            let last = info.last_enqueued_sequence_number;
            if sequence_number <= last.saturating_add(i64::from(inclusive)) {
                return Ok(());
            }
            ("sequence number", sequence_number, last)
        }
        _ => return Ok(()),
    };
    let why = format!(
        "The supplied {what} '{asked}' is invalid. The last {what} in the system is '{last}' (partition {partition}, hub \
         made at {} ms).",
        shared.hub.log().created_at()
    );
    let condition = ErrorCondition::Custom(Symbol::from("com.microsoft:argument-out-of-range"));
    Err(definitions::Error::new(condition, why, None))
}

/// Where the receiver wants to begin: at the beginning, unless a filter says otherwise.
fn position(attach: &Attach) -> Result<Position, filter::BadFilter> {
    let filters = attach.source.as_ref().and_then(|source| source.filter.as_ref());
    match filters.and_then(|filters| filters.get(SELECTOR)) {
        None | Some(Value::Null) => Ok(Position::Earliest),
        Some(value) => filter::parse(selector(value)),
    }
}

/// The text of a filter, described (by code or by name) or bare.
fn selector(value: &Value) -> &str {
    match value {
        Value::Described(described) => selector(&described.value),
        Value::String(text) => text,
        Value::Symbol(symbol) => symbol.as_str(),
        Value::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

fn property<'a>(attach: &'a Attach, name: &str) -> Option<&'a Value> {
    attach.properties.as_ref()?.get(name)
}
