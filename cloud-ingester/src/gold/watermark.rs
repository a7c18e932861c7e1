//! gold.watermarks: until when all is here, as far as can be told. Pure but for reading files.
//!
//! The watermark of a partition is the latest of its readings' times, a reading's time being its own or its arrival at the
//! hub, whichever is earlier. A partition from which nothing came for a minute moves with the clock. That of the lake is
//! the earliest of its partitions' less `lateness`. None ever goes back: late rows are computed all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{Int32Type, Int64Type};

use super::affected::times;
use crate::lake::{Add, LakeError, Table, View};

/// A hub, its incarnation, a partition.
pub type Partition = (String, i64, i32);

/// How watermarks are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How much later than its neighbours a reading may come and still be waited for.
    pub lateness: Duration,
    /// A partition from which nothing came for so long moves with the clock.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lateness: Duration::from_secs(600), idle: Duration::from_secs(60) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    watermark: i64,
    /// When something came last, by our clock.
    moved: i64,
}

/// All watermarks, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermarks {
    partitions: BTreeMap<Partition, Mark>,
    lake: Option<i64>,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Watermarks {
    /// As the table holds them; at `now` none of the partitions counts as idle yet.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn of_table(view: &View, now: i64) -> Result<Self, LakeError> {
        let mut found = Self::default();
        for add in view.all_files() {
            for batch in view.read(&add, &["hub", "incarnation", "partition_id", "watermark"]).await? {
                let (hubs, incarnations, partitions) = place(&batch);
                let marks = times(&batch, "watermark");
                for at in 0..batch.num_rows() {
                    if partitions.is_null(at) {
                        found.lake = Some(marks.value(at));
                        continue;
                    }
                    let partition = (hubs.value(at).to_owned(), incarnations.value(at), partitions.value(at));
                    found.see(partition, marks.value(at), now);
                }
            }
        }
        Ok(found)
    }

    /// Takes in the readings of a file.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn learn(&mut self, view: &View, add: &Add, now: i64) -> Result<(), LakeError> {
        let columns = ["hub", "incarnation", "partition_id", "event_time", "enqueued_time"];
        for batch in view.read(add, &columns).await? {
            let (hubs, incarnations, partitions) = place(&batch);
            let (event, enqueued) = (times(&batch, "event_time"), times(&batch, "enqueued_time"));
            let mut last: Option<(usize, i64)> = None;
            for at in 0..batch.num_rows() {
                let mut time = event.value(at);
                if !enqueued.is_null(at) {
                    time = time.min(enqueued.value(at));
                }
                // Rows of one partition stand together: it is looked up once for all of them.
                last = Some(match last {
                    Some((first, latest))
                        if partitions.value(first) == partitions.value(at)
                            && incarnations.value(first) == incarnations.value(at)
                            && hubs.value(first) == hubs.value(at) =>
                    {
                        (first, latest.max(time))
                    }
                    other => {
                        if let Some((first, latest)) = other {
                            self.see(partition(hubs, incarnations, partitions, first), latest, now);
                        }
                        (at, time)
                    }
                });
            }
            if let Some((first, latest)) = last {
                self.see(partition(hubs, incarnations, partitions, first), latest, now);
            }
        }
        Ok(())
    }

    fn see(&mut self, partition: Partition, time: i64, now: i64) {
        let mark = self.partitions.entry(partition).or_insert(Mark { watermark: time, moved: now });
        mark.watermark = mark.watermark.max(time);
        mark.moved = now;
    }

    /// Moves idle partitions with the clock, and the lake with all of them. Whether anything moved.
    pub fn settle(&mut self, patience: Patience, now: i64) -> bool {
        let before = (self.lake, self.partitions.values().map(|mark| mark.watermark).max());
        for mark in self.partitions.values_mut() {
            if micros(patience.idle) <= now.saturating_sub(mark.moved) {
                mark.watermark = mark.watermark.max(now.saturating_sub(micros(patience.idle)));
            }
        }
        let earliest = self.partitions.values().map(|mark| mark.watermark).min();
        let lake = earliest.map(|earliest| earliest.saturating_sub(micros(patience.lateness)));
        self.lake = self.lake.max(lake);
        before != (self.lake, self.partitions.values().map(|mark| mark.watermark).max())
    }

    /// The lake's: windows that end by then are final.
    #[must_use]
    pub const fn lake(&self) -> Option<i64> {
        self.lake
    }

    /// Takes over what these and `other` both know, whichever is later.
    pub fn join(&mut self, other: &Self) {
        for (partition, mark) in &other.partitions {
            let mine = self.partitions.entry(partition.clone()).or_insert(*mark);
            mine.watermark = mine.watermark.max(mark.watermark);
            mine.moved = mine.moved.max(mark.moved);
        }
        self.lake = self.lake.max(other.lake);
    }

    /// As rows of gold.watermarks.
    ///
    /// # Panics
    /// Never: one builder per column.
    #[must_use]
    pub fn rows(&self) -> RecordBatch {
        let (mut hubs, mut incarnations, mut partitions) =
            (StringBuilder::new(), Int64Builder::new(), Int32Builder::new());
        let mut marks = TimestampMicrosecondBuilder::new().with_timezone("UTC");
        for ((hub, incarnation, partition), mark) in &self.partitions {
            hubs.append_value(hub);
            incarnations.append_value(*incarnation);
            partitions.append_value(*partition);
            marks.append_value(mark.watermark);
        }
        if let Some(lake) = self.lake {
            hubs.append_null();
            incarnations.append_null();
            partitions.append_null();
            marks.append_value(lake);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(hubs.finish()),
            Arc::new(incarnations.finish()),
            Arc::new(partitions.finish()),
            Arc::new(marks.finish()),
        ];
        RecordBatch::try_new(Table::GoldWatermarks.schema(), columns).expect("one builder per column, in order")
    }
}

type Texts = arrow::array::StringArray;
type Longs = arrow::array::Int64Array;
type Ints = arrow::array::Int32Array;

fn place(batch: &RecordBatch) -> (&Texts, &Longs, &Ints) {
    let column = |name: &str| batch.column_by_name(name).expect("asked for");
    (
        column("hub").as_string::<i32>(),
        column("incarnation").as_primitive::<Int64Type>(),
        column("partition_id").as_primitive::<Int32Type>(),
    )
}

fn partition(hubs: &Texts, incarnations: &Longs, partitions: &Ints, at: usize) -> Partition {
    (hubs.value(at).to_owned(), incarnations.value(at), partitions.value(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn at(partition: i32) -> Partition {
        ("hub".to_owned(), 1, partition)
    }

    #[test]
    fn the_lake_waits_for_its_slowest_partition_and_for_late_rows() {
        let mut marks = Watermarks::default();
        assert!(!marks.settle(Patience::default(), 0) && marks.lake().is_none());
        let now = 100 * MINUTE;
        marks.see(at(0), 100 * MINUTE, now);
        marks.see(at(1), 90 * MINUTE, now);
        assert!(marks.settle(Patience::default(), now));
        assert_eq!(marks.lake(), Some(80 * MINUTE));
        // What is late moves nothing back.
        marks.see(at(1), 20 * MINUTE, now);
        assert!(!marks.settle(Patience::default(), now));
    }

    #[test]
    fn a_partition_from_which_nothing_comes_moves_with_the_clock_after_a_minute() {
        let mut marks = Watermarks::default();
        marks.see(at(0), 100 * MINUTE, 100 * MINUTE);
        marks.see(at(1), 10 * MINUTE, 100 * MINUTE);
        marks.settle(Patience::default(), 100 * MINUTE);
        assert_eq!(marks.lake(), Some(0));
        assert!(!marks.settle(Patience::default(), 101 * MINUTE - 1));
        marks.see(at(0), 101 * MINUTE, 101 * MINUTE);
        assert!(marks.settle(Patience::default(), 102 * MINUTE));
        // Both: 0 has what came, 1 the clock less a minute; then less ten for late rows.
        assert_eq!(marks.lake(), Some(91 * MINUTE));
    }
}
