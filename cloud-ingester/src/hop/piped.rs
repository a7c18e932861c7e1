//! Three things at a time: versions of bronze are read ahead, what they hold is decided on a thread, and files are written
//! behind it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::error::HopError;
use super::silver::TARGETS;
use crate::lake::{Add, Change, FileWriter, Lake, LakeError, View, carried};
use crate::silver::events::BRONZE_COLUMNS;
use crate::silver::replays::Replays;
use crate::silver::{Rules, Seen, Target, Totals, work};

/// Versions of bronze that are read ahead take about so much memory: of one that takes more, the next is not. (How large one
/// is shows when it is read: after small ones, once, some large ones may be on their way together.)
const AHEAD_BYTES_MAX: usize = 48 << 20;

/// And they are not more than these.
const AHEAD_MAX: usize = 4;

/// How many versions are read ahead where one takes so many bytes: one is as large as the other, as a rule.
fn ahead_of(bytes: usize) -> usize {
    (AHEAD_BYTES_MAX / bytes.max(1)).min(AHEAD_MAX)
}

/// Versions of bronze, one after the other, of which some are read before they are asked for.
pub(super) struct Ahead<'v> {
    bronze: &'v View,
    changes: std::vec::IntoIter<Change>,
    reading: VecDeque<AbortOnDropHandle<Result<Vec<RecordBatch>, LakeError>>>,
}

impl<'v> Ahead<'v> {
    pub(super) fn new(bronze: &'v View, changes: Vec<Change>) -> Self {
        Self { bronze, changes: changes.into_iter(), reading: VecDeque::new() }
    }

    /// The rows of the next version.
    pub(super) async fn next(&mut self) -> Option<Result<Vec<RecordBatch>, HopError>> {
        let begun = self.reading.pop_front();
        let rows = match begun.or_else(|| self.changes.next().map(|change| rows_of(self.bronze, change)))?.await {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => return Some(Err(error.into())),
            Err(error) => return Some(Err(error.into())),
        };
        let more = ahead_of(rows.iter().map(RecordBatch::get_array_memory_size).sum());
        let more = self.changes.by_ref().take(more.saturating_sub(self.reading.len()));
        self.reading.extend(more.map(|change| rows_of(self.bronze, change)));
        Some(Ok(rows))
    }
}

/// What a version of bronze added, read by a task of its own.
fn rows_of(bronze: &View, change: Change) -> AbortOnDropHandle<Result<Vec<RecordBatch>, LakeError>> {
    let bronze = bronze.clone();
    AbortOnDropHandle::new(tokio::spawn(carried(async move {
        let mut rows = vec![];
        for add in &change.adds {
            rows.extend(bronze.read(add, &BRONZE_COLUMNS).await?);
        }
        Ok(rows)
    })))
}

/// Decides on a thread where it holds up nothing else; what it decides is handed to `writing`.
pub(super) async fn on_thread(
    rows: Vec<RecordBatch>,
    rules: Arc<Rules>,
    mut seen: Seen,
    mut totals: Totals,
    mut replays: Replays,
    writing: &Writing,
) -> Result<(Seen, Totals, Replays), HopError> {
    let batches = writing.batches.clone();
    let worked = tokio::task::spawn_blocking(move || {
        work(&rows, &rules, &mut seen, &mut totals, &mut replays, |target, batch| {
            // Where nobody takes it, writing has failed; its end will say why.
            let _ = batches.blocking_send((target, batch));
        });
        (seen, totals, replays)
    });
    Ok(worked.await?)
}

/// Files for the three tables, written as rows come.
#[derive(Default)]
pub(super) struct Out {
    writers: [Option<FileWriter>; 3],
    /// How many were written for each.
    pub(super) rows: [u64; 3],
}

impl Out {
    /// Writes rows for the table at this place of [`TARGETS`].
    pub(super) async fn write(&mut self, lake: &Lake, at: usize, batch: RecordBatch) -> Result<(), LakeError> {
        self.rows[at] += batch.num_rows() as u64;
        self.add(lake, at, batch).await
    }

    /// Rows that were counted in an earlier commit.
    pub(super) async fn add(&mut self, lake: &Lake, at: usize, batch: RecordBatch) -> Result<(), LakeError> {
        let writer = match &mut self.writers[at] {
            Some(writer) => writer,
            none => none.insert(lake.writer(TARGETS[at]).await?),
        };
        writer.write(batch).await
    }

    /// The files of one table, to be committed.
    pub(super) async fn files(&mut self, at: usize) -> Result<Vec<Add>, LakeError> {
        match self.writers[at].take() {
            Some(writer) => writer.finish().await,
            None => Ok(vec![]),
        }
    }
}

/// Writes batches while others are made.
pub(super) struct Writing {
    batches: mpsc::Sender<(Target, RecordBatch)>,
    task: AbortOnDropHandle<Result<Out, LakeError>>,
}

/// Batches that may wait to be written.
const WAITING: usize = 2;

impl Writing {
    pub(super) fn begin(lake: &Arc<Lake>) -> Self {
        let (batches, mut waiting) = mpsc::channel::<(Target, RecordBatch)>(WAITING);
        let lake = Arc::clone(lake);
        let task = tokio::spawn(carried(async move {
            let mut out = Out::default();
            while let Some((target, batch)) = waiting.recv().await {
                out.write(&lake, target as usize, batch).await?;
            }
            Ok(out)
        }));
        Self { batches, task: AbortOnDropHandle::new(task) }
    }

    /// Everything is written.
    pub(super) async fn end(self) -> Result<Out, HopError> {
        drop(self.batches);
        Ok(self.task.await??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_versions_are_read_ahead_some_at_a_time_and_large_ones_are_not() {
        const MIB: usize = 1 << 20;
        for (bytes, expected) in [(0, 4), (MIB, 4), (12 * MIB, 4), (16 * MIB, 3), (48 * MIB, 1), (48 * MIB + 1, 0)] {
            assert_eq!(ahead_of(bytes), expected, "{bytes}");
        }
    }
}
