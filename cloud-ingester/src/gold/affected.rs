//! Which windows are computed again, and which rows lie in them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, BooleanArray, BooleanBuilder, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema, TimestampMicrosecondType};
use foldhash::quality::RandomState;
use futures::TryStreamExt as _;

use super::inputs::{File, Inputs, Refused};
use super::keys::{KeyReader, Keys};
use super::model::Windows;
use super::window::{DAY, Grid, Span, date_text, sessions};
use crate::lake::tables::timestamp;
use crate::lake::{Extent, LakeError, View};

/// The windows to compute, and of which keys.
#[derive(Debug)]
pub struct Affected {
    /// By start, each once.
    spans: Vec<Span>,
    /// The latest end of this and all earlier ones.
    ends: Vec<i64>,
    keys: Keys,
    which: Which,
}

#[derive(Debug)]
enum Which {
    /// These windows, of every key.
    Starts(Grid),
    /// Key and start of windows in fixed places.
    Pairs(Grid, HashSet<(u32, i64), RandomState>),
    /// By key the sessions as they will be, ascending; and those that go, by their starts.
    Sessions { new: HashMap<u32, Vec<Span>>, gone: HashSet<(u32, i64)> },
}

/// What bounds the windows of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Final {
    /// Only windows that end by then are computed.
    pub upto: Option<i64>,
    /// Windows that end after this are computed whether new rows touch them or not: they became final.
    pub after: Option<i64>,
}

pub(super) fn times<'a>(batch: &'a RecordBatch, name: &str) -> &'a TimestampMicrosecondArray {
    batch.column_by_name(name).expect("asked for").as_primitive::<TimestampMicrosecondType>()
}

impl Affected {
    /// The windows in fixed places that rows of `files` lie in; of every key where `all` is given.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn on_grid(
        grid: Grid,
        inputs: &Inputs,
        keys: &[String],
        files: &[File],
        all: bool,
        bounds: Final,
    ) -> Result<Self, LakeError> {
        let mut found = Found { spans: BTreeSet::new(), keys: Keys::default(), pairs: HashSet::default() };
        let fits = |(_, end): Span| bounds.upto.is_none_or(|upto| end <= upto);
        let named: &[String] = if all { &[] } else { keys };
        for file in files {
            found.add(grid, inputs, named, file, fits).await?;
        }
        if let (Some(after), Some(upto), false) = (bounds.after, bounds.upto, all) {
            let became = |(_, end): Span| after < end && end <= upto;
            let may = |file: &&File| {
                file.extent.from.micros() <= upto && after <= file.extent.to.micros().saturating_add(grid.reach())
            };
            for file in inputs.all_files().iter().filter(may) {
                found.add(grid, inputs, named, file, became).await?;
            }
        }
        let which = if all { Which::Starts(grid) } else { Which::Pairs(grid, found.pairs) };
        Ok(Self::of(found.spans, found.keys, which))
    }

    /// The sessions that rows of `files` lie in, together with those of `target` that they touch.
    ///
    /// # Errors
    /// When a file can't be read.
    pub async fn sessions(
        gap: i64,
        inputs: &Inputs,
        target: Option<&View>,
        columns: &[String],
        files: &[File],
    ) -> Result<Self, LakeError> {
        let mut keys = Keys::default();
        let mut fresh: HashMap<u32, Vec<Span>> = HashMap::new();
        let mut asked = columns.to_vec();
        asked.push("event_time".to_owned());
        for file in files {
            let mut rows = inputs.stream(file.source, &file.add, &asked).await?;
            while let Some(batch) = rows.try_next().await? {
                let times = times(&batch, "event_time");
                let mut reader = KeyReader::new(&batch, columns);
                for at in 0..batch.num_rows() {
                    let time = times.value(at);
                    let spans = fresh.entry(keys.number(reader.at(at))).or_default();
                    // Most rows go on where the one before left off: no need to keep each.
                    match spans.last_mut() {
                        Some((start, end)) if *start <= time && time < *end => {
                            *end = (*end).max(time.saturating_add(gap))
                        }
                        _ => spans.push((time, time.saturating_add(gap))),
                    }
                }
            }
        }
        let earliest = fresh.values().flatten().map(|(start, _)| *start).min();
        let mut pieces: HashMap<u32, Vec<(Span, bool)>> =
            fresh.into_iter().map(|(key, spans)| (key, spans.into_iter().map(|span| (span, true)).collect())).collect();
        let mut old: HashMap<u32, Vec<Span>> = HashMap::new();
        if let (Some(target), Some(earliest)) = (target, earliest) {
            let columns: Vec<&str> = columns.iter().map(String::as_str).chain(["window_start", "window_end"]).collect();
            let names = &columns[..columns.len() - 2];
            let mut files = target.all_files();
            files.retain(|add| earliest <= Extent::of(add, "window_end").to.micros());
            for add in files {
                for batch in target.read(&add, &columns).await? {
                    let (starts, ends) = (times(&batch, "window_start"), times(&batch, "window_end"));
                    let mut reader = KeyReader::new(&batch, names);
                    for at in 0..batch.num_rows() {
                        let Some(key) = keys.find(reader.at(at)) else { continue };
                        let span = (starts.value(at), ends.value(at));
                        pieces.entry(key).or_default().push((span, false));
                        old.entry(key).or_default().push(span);
                    }
                }
            }
        }
        let mut spans = BTreeSet::new();
        let mut gone = HashSet::new();
        let mut new = HashMap::new();
        for (key, pieces) in pieces {
            let merged = sessions(pieces);
            for &(start, end) in &merged {
                let inside = old.get(&key).into_iter().flatten().filter(|(s, e)| *s < end && start < *e);
                gone.extend(inside.map(|(s, _)| (key, *s)));
            }
            spans.extend(merged.iter().copied());
            new.insert(key, merged);
        }
        Ok(Self::of(spans, keys, Which::Sessions { new, gone }))
    }

    fn of(spans: BTreeSet<Span>, keys: Keys, which: Which) -> Self {
        let spans: Vec<Span> = spans.into_iter().collect();
        let latest = |last: &mut i64, &(_, end): &Span| {
            *last = end.max(*last);
            Some(*last)
        };
        let ends = spans.iter().scan(i64::MIN, latest).collect();
        Self { spans, ends, keys, which }
    }

    /// The keys whose windows are computed again; none where those of all are.
    pub(super) fn keys(&self) -> Option<HashSet<&[u8]>> {
        let concerned: HashSet<u32> = match &self.which {
            Which::Starts(_) => return None,
            Which::Pairs(_, pairs) => pairs.iter().map(|(key, _)| *key).collect(),
            Which::Sessions { new, .. } => new.keys().copied().collect(),
        };
        Some(self.keys.iter().filter(|(_, number)| concerned.contains(number)).map(|(key, _)| key).collect())
    }

    /// The windows, ascending by start.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whether rows between these times may fall into one of the windows.
    #[must_use]
    pub fn touches(&self, extent: &Extent) -> bool {
        // The first window that some window up to it outlasts the beginning of the extent.
        let first = self.ends.partition_point(|&end| end <= extent.from.micros());
        self.spans.get(first).is_some_and(|&(start, _)| start <= extent.to.micros())
    }

    /// The dates under which windows that are computed again, or go, are filed.
    #[must_use]
    pub fn filed(&self, windows: Windows) -> HashSet<String> {
        let mut starts: BTreeSet<i64> = self.spans.iter().map(|(start, _)| *start).collect();
        if let Which::Sessions { gone, .. } = &self.which {
            starts.extend(gone.iter().map(|(_, start)| *start));
        }
        starts
            .into_iter()
            .map(|start| windows.date(start))
            .collect::<BTreeSet<i64>>()
            .into_iter()
            .map(date_text)
            .collect()
    }

    /// Whether a window may begin between these times.
    #[must_use]
    pub fn begins_in(&self, extent: &Extent) -> bool {
        if let Which::Sessions { .. } = self.which {
            return true;
        }
        let first = self.spans.partition_point(|&(start, _)| start < extent.from.micros());
        self.spans.get(first).is_some_and(|&(start, _)| start <= extent.to.micros())
    }

    /// The days of UTC that the windows cover, as the log writes them; none where they are too many to name.
    #[must_use]
    pub fn days(&self) -> HashSet<String> {
        let mut days = BTreeSet::new();
        for &(start, end) in &self.spans {
            days.extend(start.div_euclid(DAY)..=end.saturating_sub(1).div_euclid(DAY));
        }
        days.into_iter().map(date_text).collect()
    }

    /// Rows of the target that are computed again, or go.
    #[must_use]
    pub fn stale(&self, keys: &[String], batch: &RecordBatch) -> BooleanArray {
        let starts = times(batch, "window_start");
        let mut reader = KeyReader::new(batch, keys);
        let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
        for at in 0..batch.num_rows() {
            let start = starts.value(at);
            let mut key = || self.keys.find(reader.at(at));
            mask.append_value(match &self.which {
                Which::Starts(_) => self.spans.binary_search_by_key(&start, |(start, _)| *start).is_ok(),
                Which::Pairs(_, pairs) => key().is_some_and(|key| pairs.contains(&(key, start))),
                Which::Sessions { gone, .. } => key().is_some_and(|key| gone.contains(&(key, start))),
            });
        }
        mask.finish()
    }

    /// The rows of a batch that lie in the windows which begin in `range`, with their windows; a row that lies in several
    /// is there several times.
    #[must_use]
    pub fn within(
        &self,
        keys: &[String],
        batch: &RecordBatch,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<RecordBatch> {
        match &self.which {
            Which::Starts(grid) if grid.is_plain() => {
                let holds = |_: &mut KeyReader, _: usize, start: i64| {
                    self.spans.binary_search_by_key(&start, |(start, _)| *start).is_ok()
                };
                plain(*grid, keys, batch, range, holds)
            }
            Which::Pairs(grid, pairs) if grid.is_plain() => {
                let holds = |reader: &mut KeyReader, at: usize, start: i64| {
                    self.keys.find(reader.at(at)).is_some_and(|key| pairs.contains(&(key, start)))
                };
                plain(*grid, keys, batch, range, holds)
            }
            which => self.spread(which, keys, batch, &range),
        }
    }

    fn spread(
        &self,
        which: &Which,
        keys: &[String],
        batch: &RecordBatch,
        range: &std::ops::RangeInclusive<i64>,
    ) -> Option<RecordBatch> {
        let times = times(batch, "event_time");
        let mut reader = KeyReader::new(batch, keys);
        let (mut rows, mut starts, mut ends) = (vec![], vec![], vec![]);
        let mut held: Vec<Span> = vec![];
        // Time moves little from row to row, and a local midnight costs more than a look.
        let mut last: Option<(i64, i64)> = None;
        for (at, row) in (0..batch.num_rows()).zip(0_u32..) {
            let time = times.value(at);
            let number = self.keys.find(reader.at(at));
            match which {
                Which::Starts(grid) | Which::Pairs(grid, _) => {
                    if !(grid.overlap() == 1 && last.is_some_and(|(start, end)| start <= time && time < end)) {
                        grid.holding(time, &mut held);
                        last = held.first().copied();
                    }
                }
                Which::Sessions { new, .. } => {
                    held.clear();
                    let spans = number.and_then(|number| new.get(&number)).map(Vec::as_slice).unwrap_or_default();
                    let first = spans.partition_point(|&(_, end)| end <= time);
                    held.extend(spans.get(first).filter(|(start, _)| *start <= time));
                }
            }
            for &(start, end) in held.iter().filter(|(start, _)| range.contains(start)) {
                let holds = match which {
                    Which::Starts(_) => self.spans.binary_search_by_key(&start, |(start, _)| *start).is_ok(),
                    Which::Pairs(_, pairs) => number.is_some_and(|number| pairs.contains(&(number, start))),
                    Which::Sessions { .. } => true,
                };
                if holds {
                    rows.push(row);
                    starts.push(start);
                    ends.push(end);
                }
            }
        }
        if rows.is_empty() {
            return None;
        }
        let kept = take_record_batch(batch, &UInt32Array::from(rows)).expect("rows of this batch");
        Some(with_window(&kept, TimestampMicrosecondArray::from(starts), TimestampMicrosecondArray::from(ends)))
    }
}

struct Found {
    spans: BTreeSet<Span>,
    keys: Keys,
    pairs: HashSet<(u32, i64), RandomState>,
}

impl Found {
    async fn add(
        &mut self,
        grid: Grid,
        inputs: &Inputs,
        keys: &[String],
        file: &File,
        fits: impl Fn(Span) -> bool,
    ) -> Result<(), LakeError> {
        let mut asked = keys.to_vec();
        if !keys.iter().any(|key| key == "event_time") {
            asked.push("event_time".to_owned());
        }
        let mut held: Vec<Span> = vec![];
        let mut last: Option<Span> = None;
        let mut rows = inputs.stream_of(file.source, &file.add, &asked, Refused::Ever).await?;
        while let Some(batch) = rows.try_next().await? {
            let times = times(&batch, "event_time");
            let mut reader = (!keys.is_empty()).then(|| KeyReader::new(&batch, keys));
            for at in 0..batch.num_rows() {
                if arrow::array::Array::is_null(times, at) {
                    continue;
                }
                let time = times.value(at);
                let same = grid.overlap() == 1 && last.is_some_and(|(start, end)| start <= time && time < end);
                if !same {
                    grid.holding(time, &mut held);
                    last = held.first().copied();
                }
                let number = reader.as_mut().map(|reader| self.keys.number(reader.at(at)));
                for &span in held.iter().filter(|span| fits(**span)) {
                    match number {
                        // Windows seen before are not looked up again among all.
                        Some(number) => {
                            if self.pairs.insert((number, span.0)) {
                                self.spans.insert(span);
                            }
                        }
                        None if same => {}
                        None => {
                            self.spans.insert(span);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The rows of a batch by parts of all keys: rows of one key are in one part, whichever batch they come in.
pub(super) fn split(keys: &[String], batch: &RecordBatch, parts: usize) -> Vec<Option<RecordBatch>> {
    let mut reader = KeyReader::new(batch, keys);
    let mut rows = vec![vec![]; parts];
    for (at, row) in (0..batch.num_rows()).zip(0_u32..) {
        let part = hash(reader.at(at)) % parts as u64;
        rows[usize::try_from(part).unwrap_or(0)].push(row);
    }
    let part = |rows: Vec<u32>| {
        let some = !rows.is_empty();
        some.then(|| take_record_batch(batch, &UInt32Array::from(rows)).expect("rows of this batch"))
    };
    rows.into_iter().map(part).collect()
}

fn hash(key: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

/// Windows side by side without a time zone: each row lies in one.
fn plain(
    grid: Grid,
    keys: &[String],
    batch: &RecordBatch,
    range: std::ops::RangeInclusive<i64>,
    mut holds: impl FnMut(&mut KeyReader, usize, i64) -> bool,
) -> Option<RecordBatch> {
    let event_times = times(batch, "event_time");
    let mut reader = KeyReader::new(batch, keys);
    let mut mask = BooleanBuilder::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let start = grid.start(event_times.value(at));
        mask.append_value(range.contains(&start) && holds(&mut reader, at, start));
    }
    let mask = mask.finish();
    if mask.true_count() == 0 {
        return None;
    }
    let kept = filter_record_batch(batch, &mask).expect("a mask is as long as its batch");
    let starts: TimestampMicrosecondArray = times(&kept, "event_time").unary(|time| grid.start(time));
    let ends: TimestampMicrosecondArray = starts.unary(|start| start.saturating_add(grid.reach()));
    Some(with_window(&kept, starts, ends))
}

fn with_window(rows: &RecordBatch, starts: TimestampMicrosecondArray, ends: TimestampMicrosecondArray) -> RecordBatch {
    let mut fields: Vec<Field> = rows.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new("window_start", timestamp(), true));
    fields.push(Field::new("window_end", timestamp(), true));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(starts.with_timezone("UTC")) as ArrayRef);
    columns.push(Arc::new(ends.with_timezone("UTC")) as ArrayRef);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("two more columns, as long as the others")
}

impl Windows {
    /// The date a window is filed under.
    #[must_use]
    pub fn date(self, start: i64) -> i64 {
        match self {
            Self::Grid(grid) => grid.date(start),
            Self::Session { .. } => start.div_euclid(DAY),
        }
    }
}
