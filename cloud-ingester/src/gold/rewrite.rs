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
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use super::window::DAY;
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
            writer.write(as_table(target.table(), &rest)).await?;
        }
    }
    writer.seal().await?;
    Ok(if removed.is_empty() { Removes::Nothing } else { Removes::These(removed) })
}

/// A result of a SELECT, or rows read back, as the table has them: columns in order, the partition's date filled in.
#[must_use]
pub fn as_table(table: Table, batch: &RecordBatch) -> RecordBatch {
    let schema = table.schema();
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "window_date" => {
                let starts = batch.column_by_name("window_start").expect("a test runs every model");
                let starts = starts.as_primitive::<TimestampMicrosecondType>();
                let day = |start: i64| i32::try_from(start.div_euclid(DAY)).ok();
                let dates: Date32Array = starts.iter().map(|start| start.and_then(day)).collect();
                Arc::new(dates) as ArrayRef
            }
            name => {
                let column = batch.column_by_name(name).expect("a test runs every model");
                cast(column, field.data_type()).expect("a test runs every model")
            }
        })
        .collect();
    RecordBatch::try_new(schema, columns).expect("every column is as the table has it")
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
    session.deregister_table(relation).map_err(failed)?;
    session.register_table(relation, std::sync::Arc::new(table)).map_err(failed)?;
    let collected = match session.sql(sql).await {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    session.deregister_table(relation).map_err(failed)?;
    collected.map_err(failed)
}
