//! The last good set of desired properties: a small file beside the outbox, in force from the start, also where the hub is
//! away or desires something that cannot be.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::document::{SECTION_BYTES_MAX, Section};
use super::settings::{self, Devices, Settings};
use crate::outbox::lock::beside;
use crate::provision::record;

/// A set that was applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kept {
    v: u32,
    /// Of the desired properties.
    pub version: i64,
    /// What of them is ours.
    pub desired: Section,
}

impl Kept {
    /// Of this version.
    pub fn new(version: i64, desired: Section) -> Self {
        Self { v: 1, version, desired }
    }
}

/// The set in force, and its version.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Good {
    /// What it says.
    pub settings: Settings,
    /// `None` where nothing was ever desired.
    pub version: Option<i64>,
    /// Something of it is left out: it is about a sensor that is not there any more.
    pub is_cut: bool,
}

/// The file beside the outbox at `database`.
pub fn path(database: &Path) -> PathBuf {
    beside(database, "desired")
}

/// What was in force when it was written; nothing where there is none, or none that can be used, which is logged. What it
/// says of sensors that were taken out of the configuration since then is left out, and logged: all else of it still counts.
pub fn read(database: &Path, devices: &Devices) -> Good {
    let path = path(database);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Good::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), "settings of the twin as of before cannot be read: {error}");
            return Good::default();
        }
    };
    let kept = Some(bytes).filter(|bytes| bytes.len() <= 2 * SECTION_BYTES_MAX);
    let kept = kept.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok()).filter(|kept| kept.v == 1);
    let read = kept.map(|mut kept| {
        let gone = settings::forget_strangers(&mut kept.desired, devices);
        (kept.version, gone, settings::read(&kept.desired, devices))
    });
    match read {
        Some((version, gone, Ok(settings))) => {
            if !gone.is_empty() {
                tracing::warn!(
                    version,
                    ?gone,
                    "the twin says how often sensors are read that this gateway does not have any more: left out"
                );
            }
            Good { settings, version: Some(version), is_cut: !gone.is_empty() }
        }
        _ => {
            tracing::warn!(path = %path.display(), "settings of the twin as of before make no sense: as configured");
            Good::default()
        }
    }
}

/// Writes sets down, away from whoever asks for it.
#[derive(Debug, Clone)]
pub struct Keeper {
    path: PathBuf,
    asked: Arc<AtomicU64>,
    written: Arc<Mutex<u64>>,
}

impl Keeper {
    /// Beside the outbox at `database`.
    pub fn new(database: &Path) -> Self {
        Self { path: path(database), asked: Arc::default(), written: Arc::default() }
    }

    /// Writes it down; of several that are asked for, the last one stays.
    pub fn keep(&self, kept: Kept) {
        let (keeper, number) = (self.clone(), self.asked.fetch_add(1, Ordering::Relaxed) + 1);
        tokio::task::spawn_blocking(move || {
            let mut written = keeper.written.lock().unwrap_or_else(PoisonError::into_inner);
            if number < *written {
                return;
            }
            *written = number;
            let text = serde_json::to_vec_pretty(&kept).expect("a section is plain data");
            if let Err(error) = record::replace(&keeper.path, &text) {
                let path = keeper.path.display();
                tracing::error!(%path, "what the twin desires is in force, but cannot be written down for the next start: {error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_is_read_and_what_makes_no_sense_is_as_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("outbox.db");
        let devices = Devices::from(["hall".to_owned()]);
        let read = |database: &Path| super::read(database, &devices);
        assert_eq!(read(&database), Good::default());
        let desired = json!({ "log-level": "debug", "intervals": { "linger": "3s" } });
        let kept = Kept::new(7, desired.as_object().expect("an object").clone());
        record::replace(&path(&database), &serde_json::to_vec(&kept).expect("JSON")).expect("written");
        let good = read(&database);
        assert_eq!((good.version, good.settings.level.as_deref()), (Some(7), Some("debug")));
        assert!(!good.is_cut);
        // Its sensor was taken out of the configuration: the rest is in force all the same.
        let desired = json!({ "log-level": "debug", "intervals": { "sensors": { "hall": "1s", "gone": "2s" } } });
        let kept = Kept::new(8, desired.as_object().expect("an object").clone());
        record::replace(&path(&database), &serde_json::to_vec(&kept).expect("JSON")).expect("written");
        let good = read(&database);
        assert_eq!((good.version, good.settings.level.as_deref(), good.is_cut), (Some(8), Some("debug"), true));
        assert_eq!(good.settings.sensors.keys().collect::<Vec<_>>(), ["hall"]);
        for text in ["", "{", r#"{"v":2,"version":1,"desired":{}}"#, r#"{"v":1,"version":1,"desired":{"rules":3}}"#] {
            std::fs::write(path(&database), text).expect("written");
            assert_eq!(read(&database), Good::default(), "{text}");
        }
    }
}
