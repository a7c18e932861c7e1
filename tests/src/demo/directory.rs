//! The demo's folder: made, emptied or gone on with, and never somebody else's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file by which a folder is known to be a demo's.
const MARK: &str = "iot-medallion-demo";
/// The folder's name where the user gives none.
const DEFAULT_NAME: &str = "iot-medallion-demo";

/// The demo's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirectoryError {
    /// It holds something else.
    #[error("{path} holds something that is no demo's; give an empty or new folder with --dir")]
    Foreign {
        /// Which folder.
        path: PathBuf,
    },
    /// Another demo runs there.
    #[error("a demo runs in {path} already; give another folder with --dir")]
    Busy {
        /// Which folder.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("prepare {path}: {source}")]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A demo's folder, held until dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    // The lock lives as long as the file is open.
    _lock: fs::File,
}

impl Directory {
    /// Takes the folder `asked` (or the default one): emptied of an earlier demo, or, with `keep`, as it is.
    pub(super) fn take(asked: Option<&Path>, keep: bool) -> Result<Self, DirectoryError> {
        let path = match asked {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => std::env::temp_dir().join(DEFAULT_NAME),
        };
        let io = |source| DirectoryError::Io { path: path.clone(), source };
        fs::create_dir_all(&path).map_err(io)?;
        let mark = path.join(MARK);
        let empty = fs::read_dir(&path).map_err(io)?.next().is_none();
        if !empty && !mark.exists() {
            return Err(DirectoryError::Foreign { path });
        }
        let lock = fs::OpenOptions::new().create(true).append(true).open(&mark).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DirectoryError::Busy { path }),
            Err(fs::TryLockError::Error(source)) => return Err(io(source)),
        }
        if !keep {
            for entry in fs::read_dir(&path).map_err(io)? {
                let entry = entry.map_err(io)?.path();
                if entry != mark {
                    match entry.is_dir() {
                        true => fs::remove_dir_all(&entry),
                        false => fs::remove_file(&entry),
                    }
                    .map_err(io)?;
                }
            }
        }
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_empties_only_what_a_demo_left_and_one_at_a_time() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let path = temp.path().join("demo");
        let first = Directory::take(Some(&path), false).expect("new");
        assert!(matches!(Directory::take(Some(&path), false), Err(DirectoryError::Busy { .. })));
        fs::write(path.join("old"), "x").expect("writes");
        drop(first);
        drop(Directory::take(Some(&path), true).expect("kept"));
        assert!(path.join("old").exists());
        drop(Directory::take(Some(&path), false).expect("afresh"));
        assert!(!path.join("old").exists());

        let foreign = temp.path().join("home");
        fs::create_dir(&foreign).expect("creates");
        fs::write(foreign.join("thesis.doc"), "years of work").expect("writes");
        assert!(matches!(Directory::take(Some(&foreign), false), Err(DirectoryError::Foreign { .. })));
        assert!(foreign.join("thesis.doc").exists());
    }
}
