//! What a commit costs, at a table's hundredth version and at its hundred thousandth.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::clock::Clock;
use shared::time::Timestamp;

use super::{CHECKPOINT_EVERY, Kind, Lake, LakeError, Location, Metered, Requests, Table, TableCommit, Txn};
use crate::bronze::rows;
use crate::source::{Event, Stream};

/// What was measured at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The table's version when the commits began.
    pub version: i64,
    /// Commits made, none of them with a checkpoint.
    pub commits: i64,
    /// Requests of all of them.
    pub requests: Requests,
    /// Names listings gave.
    pub listed: u64,
    /// Requests of a checkpoint and of opening the table anew behind it.
    pub checkpoint: Requests,
    /// Opening a lake that was never opened here.
    pub open: Duration,
    /// One commit.
    pub commit: Duration,
}

const TABLE: Table = Table::BronzeMessages;
const APP: &str = "bronze/h/7/0";
const LAKE: &str = "memory:///lake";

fn failed(error: impl std::fmt::Display) -> LakeError {
    LakeError::Beside { act: "make up", path: TABLE.path(), detail: error.to_string() }
}

fn commit(number: i64) -> TableCommit {
    let event = Event {
        stream: Stream { hub: "h".into(), incarnation: 7, partition: 0 },
        sequence_number: number,
        offset: None,
        enqueued_time: Some(Timestamp::from_millis(1_790_000_000_000)),
        device_id: Some("g".to_owned()),
        message_id: None,
        content_type: None,
        properties: vec![],
        system_properties: vec![],
        body: "{}".into(),
        body_encoding: None,
    };
    TableCommit {
        table: TABLE,
        kind: Kind::Append,
        batches: vec![rows::batch(&[event], Timestamp::from_millis(1_790_000_000_000))],
        txns: vec![Txn { app: APP.to_owned(), expected: (number != 0).then_some(number - 1), version: number }],
        metadata: vec![],
    }
}

fn open(storage: &Arc<Metered>) -> Result<Lake, LakeError> {
    Lake::over(Location::parse(LAKE, HashMap::new())?, Arc::clone(storage) as _, Clock::Real)
}

/// A lake whose bronze has a hundred versions; with `versions`, as many, all but the first hundred made up: entries that
/// hold progress only, and a checkpoint where the last multiple of [`CHECKPOINT_EVERY`] is.
async fn made_up(versions: i64) -> Result<(Arc<Metered>, i64), LakeError> {
    let storage = Arc::new(Metered::default());
    let lake = open(&storage)?;
    lake.create_tables().await?;
    let first = 5 * CHECKPOINT_EVERY - 1;
    for number in 0..first {
        lake.commit(commit(number), None).await?;
    }
    let log = format!("lake/{}/_delta_log", TABLE.path());
    let mut number = first - 1;
    if first < versions {
        let last = versions / CHECKPOINT_EVERY * CHECKPOINT_EVERY - 1;
        for version in first + 1..=last {
            let entry = json!({"commitInfo": {"timestamp": 1_790_000_000_000_i64, "operation": "WRITE", "operationParameters": {}}});
            storage.place(&format!("{log}/{version:020}.json"), entry.to_string().into()).await.map_err(failed)?;
        }
        let checkpoint = storage.fetch(&format!("{log}/{first:020}.checkpoint.parquet")).await.map_err(failed)?;
        storage.place(&format!("{log}/{last:020}.checkpoint.parquet"), checkpoint).await.map_err(failed)?;
        let hint = storage.fetch(&format!("{log}/_last_checkpoint")).await.map_err(failed)?;
        let mut hint: Value = serde_json::from_slice(&hint).map_err(failed)?;
        hint["version"] = json!(last);
        storage.place(&format!("{log}/_last_checkpoint"), hint.to_string().into()).await.map_err(failed)?;
        number = first - 1;
    }
    Ok((storage, number))
}

/// Measures commits at about `versions` versions; 100 is the least.
///
/// # Errors
/// What the lake says.
pub async fn measure(versions: i64) -> Result<Cost, LakeError> {
    let (storage, mut number) = made_up(versions).await?;
    let begun = Instant::now();
    let lake = open(&storage)?;
    let version = lake.view(TABLE).await?.version();
    let open = begun.elapsed();
    storage.take();
    let begun = Instant::now();
    let commits = CHECKPOINT_EVERY - 2;
    for _ in 0..commits {
        number += 1;
        lake.commit(commit(number), None).await?;
    }
    let took = begun.elapsed();
    let (requests, listed) = storage.take();
    for _ in commits..CHECKPOINT_EVERY {
        number += 1;
        storage.take();
        lake.commit(commit(number), None).await?;
    }
    let (checkpoint, _) = storage.take();
    let commit = took / u32::try_from(commits).unwrap_or(1);
    Ok(Cost { version, commits, requests, listed, checkpoint, open, commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_asks_as_much_of_the_storage_at_version_100_000_as_at_100() {
        let (young, old) = (measure(100).await.expect("measured"), measure(100_000).await.expect("measured"));
        assert_eq!((young.version, old.version), (99, 99_999));
        assert_eq!(young.requests, old.requests);
        assert_eq!(young.listed, old.listed);
        assert_eq!(young.checkpoint, old.checkpoint);
        // The file and what tells of it, each once: readers are told of a size, and hold on to it.
        assert_eq!(young.checkpoint.get("checkpoint put"), Some(&2), "{young:?}");
        assert_eq!(young.requests.get("log put"), Some(&18), "{young:?}");
    }
}
