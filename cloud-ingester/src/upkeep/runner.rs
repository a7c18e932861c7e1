//! Table after table: one thing at a time, written beside the hops and committed between two rounds.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Prepared, PutOff, Rubbish, Settings, next_merge, prepare, rubbish, with_newest_books};
use crate::lake::{Kind, Lake, LakeError, Lease, Table};

/// How often a table is planned again within one request because a hop was faster.
const OVERTAKEN_MAX: u32 = 3;

/// One thing that was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Files became fewer.
    Merged {
        /// The table.
        table: Table,
        /// How many.
        files: usize,
        /// Into how many; 0 in a dry run, where nobody knows.
        into: usize,
        /// Their rows.
        rows: u64,
        /// Their bytes before.
        bytes: u64,
    },
    /// A partition could not be merged; all else went on.
    Left {
        /// The table.
        table: Table,
        /// The partition; empty where the table has none.
        partition: String,
        /// Why.
        why: String,
    },
    /// Files and log entries went for good.
    Removed {
        /// The table.
        table: Table,
        /// Files that had rows, or were to have.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Entries of the log.
        log: usize,
    },
    /// Nothing waits for a model any more.
    PutOff(PutOff),
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Merged { table, files, into, rows, bytes } => {
                write!(f, "{}: {files} files ({rows} rows, {bytes} bytes) become {into}", table.full_name())
            }
            Self::Left { table, partition, why } => {
                write!(f, "{}: the small files of {partition:?} are left as they are: {why}", table.full_name())
            }
            Self::Removed { table, files, bytes, log } => {
                write!(f, "{}: {files} files ({bytes} bytes) and {log} log entries go", table.full_name())
            }
            Self::PutOff(put_off) => write!(f, "{}: {put_off}", put_off.name()),
        }
    }
}

/// What upkeep has done since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Files merged.
    pub merged: u64,
    /// Files removed for good.
    pub removed: u64,
    /// Log entries removed.
    pub log: u64,
    /// Times that something failed and was left for later.
    pub failed: u64,
    /// Models that nothing waits for any more, as of the last look at what they read.
    pub put_off: u64,
}

impl Report {
    fn count(&mut self, done: &Done) {
        match done {
            Done::Merged { files, .. } => self.merged += *files as u64,
            Done::Left { .. } => self.failed += 1,
            Done::Removed { files, log, .. } => {
                self.removed += *files as u64;
                self.log += *log as u64;
            }
            Done::PutOff(_) => {}
        }
    }
}

/// What a look at one table made.
enum Made {
    Merge(Prepared),
    Removed(Done),
    Nothing,
}

/// One look at one table.
struct Looked {
    made: Made,
    /// What could not be merged.
    left: Vec<Done>,
    /// Partitions that the next look passes over.
    but: BTreeSet<String>,
    /// Models that nothing waits for any more; unknown while there are merges.
    put_off: Option<Vec<PutOff>>,
}

/// The upkeep of a lake, by the holder of its lease.
pub(crate) struct Upkeep {
    settings: Settings,
    /// When all tables are looked at next.
    due: Instant,
    /// The table looked at now, if it is the time for it.
    at: Option<usize>,
    /// Partitions of that table that are passed over until its next turn, since they could not be merged.
    but: BTreeSet<String>,
    /// Models that nothing waits for any more, by the table they have not read.
    put_off: BTreeMap<Table, Vec<PutOff>>,
    task: Option<JoinHandle<Result<Looked, LakeError>>>,
    report: Report,
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl Upkeep {
    pub(crate) fn new(settings: Settings) -> Self {
        let due = Instant::now() + settings.every;
        Self {
            settings,
            due,
            at: None,
            but: BTreeSet::new(),
            put_off: BTreeMap::new(),
            task: None,
            report: Report::default(),
        }
    }

    pub(crate) fn report(&self) -> Report {
        self.report
    }

    /// Takes upkeep one step on, between two rounds of hops. Never waits for more than one commit; what fails is left for
    /// later.
    ///
    /// # Errors
    /// [`LakeError::LeaseLost`] only.
    pub(crate) async fn step(&mut self, lake: &Arc<Lake>, lease: &Lease) -> Result<(), LakeError> {
        if self.settings.every.is_zero() {
            return Ok(());
        }
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        if let Some(task) = self.task.take() {
            let table = self.at.and_then(|at| lake.tables().get(at).copied());
            let made = match task.await {
                Ok(Ok(Looked { made, left, but, put_off })) => {
                    if let (Some(table), Some(put_off)) = (table, put_off) {
                        self.tell_put_off(lake, table, put_off);
                    }
                    for left in left {
                        tracing::warn!(%left, "upkeep");
                        self.report.count(&left);
                        tell(lake, table, Some(left.to_string()));
                    }
                    self.but = but;
                    self.land(lake, lease, made).await
                }
                Ok(Err(error)) => Err(error),
                Err(error) => {
                    tracing::error!(%error, "upkeep broke off");
                    Ok(false)
                }
            };
            match made {
                Ok(true) => {}
                Ok(false) => {
                    if self.but.is_empty() {
                        tell(lake, table, None);
                    }
                    self.at = self.at.map(|at| at + 1);
                    self.but.clear();
                }
                Err(error @ LakeError::LeaseLost { .. }) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "upkeep is left for later");
                    self.report.failed += 1;
                    tell(lake, table, Some(shared::cli::chain(&error)));
                    // The other tables have their turn.
                    self.at = self.at.map(|at| at + 1);
                    self.but.clear();
                }
            }
        }
        if self.at.is_none() && self.due <= Instant::now() {
            self.at = Some(0);
        }
        let Some(at) = self.at else { return Ok(()) };
        let Some(table) = lake.tables().get(at).copied() else {
            (self.at, self.due) = (None, Instant::now() + self.settings.every);
            return Ok(());
        };
        let (lake, settings, but) = (Arc::clone(lake), self.settings, self.but.clone());
        self.task = Some(tokio::spawn(async move { look(&lake, table, &settings, but).await }));
        Ok(())
    }

    /// Tells of models that nothing waits for any more: when it begins in the log, and in `status` while it lasts.
    fn tell_put_off(&mut self, lake: &Lake, source: Table, now: Vec<PutOff>) {
        let before = self.put_off.remove(&source).unwrap_or_default();
        for gone in before.iter().filter(|gone| !now.iter().any(|it| it.target == gone.target)) {
            lake.trouble(&gone.name(), None);
        }
        for put_off in &now {
            if !before.iter().any(|it| it.target == put_off.target) {
                tracing::warn!(model = put_off.name(), %put_off, "a model is put off");
            }
            lake.trouble(&put_off.name(), Some(put_off.to_string()));
        }
        if !now.is_empty() {
            self.put_off.insert(source, now);
        }
        self.report.put_off = self.put_off.values().map(|models| models.len() as u64).sum();
    }

    /// Whether the table has to be looked at again.
    async fn land(&mut self, lake: &Lake, lease: &Lease, made: Made) -> Result<bool, LakeError> {
        let done = match made {
            Made::Nothing => return Ok(false),
            Made::Removed(done) => {
                tracing::info!(%done, "upkeep");
                self.report.count(&done);
                return Ok(false);
            }
            Made::Merge(prepared) => commit(lake, lease, prepared).await,
        };
        match done {
            Ok(done) => {
                tracing::info!(%done, "upkeep");
                self.report.count(&done);
                Ok(true)
            }
            // A hop or another holder was faster: planned again the next time, or a table that is written all the time would
            // keep all others waiting.
            Err(LakeError::Overtaken { .. } | LakeError::Fenced { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Does all there is to do in `tables` at once.
    ///
    /// # Errors
    /// What the lake says.
    pub(crate) async fn all(&mut self, lake: &Lake, lease: &Lease, tables: &[Table]) -> Result<Vec<Done>, LakeError> {
        let mut all = vec![];
        for &table in tables {
            let (mut overtaken, mut passed) = (0, BTreeSet::new());
            loop {
                let Looked { made, left, but, put_off } = look(lake, table, &self.settings, passed).await?;
                passed = but;
                left.iter().for_each(|left| self.report.count(left));
                all.extend(left);
                if let Some(put_off) = put_off {
                    all.extend(put_off.iter().map(|put_off| Done::PutOff(*put_off)));
                    self.tell_put_off(lake, table, put_off);
                }
                let done = match made {
                    Made::Merge(prepared) => match commit(lake, lease, prepared).await {
                        Err(LakeError::Overtaken { .. } | LakeError::Fenced { .. }) if overtaken < OVERTAKEN_MAX => {
                            overtaken += 1;
                            continue;
                        }
                        done => done?,
                    },
                    Made::Removed(done) => {
                        self.report.count(&done);
                        all.push(done);
                        break;
                    }
                    Made::Nothing => break,
                };
                self.report.count(&done);
                all.push(done);
            }
        }
        Ok(all)
    }
}

/// Whether nothing was left undone.
#[must_use]
pub fn is_whole(done: &[Done]) -> bool {
    !done.iter().any(|done| matches!(done, Done::Left { .. }))
}

/// What would be done in `table` first, and what would go; nothing changes.
///
/// # Errors
/// What the lake says.
pub async fn would(lake: &Lake, table: Table, settings: &Settings) -> Result<Vec<Done>, LakeError> {
    let mut all = vec![];
    if let Some((_, merge)) = next_merge(lake, table, settings, &BTreeSet::new()).await? {
        let (files, bytes) = (merge.files.len(), merge.bytes());
        all.push(Done::Merged { table, files, into: 0, rows: super::rows(&merge.files).unwrap_or(0), bytes });
    }
    let Rubbish { files, bytes, log, put_off } = rubbish(lake, table, settings).await?;
    all.extend(put_off.into_iter().map(Done::PutOff));
    if !(files.is_empty() && log.is_empty()) {
        all.push(Done::Removed { table, files: files.len(), bytes, log: log.len() });
    }
    Ok(all)
}

/// Notes what upkeep of a table fails at, or that it does not any more; `status` tells it.
fn tell(lake: &Lake, table: Option<Table>, what: Option<String>) {
    if let Some(table) = table {
        lake.trouble(&format!("upkeep of {}", table.full_name()), what);
    }
}

/// One look at one table, passing over these partitions: a merge to be committed, or what was removed. What can't be
/// merged keeps nothing else waiting.
async fn look(lake: &Lake, table: Table, settings: &Settings, mut but: BTreeSet<String>) -> Result<Looked, LakeError> {
    let mut left = vec![];
    while let Some((view, merge)) = next_merge(lake, table, settings, &but).await? {
        let partition = merge.partition.clone();
        match prepare(lake, &view, merge, settings).await {
            Ok(Some(prepared)) => return Ok(Looked { made: Made::Merge(prepared), left, but, put_off: None }),
            Ok(None) => {}
            Err(error) => {
                left.push(Done::Left { table, partition: partition.clone(), why: shared::cli::chain(&error) });
            }
        }
        but.insert(partition);
    }
    let Rubbish { files, bytes, log, put_off } = rubbish(lake, table, settings).await?;
    let put_off = Some(put_off);
    if files.is_empty() && log.is_empty() {
        return Ok(Looked { made: Made::Nothing, left, but, put_off });
    }
    let done = Done::Removed { table, files: files.len(), bytes, log: log.len() };
    lake.remove(table, files).await?;
    lake.remove(table, log).await?;
    Ok(Looked { made: Made::Removed(done), left, but, put_off })
}

/// Commits a merge and looks whether the table is as it should be.
///
/// # Errors
/// [`LakeError::Overtaken`] or [`LakeError::Fenced`] where somebody changed those files, or what the lake says.
pub(crate) async fn commit(lake: &Lake, lease: &Lease, prepared: Prepared) -> Result<Done, LakeError> {
    let Prepared { mut commit, files, into, rows, bytes } = prepared;
    // Hops went on while its files were written; none runs now.
    let newest = lake.view(commit.table).await?;
    with_newest_books(&mut commit, &newest).await?;
    let table = commit.table;
    let Kind::SameRows { adds, removes } = commit.kind.clone() else {
        unreachable!("a merge replaces files by others with the same rows");
    };
    lake.commit(commit, Some(lease)).await?;
    let there: HashSet<String> = lake.view(table).await?.all_files().into_iter().map(|add| add.path).collect();
    let lost = adds.iter().filter(|add| !there.contains(&add.path)).count();
    let twice = removes.iter().filter(|path| there.contains(*path)).count();
    if (lost, twice) != (0, 0) {
        tracing::error!(
            table = table.full_name(),
            lost,
            twice,
            "files of a merge are missing, or stand beside what they replace"
        );
    }
    Ok(Done::Merged { table, files, into, rows, bytes })
}
