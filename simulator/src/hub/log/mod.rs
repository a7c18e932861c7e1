//! The hub's memory: a partitioned, append-only log on disk.
//!
//! An append resolves after the fsync that stored the event; readers see it from then on. Sequence numbers run from 0
//! without holes per partition, offsets grow with them but count bytes, enqueued times never go back. Retention gives
//! up whole segments, oldest first. What an interrupted write left at the end is cut off at the next start; what was
//! acknowledged is never cut.
//!
//! A log is made once, under another name, and gets its own when it is complete: a directory without `log.json` is
//! never taken for one. The time of its making tells it from any log before or after it (`created_at`).
//!
//! Never: an acknowledgement for bytes in a file that nobody can find any more.

mod event;
mod partition;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::Clock;
use shared::time::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::event::{NewEvent, StoredEvent, SystemProperties, moment};
use self::partition::{Partition, Torn};
use self::writer::{Command, Writer};
use super::faults::Faults;

/// Events waiting for one partition's disk; above it, connections wait.
const APPENDS_WAITING: usize = 1024;
/// So often every partition looks for its files and for what is past retention.
const TICK: Duration = Duration::from_secs(1);
/// A segment is at most this large, whatever retention says.
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How a log is kept.
#[derive(Clone)]
pub struct Options {
    /// Partitions of a new log; an old one must have as many.
    pub partitions: u32,
    /// Events older than this are given up; `None` keeps them.
    pub retention_time: Option<Duration>,
    /// Bytes of the whole log above which the oldest events are given up; `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// The clock enqueued times and retention go by.
    pub clock: Clock,
    /// False leaves every fsync of events out: an acknowledged event then survives a kill, but not a power cut.
    pub fsync: bool,
    /// What makes fsyncs slow.
    pub faults: Faults,
}

impl Options {
    /// A log that keeps everything, and nothing goes wrong.
    pub fn new(partitions: u32, clock: Clock) -> Self {
        let (retention_time, retention_bytes) = (None, None);
        Self { partitions, retention_time, retention_bytes, clock, fsync: true, faults: Faults::default() }
    }

    /// Retention moves by segments: about an eighth of what is kept.
    fn segment_bytes(&self) -> u64 {
        let share = self.retention_bytes.map(|bytes| bytes / u64::from(self.partitions) / 8);
        share.unwrap_or(SEGMENT_BYTES_MAX).clamp(4 * 1024, SEGMENT_BYTES_MAX)
    }

    fn segment_age(&self) -> Option<Duration> {
        self.retention_time.map(|age| age / 8)
    }
}

/// Where an appended event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: u32,
    /// See [`StoredEvent::sequence_number`].
    pub sequence_number: i64,
    /// See [`StoredEvent::offset`].
    pub offset: i64,
    /// See [`StoredEvent::enqueued_time`].
    pub enqueued_time: Timestamp,
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionInfo {
    /// Sequence number of the oldest event kept, or of the next one if none is.
    pub begin_sequence_number: i64,
    /// Sequence number of the newest event ever stored, −1 before the first.
    pub last_enqueued_sequence_number: i64,
    /// Its offset, `-1` before the first.
    pub last_enqueued_offset: String,
    /// When it was stored, the Unix epoch before the first.
    pub last_enqueued_time: Timestamp,
    /// True where nothing is kept.
    pub is_empty: bool,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Where a receiver begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At the oldest event kept.
    Earliest,
    /// After the newest event.
    Latest,
    /// After the event at an offset, or at it.
    Offset { offset: i64, inclusive: bool },
    /// After a sequence number, or at it.
    Sequence { sequence_number: i64, inclusive: bool },
    /// At the first event enqueued after an instant, or not before it.
    EnqueuedTime { time: Timestamp, inclusive: bool },
}

/// Why an event was not stored, or why it is not known whether it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log has stopped: {0}")]
pub struct AppendError(Arc<str>);

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is somebody else's, or only part of a log.
    #[error(
        "{} exists but is not a whole log ({what}); move it away, and the hub starts a new one under a new incarnation",
        path.display()
    )]
    NotALog { path: PathBuf, what: String },
    /// The number of partitions is fixed when the log is made.
    #[error(
        "the log in {} has {stored} partitions, the configuration says {wanted}; write `hub.partitions = {stored}`, \
         or move the log away",
        path.display()
    )]
    Partitions { path: PathBuf, stored: u32, wanted: u32 },
    /// The disk said no.
    #[error("cannot open the log in {}", path.display())]
    Disk { path: PathBuf, source: io::Error },
}

/// The log; clones are the same log. The last clone dropped waits for what was being written.
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

struct Inner {
    created_at: i64,
    partitions: Vec<Handle>,
    trouble: Trouble,
}

struct Handle {
    partition: Arc<Partition>,
    commands: Option<mpsc::Sender<Command>>,
    overdue: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a log says about itself.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Making {
    /// Milliseconds since the Unix epoch.
    created_at: i64,
    partitions: u32,
}

impl Log {
    /// Opens the log in `directory`, or makes it where there is none.
    ///
    /// # Errors
    /// If the directory holds something else, a log with another number of partitions, or cannot be read and written.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        let disk = |source| OpenError::Disk { path: directory.to_owned(), source };
        if !directory.try_exists().map_err(disk)? {
            make(directory, options).map_err(disk)?;
        }
        let made = read_making(directory)?;
        if made.partitions != options.partitions {
            let (stored, wanted) = (made.partitions, options.partitions);
            return Err(OpenError::Partitions { path: directory.to_owned(), stored, wanted });
        }
        let trouble = Trouble::default();
        let mut partitions = vec![];
        for number in 0..made.partitions {
            let path = directory.join(format!("partition-{number}"));
            if !path.is_dir() {
                let what = format!("partition-{number} is missing");
                return Err(OpenError::NotALog { path: directory.to_owned(), what });
            }
            let (partition, Torn(bytes)) = Partition::open(path).map_err(disk)?;
            if bytes != 0 {
                let last = partition.info().last_enqueued_sequence_number;
                tracing::warn!(partition = number, bytes, last, "cut off an interrupted write");
            }
            partitions.push(Handle::start(number, partition, options, &trouble).map_err(disk)?);
        }
        let inner = Arc::new(Inner { created_at: made.created_at, partitions, trouble });
        keep_ticking(&inner).map_err(disk)?;
        Ok(Self { inner })
    }

    /// When the log was made, in milliseconds since the Unix epoch: the incarnation of the hub.
    pub fn created_at(&self) -> i64 {
        self.inner.created_at
    }

    /// How many partitions there are; they are numbered from 0.
    pub fn partition_count(&self) -> u32 {
        u32::try_from(self.inner.partitions.len()).expect("made from a u32")
    }

    /// The partition all events of a device go to.
    pub fn partition_of(&self, device_id: &str) -> u32 {
        partition_of(device_id, self.partition_count())
    }

    /// Stores an event in its device's partition. Events appended one after another keep their order.
    ///
    /// # Errors
    /// If the event may not have been stored. From then on every append fails, and [`Log::stopped`] is cancelled.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        let mut appending = self.submit(event).await;
        appending.wait().await
    }

    /// Hands an event to its partition's writer; the order of calls is the order in the log. Waits only for room.
    pub async fn submit(&self, event: NewEvent) -> Appending {
        let handle = &self.inner.partitions[self.partition_of(&event.device_id) as usize];
        let (answer, answered) = oneshot::channel();
        let commands = handle.commands.as_ref().expect("held until the log is dropped");
        // A failed send drops the answer, which `wait` reports.
        let _ = commands.send(Command::Append(Box::new(event), answer)).await;
        Appending { answered, trouble: self.inner.trouble.clone() }
    }

    /// What a partition holds; `None` if there is no such partition.
    pub fn info(&self, partition: u32) -> Option<PartitionInfo> {
        Some(self.partition(partition)?.info())
    }

    /// The last sequence number stored in a partition (−1 before the first), as it grows.
    pub fn watch(&self, partition: u32) -> Option<watch::Receiver<i64>> {
        Some(self.partition(partition)?.watch())
    }

    /// The sequence number of the first event to deliver to a receiver that begins at `position`.
    ///
    /// # Errors
    /// If the partition does not exist or its files cannot be read.
    pub async fn seek(&self, partition: u32, position: Position) -> io::Result<i64> {
        let partition = Arc::clone(self.partition(partition).ok_or_else(|| unknown(partition))?);
        blocking(move || partition.seek(&position)).await
    }

    /// Events of a partition from a sequence number on (or from the oldest kept, if that is later): at most
    /// `events_max`, about `bytes_max`, but at least one if there is one. Empty at the end.
    ///
    /// # Errors
    /// If the partition does not exist or its files cannot be read.
    pub async fn read(
        &self,
        partition: u32,
        from_sequence_number: i64,
        events_max: usize,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredEvent>> {
        let partition = Arc::clone(self.partition(partition).ok_or_else(|| unknown(partition))?);
        blocking(move || partition.read(from_sequence_number, events_max, bytes_max)).await
    }

    /// Cancelled once the log cannot store any more; [`Log::trouble`] says why.
    pub fn stopped(&self) -> CancellationToken {
        self.inner.trouble.token.clone()
    }

    /// Why the log has stopped, if it has.
    pub fn trouble(&self) -> Option<AppendError> {
        self.inner.trouble.get()
    }

    /// Looks after files and retention now, not at the next second.
    pub async fn tick(&self) {
        for handle in &self.inner.partitions {
            let (done, ended) = oneshot::channel();
            let commands = handle.commands.as_ref().expect("held until the log is dropped");
            let _ = commands.send(Command::Tick(Some(done))).await;
            let _ = ended.await;
        }
    }

    /// Gives up all that a partition holds, as retention does; numbers and offsets go on. Does nothing where there is
    /// no such partition.
    pub async fn trim(&self, partition: u32) {
        let Some(handle) = self.inner.partitions.get(partition as usize) else { return };
        let (done, ended) = oneshot::channel();
        let commands = handle.commands.as_ref().expect("held until the log is dropped");
        let _ = commands.send(Command::Trim(done)).await;
        let _ = ended.await;
    }

    fn partition(&self, number: u32) -> Option<&Arc<Partition>> {
        Some(&self.inner.partitions.get(number as usize)?.partition)
    }
}

/// An event on its way to the disk.
#[must_use = "an event is stored only once this says so"]
pub struct Appending {
    answered: oneshot::Receiver<Result<Appended, AppendError>>,
    trouble: Trouble,
}

impl Appending {
    /// Resolves after the fsync. May be dropped and called again, but not after it has resolved.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub async fn wait(&mut self) -> Result<Appended, AppendError> {
        match (&mut self.answered).await {
            Ok(answer) => answer,
            Err(_) => Err(self.writer_gone()),
        }
    }

    /// The answer, if it is there already; not after it was given once.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn already(&mut self) -> Result<Option<Appended>, AppendError> {
        match self.answered.try_recv() {
            Ok(answer) => answer.map(Some),
            Err(oneshot::error::TryRecvError::Empty) => Ok(None),
            Err(oneshot::error::TryRecvError::Closed) => Err(self.writer_gone()),
        }
    }

    fn writer_gone(&self) -> AppendError {
        self.trouble.get().unwrap_or_else(|| AppendError("its writer is gone".into()))
    }
}

/// The first failure, for everybody.
#[derive(Clone, Default)]
struct Trouble {
    what: Arc<OnceLock<AppendError>>,
    token: CancellationToken,
}

impl Trouble {
    fn set(&self, what: String) {
        if self.what.set(AppendError(what.into())).is_ok() {
            self.token.cancel();
        }
    }

    fn get(&self) -> Option<AppendError> {
        self.what.get().cloned()
    }
}

impl Handle {
    fn start(number: u32, partition: Partition, options: &Options, trouble: &Trouble) -> io::Result<Self> {
        let partition = Arc::new(partition);
        let (commands, received) = mpsc::channel(APPENDS_WAITING);
        let overdue = Arc::<AtomicBool>::default();
        let writer = Writer {
            number,
            partition: Arc::clone(&partition),
            options: options.clone(),
            trouble: trouble.clone(),
            overdue: Arc::clone(&overdue),
        };
        let thread = thread::Builder::new().name(format!("hub-log-{number}")).spawn(move || writer.run(received))?;
        Ok(Self { partition, commands: Some(commands), overdue, thread: Some(thread) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// FNV-1a: the same on every machine and in every version.
fn partition_of(device_id: &str, partitions: u32) -> u32 {
    let hash = device_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // Its low bits alone are poor for ids that differ only at the end.
    u32::try_from((hash ^ hash >> 32) % u64::from(partitions)).expect("less than a u32")
}

fn make(directory: &Path, options: &Options) -> io::Result<()> {
    let new = directory.with_extension("new");
    if new.try_exists()? {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir_all(&new)?;
    for number in 0..options.partitions {
        Partition::create(&new.join(format!("partition-{number}")))?;
    }
    let made = Making { created_at: options.clock.now().millis(), partitions: options.partitions };
    let mut file = File::create(new.join("log.json"))?;
    file.write_all(serde_json::to_string_pretty(&made)?.as_bytes())?;
    file.sync_all()?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, directory)?;
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    tracing::info!(path = %directory.display(), created_at = made.created_at, "made a new log");
    Ok(())
}

fn read_making(directory: &Path) -> Result<Making, OpenError> {
    let not = |what: String| OpenError::NotALog { path: directory.to_owned(), what };
    let text = fs::read_to_string(directory.join("log.json")).map_err(|error| not(format!("log.json: {error}")))?;
    serde_json::from_str(&text).map_err(|error| not(format!("log.json: {error}")))
}

/// Ends within a second after the log.
fn keep_ticking(inner: &Arc<Inner>) -> io::Result<()> {
    let log: Weak<Inner> = Arc::downgrade(inner);
    thread::Builder::new().name("hub-log-tick".to_owned()).spawn(move || {
        while let Some(inner) = log.upgrade() {
            for handle in &inner.partitions {
                // Full means busy, and busy is when most has to be given up: the writer finds the note after its batch.
                if handle.commands.as_ref().is_some_and(|commands| commands.try_send(Command::Tick(None)).is_err()) {
                    handle.overdue.store(true, Ordering::Relaxed);
                }
            }
            drop(inner);
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

fn unknown(partition: u32) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no partition {partition}"))
}
