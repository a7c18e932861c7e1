//! A relation whose rows are handed to a SELECT while they are read: nothing of it is held, and reading and computing take
//! turns on different cores. For a SELECT that goes through it once.

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::StreamExt as _;
use tokio::sync::mpsc;

/// Parts of the relation, so that two cores have work.
const PARTS: usize = 2;

/// Batches of a part that wait to be computed.
const WAITING: usize = 4;

/// Where its rows go in.
pub(super) struct Feed {
    parts: [mpsc::Sender<RecordBatch>; PARTS],
    next: usize,
}

impl Feed {
    /// Hands rows over; false: nobody wants them any more.
    pub(super) async fn put(&mut self, batch: RecordBatch) -> bool {
        let part = self.next;
        self.next = (part + 1) % PARTS;
        self.parts[part].send(batch).await.is_ok()
    }
}

/// A relation of such rows, and where they go in. It ends when the feed is dropped.
pub(super) fn fed(schema: &SchemaRef) -> Result<(Feed, StreamingTable), DataFusionError> {
    let (feeds, parts): (Vec<_>, Vec<_>) = (0..PARTS)
        .map(|_| {
            let (feed, rows) = mpsc::channel(WAITING);
            let part = Part { schema: Arc::clone(schema), rows: Mutex::new(Some(rows)) };
            (feed, Arc::new(part) as Arc<dyn PartitionStream>)
        })
        .unzip();
    let parts = StreamingTable::try_new(Arc::clone(schema), parts)?;
    let feeds = <[_; PARTS]>::try_from(feeds).expect("as many as parts");
    Ok((Feed { parts: feeds, next: 0 }, parts))
}

struct Part {
    schema: SchemaRef,
    rows: Mutex<Option<mpsc::Receiver<RecordBatch>>>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Part")
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.rows.lock().expect("no thread panics while it holds this").take();
        let rows = match taken {
            Some(mut rows) => futures::stream::poll_fn(move |context| rows.poll_recv(context)).map(Ok).left_stream(),
            None => {
                let error = DataFusionError::Internal("what is handed over once was asked for twice".to_owned());
                futures::stream::once(std::future::ready(Err(error))).right_stream()
            }
        };
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
