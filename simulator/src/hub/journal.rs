//! Records under keys that survive a restart: one line of JSON per change, appended; the last one of a key counts.
//!
//! A change is in the file, and in memory, when [`Book::put`] returns; it is safe from a power cut when
//! [`Journal::settle`] returns. Those who wait at the same time share an fsync. The file is written anew at each open
//! and when most of it is out of date.
//!
//! Never: half a line that a later one is glued to. A write that fails is cut off again, and where that fails too, the
//! journal takes nothing any more.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::devices::write_private;

/// So many bytes that say nothing any more are always tolerated.
const STALE_BYTES: u64 = 1024 * 1024;

/// When a change is safe: give it to [`Journal::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// All records of a file; clones are the same.
pub(crate) struct Journal<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    /// Tickets up to here are safe.
    settled: watch::Sender<u64>,
}

struct State<T> {
    path: PathBuf,
    file: Arc<File>,
    /// Of the file.
    bytes: u64,
    /// Of the lines that count.
    live_bytes: u64,
    records: HashMap<String, (u64, T)>,
    /// Changes in the file.
    written: u64,
    syncing: bool,
    /// Why nothing is taken any more.
    broken: Option<(io::ErrorKind, String)>,
}

/// The journal while nobody else reads or changes it.
pub(crate) struct Book<'a, T> {
    state: MutexGuard<'a, State<T>>,
}

#[derive(Serialize)]
struct LineOut<'a, T> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a T>,
}

/// One change; without a record the key is gone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineIn<T> {
    key: String,
    record: Option<T>,
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Journal<T> {
    /// Reads the file, or makes it. Lines that cannot be understood are left out, and said to be.
    ///
    /// # Errors
    /// If the disk says no.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            read => read?,
        };
        let (records, unread) = understand::<T>(&text);
        if 0 < unread {
            tracing::warn!(unread, path = %path.display(), "lines of a journal cannot be understood; left out");
        }
        drop(text);
        let records = records.into_iter().map(|(key, record)| (key, (0, record))).collect();
        let file = File::options().create(true).append(true).open(&path)?;
        let mut state = State {
            path,
            file: Arc::new(file),
            bytes: 0,
            live_bytes: 0,
            records,
            written: 0,
            syncing: false,
            broken: None,
        };
        state.rewrite()?;
        Ok(Self { inner: Arc::new(Inner { state: Mutex::new(state), settled: watch::Sender::new(0) }) })
    }

    /// The records, for a moment without waiting.
    pub(crate) fn book(&self) -> Book<'_, T> {
        Book { state: self.inner.state() }
    }

    /// Returns once the change of this ticket, and all before it, are safe. May be dropped.
    ///
    /// # Errors
    /// If the disk says no; then nobody knows what is on it, and the journal takes nothing any more.
    pub(crate) async fn settle(&self, ticket: Ticket) -> io::Result<()> {
        let mut settled = self.inner.settled.subscribe();
        loop {
            if ticket.0 <= *settled.borrow_and_update() {
                return Ok(());
            }
            if self.inner.begin_sync()? {
                let inner = Arc::clone(&self.inner);
                tokio::task::spawn_blocking(move || inner.sync());
            }
            // The sender lives in `self`, so waiting cannot fail.
            let _ = settled.changed().await;
        }
    }
}

impl<T: Serialize> Inner<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the caller is the one to sync.
    fn begin_sync(&self) -> io::Result<bool> {
        let mut state = self.state();
        state.check()?;
        Ok(!std::mem::replace(&mut state.syncing, true))
    }

    fn sync(&self) {
        let (file, upto) = {
            let state = self.state();
            (Arc::clone(&state.file), state.written)
        };
        let synced = file.sync_data();
        let mut state = self.state();
        state.syncing = false;
        if let Err(error) = &synced {
            state.broken = Some((error.kind(), error.to_string()));
        }
        drop(state);
        // Everybody is woken: those whose change is not in it see to the next one, or hear of the trouble.
        self.settled.send_modify(|settled| *settled = if synced.is_ok() { upto.max(*settled) } else { *settled });
    }
}

impl<T: Serialize> Book<'_, T> {
    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.state.records.get(key).map(|(_, record)| record)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.state.records.iter().map(|(key, (_, record))| (key.as_str(), record))
    }

    pub(crate) fn len(&self) -> usize {
        self.state.records.len()
    }

    /// Writes a record, in place of the one there was.
    ///
    /// # Errors
    /// If the disk says no; then nothing has changed.
    pub(crate) fn put(&mut self, key: &str, record: T) -> io::Result<Ticket> {
        self.state.change(key, Some(record))
    }

    /// Takes a record away; nothing happens where there is none.
    ///
    /// # Errors
    /// As [`Book::put`].
    pub(crate) fn remove(&mut self, key: &str) -> io::Result<Ticket> {
        match self.state.records.contains_key(key) {
            true => self.state.change(key, None),
            false => Ok(Ticket(self.state.written)),
        }
    }
}

impl<T: Serialize> State<T> {
    fn check(&self) -> io::Result<()> {
        match &self.broken {
            Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
            None => Ok(()),
        }
    }

    fn change(&mut self, key: &str, record: Option<T>) -> io::Result<Ticket> {
        self.check()?;
        let line = line(key, record.as_ref())?;
        if let Err(error) = self.file.as_ref().write_all(&line) {
            if let Err(stuck) = self.file.set_len(self.bytes) {
                self.broken = Some((stuck.kind(), stuck.to_string()));
            }
            return Err(error);
        }
        let bytes = line.len() as u64;
        self.bytes += bytes;
        let before = match record {
            Some(record) => {
                self.live_bytes += bytes;
                self.records.insert(key.to_owned(), (bytes, record))
            }
            None => self.records.remove(key),
        };
        self.live_bytes -= before.map_or(0, |(bytes, _)| bytes);
        self.written += 1;
        if 2 * self.live_bytes + STALE_BYTES < self.bytes
            && let Err(error) = self.rewrite()
        {
            // What was there is still there, only larger than need be.
            tracing::warn!(%error, path = %self.path.display(), "a journal cannot be written anew");
        }
        Ok(Ticket(self.written))
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut text = vec![];
        let mut lengths = HashMap::new();
        for (key, (_, record)) in &self.records {
            let line = line(key, Some(record))?;
            lengths.insert(key.clone(), line.len() as u64);
            text.extend_from_slice(&line);
        }
        write_private(&self.path, &text)?;
        sync_directory(&self.path)?;
        self.file = Arc::new(File::options().append(true).open(&self.path)?);
        (self.bytes, self.live_bytes) = (text.len() as u64, text.len() as u64);
        for (key, (bytes, _)) in &mut self.records {
            *bytes = lengths.get(key).copied().unwrap_or(0);
        }
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn line<T: Serialize>(key: &str, record: Option<&T>) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&LineOut { key, record })?;
    line.push(b'\n');
    Ok(line)
}

/// The records, and how many lines are not about any.
fn understand<T: DeserializeOwned>(text: &[u8]) -> (HashMap<String, T>, usize) {
    let (mut records, mut unread) = (HashMap::new(), 0);
    for bytes in text.split(|byte| *byte == b'\n').filter(|bytes| !bytes.is_empty()) {
        match serde_json::from_slice::<LineIn<T>>(bytes) {
            Ok(LineIn { key, record: Some(record) }) => drop(records.insert(key, record)),
            Ok(LineIn { key, record: None }) => drop(records.remove(&key)),
            Err(_) => unread += 1,
        }
    }
    (records, unread)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("journal.jsonl")
    }

    #[tokio::test]
    async fn the_last_record_of_a_key_is_there_after_a_restart_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::<u32>::open(at(&dir)).expect("made");
        let mut ticket = journal.book().put("a", 1).expect("written");
        for (key, record) in [("a", Some(2)), ("b", Some(3)), ("b", None), ("c", Some(4))] {
            let mut book = journal.book();
            ticket = match record {
                Some(record) => book.put(key, record).expect("written"),
                None => book.remove(key).expect("written"),
            };
        }
        journal.settle(ticket).await.expect("safe");
        drop(journal);
        let torn = fs::read_to_string(at(&dir)).expect("read") + r#"{"key":"d","rec"#;
        fs::write(at(&dir), torn).expect("written");
        let journal = Journal::<u32>::open(at(&dir)).expect("read");
        let book = journal.book();
        assert_eq!((book.get("a"), book.get("b"), book.get("c"), book.len()), (Some(&2), None, Some(&4), 2));
    }

    #[tokio::test]
    async fn many_who_wait_share_fsyncs_and_all_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::<u32>::open(at(&dir)).expect("made");
        let tasks: Vec<_> = (0..200)
            .map(|number| {
                let journal = journal.clone();
                tokio::spawn(async move {
                    let ticket = journal.book().put(&number.to_string(), number).expect("written");
                    journal.settle(ticket).await
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic").expect("safe");
        }
        drop(journal);
        assert_eq!(Journal::<u32>::open(at(&dir)).expect("read").book().len(), 200);
    }

    #[test]
    fn the_file_does_not_grow_with_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = Journal::<String>::open(at(&dir)).expect("made");
        for _ in 0..300 {
            journal.book().put("a", "x".repeat(10_000)).expect("written");
        }
        let bytes = fs::metadata(at(&dir)).expect("there").len();
        assert!(bytes < STALE_BYTES + 40_000, "{bytes}");
        assert_eq!(journal.book().get("a").map(String::len), Some(10_000));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200), like in "[\\[\\]{}\":,a-z0-9\n]{0,80}") {
            understand::<serde_json::Value>(&text);
            understand::<serde_json::Value>(like.as_bytes());
        }
    }
}
