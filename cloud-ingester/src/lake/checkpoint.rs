//! A checkpoint whose pages are encoded as every reader takes them.
//!
//! Delta's kernel writes a checkpoint with Parquet's defaults: pages of most columns refer to a dictionary by
//! run-length encoded indexes, and there is no setting against it (`delta-rs.checkpoint.useRunLengthEncoding` is parsed
//! and not used). Microsoft Fabric does not read such a checkpoint: MicrosoftDocs/fabric-docs, page "Delta Lake table
//! format interoperability". So the kernel writes into memory ([`Held`]), the same rows are written once more, plain, and
//! only those go to the storage: the file, then `_last_checkpoint`, which tells of its size. Each is put once: a reader that
//! has been told of a file's size looks for its end there, and must not find another file. (Parquet encodes how deep a
//! value is nested by run lengths, always; that is no choice of a writer's.)

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::memory::InMemory;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt as _,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::parquet::arrow::arrow_writer::ArrowWriterOptions;
use deltalake::parquet::basic::{Compression, Encoding};
use deltalake::parquet::errors::ParquetError;
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::{DeltaTable, DeltaTableError, ObjectStore};
use futures::stream::BoxStream;
use serde_json::Value;

/// Writes a checkpoint of the version that `table` holds.
///
/// # Errors
/// It could not be written, or not be made plain: then there is none, or one that nothing tells of.
pub(super) async fn write(table: &DeltaTable) -> std::result::Result<(), DeltaTableError> {
    let (log_store, version) = (table.log_store(), table.snapshot()?.version());
    let over = Arc::new(Held { storage: log_store.root_object_store(None), held: InMemory::new() });
    let config = log_store.config();
    let beside = deltalake::logstore::logstore_with(over, config.location(), config.options().clone())?;
    let mut same = DeltaTable::new(Arc::clone(&beside));
    same.state.clone_from(&table.state);
    deltalake::protocol::checkpoints::create_checkpoint(&same, None).await?;

    let log = Path::from("_delta_log");
    let (file, hint) = (log.clone().join(format!("{version:020}.checkpoint.parquet")), log.join("_last_checkpoint"));
    let (held, storage) = (beside.object_store(None), log_store.object_store(None));
    let written = held.get(&file).await?.bytes().await?;
    let last = held.get(&hint).await?.bytes().await?;
    let rewritten = Bytes::from(tokio::task::spawn_blocking(move || plain(written)).await.map_err(foreign)??);
    let size = rewritten.len();
    storage.put(&file, rewritten.into()).await?;
    if let Some(last) = of_size(&last, version, size) {
        storage.put(&hint, Bytes::from(last).into()).await?;
    }
    Ok(())
}

/// A storage as it would be with what is put; the storage itself stays as it is.
#[derive(Debug)]
struct Held {
    storage: Arc<dyn ObjectStore>,
    held: InMemory,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory over {}", self.storage)
    }
}

#[async_trait]
impl ObjectStore for Held {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.held.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.held.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        match self.held.get_opts(path, options.clone()).await {
            Err(Error::NotFound { .. }) => self.storage.get_opts(path, options).await,
            held => held,
        }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.held.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.storage.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.storage.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.storage.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.held.copy_opts(from, to, options).await
    }
}

fn foreign(error: impl std::error::Error + Send + Sync + 'static) -> DeltaTableError {
    DeltaTableError::GenericError { source: Box::new(error) }
}

/// The same rows and columns in pages that refer to no dictionary.
fn plain(file: Bytes) -> std::result::Result<Vec<u8>, ParquetError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_compression(Compression::SNAPPY)
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
    let mut writer = ArrowWriter::try_new_with_options(vec![], schema, options)?;
    for batch in reader {
        writer.write(&batch?)?;
    }
    writer.into_inner()
}

/// The hint with the size of the rewritten file; `None` where it is of another version, or has no size.
fn of_size(hint: &[u8], version: u64, size: usize) -> Option<Vec<u8>> {
    let mut hint: Value = serde_json::from_slice(hint).ok()?;
    if hint.get("version")?.as_u64()? != version {
        return None;
    }
    *hint.get_mut("sizeInBytes")? = size.into();
    serde_json::to_vec(&hint).ok()
}

/// A checkpoint that has lost the progress of `app`, as none of ours ever should.
#[cfg(test)]
pub(crate) fn forgetting(file: Vec<u8>, app: &str) -> Vec<u8> {
    use arrow::array::{Array as _, AsArray as _, BooleanArray};
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(file)).expect("a file").build().expect("rows");
    let mut writer = ArrowWriter::try_new(vec![], arrow::record_batch::RecordBatchReader::schema(&reader), None);
    for batch in reader {
        let batch = batch.expect("rows");
        let apps = batch.column_by_name("txn").expect("a column").as_struct();
        let apps =
            arrow::compute::cast(apps.column_by_name("appId").expect("a field"), &arrow::datatypes::DataType::Utf8);
        let apps = apps.expect("texts");
        let apps = apps.as_string::<i32>();
        let stays: BooleanArray =
            (0..batch.num_rows()).map(|at| Some(apps.is_null(at) || apps.value(at) != app)).collect();
        let rest = arrow::compute::filter_record_batch(&batch, &stays).expect("as long as the batch");
        writer.as_mut().expect("a writer").write(&rest).expect("written");
    }
    writer.expect("a writer").into_inner().expect("a file")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray};
    use arrow::record_batch::RecordBatch;
    use deltalake::parquet::file::reader::{FileReader as _, SerializedFileReader};

    use super::*;

    fn batch() -> RecordBatch {
        let path: StringArray = (0..500).map(|n| (n % 3 != 0).then(|| format!("part-{}", n % 7))).collect();
        let size: Int64Array = (0..500).map(Some).collect();
        let change: BooleanArray = (0..500).map(|n| Some(n % 2 == 0)).collect();
        let columns: [(&str, ArrayRef); 3] =
            [("path", Arc::new(path)), ("size", Arc::new(size)), ("change", Arc::new(change))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).expect("a batch")
    }

    #[test]
    fn a_checkpoint_written_plain_holds_the_same_rows_and_no_dictionary() {
        let mut writer = ArrowWriter::try_new(vec![], batch().schema(), None).expect("a writer");
        writer.write(&batch()).expect("rows");
        let with_dictionary = Bytes::from(writer.into_inner().expect("a file"));
        let dictionaries = |file: &Bytes| {
            let reader = SerializedFileReader::new(file.clone()).expect("a file");
            let columns = reader.metadata().row_groups().iter().flat_map(|group| group.columns().to_vec());
            columns.filter(|column| column.encodings().any(|encoding| encoding == Encoding::RLE_DICTIONARY)).count()
        };
        assert_eq!(dictionaries(&with_dictionary), 2, "what Parquet does by default");

        let plain = Bytes::from(plain(with_dictionary).expect("a file"));
        assert_eq!(dictionaries(&plain), 0);
        let reader = ParquetRecordBatchReaderBuilder::try_new(plain).expect("a file").build().expect("a reader");
        let read: Vec<RecordBatch> = reader.collect::<Result<_, _>>().expect("rows");
        assert_eq!(arrow::compute::concat_batches(&batch().schema(), &read).expect("one batch"), batch());
    }

    #[test]
    fn the_hint_tells_the_new_size_of_its_own_version_alone() {
        let hint = br#"{"version":19,"size":24,"sizeInBytes":26519,"numOfAddFiles":18}"#;
        let told = of_size(hint, 19, 77).map(|told| serde_json::from_slice::<Value>(&told).expect("JSON"));
        assert_eq!(told, Some(serde_json::json!({"version":19,"size":24,"sizeInBytes":77,"numOfAddFiles":18})));
        for (hint, version) in [(&hint[..], 20), (b"{}", 19), (b"", 19)] {
            assert_eq!(of_size(hint, version, 77), None);
        }
    }
}
