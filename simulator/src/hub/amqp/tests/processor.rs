//! Microsoft's `EventProcessor`, with checkpoints in this process's memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use azure_core::http::Etag;
use azure_core::time::{Duration, OffsetDateTime};
use azure_messaging_eventhubs::models::{Checkpoint, Ownership, StartPositions};
use azure_messaging_eventhubs::processor::PartitionClient;
use azure_messaging_eventhubs::{CheckpointStore, EventProcessor, StartLocation, StartPosition};
use futures::StreamExt as _;
use tempfile::tempdir;

use super::kit::{TestHub, within};

#[derive(Default)]
struct Memory {
    /// By partition.
    checkpoints: Mutex<HashMap<String, Checkpoint>>,
    ownerships: Mutex<HashMap<String, Ownership>>,
    claims: Mutex<u64>,
}

#[async_trait]
impl CheckpointStore for Memory {
    async fn claim_ownership(&self, wanted: &[Ownership]) -> azure_core::Result<Vec<Ownership>> {
        let mut held = self.ownerships.lock().expect("no panic");
        let mut claims = self.claims.lock().expect("no panic");
        let mut claimed = vec![];
        for ownership in wanted {
            if held.get(&ownership.partition_id).is_some_and(|held| held.etag != ownership.etag) {
                continue;
            }
            *claims += 1;
            let mut taken = ownership.clone();
            taken.etag = Some(Etag::from(claims.to_string()));
            taken.last_modified_time = Some(OffsetDateTime::now_utc());
            held.insert(taken.partition_id.clone(), taken.clone());
            claimed.push(taken);
        }
        Ok(claimed)
    }

    async fn list_checkpoints(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Checkpoint>> {
        Ok(self.checkpoints.lock().expect("no panic").values().cloned().collect())
    }

    async fn list_ownerships(&self, _: &str, _: &str, _: &str) -> azure_core::Result<Vec<Ownership>> {
        Ok(self.ownerships.lock().expect("no panic").values().cloned().collect())
    }

    async fn update_checkpoint(&self, checkpoint: Checkpoint) -> azure_core::Result<()> {
        self.checkpoints.lock().expect("no panic").insert(checkpoint.partition_id.clone(), checkpoint);
        Ok(())
    }
}

/// Reads so many events of a partition, and notes where it came to.
async fn read(client: &PartitionClient, count: usize) -> Vec<i64> {
    let mut events = client.stream_events();
    let mut numbers = vec![];
    while numbers.len() < count {
        let event = within(events.next()).await.expect("the stream goes on").expect("an event");
        client.update_checkpoint(&event).await.expect("noted");
        numbers.push(event.sequence_number().expect("always there"));
    }
    numbers
}

/// Runs a processor until it has read `count` events of each partition.
async fn process(hub: &TestHub, store: Arc<Memory>, count: usize) -> HashMap<String, Vec<i64>> {
    let start = StartPosition { location: StartLocation::Earliest, inclusive: false };
    let processor = EventProcessor::builder()
        .with_update_interval(Duration::milliseconds(200))
        .with_partition_expiration_duration(Duration::seconds(20))
        .with_start_positions(StartPositions { default: start, ..StartPositions::default() })
        .build(hub.consumer().await, store);
    let processor = within(processor).await.expect("built");
    let running = tokio::spawn({
        let processor = Arc::clone(&processor);
        async move { processor.run().await }
    });
    let mut numbers = HashMap::new();
    let mut clients = vec![];
    for _ in 0..2 {
        let client = within(processor.next_partition_client()).await.expect("claimed");
        let read = read(&client, count).await;
        numbers.insert(client.get_partition_id().to_owned(), read);
        clients.push(client);
    }
    processor.shutdown().await.expect("told");
    drop(clients);
    within(running).await.expect("no panic").expect("ended");
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_goes_on_at_its_checkpoints() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    for partition in [0, 1] {
        hub.fill(&hub.device_of(partition), 100).await;
    }
    let store = Arc::new(Memory::default());
    for (count, expected) in [(40, 0..40), (60, 40..100)] {
        let numbers = process(&hub, Arc::clone(&store), count).await;
        for partition in ["0", "1"] {
            let numbers = numbers.get(partition).map(Vec::as_slice).unwrap_or_default();
            assert!(numbers.iter().copied().eq(expected.clone()), "partition {partition}: {numbers:?}");
        }
        store.ownerships.lock().expect("no panic").clear();
    }
    hub.stop().await;
}
