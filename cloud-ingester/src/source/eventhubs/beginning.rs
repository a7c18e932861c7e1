//! Where each partition of a hub would be begun.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, StartLocation, StartPosition};
use futures::StreamExt as _;
use shared::time::Timestamp;

use super::Target;
use super::client::{describe, explain, open};
use super::follow::{Asked as _, stream};
use crate::source::Stream;

/// How long the first Event after a moment may take to come, once the partition holds one.
const COMES_WITHIN: Duration = Duration::from_secs(10);

/// A position to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After what there is.
    Latest,
    /// At this number.
    Number(i64),
    /// At the first Event the hub took then or later.
    Time(Timestamp),
}

/// The first number to be read of each partition, or of one.
///
/// # Errors
/// What the hub says.
pub async fn positions(target: &Target, begin: Begin, only: Option<i32>) -> Result<Vec<(Stream, i64)>, String> {
    let client = open(target).await?;
    let (name, incarnation, ids) = describe(&client).await?;
    let hub: Arc<str> = name.into();
    let mut found = vec![];
    for id in ids {
        let stream = stream(&hub, incarnation, &id).ok_or(format!("partition `{id}` is not a number"))?;
        if only.is_some_and(|only| only != stream.partition) {
            continue;
        }
        let partition = client.partition(&id).await?;
        let end = partition.last_enqueued + 1;
        let first = match begin {
            Begin::Latest => end,
            Begin::Number(number) if end < number => {
                return Err(format!("{stream} ends before {number}: its next Event is {end}"));
            }
            Begin::Number(number) => number,
            Begin::Time(_) if partition.is_empty => end,
            Begin::Time(time) => first_since(&client, &id, time).await?.unwrap_or(end),
        };
        found.push((stream, first));
    }
    if found.is_empty() {
        return Err(format!("{hub} has no partition {}", only.unwrap_or_default()));
    }
    let _ = tokio::time::timeout(Duration::from_secs(2), client.close()).await;
    Ok(found)
}

async fn first_since(client: &ConsumerClient, id: &str, time: Timestamp) -> Result<Option<i64>, String> {
    let micros = u64::try_from(time.micros()).unwrap_or(0);
    let location = StartLocation::EnqueuedTime(UNIX_EPOCH + Duration::from_micros(micros));
    let options = OpenReceiverOptions {
        prefetch: Some(1),
        start_position: Some(StartPosition { location, inclusive: true }),
        ..OpenReceiverOptions::default()
    };
    let receiver = client.open_receiver_on_partition(id.to_owned(), Some(options)).await;
    let receiver = receiver.map_err(|error| explain("opening a partition", &error))?;
    let mut received = std::pin::pin!(receiver.stream_events());
    match tokio::time::timeout(COMES_WITHIN, received.next()).await {
        Ok(Some(Ok(event))) => Ok(event.sequence_number()),
        Ok(Some(Err(error))) => Err(explain("reading a partition", &error)),
        Ok(None) | Err(_) => Ok(None),
    }
}
