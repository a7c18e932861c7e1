//! Replacing rows of a gold table in one commit: the files that hold affected rows are removed, their other rows go on
//! into new files beside the newly computed ones.
//!
//! It is a replaceWhere whose condition is a set of keys rather than an expression: exact for keys that are null, that
//! need quoting, or that are many thousands.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, BooleanArray, Date32Array, RecordBatch};
use arrow::compute::{cast, filter_record_batch, not};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use super::model::Windows;
use super::window::DAY;
use crate::lake::tables::timestamp;
use crate::lake::{Add, FileWriter, LakeError, Removes, Table, View};

/// What a hop does to its target.
#[derive(Debug)]
pub struct Rewrite {
    /// Files with new rows.
    pub adds: Vec<Add>,
    /// Files that go.
    pub removes: Removes,
    /// Rows newly computed.
    pub rows: u64,
}

impl Rewrite {
    /// A hop without rows: its commit holds progress only.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { adds: vec![], removes: Removes::Nothing, rows: 0 }
    }

    /// Whether the table stays as it is.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.adds.is_empty() && self.removes == Removes::Nothing
    }
}

/// Which files a hop writes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    /// Those that hold affected rows.
    Affected,
    /// All candidates, so that many small ones become one.
    All,
}

/// Copies the rows that stay out of the candidates written anew; returns the paths of the files that go. `affected`
/// says which rows of a batch do not stay.
///
/// # Errors
/// When a file can't be read or written.
pub async fn keep_others(
    target: &View,
    candidates: &[Add],
    anew: Anew,
    writer: &mut FileWriter,
    windows: Option<Windows>,
    mut affected: impl FnMut(&RecordBatch) -> BooleanArray,
) -> Result<Removes, LakeError> {
    let schema = target.table().schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut removed = HashSet::new();
    for add in candidates {
        let batches = target.read(add, &columns).await?;
        let masks: Vec<_> = batches.iter().map(&mut affected).collect();
        if anew == Anew::Affected && masks.iter().all(|mask| mask.true_count() == 0) {
            continue;
        }
        removed.insert(add.path.clone());
        for (batch, mask) in batches.iter().zip(&masks) {
            let stays = not(mask).expect("a mask has a value for each row");
            let rest = filter_record_batch(batch, &stays).expect("a mask is as long as its batch");
            writer.write(as_table(target.table(), &rest, windows)?).await?;
        }
    }
    writer.seal().await?;
    Ok(if removed.is_empty() { Removes::Nothing } else { Removes::These(removed) })
}

/// A result of a SELECT, or rows read back, as the table has them: columns in order, the partition's date filled in.
///
/// # Errors
/// When a column is missing or of another kind than when the model was planned.
pub fn as_table(table: Table, batch: &RecordBatch, windows: Option<Windows>) -> Result<RecordBatch, LakeError> {
    let failed = |error: ArrowError| LakeError::Query {
        act: "bring rows of a gold table into shape",
        source: Box::new(DataFusionError::from(error)),
    };
    let column = |name: &str| {
        let missing = || failed(ArrowError::SchemaError(format!("there is no column {name}")));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let schema = table.schema();
    let mut columns: Vec<ArrayRef> = vec![];
    for field in schema.fields() {
        columns.push(match field.name().as_str() {
            "window_date" => {
                let mut last: Option<(i64, i64)> = None;
                dates(column("window_start")?, |start| match last {
                    Some((before, day)) if before == start => day,
                    _ => {
                        let day = windows.map_or_else(|| start.div_euclid(DAY), |windows| windows.date(start));
                        last = Some((start, day));
                        day
                    }
                })
                .map_err(failed)?
            }
            "event_date" => dates(column("event_time")?, |time| time.div_euclid(DAY)).map_err(failed)?,
            name => cast(column(name)?, field.data_type()).map_err(failed)?,
        });
    }
    RecordBatch::try_new(schema, columns).map_err(failed)
}

fn dates(times: &ArrayRef, mut day: impl FnMut(i64) -> i64) -> Result<ArrayRef, ArrowError> {
    let times = cast(times, &timestamp())?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let dates: Date32Array = times.iter().map(|time| time.and_then(|time| i32::try_from(day(time)).ok())).collect();
    Ok(Arc::new(dates))
}

/// Runs a model's SELECT over `rows`, which it knows as `relation`.
///
/// # Errors
/// When the SELECT fails: it does not plan, or needs more memory than the session has.
pub async fn select(
    session: &SessionContext,
    sql: &str,
    relation: &str,
    rows: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>, LakeError> {
    let failed = |source: DataFusionError| LakeError::Query { act: "compute a gold table", source: Box::new(source) };
    let Some(schema) = rows.first().map(RecordBatch::schema) else {
        return Ok(vec![]);
    };
    // Two halves, so that two cores have work.
    let (mut left, mut right) = (vec![], vec![]);
    for (at, batch) in rows.into_iter().enumerate() {
        if at % 2 == 0 { left.push(batch) } else { right.push(batch) }
    }
    let table = datafusion::datasource::MemTable::try_new(schema, vec![left, right]).map_err(failed)?;
    run(session, sql, relation, Arc::new(table)).await
}

/// The same over rows that lie elsewhere.
///
/// # Errors
/// As [`select`].
pub(super) async fn run(
    session: &SessionContext,
    sql: &str,
    relation: &str,
    rows: Arc<dyn TableProvider>,
) -> Result<Vec<RecordBatch>, LakeError> {
    let failed = |source: DataFusionError| LakeError::Query { act: "compute a gold table", source: Box::new(source) };
    session.deregister_table(relation).map_err(failed)?;
    session.register_table(relation, rows).map_err(failed)?;
    let collected = match session.sql(sql).await {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    session.deregister_table(relation).map_err(failed)?;
    collected.map_err(failed)
}
