//! The tables as any Delta reader sees them, read without the ingester's code: what it wrote is what is proved.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext, cast, col};
use deltalake::arrow::array::{Array, AsArray, RecordBatch};
use deltalake::arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use deltalake::kernel::Action;
use deltalake::logstore::get_actions;
use deltalake::{DeltaTable, DeltaTableError};
use serde_json::Value as Json;
use url::Url;

use super::VerifyError;

/// A lake's root.
#[derive(Debug, Clone)]
pub struct Lake {
    root: Url,
    options: HashMap<String, String>,
}

/// A table at the version it was opened at.
#[derive(Clone)]
pub struct Table {
    name: &'static str,
    delta: DeltaTable,
}

impl Lake {
    /// The lake at a path or a URL; `options` is what its storage wants to know.
    ///
    /// # Errors
    /// No such place can be named: a local path with a `%`, which Delta readers take for something else, or no URL.
    pub fn at(text: &str, options: HashMap<String, String>) -> Result<Self, VerifyError> {
        let refuse = |why: String| VerifyError::Place { lake: text.to_owned(), why };
        let path = match text.split_once("://") {
            Some(("file", path)) => path,
            Some(_) => {
                deltalake::azure::register_handlers(None);
                let root =
                    Url::parse(&format!("{}/", text.trim_end_matches('/'))).map_err(|e| refuse(e.to_string()))?;
                return Ok(Self { root, options });
            }
            None => text,
        };
        if path.contains('%') {
            return Err(refuse(
                "a local path with a `%` cannot be read as a Delta lake; choose another directory".into(),
            ));
        }
        let path = std::path::absolute(path).map_err(|e| refuse(e.to_string()))?;
        if !path.is_dir() {
            return Err(refuse("there is no such directory; name the one that holds bronze, silver and gold".into()));
        }
        let root =
            Url::from_directory_path(&path).map_err(|()| refuse("the path cannot be written as a URL".into()))?;
        Ok(Self { root, options })
    }

    /// Opens `silver/readings` and the like at its newest version; `None` where it does not exist yet.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn open(&self, name: &'static str) -> Result<Option<Table>, VerifyError> {
        let failed = |source| VerifyError::Delta { act: "open", table: name, source: Box::new(source) };
        let url = self
            .root
            .join(&format!("{name}/"))
            .map_err(|e| VerifyError::Place { lake: self.root.to_string(), why: e.to_string() })?;
        if url.scheme() == "file" && !url.to_file_path().is_ok_and(|path| path.join("_delta_log").is_dir()) {
            return Ok(None);
        }
        match deltalake::open_table_with_storage_options(url, self.options.clone()).await {
            Ok(delta) => Ok(Some(Table { name, delta })),
            Err(DeltaTableError::NotATable(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Table {
    fn failed(&self, act: &'static str) -> impl Fn(DeltaTableError) -> VerifyError {
        let table = self.name;
        move |source| VerifyError::Delta { act, table, source: Box::new(source) }
    }

    /// The version it was opened at.
    pub fn version(&self) -> i64 {
        self.delta.version().map_or(-1, as_i64)
    }

    /// The newest version there is now.
    ///
    /// # Errors
    /// The log cannot be listed.
    pub async fn newest(&self) -> Result<i64, VerifyError> {
        self.delta.get_latest_version().await.map(as_i64).map_err(self.failed("look for a newer version of"))
    }

    /// Its `metaData.id`.
    ///
    /// # Errors
    /// It is not loaded.
    pub fn id(&self) -> Result<String, VerifyError> {
        Ok(self.delta.snapshot().map_err(self.failed("read"))?.metadata().id().to_owned())
    }

    /// The progress that `app` committed into it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn progress(&self, app: &str) -> Result<Option<i64>, VerifyError> {
        let state = self.delta.snapshot().map_err(self.failed("read"))?;
        state
            .transaction_version(self.delta.log_store().as_ref(), app)
            .await
            .map_err(self.failed("read the progress of"))
    }

    /// What the newest commit that names `key` in its metadata says there, from this version back.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn newest_info(&self, key: &str) -> Result<Option<Json>, VerifyError> {
        let Some(newest) = self.delta.version() else { return Ok(None) };
        let log = self.delta.log_store();
        for version in (0..=newest).rev() {
            let entry = log.read_commit_entry(version).await.map_err(self.failed("read the log of"))?;
            let Some(entry) = entry else { break }; // older ones were cleaned up
            for action in get_actions(version, &entry).map_err(self.failed("read the log of"))? {
                match action {
                    Action::CommitInfo(mut info) if info.info.contains_key(key) => return Ok(info.info.remove(key)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// All rows of these columns, as batches; times as microseconds.
    ///
    /// # Errors
    /// The table lacks a column, or cannot be scanned.
    pub async fn rows(&self, columns: &[(&str, DataType)]) -> Result<SendableRecordBatchStream, VerifyError> {
        self.scan(columns, None).await
    }

    /// As [`Table::rows`], and one more column behind them as it is stored.
    ///
    /// # Errors
    /// As [`Table::rows`].
    pub async fn rows_and(
        &self,
        columns: &[(&str, DataType)],
        last: &str,
    ) -> Result<SendableRecordBatchStream, VerifyError> {
        self.scan(columns, Some(last)).await
    }

    async fn scan(
        &self,
        columns: &[(&str, DataType)],
        last: Option<&str>,
    ) -> Result<SendableRecordBatchStream, VerifyError> {
        let failed = |source: DataFusionError| self.scan_failed(source);
        let config = SessionConfig::new().with_target_partitions(2).with_batch_size(8_192);
        let session = SessionContext::new_with_config(config);
        let provider: Arc<dyn TableProvider> = self.delta.table_provider().await.map_err(failed)?;
        let exact = columns.iter().map(|(name, data_type)| match data_type {
            // A timestamp becomes its number of microseconds whatever its unit or zone is.
            DataType::Timestamp(..) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                cast(cast(col(*name), micros), DataType::Int64).alias(*name)
            }
            other => cast(col(*name), other.clone()).alias(*name),
        });
        let exact: Vec<_> = exact.chain(last.map(col)).collect();
        let frame = session.read_table(provider).and_then(|frame| frame.select(exact)).map_err(failed)?;
        frame.execute_stream().await.map_err(failed)
    }

    /// Names the table in an error of a batch.
    pub fn scan_failed(&self, source: DataFusionError) -> VerifyError {
        VerifyError::Scan { table: self.name, source: Box::new(source) }
    }
}

fn as_i64(version: impl TryInto<i64>) -> i64 {
    version.try_into().unwrap_or(i64::MAX)
}

/// Typed columns of a batch, by place.
pub struct Columns<'a>(pub &'a RecordBatch);

impl<'a> Columns<'a> {
    /// A text.
    pub fn text(&self, column: usize, row: usize) -> Option<&'a str> {
        let array = self.0.column(column).as_string::<i32>();
        array.is_valid(row).then(|| array.value(row))
    }

    /// A whole number.
    pub fn int(&self, column: usize, row: usize) -> Option<i64> {
        let array = self.0.column(column).as_primitive::<Int64Type>();
        array.is_valid(row).then(|| array.value(row))
    }

    /// A number.
    pub fn float(&self, column: usize, row: usize) -> Option<f64> {
        let array = self.0.column(column).as_primitive::<Float64Type>();
        array.is_valid(row).then(|| array.value(row))
    }

    /// Bytes.
    pub fn bytes(&self, column: usize, row: usize) -> Option<&'a [u8]> {
        let array = self.0.column(column).as_binary::<i32>();
        array.is_valid(row).then(|| array.value(row))
    }

    /// Anything, printed.
    pub fn shown(&self, column: usize, row: usize) -> String {
        deltalake::arrow::util::display::array_value_to_string(self.0.column(column), row).unwrap_or_default()
    }

    /// Whether a map has this key.
    pub fn has_key(&self, column: usize, row: usize, key: &str) -> bool {
        let Some(map) = self.0.column(column).as_map_opt().filter(|map| map.is_valid(row)) else { return false };
        let (from, to) = (map.value_offsets()[row] as usize, map.value_offsets()[row + 1] as usize);
        map.keys().as_string_opt::<i32>().is_some_and(|keys| (from..to).any(|at| keys.value(at) == key))
    }

    /// The entries of a map of text to whole numbers.
    pub fn counts(&self, column: usize, row: usize) -> Vec<(&'a str, i64)> {
        let Some(map) = self.0.column(column).as_map_opt() else { return Vec::new() };
        if map.is_null(row) {
            return Vec::new();
        }
        let (from, to) = (map.value_offsets()[row] as usize, map.value_offsets()[row + 1] as usize);
        let (Some(keys), Some(values)) =
            (map.keys().as_string_opt::<i32>(), map.values().as_primitive_opt::<Int64Type>())
        else {
            return Vec::new();
        };
        (from..to).map(|at| (keys.value(at), values.value(at))).collect()
    }
}
