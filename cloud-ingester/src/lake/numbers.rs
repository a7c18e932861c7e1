//! Which sequence numbers of a stream bronze holds.

use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use datafusion::error::DataFusionError;
use datafusion::prelude::{col, lit};
use futures::TryStreamExt as _;

use super::error::LakeError;
use super::session::{Limits, session};
use super::view::View;

/// Memory for the scan; nothing is joined or sorted.
const LIMITS: Limits = Limits { memory_bytes: 64 << 20 };

/// First and last of each run of numbers; runs may touch, overlap and repeat.
///
/// # Errors
/// When the table can't be read.
pub async fn numbers(bronze: &View, hub: &str, incarnation: i64, partition: i32) -> Result<Vec<(i64, i64)>, LakeError> {
    let failed =
        |source: DataFusionError| LakeError::Query { act: "read the numbers in bronze", source: Box::new(source) };
    let provider = bronze.provider().await?;
    let frame = session(LIMITS)?.read_table(Arc::clone(&provider)).map_err(failed)?;
    let stream = col("hub").eq(lit(hub)).and(col("incarnation").eq(lit(incarnation)));
    let frame = frame.filter(stream.and(col("partition_id").eq(lit(partition)))).map_err(failed)?;
    let frame = frame.select(vec![col("sequence_number")]).map_err(failed)?;
    let mut batches = frame.execute_stream().await.map_err(failed)?;
    let mut runs: Vec<(i64, i64)> = vec![];
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        let mut found: Vec<i64> = batch.column(0).as_primitive::<Int64Type>().iter().flatten().collect();
        found.sort_unstable();
        for number in found {
            match runs.last_mut() {
                Some((_, to)) if *to + 1 == number || *to == number => *to = number,
                _ => runs.push((number, number)),
            }
        }
    }
    Ok(runs)
}
