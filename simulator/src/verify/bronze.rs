//! Bronze, read for its own numbers.

use deltalake::arrow::datatypes::DataType;
use futures::StreamExt as _;

use super::VerifyError;
use super::lake::{Columns, Table};
use super::report::Problems;
use super::streams::{Stream, Streams};

/// The property of the ingester's own rows: the numbers before it expired in the hub. A device may set it too, but its
/// rows have a device.
const HUB_RETENTION: &str = "hub-retention";

/// Reads the numbers of bronze.messages, and how far it says it has read.
pub(super) async fn numbers(table: &Table, streams: &mut Streams, problems: &mut Problems) -> Result<(), VerifyError> {
    use DataType::{Int64, Utf8};
    let columns = [
        ("hub", Utf8),
        ("incarnation", Int64),
        ("partition_id", Int64),
        ("sequence_number", Int64),
        ("device_id", Utf8),
    ];
    let mut rows = table.rows_and(&columns, "properties").await?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            let (Some(hub), Some(incarnation), Some(partition), Some(number)) =
                (at.text(0, row), at.int(1, row), at.int(2, row), at.int(3, row))
            else {
                problems.add("bronze-number", || {
                    "bronze.messages has a row without a hub, incarnation, partition or sequence number".to_owned()
                });
                continue;
            };
            let mark = at.text(4, row).is_none() && at.has_key(5, row, HUB_RETENTION);
            streams.event(Stream { hub, incarnation, partition }, number, mark, problems);
        }
    }
    let mut known = Vec::new();
    for stream in streams.all() {
        known.push((
            stream.hub.to_owned(),
            stream.incarnation,
            stream.partition,
            table.progress(&stream.app_id()).await?,
        ));
    }
    for (hub, incarnation, partition, done) in known {
        if let Some(done) = done {
            streams.done(Stream { hub: &hub, incarnation, partition }, done);
        }
    }
    Ok(())
}
