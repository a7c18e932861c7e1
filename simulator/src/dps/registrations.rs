//! What became of each registration: it outlives a restart, and a device that comes again finds its hub.
//!
//! One line of JSON per change, appended and synced; the last one of a registration counts. The file is written anew at
//! each start and when most of it is out of date.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::time::Timestamp;

use crate::hub::devices::write_private;

/// So many lines that say nothing any more are always tolerated.
const STALE_LINES: usize = 1_000;

/// A device's registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Registration {
    /// As the device wrote it first.
    pub(super) registration_id: String,
    /// The group it belongs to; `None` for an individual enrolment.
    pub(super) group: Option<String>,
    pub(super) by_certificate: bool,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    /// The last one.
    pub(super) operation_id: String,
    pub(super) etag: String,
    /// Where it was assigned at first.
    pub(super) first_hub: Option<String>,
    /// Where it is.
    pub(super) assigned: Option<Assigned>,
    /// Of the last operation.
    pub(super) outcome: Outcome,
    /// What the enrolment has for the device.
    #[serde(default)]
    pub(super) payload: Option<Value>,
}

/// Where a device belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Assigned {
    pub(super) hub: String,
    pub(super) device_id: String,
    pub(super) substatus: Substatus,
}

/// How it came to be there, by the service's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Substatus {
    InitialAssignment,
    DeviceDataMigrated,
    DeviceDataReset,
    ReprovisionedToInitialAssignment,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Assigned,
    Failed { code: u32, message: String },
}

/// All registrations; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Registrations {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: File,
    lines: usize,
    by_id: ById,
}

/// By the id in small letters: it is the same however it is written.
type ById = BTreeMap<String, Registration>;

impl Registrations {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            read => read?,
        };
        let (by_id, unread) = understand(&text);
        if 0 < unread {
            tracing::warn!(unread, path = %path.display(), "lines about registrations cannot be understood; left out");
        }
        let file = rewrite(&path, &by_id)?;
        Ok(Self { kept: Arc::new(Mutex::new(Kept { path, file, lines: by_id.len(), by_id })) })
    }

    pub(super) fn get(&self, registration_id: &str) -> Option<Registration> {
        self.lock().by_id.get(&key(registration_id)).cloned()
    }

    /// Keeps a registration; it is on disk when this returns.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn put(&self, registration: Registration) -> io::Result<()> {
        let mut kept = self.lock();
        kept.file.write_all(line(&registration).as_bytes())?;
        kept.file.sync_data()?;
        kept.lines += 1;
        kept.by_id.insert(key(&registration.registration_id), registration);
        if 2 * kept.by_id.len() + STALE_LINES < kept.lines {
            kept.file = rewrite(&kept.path, &kept.by_id)?;
            kept.lines = kept.by_id.len();
        }
        Ok(())
    }

    /// All of them, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Registration> {
        self.lock().by_id.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(registration_id: &str) -> String {
    registration_id.to_ascii_lowercase()
}

/// The registrations, and how many lines are about none.
fn understand(text: &[u8]) -> (ById, usize) {
    let (mut by_id, mut unread) = (BTreeMap::new(), 0);
    for bytes in text.split(|byte| *byte == b'\n').filter(|bytes| !bytes.is_empty()) {
        match serde_json::from_slice::<Registration>(bytes) {
            Ok(registration) => drop(by_id.insert(key(&registration.registration_id), registration)),
            Err(_) => unread += 1,
        }
    }
    (by_id, unread)
}

fn line(registration: &Registration) -> String {
    serde_json::to_string(registration).expect("texts and numbers are JSON") + "\n"
}

fn rewrite(path: &Path, by_id: &ById) -> io::Result<File> {
    let text: String = by_id.values().map(line).collect();
    write_private(path, text.as_bytes())?;
    File::options().append(true).open(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registration(id: &str, hub: &str) -> Registration {
        Registration {
            registration_id: id.to_owned(),
            group: None,
            by_certificate: true,
            created_at: Timestamp::from_millis(1),
            updated_at: Timestamp::from_millis(2),
            operation_id: "4.a.b".to_owned(),
            etag: "e".to_owned(),
            first_hub: Some(hub.to_owned()),
            assigned: Some(Assigned {
                hub: hub.to_owned(),
                device_id: id.to_owned(),
                substatus: Substatus::DeviceDataMigrated,
            }),
            outcome: Outcome::Failed { code: 400_000, message: "why".to_owned() },
            payload: Some(serde_json::json!([1, null])),
        }
    }

    #[test]
    fn a_registration_is_there_after_a_restart_however_its_id_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("registrations.jsonl");
        let registrations = Registrations::open(path.clone()).expect("made");
        assert_eq!(registrations.get("d"), None);
        for round in 0..1_200u32 {
            registrations.put(registration("Press-7", &format!("hub-{round}"))).expect("written");
        }
        drop(registrations);
        let torn = fs::read_to_string(&path).expect("read") + r#"{"registration-id":"e","#;
        assert!(torn.lines().count() < STALE_LINES + 10, "the file does not grow with changes");
        fs::write(&path, torn).expect("written");
        let registrations = Registrations::open(path).expect("read");
        assert_eq!(registrations.get("press-7"), Some(registration("Press-7", "hub-1199")));
        assert_eq!(registrations.all().len(), 1);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200), like in "[\\[\\]{}\":,a-z0-9\n-]{0,80}") {
            understand(&text);
            understand(like.as_bytes());
        }
    }
}
