//! One file of a partition: a header that says where it starts, then records.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use shared::time::Timestamp;

use super::event::{self, Peek};

/// Bytes before the first record.
pub(super) const HEADER: u64 = 48;
const MAGIC: &[u8; 8] = b"hublog01";
/// One mark per so many bytes: 24 bytes of memory for each 128 KiB on disk.
const MARK_EVERY: u64 = 128 * 1024;
/// Scans read this much at a time.
const CHUNK: usize = 256 * 1024;

/// What had been when the segment began; the same numbers end the segment before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Sequence number of the first record.
    pub(super) sequence: i64,
    /// Offset of the header's first byte.
    pub(super) offset: i64,
    /// Offset and enqueued time of the record before the first.
    pub(super) last_offset: i64,
    pub(super) time: Timestamp,
}

/// A record's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) sequence: i64,
    pub(super) position: u64,
    pub(super) enqueued: Timestamp,
}

/// Where a scan ended: after the last whole record.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) position: u64,
    pub(super) next_sequence: i64,
    pub(super) last: Option<Mark>,
}

pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) start: Start,
    /// Some records in order, `MARK_EVERY` apart; empty until somebody reads (or appends to) the segment.
    marks: Mutex<Vec<Mark>>,
}

impl Segment {
    /// Makes the file, durable and complete before it has its name.
    pub(super) fn create(directory: &Path, start: Start) -> io::Result<Self> {
        let path = directory.join(format!("{:020}.log", start.sequence));
        let new = path.with_extension("new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new)?;
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&start.sequence.to_le_bytes());
        header[16..24].copy_from_slice(&start.offset.to_le_bytes());
        header[24..32].copy_from_slice(&start.last_offset.to_le_bytes());
        header[32..40].copy_from_slice(&start.time.micros().to_le_bytes());
        let checksum = event::crc32(&header[..40]);
        header[40..44].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(directory)?.sync_all()?;
        Ok(Self { path, file, start, marks: Mutex::default() })
    }

    /// Opens a file that [`Segment::create`] made.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut header = [0; HEADER as usize];
        file.read_exact_at(&mut header, 0)?;
        let long = |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let checksum = u32::from_le_bytes(header[40..44].try_into().expect("four bytes"));
        if &header[..8] != MAGIC || event::crc32(&header[..40]) != checksum {
            let what = format!("{} does not begin as a segment of this log", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let time = Timestamp::from_micros(long(32));
        let start = Start { sequence: long(8), offset: long(16), last_offset: long(24), time };
        Ok(Self { path, file, start, marks: Mutex::default() })
    }

    /// The offset of a record at `position` of the file.
    pub(super) fn offset_at(&self, position: u64) -> i64 {
        self.start.offset + i64::try_from(position).expect("a segment is far below 8 EiB")
    }

    /// False once the file was deleted or its directory moved: what is written to it is written to nobody.
    pub(super) fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }

    /// Remembers a record's place, if it is far enough from the last one remembered.
    pub(super) fn mark(&self, mark: Mark) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if marks.last().is_none_or(|last| last.position + MARK_EVERY <= mark.position) {
            marks.push(mark);
        }
    }

    /// When the first record was enqueued; only of a segment that was scanned or written to.
    pub(super) fn first_enqueued(&self) -> Option<Timestamp> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.first().map(|mark| mark.enqueued)
    }

    /// Checks every record up to `end`, remembering places, and says where the last whole one ends.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn scan(&self, end: u64) -> io::Result<End> {
        let mut found = End { position: HEADER, next_sequence: self.start.sequence, last: None };
        self.walk(HEADER, end, |mark, length| {
            if mark.sequence != found.next_sequence {
                return false;
            }
            self.mark(mark);
            found = End { position: mark.position + length, next_sequence: mark.sequence + 1, last: Some(mark) };
            true
        })?;
        Ok(found)
    }

    /// The last remembered place for which `before` holds, or the first record.
    pub(super) fn nearest(&self, end: u64, before: impl Fn(&Mark) -> bool) -> io::Result<u64> {
        let known = !self.marks.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !known {
            self.scan(end)?;
        }
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let after = marks.partition_point(before);
        Ok(after.checked_sub(1).map_or(HEADER, |at| marks[at].position))
    }

    /// Gives each whole record from `position` on, with its length on disk, until `visit` says no.
    pub(super) fn walk(&self, mut position: u64, end: u64, mut visit: impl FnMut(Mark, u64) -> bool) -> io::Result<()> {
        let mut chunk = vec![];
        let mut wanted = CHUNK;
        while position < end {
            let length = usize::try_from(end - position).unwrap_or(usize::MAX).min(wanted);
            chunk.resize(length, 0);
            self.file.read_exact_at(&mut chunk, position)?;
            let mut at = 0;
            loop {
                match event::peek(&chunk[at..]) {
                    Peek::Whole { payload, sequence, enqueued } => {
                        let length = event::FRAME + payload;
                        let mark = Mark { sequence, position: position + at as u64, enqueued };
                        if !visit(mark, length as u64) {
                            return Ok(());
                        }
                        at += length;
                    }
                    // The rest lies beyond this chunk; if it lies beyond the end too, it was torn.
                    Peek::Part { needed } if position + (at + needed) as u64 <= end => {
                        wanted = needed.max(CHUNK);
                        break;
                    }
                    Peek::Part { .. } | Peek::Broken => return Ok(()),
                }
            }
            position += at as u64;
        }
        Ok(())
    }
}
