//! A Delta table of somebody else, read as a whole: a catalogue.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use deltalake::delta_datafusion::DeltaScanNext;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};

use super::error::LakeError;
use super::location::Location;

async fn load(lake: &Location, url: &str) -> Result<DeltaTable, LakeError> {
    let refuse = |detail: String| LakeError::Location { location: url.to_owned(), detail };
    let place = Location::parse(url, lake.options().clone())?;
    let failed = |error: DeltaTableError| refuse(error.to_string());
    let builder = DeltaTableBuilder::from_url(place.root().clone()).map_err(failed)?;
    builder.with_storage_options(lake.options().clone()).load().await.map_err(failed)
}

/// The newest version of the table at `url`, a directory or a URL that the lake's own options open.
///
/// # Errors
/// When it can't be read.
pub async fn version(lake: &Location, url: &str) -> Result<i64, LakeError> {
    let table = load(lake, url).await?;
    Ok(super::commit::version(&table))
}

/// All rows of the table at `url`, and its version.
///
/// # Errors
/// When it can't be read.
pub async fn rows(lake: &Location, url: &str) -> Result<(i64, Vec<RecordBatch>), LakeError> {
    let failed = |source| LakeError::Query { act: "read a table of another", source: Box::new(source) };
    let table = load(lake, url).await?;
    let state = table.snapshot().map_err(|error| failed(error.into()))?;
    let scan = DeltaScanNext::builder()
        .with_log_store(table.log_store())
        .with_eager_snapshot(Arc::new(state.snapshot().clone()))
        .build()
        .await
        .map_err(failed)?;
    let frame = SessionContext::new().read_table(Arc::new(scan)).map_err(failed)?;
    Ok((super::commit::version(&table), frame.collect().await.map_err(failed)?))
}
