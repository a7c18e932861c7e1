//! Rows of files in order. Bodies may be huge and memory little: so one thread sorts, what it is handed at once is measured
//! in bytes rather than rows, and the rest waits on disk. (Several sorts beside each other take each other's memory: the
//! one that is done first claims all there is for its merge.)

use std::sync::{Arc, Mutex};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::error::LakeError;
use super::files::Shape;
use super::session::{Limits, one_thread};
use super::view::View;
use deltalake::kernel::Add;

/// A batch is about this large: sorting needs memory for several at a time, each twice.
const BATCH_BYTES: usize = 2 << 20;

/// More rows make no batch better.
const BATCH_ROWS: u64 = 8_192;

/// Rows of a batch of rows of this size.
fn batch_rows(row_bytes: u64) -> usize {
    let rows = (BATCH_BYTES as u64 / row_bytes.max(1)).clamp(1, BATCH_ROWS);
    usize::try_from(rows).unwrap_or(1)
}

/// The rows of `files`, which are files of `view`, in this shape, by `order` (SQL; nothing: as they come).
///
/// # Errors
/// When the files can't be read.
pub async fn sorted(
    view: &View,
    shape: Shape,
    files: Vec<Add>,
    order: &str,
    limits: Limits,
) -> Result<SendableRecordBatchStream, LakeError> {
    let failed = |source: DataFusionError| LakeError::Query { act: "sort files", source: Box::new(source) };
    let rows = batch_rows(view.row_bytes(&files).await?);
    let session = one_thread(limits, rows)?;
    let schema = shape.columns();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let frame = session.read_table(view.provider_of(files).await?).map_err(failed)?;
    let read = frame.select_columns(&columns).map_err(failed)?.execute_stream().await.map_err(failed)?;
    let shaped = read.map(move |batch| shape.of(batch?).map_err(|error| DataFusionError::External(Box::new(error))));
    let pieces = shaped.map_ok(|batch| futures::stream::iter(pieces(batch))).try_flatten();
    let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), pieces));
    if order.is_empty() {
        return Ok(stream);
    }
    let once = Once { schema: Arc::clone(&schema), stream: Mutex::new(Some(stream)) };
    let table = StreamingTable::try_new(schema, vec![Arc::new(once)]).map_err(failed)?;
    session.register_table("pieces", Arc::new(table)).map_err(failed)?;
    let frame = session.sql(&format!("select * from pieces order by {order}")).await.map_err(failed)?;
    frame.execute_stream().await.map_err(failed)
}

/// A batch in copies none of which is larger than [`BATCH_BYTES`], but for single rows that are.
fn pieces(batch: RecordBatch) -> Vec<Result<RecordBatch, DataFusionError>> {
    let rows = batch.num_rows();
    if rows < 2 || batch.get_array_memory_size() <= BATCH_BYTES {
        return vec![Ok(batch)];
    }
    let half = rows / 2;
    let copied = [(0, half), (half, rows)].map(|(from, to)| copy(&batch, from, to));
    drop(batch);
    copied
        .into_iter()
        .flat_map(|piece| match piece {
            Ok(piece) => pieces(piece),
            Err(error) => vec![Err(error.into())],
        })
        .collect()
}

/// Some rows of a batch, in memory of their own.
fn copy(batch: &RecordBatch, from: usize, to: usize) -> Result<RecordBatch, ArrowError> {
    let rows: UInt32Array = (from..to).map(|row| u32::try_from(row).ok()).collect();
    take_record_batch(batch, &rows)
}

/// A stream as a table that is read once.
struct Once {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.stream.lock().expect("no thread panics while it holds this").take();
        taken.unwrap_or_else(|| {
            let error = DataFusionError::Internal("what is read once was asked for twice".to_owned());
            let stream = futures::stream::once(std::future::ready(Err(error)));
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BinaryArray, Int32Array};

    use super::*;

    #[test]
    fn a_batch_is_cut_into_copies_that_are_small_and_hold_every_row_in_order() {
        for (count, size) in [(1_usize, 8 << 20), (7, 3 << 20), (100, 300_000), (20_000, 8)] {
            let bodies = BinaryArray::from_iter_values((0..count).map(|_| vec![7_u8; size]));
            let numbers = Int32Array::from_iter_values((0..count).map(|at| i32::try_from(at).expect("few")));
            let columns: [(&str, ArrayRef); 2] = [("body", Arc::new(bodies)), ("number", Arc::new(numbers))];
            let batch = RecordBatch::try_from_iter(columns).expect("a batch");
            let cut: Vec<RecordBatch> = pieces(batch.clone()).into_iter().collect::<Result<_, _>>().expect("copies");
            for piece in &cut {
                let small = piece.get_array_memory_size() <= BATCH_BYTES;
                assert!(small || piece.num_rows() == 1, "{} rows of {size} bytes", piece.num_rows());
            }
            assert_eq!(arrow::compute::concat_batches(&batch.schema(), &cut).expect("one batch"), batch);
        }
    }

    #[test]
    fn large_rows_come_few_at_a_time() {
        assert_eq!([0, 100, 1_000, 256 << 10, 8 << 20].map(batch_rows), [8_192, 8_192, 2_097, 8, 1]);
    }
}
