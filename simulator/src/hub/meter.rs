//! The day's metered messages on disk, so that a restart gives no new quota.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::devices::write_public;
use super::limits::{Config, Limits, Metered, SharedLimits};

/// A kill loses at most the messages of so long from the day's count.
const TICK: Duration = Duration::from_secs(1);

/// The count cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{act} the count of metered messages {}", path.display())]
pub struct MeterError {
    act: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Where the count is kept.
#[derive(Debug)]
pub(super) struct Meter {
    path: PathBuf,
    kept: Metered,
}

impl Meter {
    /// Reads what was kept; a file that cannot be understood counts as none, and is said.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn open(path: PathBuf) -> Result<Self, MeterError> {
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the count of metered messages begins anew");
                Metered::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Metered::default(),
            Err(source) => return Err(MeterError { act: "read", path, source }),
        };
        Ok(Self { path, kept })
    }

    /// The limits that go on from it.
    pub(super) fn limits(&self, config: &Config) -> SharedLimits {
        SharedLimits::new(Limits::new(config.clone(), self.kept))
    }

    /// Keeps the count until `stop`, and once more then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) async fn keep(mut self, limits: SharedLimits, stop: CancellationToken) -> Result<(), MeterError> {
        loop {
            let stopped = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(TICK) => false,
            };
            let now = limits.lock().meter();
            if now != self.kept {
                let text = serde_json::to_vec(&now).expect("two numbers are JSON");
                write_public(&self.path, &text).map_err(|source| MeterError {
                    act: "write",
                    path: self.path.clone(),
                    source,
                })?;
                self.kept = now;
            }
            if stopped {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_restart_gives_no_new_quota() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("meter.json");
        let config = crate::config::Config::load(None).expect("the default").hub.limits;
        let meter = Meter::open(path.clone()).expect("none yet");
        let limits = meter.limits(&config);
        let now = shared::clock::Clock::Real.now();
        limits.lock().send(now, 7);
        let stop = CancellationToken::new();
        stop.cancel();
        meter.keep(limits.clone(), stop).await.expect("kept");
        let again = Meter::open(path.clone()).expect("read");
        assert_eq!(again.limits(&config).lock().meter(), limits.lock().meter());
        assert_eq!(again.kept.used, 7);

        fs::write(&path, "{").expect("written");
        assert_eq!(Meter::open(path).expect("begun anew").kept, Metered::default());
    }
}
