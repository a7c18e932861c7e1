//! What outlives a connection: the filters of those who asked for a session that stays (clean session 0).
//!
//! One line of JSON per change, appended; the last one of a client counts. The file is written anew at each start and
//! when most of it is out of date. A change is in the file before it is acknowledged; what a power failure takes, the
//! device finds missing by the session-present flag of its next CONNACK.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::end::End;
use crate::hub::devices::write_private;

/// So many lines that say nothing any more are always tolerated.
const STALE_LINES: usize = 1_000;

/// A filter and the quality of service granted for it, 0 or 1.
pub(super) type Filter = (String, u8);

/// All sessions that stay; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    lines: usize,
    by_client: HashMap<String, Vec<Filter>>,
}

/// One change; without filters the session is gone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    client: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filters: Option<Vec<Filter>>,
}

impl Sessions {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            read => read?,
        };
        let (by_client, unread) = understand(&text);
        if 0 < unread {
            tracing::warn!(unread, path = %path.display(), "lines about kept sessions cannot be understood; left out");
        }
        let file = rewrite(&path, &by_client)?;
        let kept = Kept { path, file, lines: by_client.len(), by_client };
        Ok(Self { kept: Arc::new(Mutex::new(kept)) })
    }

    /// Begins a session: what was kept of an earlier one, or `None`. A clean one forgets it.
    ///
    /// # Errors
    /// If the disk says no, or if the connection has to `leave`: the session is another's by now.
    pub(super) fn begin(
        &self,
        client: &str,
        clean: bool,
        leave: &CancellationToken,
    ) -> Result<Option<Vec<Filter>>, End> {
        let mut kept = self.lock_for(leave)?;
        let begun = match (clean, kept.by_client.get(client)) {
            (true, None) => Ok(None),
            (true, Some(_)) => kept.change(client, None).map(|()| None),
            (false, Some(filters)) => Ok(Some(filters.clone())),
            (false, None) => kept.change(client, Some(vec![])).map(|()| None),
        };
        begun.map_err(End::NotKept)
    }

    /// Keeps what a client is subscribed to now, if its session stays.
    ///
    /// # Errors
    /// As [`Sessions::begin`].
    pub(super) fn keep(&self, client: &str, filters: &[Filter], leave: &CancellationToken) -> Result<(), End> {
        let mut kept = self.lock_for(leave)?;
        match kept.by_client.get(client) {
            Some(before) if before != filters => kept.change(client, Some(filters.to_vec())).map_err(End::NotKept),
            _ => Ok(()),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_client.len()
    }

    /// The lock, for a connection that keeps its seat. Whoever takes the seat cancels `leave` first and begins after: a
    /// connection that is found here still seated has changed the session before its successor reads it.
    fn lock_for(&self, leave: &CancellationToken) -> Result<MutexGuard<'_, Kept>, End> {
        let kept = self.lock();
        if leave.is_cancelled() { Err(End::TakenOver) } else { Ok(kept) }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn change(&mut self, client: &str, filters: Option<Vec<Filter>>) -> io::Result<()> {
        self.file.write_all(line(client, filters.as_ref()).as_bytes())?;
        self.lines += 1;
        match filters {
            Some(filters) => self.by_client.insert(client.to_owned(), filters),
            None => self.by_client.remove(client),
        };
        if 2 * self.by_client.len() + STALE_LINES < self.lines {
            self.file = rewrite(&self.path, &self.by_client)?;
            self.lines = self.by_client.len();
        }
        Ok(())
    }
}

/// The sessions, and how many lines are not about any.
fn understand(text: &[u8]) -> (HashMap<String, Vec<Filter>>, usize) {
    let (mut by_client, mut unread) = (HashMap::new(), 0);
    for bytes in text.split(|byte| *byte == b'\n').filter(|bytes| !bytes.is_empty()) {
        match serde_json::from_slice::<Line>(bytes) {
            Ok(Line { client, filters: Some(filters) }) => drop(by_client.insert(client, filters)),
            Ok(Line { client, filters: None }) => drop(by_client.remove(&client)),
            Err(_) => unread += 1,
        }
    }
    (by_client, unread)
}

fn line(client: &str, filters: Option<&Vec<Filter>>) -> String {
    let line = Line { client: client.to_owned(), filters: filters.cloned() };
    serde_json::to_string(&line).expect("texts and numbers are JSON") + "\n"
}

fn rewrite(path: &Path, by_client: &HashMap<String, Vec<Filter>>) -> io::Result<File> {
    let text: String = by_client.iter().map(|(client, filters)| line(client, Some(filters))).collect();
    write_private(path, text.as_bytes())?;
    File::options().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seated() -> CancellationToken {
        CancellationToken::new()
    }

    #[test]
    fn a_session_that_stays_is_there_after_a_restart_until_a_clean_one_comes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sessions.jsonl");
        let filters = vec![("$iothub/methods/POST/#".to_owned(), 1)];
        let sessions = Sessions::open(path.clone()).expect("made");
        assert_eq!(sessions.begin("d", true, &seated()).expect("written"), None);
        sessions.keep("d", &filters, &seated()).expect("nothing to write");
        assert_eq!(sessions.begin("d", false, &seated()).expect("written"), None, "a clean session left nothing");
        sessions.keep("d", &filters, &seated()).expect("written");
        drop(sessions);

        let torn = fs::read_to_string(&path).expect("read") + r#"{"client":"e","fil"#;
        fs::write(&path, torn).expect("written");
        let sessions = Sessions::open(path.clone()).expect("read");
        assert_eq!(sessions.begin("d", false, &seated()).expect("read"), Some(filters));
        assert_eq!(sessions.begin("d", true, &seated()).expect("written"), None);
        drop(sessions);
        assert_eq!(Sessions::open(path).expect("read").len(), 0);
    }

    #[test]
    fn a_connection_that_has_to_leave_does_not_touch_the_session_of_its_successor() {
        let dir = tempfile::tempdir().expect("a directory");
        let sessions = Sessions::open(dir.path().join("sessions.jsonl")).expect("made");
        let filters = vec![("$iothub/methods/POST/#".to_owned(), 1)];
        assert_eq!(sessions.begin("d", false, &seated()).expect("written"), None);
        let taken = seated();
        taken.cancel();
        assert!(matches!(sessions.keep("d", &filters, &taken), Err(End::TakenOver)));
        assert!(matches!(sessions.begin("d", true, &taken), Err(End::TakenOver)));
        assert_eq!(sessions.begin("d", false, &seated()).expect("read"), Some(vec![]));
    }

    #[test]
    fn the_file_does_not_grow_with_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sessions.jsonl");
        let sessions = Sessions::open(path.clone()).expect("made");
        for round in 0..3_000u32 {
            sessions.begin("d", round % 2 == 0, &seated()).expect("written");
        }
        let lines = fs::read_to_string(&path).expect("read").lines().count();
        assert!(lines <= STALE_LINES + 2, "{lines}");
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200), like in "[\\[\\]{}\":,a-z0-9\n]{0,80}") {
            understand(&text);
            understand(like.as_bytes());
        }
    }
}
