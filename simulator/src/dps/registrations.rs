//! What became of each registration: it outlives a restart, and a device that comes again finds its hub.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::time::Timestamp;

use crate::hub::journal::Journal;

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

/// All registrations, by the id in small letters: it is the same however it is written. Clones are the same.
#[derive(Clone)]
pub(super) struct Registrations {
    journal: Journal<Registration>,
    /// Operations that have begun and not ended, by the same ids.
    begun: Journal<String>,
}

impl Registrations {
    /// Reads the file, or makes it.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let begun = Journal::open(path.with_file_name("operations.jsonl"))?;
        Ok(Self { journal: Journal::open(path)?, begun })
    }

    /// A device is about to be told that this operation is under way. Not fsynced: whom a power cut takes it from
    /// registers again.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn begin(&self, registration_id: &str, operation_id: &str) -> io::Result<()> {
        self.begun.book().put(&registration_id.to_ascii_lowercase(), operation_id.to_owned()).map(drop)
    }

    /// The operation of a device that has begun and not ended, be it for a restart.
    pub(super) fn begun(&self, registration_id: &str) -> Option<String> {
        self.begun.book().get(&registration_id.to_ascii_lowercase()).cloned()
    }

    /// What became of the operation is kept.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) fn end(&self, registration_id: &str) -> io::Result<()> {
        self.begun.book().remove(&registration_id.to_ascii_lowercase()).map(drop)
    }

    pub(super) fn get(&self, registration_id: &str) -> Option<Registration> {
        self.journal.book().get(&registration_id.to_ascii_lowercase()).cloned()
    }

    /// Keeps a registration; it is on disk when this returns.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) async fn put(&self, registration: Registration) -> io::Result<()> {
        let key = registration.registration_id.to_ascii_lowercase();
        let ticket = self.journal.book().put(&key, registration)?;
        self.journal.settle(ticket).await
    }

    /// All of them, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Registration> {
        let mut all: Vec<_> = self.journal.book().iter().map(|(_, registration)| registration.clone()).collect();
        all.sort_by_cached_key(|registration| registration.registration_id.to_ascii_lowercase());
        all
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_registration_is_there_after_a_restart_however_its_id_is_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("registrations.jsonl");
        let registrations = Registrations::open(path.clone()).expect("made");
        assert_eq!(registrations.get("d"), None);
        for hub in ["east", "west"] {
            registrations.put(registration("Press-7", hub)).await.expect("written");
        }
        drop(registrations);
        let registrations = Registrations::open(path).expect("read");
        assert_eq!(registrations.get("press-7"), Some(registration("Press-7", "west")));
        assert_eq!(registrations.all().len(), 1);
    }
}
