//! What the provisioning service said: a small file beside the outbox, from which the next start takes its hub.
//!
//! Replaced whole by rename, so it is never half written. It holds names, never the key.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use super::exchange::is_host;
use super::{Applicant, Assigned};
use crate::outbox::lock::beside;

/// Longest file that is read.
const BYTES_MAX: u64 = 16 * 1024;

/// A hub that was assigned, to whom, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Assignment {
    v: u32,
    /// The hub's name.
    pub hub: String,
    /// Our device id there.
    pub device: String,
    /// Of the service that assigned it.
    pub id_scope: String,
    /// Who we are at that service.
    pub registration_id: String,
    /// When, RFC 3339.
    pub assigned_at: String,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It makes no sense.
    #[error("{path} is not what `edge-agent provision` writes; it will be written anew")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl Assignment {
    /// What the service told `applicant` at `now`.
    pub fn new(assigned: Assigned, applicant: &Applicant, now: Timestamp) -> Self {
        Self {
            v: 1,
            hub: assigned.hub,
            device: assigned.device,
            id_scope: applicant.id_scope.clone(),
            registration_id: applicant.registration_id.clone(),
            assigned_at: now.to_string(),
        }
    }

    /// True if it was assigned to this applicant, and not to whom the settings named before.
    pub fn is_of(&self, applicant: &Applicant) -> bool {
        self.id_scope == applicant.id_scope && self.registration_id == applicant.registration_id
    }

    fn makes_sense(&self) -> bool {
        self.v == 1 && is_host(&self.hub) && crate::hub::is_device_id(&self.device)
    }
}

/// The file beside the outbox at `database`.
pub fn path(database: &Path) -> PathBuf {
    beside(database, "hub")
}

/// Reads it; `None` if there is none.
///
/// # Errors
/// It cannot be read or understood.
pub fn read(database: &Path) -> Result<Option<Assignment>, RecordError> {
    use std::io::Read as _;
    let path = path(database);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RecordError::Read { path, source }),
    }
    let read = serde_json::from_slice::<Assignment>(&bytes).ok().filter(Assignment::makes_sense);
    read.map(Some).ok_or(RecordError::Damaged { path })
}

/// Writes it; on disk when this returns.
///
/// # Errors
/// The disk says why not; what stood there before stands there still.
pub fn write(database: &Path, assignment: &Assignment) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(assignment)?;
    text.push(b'\n');
    replace(&path(database), &text)
}

/// A file replaced whole, that only its owner may read; on disk when this returns.
pub(crate) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let new = beside(path, "new");
    // One that was left half written keeps neither its bytes nor its mode.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
        file.write_all(text)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| std::fs::rename(&new, path)) {
        std::fs::remove_file(&new).ok();
        return Err(error);
    }
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::provision::tests::applicant;

    #[test]
    fn what_is_written_is_read_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("edge/outbox.db");
        assert_eq!(read(&database).expect("none is no error"), None);
        let assigned = Assigned { hub: "h.azure-devices.net".into(), device: "gw-01".into() };
        let assignment = Assignment::new(assigned, &applicant(8883), Timestamp::from_micros(0));
        for _ in 0..2 {
            write(&database, &assignment).expect("written");
            assert_eq!(read(&database).expect("read"), Some(assignment.clone()));
        }
        let mode = std::fs::metadata(path(&database)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(path(&database)).expect("text");
        assert!(!text.contains("c2Vj"), "no key is copied: {text}");
        assert!(assignment.is_of(&applicant(1)));
        let other = Applicant { registration_id: "gw-02".into(), ..applicant(1) };
        assert!(!assignment.is_of(&other));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        let whole = r#"{"v":1,"hub":"a/b","device":"d","id-scope":"s","registration-id":"r","assigned-at":""}"#;
        for text in ["", "{", "{\"v\":1}", whole] {
            std::fs::write(path(&database), text).expect("written");
            let error = read(&database).expect_err(text).to_string();
            assert!(error.contains("outbox.db.hub"), "{error}");
        }
    }
}
