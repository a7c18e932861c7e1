//! The lake: every table's handle, and how a commit gets there whatever the storage answers.
//!
//! - Any error may hide a commit that landed: what is done then, `attempt` decides.
//! - What a table is opened and kept by stands in `handle`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deltalake::kernel::Action;
use deltalake::logstore::LogStoreRef;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _};
use deltalake::{DeltaTable, DeltaTableError, ObjectStore, Path};
use serde_json::Value;
use shared::clock::Clock;
use tokio::sync::Mutex;
use url::Url;

use super::attempt::{Attempt, Do, End, Heard};
use super::commit::{
    FILE_BYTES, Kind, Landed, Overtaken, Removes, TableCommit, Txn, build, delta, look, still_there, version,
    write_files,
};
use super::error::{LakeError, trouble};
use super::files::FileWriter;
use super::handle::{CHECKPOINT_EVERY, Handle, log_store};
use super::lease::Lease;
use super::location::Location;
use super::tables::{Layer, Table};
use super::view::View;

/// How often an older holder may be faster than the fence against it. Its lease is lost, so it is once at most.
const FENCES_MAX: u32 = 6;

/// The lake: all tables, one handle each.
pub struct Lake {
    location: Location,
    names: Vec<Table>,
    tables: HashMap<Table, Mutex<Handle>>,
    beside: Arc<dyn ObjectStore>,
    /// What is wrong now, by file or table. For people; nothing is decided by it.
    troubles: std::sync::Mutex<BTreeMap<String, String>>,
    clock: Clock,
    checkpoint_every: i64,
}

impl Lake {
    /// Reaches for the storage of a lake with the tables that every lake has; creates nothing.
    ///
    /// # Errors
    /// As [`Lake::open_with`].
    pub fn open(location: Location) -> Result<Self, LakeError> {
        Self::open_with(location, &[])
    }

    /// Reaches for the storage of a lake that has `own` tables as well; creates nothing.
    ///
    /// # Errors
    /// When no storage of this build serves the location.
    pub fn open_with(location: Location, own: &[Table]) -> Result<Self, LakeError> {
        Self::of(location, own, None, Clock::Real)
    }

    /// The same over a storage of one's own, whose root the location's URL names (`memory:///lake`), and by a clock of
    /// one's own.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub fn over(location: Location, storage: Arc<dyn ObjectStore>, clock: Clock) -> Result<Self, LakeError> {
        Self::of(location, &[], Some(storage), clock)
    }

    /// The same with tables of users' models.
    #[cfg(test)]
    pub(crate) fn over_with(
        location: Location,
        own: &[Table],
        storage: Arc<dyn ObjectStore>,
        clock: Clock,
    ) -> Result<Self, LakeError> {
        Self::of(location, own, Some(storage), clock)
    }

    fn of(
        location: Location,
        own: &[Table],
        storage: Option<Arc<dyn ObjectStore>>,
        clock: Clock,
    ) -> Result<Self, LakeError> {
        let names: Vec<Table> = Table::ALL.iter().chain(own).copied().collect();
        let refuse = |error: DeltaTableError| LakeError::Location {
            location: location.root().to_string(),
            detail: error.to_string(),
        };
        let log_store = |url: &Url| log_store(&location, storage.as_ref(), url).map_err(refuse);
        let mut tables = HashMap::new();
        for &table in &names {
            tables.insert(table, Mutex::new(Handle::new(log_store(&location.table(table)?)?, table)));
        }
        let beside = log_store(location.root())?.object_store(None);
        Ok(Self {
            location,
            names,
            tables,
            beside,
            clock,
            checkpoint_every: CHECKPOINT_EVERY,
            troubles: std::sync::Mutex::default(),
        })
    }

    /// A table's log by way of another storage.
    pub(super) fn log_store_over(&self, storage: Arc<dyn ObjectStore>, url: &Url) -> Result<LogStoreRef, LakeError> {
        log_store(&self.location, Some(&storage), url)
            .map_err(|error| LakeError::Location { location: url.to_string(), detail: error.to_string() })
    }

    /// What time it is, for leases and rests.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Every table of this lake, upstream first; those of users' models last.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.names
    }

    /// The table of this lake that is called `name`, e.g. `gold.metric_1m`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Table> {
        self.names.iter().copied().find(|table| table.full_name() == name)
    }

    /// Where the lake lies.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Notes what is wrong with a table or a model's file, or that nothing is any more; `status` tells it.
    pub fn trouble(&self, of: &str, what: Option<String>) {
        let mut troubles = self.troubles.lock().expect("no thread panics while it holds this");
        match what {
            Some(what) => troubles.insert(of.to_owned(), what),
            None => troubles.remove(of),
        };
    }

    /// What is wrong now, by file or table.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<String, String> {
        self.troubles.lock().expect("no thread panics while it holds this").clone()
    }

    /// The storage below the lake's root, for leases.
    pub(super) fn storage(&self) -> &Arc<dyn ObjectStore> {
        &self.beside
    }

    fn handle(&self, table: Table) -> &Mutex<Handle> {
        self.tables.get(&table).expect("a lake is asked for its own tables")
    }

    /// Creates the tables that do not exist and checks those that do. A user's table that has other columns than its
    /// model gives is a trouble of its own and stops nothing else.
    ///
    /// # Errors
    /// When the storage refuses, or a table that is there has other columns or another protocol.
    pub async fn create_tables(&self) -> Result<(), LakeError> {
        for &table in &self.names {
            let mut handle = self.handle(table).lock().await;
            let found = handle.delta.verify_deltatable_existence().await;
            if !found.map_err(delta("look for", table))? {
                handle.create(table).await?;
            }
            handle.refresh(table).await?;
            // Rows of a user's model that lack a column would hold null for ever: its owner decides what becomes of them.
            let ours = !matches!(table, Table::Own(_));
            if ours && let Some(wider) = super::evolve::widen(table, &handle.delta).await? {
                handle.delta = wider;
            }
            match (table, super::view::check(table, &handle.delta)) {
                (Table::Own(_), Err(error @ LakeError::Foreign { .. })) => {
                    self.trouble(table.full_name(), Some(error.to_string()));
                }
                (_, checked) => checked?,
            }
        }
        Ok(())
    }

    /// Whether the table is there at all.
    ///
    /// # Errors
    /// When the storage can't be read.
    pub async fn exists(&self, table: Table) -> Result<bool, LakeError> {
        let handle = self.handle(table).lock().await;
        let found = handle.delta.verify_deltatable_existence().await;
        found.map_err(delta("look for", table))
    }

    /// The table as it is now: a fixed version, cheap to clone.
    ///
    /// # Errors
    /// When the log can't be read, or the table does not exist.
    pub async fn view(&self, table: Table) -> Result<View, LakeError> {
        let mut handle = self.handle(table).lock().await;
        handle.refresh(table).await?;
        Ok(View::new(table, handle.delta.clone()))
    }

    /// Forgets what was loaded: the next look at a table begins at its newest checkpoint. For what a listing seems to have
    /// left out.
    pub async fn forget(&self) {
        for handle in self.tables.values() {
            let mut handle = handle.lock().await;
            handle.delta = DeltaTable::new(handle.delta.log_store());
        }
    }

    /// The progress of `app` in the newest version of `table`.
    ///
    /// # Errors
    /// As [`Lake::view`].
    pub async fn txn(&self, table: Table, app: &str) -> Result<Option<i64>, LakeError> {
        self.view(table).await?.txn(app).await
    }

    /// The same commit with its rows in files: what is tried again later need not be written again.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn written(&self, commit: TableCommit) -> Result<TableCommit, LakeError> {
        let Kind::Append = commit.kind else { return Ok(commit) };
        // Encoding takes the longest: not under the lock, or readers of the table wait for it.
        let loaded = self.loaded(commit.table).await?;
        let files = write_files(&loaded, &commit).await?;
        let adds = files.into_iter().filter_map(|file| if let Action::Add(add) = file { Some(add) } else { None });
        let kind = Kind::Files { adds: adds.collect(), removes: Removes::Nothing };
        Ok(TableCommit { kind, batches: vec![], ..commit })
    }

    /// Writes the rows and commits them with their progress.
    ///
    /// With a lease the commit is a hop's: the snapshot is loaded, the lease is checked, then the commit is built on that
    /// snapshot; a retry does all three again.
    ///
    /// # Errors
    /// [`LakeError::Fenced`] when progress moved under the caller, [`LakeError::LeaseLost`], [`LakeError::Overtaken`], or
    /// what storage says after several tries: then nobody knows whether it landed, and the same commit may be tried
    /// again.
    pub async fn commit(&self, commit: TableCommit, lease: Option<&Lease>) -> Result<Landed, LakeError> {
        debug_assert!(!commit.txns.is_empty(), "progress tells whether it landed");
        // Encoding takes the longest: not under the lock, or readers of the table wait for it.
        let loaded = self.loaded(commit.table).await?;
        let files = write_files(&loaded, &commit).await?;
        self.attempt("commit to", &commit, &files, lease).await
    }

    /// Commits the current progress of `app` again (or −1 where there is none), so that a writer which loaded the table
    /// before now is refused. Called by each new holder of the lease on every target. The newest books go with it: they
    /// would be lost where the log is cut behind a row of fences.
    ///
    /// # Errors
    /// As [`Lake::commit`].
    pub async fn fence(&self, table: Table, app: &str, lease: &Lease) -> Result<(), LakeError> {
        let mut tried = 0;
        loop {
            let view = self.view(table).await?;
            let expected = view.txn(app).await?;
            let mut metadata = vec![("fence".to_owned(), Value::Bool(true))];
            metadata.extend(view.books().await?);
            let fence = TableCommit {
                table,
                kind: Kind::Append,
                batches: vec![],
                txns: vec![Txn { app: app.to_owned(), expected, version: expected.unwrap_or(-1) }],
                metadata,
            };
            tried += 1;
            match self.attempt("fence", &fence, &[], Some(lease)).await {
                // An older holder was faster, once more: its books are newer than those that were read.
                Err(LakeError::Fenced { .. }) if tried < FENCES_MAX => {}
                done => return done.map(|_| ()),
            }
        }
    }

    /// Does what [`Attempt`] decides.
    async fn attempt(
        &self,
        act: &'static str,
        commit: &TableCommit,
        files: &[Action],
        lease: Option<&Lease>,
    ) -> Result<Landed, LakeError> {
        let table = commit.table;
        let overtaken = if lease.is_some() { Overtaken::Fails } else { Overtaken::MovesOn };
        let mut handle = self.handle(table).lock().await;
        let (mut attempt, mut next) = Attempt::begin(lease.is_some());
        let mut found = vec![];
        let mut error = None;
        loop {
            let done = match next {
                Do::Load => {
                    // An append on what was loaded last is moved on by Delta where that is not the newest.
                    let fresh = attempt.failed() != 0 || lease.is_some() || handle.delta.state.is_none();
                    let loaded = if fresh { handle.refresh(table).await } else { Ok(()) };
                    let looked = match loaded {
                        Ok(()) => look(&handle.delta, commit).await,
                        Err(error) => Err(error),
                    };
                    looked.map(|(fit, progress)| {
                        found = progress;
                        Heard::Loaded(fit)
                    })
                }
                Do::AskLease => match lease.expect("asked for only under a lease").check().await {
                    Ok(()) => Ok(Heard::Ours),
                    Err(lost @ LakeError::LeaseLost { .. }) => {
                        error = Some(lost);
                        Ok(Heard::NotOurs)
                    }
                    Err(unknown) => Err(unknown),
                },
                Do::Build => {
                    still_there(&handle.delta, commit)?;
                    let built = build(&handle.delta, commit, files, overtaken).await;
                    built.map_err(delta(act, table)).map(|state| {
                        handle.delta.state = Some(state);
                        Heard::Landed
                    })
                }
                Do::Rest(rest) => {
                    // Readers of the table get on meanwhile.
                    drop(handle);
                    self.clock.sleep_until(Some(self.clock.now().plus(rest))).await;
                    handle = self.handle(table).lock().await;
                    next = Do::Load;
                    continue;
                }
                Do::End(End::LandedBefore) => return Ok(Landed::Before(version(&handle.delta))),
                Do::End(End::Landed) => {
                    passed(table);
                    let version = version(&handle.delta);
                    handle.checkpoint(table, version, self.checkpoint_every).await;
                    return Ok(Landed::Now(version));
                }
                Do::End(End::Fenced(at)) => {
                    let txn = &commit.txns[at];
                    return Err(LakeError::Fenced {
                        table: table.full_name(),
                        app: txn.app.clone(),
                        expected: txn.expected,
                        found: found[at],
                    });
                }
                Do::End(End::LeaseLost | End::GiveUp) => return Err(error.expect("what it ended by")),
            };
            let heard = done.unwrap_or_else(|failed| {
                let trouble = trouble(&failed);
                tracing::warn!(
                    table = table.full_name(), tried = attempt.failed() + 1, error = %failed,
                    "a commit failed or its answer was lost; the table tells which"
                );
                error = Some(failed);
                Heard::Failed(trouble)
            });
            super::steps::step();
            next = attempt.step(heard);
        }
    }

    /// Writes a small file beside the tables, e.g. the text of rules under its digest.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn put_beside(&self, path: &str, bytes: Vec<u8>) -> Result<(), LakeError> {
        let put = self.beside.put(&Path::from(path), bytes.into()).await;
        put.map(|_| ()).map_err(|error| LakeError::Beside {
            act: "write",
            path: path.to_owned(),
            detail: error.to_string(),
        })
    }

    /// Reads a small file beside the tables; `None` when it is not there.
    ///
    /// # Errors
    /// When the storage refuses.
    pub async fn get_beside(&self, path: &str) -> Result<Option<Vec<u8>>, LakeError> {
        let failed =
            |error: StoreError| LakeError::Beside { act: "read", path: path.to_owned(), detail: error.to_string() };
        match self.beside.get(&Path::from(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(failed)?.to_vec())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// A writer of files for `table`, to be committed as [`Kind::Files`].
    ///
    /// # Errors
    /// As [`Lake::view`].
    pub async fn writer(&self, table: Table) -> Result<FileWriter, LakeError> {
        self.writer_of(table, FILE_BYTES).await
    }

    /// The same, with files of about `bytes`.
    ///
    /// # Errors
    /// As [`Lake::view`].
    pub async fn writer_of(&self, table: Table, bytes: u64) -> Result<FileWriter, LakeError> {
        FileWriter::new(table, &self.loaded(table).await?, bytes)
    }

    /// The table as the handle has it, loaded if it never was.
    async fn loaded(&self, table: Table) -> Result<DeltaTable, LakeError> {
        let mut handle = self.handle(table).lock().await;
        if handle.delta.state.is_none() {
            handle.refresh(table).await?;
        }
        Ok(handle.delta.clone())
    }

    /// Writes checkpoints more often than a test has patience for.
    #[cfg(test)]
    pub(crate) fn checkpoint_every(&mut self, every: i64) {
        self.checkpoint_every = every;
    }

    #[cfg(test)]
    pub(super) async fn break_next(&self, table: Table, fault: super::door::Fault) {
        let handle = self.handle(table).lock().await;
        *handle.fault.lock().expect("no test panics here") = Some(fault);
    }
}

/// Where a test may end the process: a commit was just made.
fn passed(table: Table) {
    match table.layer() {
        Layer::Bronze => shared::crash::here("bronze-committed"),
        Layer::Silver if table == Table::SilverReadings => shared::crash::here("silver-committed"),
        Layer::Silver => {}
        Layer::Gold => shared::crash::here("gold-committed"),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
