//! One partition: its segments, and what readers may see of them.
//!
//! One thread writes ([`super::writer`]); any number of readers look at the same files. Readers see a record only after
//! the fsync that stored it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use shared::time::Timestamp;
use tokio::sync::watch;

use super::event::{self, Peek, StoredEvent};
use super::segment::{HEADER, Mark, Segment, Start};
use super::{PartitionInfo, Position};

/// So many readers can go on without a search.
const HINTS: usize = 64;
/// A read asks the disk for at most this much at a time.
const READ_MAX: usize = 1024 * 1024;

pub(super) struct Partition {
    pub(super) directory: PathBuf,
    state: Mutex<State>,
    last: watch::Sender<i64>,
}

pub(super) struct State {
    /// Oldest first; never empty; the last one is written to.
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// Where the last segment ends, as far as it is durable.
    pub(super) end: u64,
    /// The sequence number the next event gets.
    pub(super) next_sequence: i64,
    /// Place and time of the last event ever given, in a segment or not any more.
    pub(super) last_offset: i64,
    pub(super) last_time: Timestamp,
    hints: VecDeque<Hint>,
}

/// A reader that got everything below `sequence` will ask for it next, and it is there.
#[derive(Clone, Copy)]
struct Hint {
    sequence: i64,
    segment: i64,
    position: u64,
}

/// What recovery threw away: bytes after the last whole record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Torn(pub(super) u64);

impl Partition {
    /// Makes an empty partition.
    pub(super) fn create(directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        Segment::create(directory, Start { sequence: 0, offset: 0, last_offset: -1, time: Timestamp::from_micros(0) })?;
        Ok(())
    }

    /// Opens a partition, and cuts off what an interrupted write left behind the last whole record.
    pub(super) fn open(directory: PathBuf) -> io::Result<(Self, Torn)> {
        let mut segments = vec![];
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("log") => segments.push(Segment::open(path)?),
                // A segment that never got its name.
                Some("new") => fs::remove_file(path)?,
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.start.sequence);
        let Some(active) = segments.last() else {
            let what = format!("{} has no segment although the log was complete once", directory.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        };
        let length = active.file.metadata()?.len();
        let found = active.scan(length)?;
        if found.position < length {
            active.file.set_len(found.position)?;
        }
        // A record that was written but not yet synced is about to be shown to readers: now it has to be durable.
        active.file.sync_all()?;

        let start = active.start;
        let (last_offset, last_time) = match found.last {
            Some(mark) => (active.offset_at(mark.position), mark.enqueued),
            None => (start.last_offset, start.time),
        };
        let state = State {
            segments: segments.into_iter().map(Arc::new).collect(),
            end: found.position,
            next_sequence: found.next_sequence,
            last_offset,
            last_time,
            hints: VecDeque::new(),
        };
        let (last, _) = watch::channel(state.next_sequence - 1);
        let partition = Self { directory, state: Mutex::new(state), last };
        Ok((partition, Torn(length - found.position)))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last durable sequence number, −1 before the first.
    pub(super) fn watch(&self) -> watch::Receiver<i64> {
        self.last.subscribe()
    }

    /// Lets readers see what the writer has made durable.
    pub(super) fn publish(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let last = state.next_sequence - 1;
        drop(state);
        self.last.send_if_modified(|seen| std::mem::replace(seen, last) != last);
    }

    pub(super) fn info(&self) -> PartitionInfo {
        let state = self.state();
        let begin = state.begin();
        let bytes = state.segments.iter().rev().skip(1).zip(state.segments.iter().rev());
        let closed: i64 = bytes.map(|(segment, next)| next.start.offset - segment.start.offset).sum();
        PartitionInfo {
            begin_sequence_number: begin,
            last_enqueued_sequence_number: state.next_sequence - 1,
            last_enqueued_offset: state.last_offset.to_string(),
            last_enqueued_time: state.last_time,
            is_empty: begin == state.next_sequence,
            bytes: u64::try_from(closed).unwrap_or(0) + state.end,
        }
    }

    /// The sequence number of the first event a receiver at `position` gets.
    pub(super) fn seek(&self, position: &Position) -> io::Result<i64> {
        let state = self.state();
        let (begin, next) = (state.begin(), state.next_sequence);
        let sequence = match *position {
            Position::Earliest => begin,
            Position::Latest => next,
            Position::Sequence { sequence_number, inclusive } => {
                sequence_number.saturating_add(i64::from(!inclusive)).clamp(begin, next)
            }
            Position::Offset { offset, inclusive } => {
                let index = state.segments.partition_point(|segment| segment.start.offset <= offset);
                let Some(at) = index.checked_sub(1) else { return Ok(begin) };
                let (segment, end) = state.segment(at);
                drop(state);
                let below = |mark: &Mark| {
                    let offset_here = segment.offset_at(mark.position);
                    offset_here < offset || (offset_here == offset && !inclusive)
                };
                first_not(&segment, end, below)?.unwrap_or_else(|| self.start_after(&segment))
            }
            Position::EnqueuedTime { time, inclusive } => {
                let before = |at: Timestamp| at < time || (at == time && !inclusive);
                // A segment's start holds the time of the event before it.
                let index = state.segments.partition_point(|segment| before(segment.start.time));
                let (segment, end) = state.segment(index.saturating_sub(1));
                drop(state);
                first_not(&segment, end, |mark| before(mark.enqueued))?.unwrap_or_else(|| self.start_after(&segment))
            }
        };
        Ok(sequence)
    }

    /// The sequence number after the last one of `segment`.
    fn start_after(&self, segment: &Arc<Segment>) -> i64 {
        let state = self.state();
        let after = state.segments.iter().find(|other| segment.start.sequence < other.start.sequence);
        after.map_or(state.next_sequence, |next| next.start.sequence)
    }

    /// Events from `from` on: at most `events_max`, at most `bytes_max` on disk, but at least one if there is one.
    pub(super) fn read(&self, from: i64, events_max: usize, bytes_max: usize) -> io::Result<Vec<StoredEvent>> {
        let mut events = vec![];
        let mut bytes = 0;
        let mut next = from.max(self.state().begin());
        while events.len() < events_max && (bytes < bytes_max || events.is_empty()) {
            let Some((segment, mut position, end)) = self.find(next)? else { break };
            let chunk = read_chunk(&segment, position, end, bytes_max.saturating_sub(bytes))?;
            let mut at = 0;
            while let Peek::Whole { payload, sequence, .. } = event::peek(&chunk[at..]) {
                let length = event::FRAME + payload;
                let full = bytes_max < bytes + length && !events.is_empty();
                if events.len() == events_max || full {
                    bytes = bytes_max;
                    break;
                }
                if next <= sequence {
                    let payload = chunk.slice(at + event::FRAME..at + length);
                    let event = event::decode(&payload, segment.offset_at(position));
                    events.push(event.ok_or_else(|| unreadable(&segment, position))?);
                    bytes += length;
                    next = sequence + 1;
                }
                at += length;
                position += length as u64;
            }
            if at == 0 && bytes < bytes_max {
                return Err(unreadable(&segment, position));
            }
            self.state().hint(Hint { sequence: next, segment: segment.start.sequence, position });
        }
        Ok(events)
    }

    /// Where to begin to look for `sequence`: a segment, a record at or before it, and the segment's end.
    pub(super) fn find(&self, sequence: i64) -> io::Result<Option<(Arc<Segment>, u64, u64)>> {
        let mut state = self.state();
        // What was asked for may have been given up meanwhile.
        let sequence = sequence.max(state.begin());
        if state.next_sequence <= sequence {
            return Ok(None);
        }
        let index = state.segments.partition_point(|segment| segment.start.sequence <= sequence);
        let (segment, end) = state.segment(index.saturating_sub(1));
        let known = state.hints.iter().position(|hint| {
            hint.sequence == sequence && hint.segment == segment.start.sequence && hint.position < end
        });
        if let Some(hint) = known.and_then(|at| state.hints.remove(at)) {
            return Ok(Some((segment, hint.position, end)));
        }
        drop(state);
        let position = segment.nearest(end, |mark| mark.sequence <= sequence)?;
        Ok(Some((segment, position, end)))
    }
}

impl State {
    pub(super) fn begin(&self) -> i64 {
        self.segments.front().expect("a partition has a segment").start.sequence
    }

    pub(super) fn active(&self) -> &Arc<Segment> {
        self.segments.back().expect("a partition has a segment")
    }

    fn segment(&self, index: usize) -> (Arc<Segment>, u64) {
        let segment = Arc::clone(&self.segments[index]);
        let end = match self.segments.get(index + 1) {
            Some(next) => u64::try_from(next.start.offset - segment.start.offset).unwrap_or(HEADER),
            None => self.end,
        };
        (segment, end)
    }

    fn hint(&mut self, hint: Hint) {
        if self.hints.len() == HINTS {
            self.hints.pop_front();
        }
        self.hints.push_back(hint);
    }
}

fn read_chunk(segment: &Segment, position: u64, end: u64, bytes_max: usize) -> io::Result<Bytes> {
    let left = usize::try_from(end - position).unwrap_or(usize::MAX);
    let mut chunk = vec![0; left.min(bytes_max.clamp(64 * 1024, READ_MAX))];
    segment.file.read_exact_at(&mut chunk, position)?;
    if let Peek::Part { needed } = event::peek(&chunk)
        && needed <= left
    {
        chunk.resize(needed, 0);
        segment.file.read_exact_at(&mut chunk, position)?;
    }
    Ok(Bytes::from(chunk))
}

fn unreadable(segment: &Segment, position: u64) -> io::Error {
    let what = format!("{} is damaged at byte {position}", segment.path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The first record for which `below` does not hold.
fn first_not(segment: &Segment, end: u64, below: impl Fn(&Mark) -> bool) -> io::Result<Option<i64>> {
    let position = segment.nearest(end, &below)?;
    let mut found = None;
    segment.walk(position, end, |mark, _| {
        if below(&mark) {
            return true;
        }
        found = Some(mark.sequence);
        false
    })?;
    Ok(found)
}
