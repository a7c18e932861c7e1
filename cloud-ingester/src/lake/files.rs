//! Rows straight out of files, and into files that a later commit adds.
//!
//! A file once added stays readable until it is vacuumed, whatever later commits did to the table: so a hop reads the
//! files a version added without asking at which version they were part of the table.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Date32Type, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use deltalake::kernel::scalars::ScalarExt;
use deltalake::kernel::{Add, LogicalFileView};
use deltalake::logstore::object_store::ObjectStoreExt as _;
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::arrow_reader::ArrowReaderOptions;
use deltalake::parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use deltalake::parquet::errors::{ParquetError, Result as ParquetResult};
use deltalake::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use deltalake::writer::{DeltaWriter as _, RecordBatchWriter, WriteMode};
use deltalake::{DeltaTable, DeltaTableError, ObjectStore, ObjectStoreError, Path};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use indexmap::IndexMap;
use shared::time::Timestamp;

use super::commit::{delta, writer_properties};
use super::error::LakeError;
use super::evolve::{columns, conform};
use super::tables::Table;
use super::view::View;

/// Rows of one batch read from a file.
const BATCH_ROWS: usize = 8_192;

/// What the log's statistics say about one file: its rows, and the ends of a time column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Not later than the earliest.
    pub from: Timestamp,
    /// Not earlier than the latest.
    pub to: Timestamp,
    /// How many rows; 0 where the log does not know.
    pub rows: u64,
}

impl Extent {
    /// The extent of a file along `column`; all of time where the log does not know.
    #[must_use]
    pub fn of(add: &Add, column: &str) -> Self {
        let stats = add.stats.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
        let stats = stats.unwrap_or_default();
        let end = |side: &str| Timestamp::parse_rfc3339(stats.get(side)?.get(column)?.as_str()?);
        // Writers cut statistics to the millisecond.
        Self {
            from: Timestamp::from_micros(end("minValues").map_or(i64::MIN, |time| time.micros().saturating_sub(1_000))),
            to: Timestamp::from_micros(end("maxValues").map_or(i64::MAX, |time| time.micros().saturating_add(1_000))),
            rows: stats.get("numRecords").and_then(serde_json::Value::as_u64).unwrap_or(0),
        }
    }
}

impl View {
    /// The files of this version.
    #[must_use]
    pub fn all_files(&self) -> Vec<Add> {
        let state = self.delta().snapshot().expect("a view is made of a loaded table");
        state.log_data().iter().map(|file| add_of(&file)).collect()
    }

    /// The files of this version whose partition column `column` has a value asked for, as the log writes it.
    #[must_use]
    pub fn files_in(&self, column: &str, mut value: impl FnMut(&str) -> bool) -> Vec<Add> {
        let state = self.delta().snapshot().expect("a view is made of a loaded table");
        state
            .log_data()
            .iter()
            .filter(|file| {
                let partition = file.partition_values_map();
                matches!(partition.get(column), Some(Some(text)) if value(text))
            })
            .map(|file| add_of(&file))
            .collect()
    }

    /// How large a row is, unpacked: the largest average of any part of these files, by what their footers tell.
    ///
    /// # Errors
    /// When one can't be read.
    pub async fn row_bytes(&self, files: &[Add]) -> Result<u64, LakeError> {
        let mut largest = 0;
        for add in files {
            let read = self.remote(add).get_metadata(None).await;
            let footer = read.map_err(|error| delta("read a file of", self.table())(DeltaTableError::from(error)))?;
            for group in footer.row_groups() {
                // What a dictionary holds once is in memory once for each row.
                let bytes = group.columns().iter().map(|column| {
                    column.unencoded_byte_array_data_bytes().unwrap_or(0).max(column.uncompressed_size())
                });
                let (bytes, rows) = (bytes.sum::<i64>(), group.num_rows().max(1));
                largest = largest.max(u64::try_from(bytes / rows).unwrap_or(0));
            }
        }
        Ok(largest)
    }

    fn remote(&self, add: &Add) -> Remote {
        Remote {
            store: self.delta().log_store().object_store(None),
            path: Path::parse(&add.path).unwrap_or_else(|_| Path::from(add.path.as_str())),
            size: u64::try_from(add.size).unwrap_or(0),
        }
    }

    /// The rows of one file, of this or an earlier version, all at once: for files, or columns, that are small.
    ///
    /// # Errors
    /// As [`View::stream`], and when the file can't be read to its end.
    pub async fn read(&self, add: &Add, columns: &[&str]) -> Result<Vec<RecordBatch>, LakeError> {
        self.stream(add, columns).await?.try_collect().await
    }

    /// The rows of one file, of this or an earlier version, as they are read. Columns the file does not have are null;
    /// partition columns are not in files and so are null as well.
    ///
    /// # Errors
    /// [`LakeError::FileGone`] where it was vacuumed; otherwise when it can't be read.
    pub async fn stream(
        &self,
        add: &Add,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let (table, path) = (self.table(), add.path.clone());
        let failed = move |error: ParquetError| match &error {
            ParquetError::External(source)
                if matches!(source.downcast_ref(), Some(ObjectStoreError::NotFound { .. })) =>
            {
                LakeError::FileGone { table: table.full_name(), path: path.clone() }
            }
            _ => delta("read a file of", table)(DeltaTableError::from(error)),
        };
        let wanted = self.table().schema();
        let wanted = columns
            .iter()
            .map(|name| wanted.field_with_name(name).cloned())
            .collect::<Result<Vec<_>, _>>()
            .expect("callers name columns of the table");
        let wanted =
            Arc::new(Schema::new(wanted.into_iter().map(|field| field.with_nullable(true)).collect::<Vec<_>>()));
        let builder = ParquetRecordBatchStreamBuilder::new(self.remote(add)).await.map_err(&failed)?;
        let roots = builder.parquet_schema().root_schema().get_fields();
        let found = roots.iter().enumerate().filter(|(_, root)| columns.contains(&root.name())).map(|(at, _)| at);
        let mask = ProjectionMask::roots(builder.parquet_schema(), found.collect::<Vec<_>>());
        let stream = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(&failed)?;
        let shaped = stream.map(move |batch| {
            super::steps::step();
            let shaped = batch
                .and_then(|batch| shape(&batch, &wanted).map_err(|error| ParquetError::ArrowError(error.to_string())));
            shaped.map_err(&failed)
        });
        Ok(shaped.boxed())
    }
}

fn add_of(file: &LogicalFileView) -> Add {
    Add {
        path: file.path().into_owned(),
        partition_values: file.partition_values_map(),
        size: file.size(),
        modification_time: file.modification_time(),
        data_change: true,
        stats: file.stats(),
        ..Add::default()
    }
}

fn shape(batch: &RecordBatch, wanted: &Arc<Schema>) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = wanted
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
        })
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
}

/// A file in the table's storage, read by ranges.
struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

fn external(error: ObjectStoreError) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Remote {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.store.get_range(&self.path, range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            // The footer of a small file comes with its metadata in one read.
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(16 * 1_024));
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

/// How the rows of a table look.
#[derive(Clone, Debug)]
pub struct Shape {
    table: Table,
    columns: SchemaRef,
}

impl Shape {
    /// The columns, in the table's order.
    #[must_use]
    pub fn columns(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// When the table does not have one of them.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Self {
        let field =
            |name: &&str| self.columns.field_with_name(name).expect("callers name columns of the table").clone();
        Self { columns: Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>())), ..self.clone() }
    }

    /// Brings rows into it, as [`FileWriter::write`] does.
    ///
    /// # Errors
    /// When the columns differ.
    pub fn of(&self, batch: RecordBatch) -> Result<RecordBatch, LakeError> {
        conform(batch, &self.columns).map_err(|error| delta("write rows of", self.table)(error.into()))
    }
}

/// Writes rows into files that are not part of the table until a commit adds them.
pub struct FileWriter {
    table: Table,
    store: Arc<dyn ObjectStore>,
    inner: RecordBatchWriter,
    columns: SchemaRef,
    done: Vec<Add>,
    open: bool,
}

impl FileWriter {
    pub(super) fn new(table: Table, loaded: &DeltaTable, file_bytes: u64) -> Result<Self, LakeError> {
        let inner = RecordBatchWriter::for_table(loaded)
            .map_err(delta("write rows of", table))?
            .with_writer_properties(writer_properties(table))
            .with_target_file_size(file_bytes);
        let store = loaded.log_store().object_store(None);
        Ok(Self { table, store, inner, columns: columns(table, loaded)?, done: vec![], open: false })
    }

    /// How rows have to look.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape { table: self.table, columns: Arc::clone(&self.columns) }
    }

    /// Adds rows; columns as [`Table::schema`] says, others of the table's are null. Files are cut by partition and size.
    ///
    /// # Errors
    /// When storage refuses or the columns differ.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        super::steps::step();
        self.open = true;
        let failed = delta("write rows of", self.table);
        let batch = conform(batch, &self.columns).map_err(|error| failed(error.into()))?;
        match self.partition(&batch) {
            // Rows of one partition need not be taken apart.
            Some(partition) => {
                let written = self.inner.write_partition(batch, &partition, WriteMode::Default).await;
                written.map(|_| ()).map_err(failed)
            }
            None => self.inner.write(batch).await.map_err(failed),
        }
    }

    /// The partition that all these rows are of; `None`: of several, or it has to be looked at more closely.
    fn partition<T: ScalarExt>(&self, batch: &RecordBatch) -> Option<IndexMap<String, T>> {
        let [name] = self.table.partition_columns() else { return None };
        let column = batch.column_by_name(name)?;
        let dates = column.as_primitive_opt::<Date32Type>().filter(|dates| dates.null_count() == 0)?.values();
        let first = dates.first()?;
        let one = dates.iter().all(|date| date == first);
        one.then(|| Some(IndexMap::from([((*name).to_owned(), T::from_array(column, 0)?)]))).flatten()
    }

    /// Ends the files begun: rows written later go into others.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn seal(&mut self) -> Result<(), LakeError> {
        if std::mem::take(&mut self.open) {
            let adds = self.inner.flush().await.map_err(delta("write rows of", self.table))?;
            self.done.extend(adds);
        }
        Ok(())
    }

    /// The files, to be committed.
    ///
    /// # Errors
    /// When storage refuses.
    pub async fn finish(mut self) -> Result<Vec<Add>, LakeError> {
        self.seal().await?;
        Ok(self.done)
    }

    /// The files, to be committed, with what came of filling them; where that failed, its error, and the files are taken
    /// away: no commit will ever name them, and each new try writes others.
    ///
    /// # Errors
    /// What filling them failed at, or when storage refuses.
    pub async fn finish_if<T>(mut self, filled: Result<T, LakeError>) -> Result<(Vec<Add>, T), LakeError> {
        let sealed = self.seal().await;
        let error = match (filled, sealed) {
            (Ok(filled), Ok(())) => return Ok((self.done, filled)),
            (Err(error), _) | (Ok(_), Err(error)) => error,
        };
        for add in &self.done {
            let path = Path::parse(&add.path).unwrap_or_else(|_| Path::from(add.path.as_str()));
            // What stays is removed by upkeep in the end.
            if let Err(error) = self.store.delete(&path).await {
                tracing::debug!(%error, %path, "a file that no commit names stays");
            }
        }
        Err(error)
    }
}
