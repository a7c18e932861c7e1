//! When identities came, went and were last heard, for those who ask while they are away; it outlives a restart. What a
//! power cut takes of it nobody misses.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use crate::hub::journal::Journal;
use crate::hub::who::Who;

/// See the module. By default nothing is remembered.
#[derive(Default)]
pub(super) struct Seen {
    journal: Option<Journal<Record>>,
}

/// When somebody was seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Last {
    /// When it came or went.
    pub(crate) changed: Timestamp,
    /// When it came, or was heard.
    pub(crate) active: Timestamp,
}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    /// Of the identity it connected as: a later one of the same id was not seen.
    generation_id: String,
    #[serde(flatten)]
    last: Last,
}

impl Seen {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { journal: Some(Journal::open(path)?) })
    }

    /// When this identity was seen last.
    pub(super) fn get(&self, who: &Who, generation_id: &str) -> Option<Last> {
        let book = self.journal.as_ref()?.book();
        book.get(&who.to_string()).filter(|record| record.generation_id == generation_id).map(|record| record.last)
    }

    /// It came or went.
    pub(super) fn put(&self, who: &Who, generation_id: &str, last: Last) {
        let Some(journal) = &self.journal else { return };
        let record = Record { generation_id: generation_id.to_owned(), last };
        if let Err(error) = journal.book().put(&who.to_string(), record) {
            tracing::warn!(%who, %error, "failed to write down when a device came or went");
        }
    }

    /// Forgets all but these.
    pub(super) fn retain(&self, stays: impl Fn(&Who) -> bool) -> io::Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut book = journal.book();
        let gone: Vec<_> = book.iter().map(|(key, _)| key.to_owned()).filter(|key| !stays(&Who::parse(key))).collect();
        gone.iter().try_for_each(|key| book.remove(key).map(drop))
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seen").finish_non_exhaustive()
    }
}
