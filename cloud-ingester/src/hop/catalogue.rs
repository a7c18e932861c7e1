//! silver.devices, brought up to the catalogue whenever that changes.
//!
//! A catalogue that can't be read or holds a mistake changes nothing: what was read last stays in force. The log says
//! file, line and what to write, once for each state the catalogue is found in, and so does `status` while it lasts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared::clock::Clock;
use shared::time::Timestamp;

use super::error::HopError;
use super::runner::Hops;
use crate::lake::{Kind, Lake, Removes, Table, TableCommit, Txn, foreign};
use crate::silver::catalogue::{self, Entry, Mistake};
use crate::silver::devices::Catalogue;

/// How often a catalogue that is a table is looked at; a file costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What `status` calls it.
const TROUBLE: &str = "silver.catalogue";

/// Where the catalogue is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, `.toml` or `.csv`.
    File(PathBuf),
    /// A Delta table with the columns of silver.devices: its URL.
    Table(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Table(url) => f.write_str(url),
        }
    }
}

/// In which state a catalogue was found last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Never,
    File(Option<(SystemTime, u64)>),
    Table(Option<i64>),
}

/// The catalogue as hops know it.
#[derive(Debug, Clone)]
pub(super) struct Following {
    source: Option<Source>,
    found: Found,
    /// When a table was looked at last: each look costs requests of its storage.
    looked: Option<Instant>,
    pub(super) now: Arc<Catalogue>,
}

impl Following {
    pub(super) fn new(source: Option<Source>) -> Self {
        Self { source, found: Found::Never, looked: None, now: Arc::default() }
    }
}

/// Reads a catalogue, as `check` does too.
///
/// # Errors
/// Every mistake, each as `file:line: what`.
pub async fn read(source: &Source, lake: &Lake) -> Result<Vec<Entry>, String> {
    let told = |mistakes: Vec<Mistake>| {
        let lines: Vec<String> = mistakes.iter().map(|mistake| format!("{source}:{mistake}")).collect();
        lines.join("\n")
    };
    match source {
        Source::File(path) => parse(path).map_err(told),
        Source::Table(url) => {
            let (_, batches) = foreign::rows(lake.location(), url).await.map_err(|error| error.to_string())?;
            catalogue::table(&batches).map_err(told)
        }
    }
}

fn parse(path: &Path) -> Result<Vec<Entry>, Vec<Mistake>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![Mistake { line: 1, what: format!("cannot be read: {error}") }])?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv") => catalogue::csv(&text),
        _ => catalogue::toml(&text),
    }
}

impl Hops {
    /// The devices there are, as of the newest version of silver.devices.
    #[must_use]
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.devices.now
    }

    /// The version of silver.devices, where there are any.
    pub(super) fn catalogue_version(&self) -> Option<i64> {
        self.devices.now.all().next().map(|_| self.devices.now.version())
    }

    /// Learns from silver.devices what was read last.
    pub(super) async fn remember_devices(&mut self) -> Result<(), HopError> {
        self.devices.now = Arc::new(Catalogue::read(&self.lake.view(Table::SilverDevices).await?).await?);
        Ok(())
    }

    /// Looks whether the catalogue changed; if so, commits what follows from it.
    pub(super) async fn follow_catalogue(&mut self) -> Result<(), HopError> {
        let Some(source) = self.devices.source.clone() else { return Ok(()) };
        let rested = self.devices.looked.is_none_or(|looked| LOOK_EVERY <= looked.elapsed());
        let found = match &source {
            Source::Table(_) if !rested => return Ok(()),
            Source::File(path) => {
                let state = std::fs::metadata(path).and_then(|meta| Ok((meta.modified()?, meta.len())));
                Found::File(state.ok())
            }
            Source::Table(url) => Found::Table(foreign::version(self.lake.location(), url).await.ok()),
        };
        self.devices.looked = Some(Instant::now());
        if found == self.devices.found {
            return Ok(());
        }
        let read = read(&source, &self.lake).await;
        let entries = match read {
            Ok(entries) => entries,
            Err(mistakes) => {
                tracing::error!("the catalogue of devices stays as it was read last:\n{mistakes}");
                self.lake.trouble(TROUBLE, Some(format!("stays as it was read last:\n{mistakes}")));
                self.devices.found = found;
                return Ok(());
            }
        };
        self.take_catalogue(&source, &entries, Clock::Real.now()).await?;
        self.lake.trouble(TROUBLE, None);
        // Only now: what failed is tried again.
        self.devices.found = found;
        Ok(())
    }

    /// Commits what follows from these entries; nothing if silver.devices says so already.
    pub(super) async fn take_catalogue(
        &mut self,
        source: &Source,
        entries: &[Entry],
        now: Timestamp,
    ) -> Result<(), HopError> {
        let before: Vec<catalogue::Row> = self.devices.now.all().cloned().collect();
        let Some(rows) = catalogue::follow(&before, entries, now) else {
            return Ok(());
        };
        let table = Table::SilverDevices;
        let app = table.app_id("catalogue");
        let view = self.lake.view(table).await?;
        let expected = view.txn(&app).await?;
        let mut writer = self.lake.writer(table).await?;
        let batch = catalogue::batch(&rows);
        let text = format!("{rows:?}");
        let digest: String = Sha256::digest(text.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        writer.write(batch).await?;
        let commit = TableCommit {
            table,
            kind: Kind::Files { adds: writer.finish().await?, removes: Removes::All },
            batches: vec![],
            txns: vec![Txn { app, expected, version: expected.unwrap_or(0) + 1 }],
            metadata: vec![(
                "catalogue".to_owned(),
                json!({ "source": source.to_string(), "devices": entries.len(), "digest": digest }),
            )],
        };
        let landed = self.lake.commit(commit, Some(&self.lease)).await?;
        tracing::info!(%source, devices = entries.len(), version = landed.version(), "the catalogue of devices was read");
        self.devices.now = Arc::new(Catalogue::new(landed.version(), rows));
        Ok(())
    }
}
