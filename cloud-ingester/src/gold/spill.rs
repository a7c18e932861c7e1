//! Rows that are too many for memory, split by their keys into files of their own until they are computed part by part.
//!
//! The files lie where the session spills, and go with it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::lake::parquet::arrow::AsyncArrowWriter;
use crate::lake::parquet::errors::ParquetError;
use crate::lake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use arrow::array::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::SpillFile;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use super::affected::split;
use super::rewrite::{run, select};
use crate::lake::LakeError;

/// Rows of one row group: of every part one is in memory while it is filled.
const GROUP_ROWS: usize = 65_536;

/// Where the rows of a slice go.
pub(super) struct Spill {
    parts: Vec<Part>,
}

/// The rows of some keys.
pub(super) struct Part {
    file: Arc<dyn SpillFile>,
    writer: Option<AsyncArrowWriter<tokio::fs::File>>,
    rows: u64,
}

fn failed(source: impl Into<DataFusionError>) -> LakeError {
    LakeError::Query { act: "put rows of a gold table aside", source: Box::new(source.into()) }
}

fn path_of(file: &Arc<dyn SpillFile>) -> Result<PathBuf, LakeError> {
    let path = file.path().map(ToOwned::to_owned);
    path.ok_or_else(|| failed(DataFusionError::Execution("the session spills to no disk".to_owned())))
}

fn of_parquet(error: ParquetError) -> LakeError {
    failed(DataFusionError::from(error))
}

impl Spill {
    /// As many parts, empty.
    ///
    /// # Errors
    /// When the session may not spill.
    pub(super) fn new(session: &SessionContext, parts: usize) -> Result<Self, LakeError> {
        let disk = &session.runtime_env().disk_manager;
        let part = |_| {
            let file = disk.create_tmp_file("windows").map_err(failed)?;
            Ok(Part { file, writer: None, rows: 0 })
        };
        Ok(Self { parts: (0..parts).map(part).collect::<Result<_, LakeError>>()? })
    }

    /// Adds rows, each to the part of its key.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) async fn add(&mut self, keys: &[String], batch: &RecordBatch) -> Result<(), LakeError> {
        let count = self.parts.len();
        for (part, rows) in self.parts.iter_mut().zip(split(keys, batch, count)) {
            let Some(rows) = rows else { continue };
            let writer = match &mut part.writer {
                Some(writer) => writer,
                none => {
                    let file = tokio::fs::File::create(path_of(&part.file)?).await;
                    let file = file.map_err(|error| failed(DataFusionError::from(error)))?;
                    // Read once and thrown away: what is written fast is worth more than what is small.
                    let properties = WriterProperties::builder()
                        .set_max_row_group_row_count(Some(GROUP_ROWS))
                        .set_statistics_enabled(EnabledStatistics::None)
                        .build();
                    let writer = AsyncArrowWriter::try_new(file, rows.schema(), Some(properties));
                    none.insert(writer.map_err(of_parquet)?)
                }
            };
            part.rows += rows.num_rows() as u64;
            writer.write(&rows).await.map_err(of_parquet)?;
        }
        Ok(())
    }

    /// The parts that have rows, to be computed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) async fn finish(self) -> Result<Vec<Part>, LakeError> {
        let mut parts = vec![];
        for mut part in self.parts {
            if let Some(writer) = part.writer.take() {
                writer.close().await.map_err(of_parquet)?;
                parts.push(part);
            }
        }
        Ok(parts)
    }
}

impl Part {
    /// Runs a SELECT over the part, which it knows as `relation`. Up to `rows_max` rows are taken into memory; more than that
    /// are of one key, most likely, and are read by the session as its memory allows.
    ///
    /// # Errors
    /// When the SELECT fails, or the disk.
    pub(super) async fn select(
        self,
        session: &SessionContext,
        sql: &str,
        relation: &str,
        rows_max: u64,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        let path = path_of(&self.file)?.display().to_string();
        let options = ParquetReadOptions { file_extension: "", ..ParquetReadOptions::default() };
        let frame = session.read_parquet(path, options).await.map_err(failed)?;
        if self.rows <= rows_max {
            let rows = frame.collect().await.map_err(failed)?;
            return select(session, sql, relation, rows).await;
        }
        run(session, sql, relation, frame.into_view()).await
    }
}
