//! Models of mode `window`: each window that a new row falls into is computed again from all its rows, whether it is
//! final or not. Late rows need nothing of their own.

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

use super::affected::{Affected, Final};
use super::inputs::{File, Inputs};
use super::model::{Model, Windows};
use super::pruned::Wanted;
use super::rewrite::{Anew, Rewrite, as_table, keep_others, select};
use super::spill::Spill;
use super::window::cut;
use crate::lake::{Extent, FileWriter, Lake, LakeError, Removes, View};

/// Rows whose windows are computed together in memory, by default: some 150 MB.
pub const ROWS_MAX: u64 = 1_000_000;

/// Parts of one slice: each is a file that is open while the slice is read.
const PARTS_MAX: usize = 64;

/// Which rows a hop starts from.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The new rows in these files.
    New(Vec<File>),
    /// All: a full refresh.
    All,
}

/// Computes the affected windows of `model` and says how its table changes. More than `rows_max` rows of one window are
/// put aside, by their keys.
///
/// # Errors
/// When a file can't be read or written, or the SELECT fails.
#[expect(clippy::too_many_arguments, reason = "a hop's parts, each of its own kind")]
pub async fn recompute(
    lake: &Lake,
    session: &SessionContext,
    model: &Model,
    windows: Windows,
    inputs: &Inputs,
    scope: &Scope,
    bounds: Final,
    rows_max: u64,
) -> Result<Rewrite, LakeError> {
    let keys = &model.draft.keys;
    let target = lake.view(model.target).await?;
    let (files, all) = match scope {
        Scope::New(files) => (files.clone(), false),
        Scope::All => (inputs.all_files(), true),
    };
    let affected = match windows {
        Windows::Grid(grid) => Affected::on_grid(grid, inputs, keys, &files, all, bounds).await?,
        Windows::Session { gap } => {
            let before = (!all).then_some(&target);
            Affected::sessions(gap, inputs, before, keys, &files).await?
        }
    };
    if affected.spans().is_empty() && !all {
        return Ok(Rewrite::nothing());
    }
    let work = Work { session, model, windows, inputs, target: &target, affected: &affected, all, rows_max };
    let mut writer = lake.writer(model.target).await?;
    let filled = work.fill(&mut writer).await;
    let (adds, (removes, rows)) = writer.finish_if(filled).await?;
    Ok(Rewrite { adds, removes, rows })
}

/// What is to be computed.
struct Work<'a> {
    session: &'a SessionContext,
    model: &'a Model,
    windows: Windows,
    inputs: &'a Inputs,
    target: &'a View,
    affected: &'a Affected,
    all: bool,
    rows_max: u64,
}

impl Work<'_> {
    /// Writes what the table's files are to hold in place of others: which, and how many rows were computed.
    async fn fill(&self, writer: &mut FileWriter) -> Result<(Removes, u64), LakeError> {
        let removes = self.keep(writer).await?;
        Ok((removes, self.compute(writer).await?))
    }

    /// Writes the rows that stay of the files that have others.
    async fn keep(&self, writer: &mut FileWriter) -> Result<Removes, LakeError> {
        if self.all {
            return Ok(Removes::All);
        }
        let Self { target, affected, windows, .. } = *self;
        let dates = affected.filed(windows);
        let mut candidates = target.files_in("window_date", |date| dates.contains(date));
        candidates.retain(|add| affected.begins_in(&Extent::of(add, "window_start")));
        let hit = |batch: &_| affected.stale(&self.model.draft.keys, batch);
        keep_others(target, &candidates, Anew::Affected, writer, Some(windows), hit).await
    }

    /// Computes the affected windows.
    async fn compute(&self, writer: &mut FileWriter) -> Result<u64, LakeError> {
        let Self { session, model, windows, inputs, affected, .. } = *self;
        let keys = &model.draft.keys;
        let mut files = inputs.files_on(&affected.days());
        let wanted = Wanted::of(keys, affected.keys());
        files.retain(|file| affected.touches(&file.extent) && wanted.may_be_in(&file.add));
        let extents: Vec<Extent> = files.iter().map(|file| file.extent).collect();
        let mut rows = 0;
        let overlap = match windows {
            Windows::Grid(grid) => grid.overlap(),
            Windows::Session { .. } => 1,
        };
        let rows_max = (self.rows_max / overlap).max(1);
        for slice in cut(affected.spans(), &extents, rows_max) {
            let spans = &affected.spans()[slice.windows.clone()];
            let (Some(&(first, _)), Some(&(last, _))) = (spans.first(), spans.last()) else {
                continue;
            };
            // A window with more rows than that is computed in parts, some keys at a time; its files are read once.
            let mut parts = match usize::try_from(slice.rows.div_ceil(rows_max)).unwrap_or(usize::MAX) {
                0 | 1 => Parts::InMemory(vec![]),
                parts => Parts::OnDisk(Spill::new(session, parts.min(PARTS_MAX))?),
            };
            for &file in &slice.files {
                let File { source, add, .. } = &files[file];
                let mut batches = inputs.stream(*source, add, &model.columns).await?;
                while let Some(batch) = batches.try_next().await? {
                    let Some(batch) = affected.within(keys, &batch, first..=last) else { continue };
                    match &mut parts {
                        Parts::InMemory(held) => held.push(batch),
                        Parts::OnDisk(spill) => spill.add(keys, &batch).await?,
                    }
                }
            }
            match parts {
                Parts::InMemory(held) => {
                    let selected = select(session, &model.draft.sql, "windowed", held).await?;
                    rows += write(model, windows, selected, writer).await?;
                }
                Parts::OnDisk(spill) => {
                    for part in spill.finish().await? {
                        let selected = part.select(session, &model.draft.sql, "windowed", 2 * rows_max).await?;
                        rows += write(model, windows, selected, writer).await?;
                    }
                }
            }
        }
        Ok(rows)
    }
}

/// The rows of one slice until they are computed.
enum Parts {
    InMemory(Vec<RecordBatch>),
    OnDisk(Spill),
}

async fn write(
    model: &Model,
    windows: Windows,
    selected: Vec<RecordBatch>,
    writer: &mut FileWriter,
) -> Result<u64, LakeError> {
    let mut rows = 0;
    for batch in selected {
        rows += batch.num_rows() as u64;
        writer.write(as_table(model.target, &batch, Some(windows))?).await?;
    }
    writer.seal().await?;
    Ok(rows)
}
