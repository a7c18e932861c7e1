//! Microsoft's `EventProcessor`, with checkpoints in this process's memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use azure_core::http::Etag;
use azure_core::time::{Duration, OffsetDateTime};
use azure_messaging_eventhubs::models::{Checkpoint, Ownership, StartPositions};
use azure_messaging_eventhubs::{CheckpointStore, EventProcessor, StartLocation, StartPosition};
use futures::StreamExt as _;
use shared::clock::Clock;

use super::eventhubs::{body, client, equal, within};
use super::hub::{Hub, Mine};

#[derive(Default)]
struct Memory {
    held: Mutex<Held>,
}

/// By partition.
#[derive(Default)]
struct Held {
    checkpoints: HashMap<String, Checkpoint>,
    ownerships: HashMap<String, Ownership>,
    claims: u64,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CheckpointStore for Memory {
    async fn claim_ownership(&self, wanted: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
        let mut held = self.lock();
        let mut claimed = vec![];
        for ownership in wanted {
            if held.ownerships.get(&ownership.partition_id).is_some_and(|held| held.etag != ownership.etag) {
                continue;
            }
            held.claims += 1;
            let mut taken = ownership.clone();
            taken.etag = Some(Etag::from(held.claims.to_string()));
            let now = Clock::Real.now();
            taken.last_modified_time = OffsetDateTime::from_unix_timestamp(now.millis() / 1_000).ok();
            held.ownerships.insert(taken.partition_id.clone(), taken.clone());
            claimed.push(taken);
        }
        Ok(claimed)
    }

    async fn list_checkpoints(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Checkpoint>> {
        Ok(self.lock().checkpoints.values().cloned().collect())
    }

    async fn list_ownerships(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Ownership>> {
        Ok(self.lock().ownerships.values().cloned().collect())
    }

    async fn update_checkpoint(&self, checkpoint: Checkpoint) -> azure_core::Result<()> {
        self.lock().checkpoints.insert(checkpoint.partition_id.clone(), checkpoint);
        Ok(())
    }
}

/// A second processor goes on where the first one came to.
pub(super) async fn goes_on(hub: &Hub) -> Result<(), String> {
    let mine = hub.publish(10, "")?;
    let store = Arc::new(Memory::default());
    equal(&process(hub, &mine, &store, 4).await?, &[0, 1, 2, 3])?;
    store.lock().ownerships.clear();
    equal(&process(hub, &mine, &store, 6).await?, &[4, 5, 6, 7, 8, 9])
}

/// Runs a processor until it has read `count` events of `mine`.
async fn process(hub: &Hub, mine: &Mine, store: &Arc<Memory>, count: usize) -> Result<Vec<i64>, String> {
    let start = StartPosition { location: StartLocation::SequenceNumber(mine.first), inclusive: true };
    let latest = StartPosition { location: StartLocation::Latest, inclusive: false };
    let per_partition = [(mine.partition.clone(), start)].into_iter().collect();
    let processor = EventProcessor::builder()
        .with_update_interval(Duration::milliseconds(200))
        .with_partition_expiration_duration(Duration::seconds(20))
        .with_start_positions(StartPositions { per_partition, default: latest })
        .build(client(hub, "/amqp/url", None).await?, Arc::<Memory>::clone(store));
    let processor = within(processor).await?.map_err(said)?;
    let running = tokio::spawn({
        let processor = Arc::clone(&processor);
        async move { processor.run().await }
    });
    let (mut numbers, mut others) = (vec![], vec![]);
    while numbers.len() < count {
        let client = within(processor.next_partition_client()).await?.map_err(said)?;
        if client.get_partition_id() == mine.partition {
            let mut events = client.stream_events();
            while numbers.len() < count {
                let event = within(events.next()).await?.ok_or("the stream ended")?.map_err(said)?;
                client.update_checkpoint(&event).await.map_err(said)?;
                numbers.extend(mine.number(body(&event)));
            }
        }
        others.push(client);
    }
    processor.shutdown().await.map_err(said)?;
    drop(others);
    within(running).await?.map_err(|error| error.to_string())?.map_err(said)?;
    Ok(numbers)
}

fn said(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
