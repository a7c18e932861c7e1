//! How long after the hub took an Event its readings could be read: from the tables' own logs, after the run.
//!
//! A version can be read from when its log entry lies there. A reading is in silver from the first version that has its
//! row, and in a gold table from the first version whose progress reaches that one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use deltalake::arrow::array::AsArray as _;
use deltalake::arrow::datatypes::TimestampMicrosecondType;
use deltalake::datafusion::prelude::{ParquetReadOptions, SessionContext};
use serde_json::Value as Json;

/// Seconds from the hub to a table, of each reading.
pub(super) struct Waits {
    /// In silver.readings.
    pub(super) silver: Vec<f64>,
    /// In the gold table.
    pub(super) gold: Vec<f64>,
}

/// One version of a table.
struct Entry {
    version: i64,
    /// Microseconds since 1970.
    at: i64,
    adds: Vec<PathBuf>,
    txns: Vec<(String, i64)>,
}

/// Looks into a lake's silver.readings and the table `gold` beside it.
///
/// # Errors
/// The disk refuses, or what lies there is not what is expected.
pub(super) async fn waits(lake: &Path, gold: &str) -> io::Result<Waits> {
    let silver = entries(&lake.join("silver/readings"))?;
    let prefix = format!("gold.{gold}<-");
    let reached: Vec<(i64, i64)> = entries(&lake.join("gold").join(gold))?
        .iter()
        .flat_map(|entry| entry.txns.iter().map(|(app, version)| (app, *version, entry.at)))
        .filter(|(app, _, _)| app.starts_with(&prefix))
        .map(|(_, version, at)| (version, at))
        .collect();
    let context = SessionContext::new();
    let mut waits = Waits { silver: vec![], gold: vec![] };
    for entry in &silver {
        let in_gold = reached.iter().find(|(version, _)| entry.version <= *version).map(|(_, at)| *at);
        for file in &entry.adds {
            for enqueued in enqueued(&context, file).await? {
                let seconds = |at: i64| (at - enqueued) as f64 / 1e6;
                waits.silver.push(seconds(entry.at));
                waits.gold.push(in_gold.map_or(f64::INFINITY, seconds));
            }
        }
    }
    Ok(waits)
}

/// The value below which `share` of them lie.
pub(super) fn percentile(waits: &mut [f64], share: f64) -> f64 {
    waits.sort_by(f64::total_cmp);
    let at = (waits.len().saturating_sub(1) as f64 * share).round();
    waits.get(at as usize).copied().unwrap_or(f64::NAN)
}

fn entries(table: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = vec![];
    for file in std::fs::read_dir(table.join("_delta_log"))? {
        let path = file?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let (Some("json"), Ok(version)) = (path.extension().and_then(|extension| extension.to_str()), stem.parse())
        else {
            continue;
        };
        let written = path.metadata()?.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let at = i64::try_from(written.as_micros()).unwrap_or(i64::MAX);
        let mut entry = Entry { version, at, adds: vec![], txns: vec![] };
        for line in std::fs::read_to_string(&path)?.lines() {
            let action: Json = serde_json::from_str(line)?;
            if let (Some(add), Some(true)) = (action["add"]["path"].as_str(), action["add"]["dataChange"].as_bool()) {
                entry.adds.push(table.join(add));
            }
            if let (Some(app), Some(version)) = (action["txn"]["appId"].as_str(), action["txn"]["version"].as_i64()) {
                entry.txns.push((app.to_owned(), version));
            }
        }
        entries.push(entry);
    }
    entries.sort_by_key(|entry| entry.version);
    Ok(entries)
}

async fn enqueued(context: &SessionContext, file: &Path) -> io::Result<Vec<i64>> {
    let rows = context.read_parquet(file.display().to_string(), ParquetReadOptions::default()).await;
    let rows = rows.and_then(|rows| rows.select_columns(&["enqueued_time"])).map_err(io::Error::other)?;
    let batches = rows.collect().await.map_err(io::Error::other)?;
    let column = |batch: &deltalake::arrow::array::RecordBatch| {
        let times = batch.column(0).as_primitive_opt::<TimestampMicrosecondType>();
        times.map(|times| times.values().to_vec()).ok_or_else(|| io::Error::other("enqueued_time is no timestamp"))
    };
    Ok(batches.iter().map(column).collect::<io::Result<Vec<_>>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        for (share, is) in [(0.0, 1.0), (0.5, 3.0), (0.95, 5.0), (1.0, 5.0)] {
            assert_eq!(percentile(&mut [5.0, 1.0, 4.0, 2.0, 3.0], share), is, "{share}");
        }
        assert!(percentile(&mut [], 0.5).is_nan());
    }
}
