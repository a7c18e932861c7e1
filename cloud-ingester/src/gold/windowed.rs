//! Models of mode `window`: each window that a new row falls into is computed again from all its rows, whether it is
//! final or not. Late rows need nothing of their own.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use futures::{Stream, TryStreamExt as _};

use super::affected::{Affected, Final};
use super::fed::fed;
use super::inputs::{File, Inputs};
use super::model::{Model, Pass, Windows};
use super::pruned::Wanted;
use super::rewrite::{Anew, Rewrite, as_table, keep_others, run, select};
use super::spill::Spill;
use super::window::cut;
use crate::lake::{Extent, FileWriter, Lake, LakeError, Removes, View};

/// Rows whose windows are computed together in memory, by default: some 150 MB.
pub const ROWS_MAX: u64 = 1_000_000;

/// A SELECT that folds its rows into groups as they are read takes so many times as many together: of a row it holds a
/// few numbers at most.
const FOLDED: u64 = 4;

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
        Windows::Grid(grid) => {
            let every = !all && bounds == Final::default();
            let every = match every {
                true => Some(Affected::on_grid(grid, inputs, keys, &files, true, bounds).await?),
                false => None,
            };
            match every.filter(|every| stands_alone(every, windows, inputs, &target, &files)) {
                Some(every) => every,
                None => Affected::on_grid(grid, inputs, keys, &files, all, bounds).await?,
            }
        }
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

/// Whether all there is in these windows is new: neither the table nor any other file holds rows of one. Then it does not
/// matter which keys the new rows have.
fn stands_alone(every: &Affected, windows: Windows, inputs: &Inputs, target: &View, new: &[File]) -> bool {
    let dates = every.filed(windows);
    let before = target.files_in("window_date", |date| dates.contains(date));
    if before.iter().any(|add| every.begins_in(&Extent::of(add, "window_start"))) {
        return false;
    }
    let new: HashSet<&str> = new.iter().map(|file| file.add.path.as_str()).collect();
    let others = inputs.files_on(&every.days());
    others.iter().all(|file| new.contains(file.add.path.as_str()) || !every.touches(&file.extent))
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

    /// The rows of these files that lie in the windows which begin in `range`, as they are read.
    fn batches<'w>(
        &'w self,
        files: impl Iterator<Item = &'w File> + Send + 'w,
        range: std::ops::RangeInclusive<i64>,
    ) -> impl Stream<Item = Result<RecordBatch, LakeError>> + Send + 'w {
        let Self { inputs, model, affected, .. } = *self;
        let read = futures::stream::iter(files.map(Ok));
        let read = read.and_then(move |File { source, add, .. }| inputs.stream(*source, add, &model.columns));
        read.try_flatten().try_filter_map(move |batch| {
            std::future::ready(Ok(affected.within(&model.draft.keys, &batch, range.clone())))
        })
    }

    /// What the SELECT makes of rows that are handed to it as they are read.
    async fn while_read(
        &self,
        batches: impl Stream<Item = Result<RecordBatch, LakeError>> + Send,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        let mut batches = pin!(batches);
        let Some(first) = batches.try_next().await? else { return Ok(vec![]) };
        let failed =
            |source: DataFusionError| LakeError::Query { act: "compute a gold table", source: Box::new(source) };
        let (mut feed, rows) = fed(&first.schema()).map_err(failed)?;
        let read = async move {
            let mut next = Some(first);
            while let Some(batch) = next {
                if !feed.put(batch).await {
                    break;
                }
                next = batches.try_next().await?;
            }
            Ok(())
        };
        let (read, selected) = tokio::join!(read, run(self.session, &self.model.draft.sql, "windowed", Arc::new(rows)));
        // What reading failed at comes first: the SELECT saw a part of the rows only.
        read.and(selected)
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
        let together = match model.pass {
            Pass::Folds => self.rows_max.saturating_mul(FOLDED),
            Pass::Once | Pass::Again => self.rows_max,
        };
        let rows_max = (together / overlap).max(1);
        for slice in cut(affected.spans(), &extents, rows_max) {
            let spans = &affected.spans()[slice.windows.clone()];
            let (Some(&(first, _)), Some(&(last, _))) = (spans.first(), spans.last()) else {
                continue;
            };
            let files = slice.files.iter().map(|&file| &files[file]);
            // A window with more rows than that is computed in parts, some keys at a time; its files are read once.
            let parts = usize::try_from(slice.rows.div_ceil(rows_max)).unwrap_or(usize::MAX);
            if 1 < parts {
                let mut spill = Spill::new(session, parts.min(PARTS_MAX))?;
                let mut batches = pin!(self.batches(files, first..=last));
                while let Some(batch) = batches.try_next().await? {
                    spill.add(keys, &batch).await?;
                }
                for part in spill.finish().await? {
                    let selected = part.select(session, &model.draft.sql, "windowed", 2 * rows_max).await?;
                    rows += write(model, windows, selected, writer).await?;
                }
                continue;
            }
            let batches = self.batches(files, first..=last);
            let selected = match model.pass {
                Pass::Folds | Pass::Once => self.while_read(batches).await?,
                Pass::Again => select(session, &model.draft.sql, "windowed", batches.try_collect().await?).await?,
            };
            rows += write(model, windows, selected, writer).await?;
        }
        Ok(rows)
    }
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
