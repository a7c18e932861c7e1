//! Tables of an earlier version of this program, and tables somebody added columns to.
//!
//! A later version may know more columns of a table of ours: they are added by a commit that changes nothing but the
//! table's metadata, nullable, so that old files read as null there and every reader goes on. The protocol stays. A
//! column we do not know stays where it is, and is null in what we write.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _};
use deltalake::kernel::transaction::CommitProperties;
use deltalake::kernel::{StructField, StructType};
use deltalake::{DeltaTable, DeltaTableError};

use super::commit::delta;
use super::error::LakeError;
use super::tables::Table;

/// How often columns are tried to be added while others commit.
const TRIES_MAX: u32 = 6;

/// Adds the columns `table` lacks; gives the new handle, or `None` if it lacks none that could be added.
///
/// # Errors
/// When the storage refuses.
pub(super) async fn widen(table: Table, handle: &DeltaTable) -> Result<Option<DeltaTable>, LakeError> {
    let failed = delta("add columns to", table);
    let mut now = handle.clone();
    for tried in 1.. {
        let lacking = lacking(table, &now)?;
        if lacking.is_empty() {
            break;
        }
        let names: Vec<&str> = lacking.iter().map(|field| field.name().as_str()).collect();
        let properties = CommitProperties::default().with_create_checkpoint(false).with_max_retries(0);
        let added = now.clone().add_columns().with_fields(lacking.clone()).with_commit_properties(properties).await;
        match added {
            Ok(_) => tracing::info!(table = table.full_name(), columns = ?names, "columns of this version were added"),
            Err(error) if tried == TRIES_MAX => return Err(failed(error)),
            // Its answer may be lost, or another one was quicker: the table tells.
            Err(error) => tracing::warn!(table = table.full_name(), tried, %error, "columns not added; looking again"),
        }
        now.update_incremental(None).await.map_err(&failed)?;
    }
    Ok((now.version() != handle.version()).then_some(now))
}

/// The nullable columns of ours that the table does not have. One that may not be null cannot be added to rows that are
/// there: that table is refused by name later on.
fn lacking(table: Table, handle: &DeltaTable) -> Result<Vec<StructField>, LakeError> {
    let failed = delta("read the columns of", table);
    let there = handle.snapshot().map_err(&failed)?.schema();
    let ours = table.schema();
    let lacking = ours.fields().iter().filter(|field| field.is_nullable() && there.field(field.name()).is_none());
    let lacking = Schema::new(lacking.map(|field| field.as_ref().clone()).collect::<Vec<Field>>());
    let lacking: StructType = (&lacking).try_into_kernel().map_err(|error| failed(DeltaTableError::from(error)))?;
    Ok(lacking.fields().cloned().collect())
}

/// The columns of a table as files are to have them, in its own order.
///
/// # Errors
/// When its schema can't be read.
pub(super) fn columns(table: Table, handle: &DeltaTable) -> Result<SchemaRef, LakeError> {
    let failed = delta("read the columns of", table);
    let schema = handle.snapshot().map_err(&failed)?.schema();
    let schema: Schema = schema.as_ref().try_into_arrow().map_err(|error| failed(DeltaTableError::from(error)))?;
    Ok(Arc::new(schema))
}

/// The same rows with the columns of the table: what it has besides is null, and views of texts become texts.
///
/// # Errors
/// A column that can't be turned into the table's type.
pub(super) fn conform(batch: RecordBatch, columns: &SchemaRef) -> Result<RecordBatch, arrow::error::ArrowError> {
    if batch.schema() == *columns {
        return Ok(batch);
    }
    let shaped = columns.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
    });
    let shaped = shaped.collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(columns), shaped, &options)
}

#[cfg(test)]
mod tests;
