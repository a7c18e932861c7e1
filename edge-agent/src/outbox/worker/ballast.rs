//! Room for acknowledgements on a full disk.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use crate::machine;
use crate::outbox::Config;
use crate::outbox::lock::beside;

/// A file of no use but its size, that of the write-ahead log: given up on a full disk, so that acknowledgements can be
/// written, which are what makes room.
pub(super) struct Ballast {
    pub(super) path: PathBuf,
    bytes: usize,
    lies: bool,
}

impl Ballast {
    pub(super) fn new(config: &Config) -> Self {
        let bytes = usize::try_from(crate::outbox::store::wal_bytes(config)).unwrap_or(usize::MAX);
        let path = beside(&config.path, "ballast");
        let lies = std::fs::metadata(&path).is_ok_and(|meta| meta.len() == u64::try_from(bytes).unwrap_or(0));
        Self { path, bytes, lies }
    }

    pub(super) fn lies(&self) -> bool {
        self.lies
    }

    /// True if it lies there now.
    pub(super) fn lay(&mut self) -> bool {
        if !self.lies {
            let written = File::create(&self.path)
                .and_then(|mut file| file.write_all(&vec![0xb5; self.bytes]).and_then(|()| file.sync_all()));
            match written {
                Ok(()) => self.lies = true,
                Err(error) => {
                    tracing::debug!(%error, "no room for the ballast");
                    self.drop_it();
                }
            }
        }
        self.lies
    }

    /// True if less than it would take is free on the disk beside it.
    pub(super) fn is_needed(&self) -> bool {
        machine::disk(&self.path).is_some_and(|disk| disk.free < self.bytes as u64)
    }

    pub(super) fn drop_it(&mut self) {
        std::fs::remove_file(&self.path).ok();
        self.lies = false;
    }
}
