//! One writer per outbox: a lock file beside the database, held as long as the process lives.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use shared::time::Timestamp;

/// The lock; given back when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("have outbox {path} for writing: {holder} holds it")]
    Held {
        /// The database.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// The lock file cannot be written.
    #[error("lock {path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Lock {
    /// Takes the lock of the outbox at `database`; `command` is what others will read about the holder.
    ///
    /// # Errors
    /// `Held` names the holder.
    pub fn take(database: &Path, command: &str, now: Timestamp) -> Result<Self, LockError> {
        let path = beside(database, "lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(io)?;
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(LockError::Held { path: database.to_owned(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // The text is for people. On a full disk it may be missing; the lock itself needs no space.
        let text = format!("process {} (edge-agent {command}, since {now})\n", std::process::id());
        if let Err(error) = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()))
        {
            tracing::warn!(%error, "cannot write the holder's name into the lock file");
        }
        Ok(Self { file })
    }

    /// Who holds the lock of the outbox at `database`, if anybody does.
    pub fn holder(database: &Path) -> Option<String> {
        let mut file = File::open(beside(database, "lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                Some(holder.trim().to_owned())
            }
            _ => None,
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The holder is gone, so its name goes; closing the file would give the lock back all the same.
        self.file.set_len(0).ok();
        self.file.unlock().ok();
    }
}

/// The file beside the database with this ending: `outbox.db` -> `outbox.db.lock`.
pub(crate) fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        let at = Timestamp::from_micros(0);
        assert_eq!(Lock::holder(&database), None);
        let first = Lock::take(&database, "run", at).expect("free");
        let error = Lock::take(&database, "outbox drop", at).expect_err("held").to_string();
        assert!(error.contains("edge-agent run"), "{error}");
        assert!(Lock::holder(&database).is_some_and(|holder| holder.contains("edge-agent run")));
        drop(first);
        assert_eq!(Lock::holder(&database), None);
        Lock::take(&database, "outbox drop", at).expect("free again");
    }
}
