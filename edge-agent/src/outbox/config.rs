//! `[outbox]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use shared::config::{Check, Mistakes, Size};

/// Smallest `bytes-max`: room for the write-ahead log and a few thousand rows.
pub const BYTES_MAX_MIN: u64 = 1 << 20;

/// Where the outbox lies and how large it may become.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The database; side file, lock and socket lie beside it. Where it is a link, what it leads to: by two names it
    /// would have two locks.
    #[serde(deserialize_with = "resolved")]
    pub path: PathBuf,
    /// Most bytes of database, write-ahead log and shared memory together. At it, intake stops acknowledging.
    pub bytes_max: Size,
    /// How long the full bytes of a refused payload longer than 32 KiB are kept.
    pub quarantine_days: u32,
}

impl Config {
    /// `quarantine_days` as a duration.
    pub fn quarantine(&self) -> Duration {
        Duration::from_secs(u64::from(self.quarantine_days) * 86_400)
    }
}

fn resolved<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok(match path.read_link() {
        // One that leads nowhere yet leads to where the database will be.
        Ok(target) => path.canonicalize().unwrap_or_else(|_| path.with_file_name(target)),
        Err(_) => path,
    })
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        if self.path.as_os_str().is_empty() {
            mistakes.add("outbox.path", "is empty; write the database's path, e.g. \"/var/lib/edge-agent/outbox.db\"");
        }
        if self.bytes_max.bytes() < BYTES_MAX_MIN {
            mistakes.add("outbox.bytes-max", "must be at least \"1MiB\"; write e.g. \"1GiB\"");
        }
    }
}
