//! Models of mode `window`: each window that a new row falls into is computed again from all its rows, whether it is
//! final or not. Late rows need nothing of their own.

use datafusion::prelude::SessionContext;

use super::affected::{Affected, Final};
use super::inputs::{File, Inputs};
use super::model::{Model, Windows};
use super::pruned::Wanted;
use super::rewrite::{Anew, Rewrite, as_table, keep_others, select};
use super::window::cut;
use crate::lake::{Extent, FileWriter, Lake, LakeError, Removes};

/// Rows whose windows are computed together.
const ROWS_MAX: u64 = 2_000_000;

/// Which rows a hop starts from.
#[derive(Debug, Clone)]
pub enum Scope {
    /// The new rows in these files.
    New(Vec<File>),
    /// All: a full refresh.
    All,
}

/// Computes the affected windows of `model` and says how its table changes.
///
/// # Errors
/// When a file can't be read or written, or the SELECT fails.
pub async fn recompute(
    lake: &Lake,
    session: &SessionContext,
    model: &Model,
    windows: Windows,
    inputs: &Inputs,
    scope: &Scope,
    bounds: Final,
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
    let mut writer = lake.writer(model.target).await?;
    let removes = if all {
        Removes::All
    } else {
        let dates = affected.filed(windows);
        let mut candidates = target.files_in("window_date", |date| dates.contains(date));
        candidates.retain(|add| affected.begins_in(&Extent::of(add, "window_start")));
        let hit = |batch: &_| affected.stale(keys, batch);
        keep_others(&target, &candidates, Anew::Affected, &mut writer, Some(windows), hit).await?
    };

    let mut files = inputs.files_on(&affected.days());
    let wanted = Wanted::of(keys, affected.keys());
    files.retain(|file| affected.touches(&file.extent) && wanted.may_be_in(&file.add));
    let extents: Vec<Extent> = files.iter().map(|file| file.extent).collect();
    let mut rows = 0;
    let overlap = match windows {
        Windows::Grid(grid) => grid.overlap(),
        Windows::Session { .. } => 1,
    };
    let rows_max = (ROWS_MAX / overlap).max(1);
    for slice in cut(affected.spans(), &extents, rows_max) {
        let spans = &affected.spans()[slice.windows.clone()];
        let (Some(&(first, _)), Some(&(last, _))) = (spans.first(), spans.last()) else {
            continue;
        };
        // A window with more rows than that is computed in parts, some keys at a time.
        let parts = slice.rows.div_ceil(rows_max).max(1);
        for part in 0..parts {
            let mut windowed = vec![];
            for &file in &slice.files {
                let File { source, add, .. } = &files[file];
                for batch in inputs.read(*source, add, &model.columns).await? {
                    windowed.extend(affected.within(keys, &batch, first..=last, (part, parts)));
                }
            }
            rows += write_selected(session, model, windows, windowed, &mut writer).await?;
        }
    }
    Ok(Rewrite { adds: writer.finish().await?, removes, rows })
}

async fn write_selected(
    session: &SessionContext,
    model: &Model,
    windows: Windows,
    windowed: Vec<arrow::array::RecordBatch>,
    writer: &mut FileWriter,
) -> Result<u64, LakeError> {
    let mut rows = 0;
    for batch in select(session, &model.draft.sql, "windowed", windowed).await? {
        rows += batch.num_rows() as u64;
        writer.write(as_table(model.target, &batch, Some(windows))?).await?;
    }
    writer.seal().await?;
    Ok(rows)
}
