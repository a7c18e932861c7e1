//! `tests conformance DIR`: what every model of the product makes of made-up rows, for other engines to be held against.
//!
//! ```text
//! DIR/<model>/model.sql         the text, unchanged
//! DIR/<model>/relation.parquet  the rows it reads
//! DIR/<model>/expected.parquet  what DataFusion makes of them
//! DIR/<model>/model.json        {"relation": the name it knows its rows by, "keys": [...] of a row of the answer}
//! ```
//!
//! (The end-to-end tests have Spark and Sail do so, by `e2e/conformance.py models`.)
//!
//! Another engine reads `relation.parquet`, gives it the name `relation` says, runs the text, and compares row for row by
//! `keys`: counts, minimum, maximum, first and last equal, averages and deviations within 1e-9 relative, percentiles within
//! 1e-4 relative. `functions` is no model of the product: it uses every function that docs/sql.md allows.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema};
use cloud_ingester::gold::model::{Draft, Mode};
use cloud_ingester::gold::planned::{Planner, relation};
use cloud_ingester::gold::{models, rewrite};
use cloud_ingester::lake::session::{Limits, session};
use deltalake::parquet::arrow::ArrowWriter;

/// Rows of a relation.
const ROWS: i64 = 4_000;

/// 2026-11-23T23:50:00Z: days, hours and minutes change.
const BEGIN: i64 = 1_795_477_800_000_000;

const LIMITS: Limits = Limits { memory_bytes: 256 << 20 };

const FUNCTIONS: &str = "-- target = \"gold.functions\"
-- mode = \"window\"
-- keys = [\"device_id\", \"metric\"]
-- [window]
-- kind = \"tumbling\"
-- size = \"1m\"
select
  device_id,
  metric,
  window_start,
  window_end,
  count(*) as n,
  count(value) as numbers,
  count(distinct value) as kinds,
  sum(value) as total,
  avg(value) as mean,
  min(value) as low,
  max(value) as high,
  min(value_text) as text_low,
  stddev(value) as spread,
  stddev_samp(value) as spread_sample,
  stddev_pop(value) as spread_population,
  var_samp(value) as variance_sample,
  var_pop(value) as variance_population,
  median(value) as middle,
  percentile_cont(0.25) within group (order by value) as p25,
  bool_and(0 < value) as all_above,
  bool_or(0 < value) as any_above,
  count(*) filter (where value < 0) as below,
  max(place) as places,
  max(place_rank) as ranks,
  max(place_dense) as dense,
  max(before) as before,
  max(after) as after,
  max(opening) as opening,
  max(closing) as closing,
  max(abs(value)) as absolute,
  max(coalesce(value, 0)) as some,
  max(concat(device_id, '/', metric)) as name,
  max(date_trunc('hour', event_time)) as hour_start,
  max(exp(value / 100)) as exponential,
  max(greatest(value, 1)) as greater,
  max(least(value, 1)) as lesser,
  max(ln(abs(value) + 1)) as logarithm,
  max(lower(device_id)) as small,
  max(upper(metric)) as large,
  max(nullif(metric, 'state')) as other,
  max(pmod(unix_micros(event_time), 60000000)) as within_minute,
  max(power(value, 2)) as squared,
  max(sqrt(abs(value))) as root,
  max(timestamp_micros(unix_micros(event_time) - pmod(unix_micros(event_time), 15000000))) as quarter,
  max(timestamp_millis(1000)) as millis,
  max(timestamp_seconds(1)) as seconds,
  max(to_date(event_time)) as last_date,
  max(trim(concat(' ', metric, ' '))) as trimmed,
  max(window_end - interval '1' second) as last_second,
  max(case when value between -1 and 1 then 'small' when value is null then 'none' else 'large' end) as sort,
  sum(case when metric in ('temperature', 'level') and device_id like 'press%' then 1 else 0 end) as presses
from (
  select
    device_id,
    metric,
    window_start,
    window_end,
    event_time,
    value,
    value_text,
    row_number() over (
      partition by device_id, metric, window_start
      order by event_time, reading_id
    ) as place,
    rank() over (partition by device_id, metric, window_start order by event_time) as place_rank,
    dense_rank() over (partition by device_id, metric, window_start order by event_time) as place_dense,
    lag(value) over (partition by device_id, metric, window_start order by event_time, reading_id) as before,
    lead(value) over (partition by device_id, metric, window_start order by event_time, reading_id) as after,
    first_value(value) over (partition by device_id, metric, window_start order by event_time, reading_id) as opening,
    last_value(value) over (
      partition by device_id, metric, window_start
      order by event_time, reading_id
      rows between unbounded preceding and unbounded following
    ) as closing
  from windowed
) placed
group by device_id, metric, window_start, window_end
";

/// Runs the command.
pub fn main(args: &[std::ffi::OsString]) -> ExitCode {
    let [directory] = args else {
        return shared::cli::fail(
            "tests conformance",
            &std::io::Error::other("usage: tests conformance DIR"),
            shared::cli::Exit::Usage,
        );
    };
    match made(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => shared::cli::fail("tests conformance", error.as_ref(), shared::cli::Exit::No),
    }
}

type Anything = Box<dyn std::error::Error + Send + Sync>;

/// As [`write`], to its end.
///
/// # Errors
/// As that.
pub fn made(directory: &Path) -> Result<(), Anything> {
    // Planning goes deep.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build()?;
    let directory = directory.to_owned();
    runtime.block_on(async { tokio::spawn(async move { write(&directory).await }).await })?
}

/// Writes a folder for every model.
///
/// # Errors
/// When a model fails, or the folder can't be written.
pub async fn write(directory: &Path) -> Result<(), Anything> {
    let mut all = models::embedded().await?;
    let draft = Draft::parse("functions.sql", FUNCTIONS, None).map_err(|mistakes| mistakes[0].clone())?;
    let planner = Planner::new(session(LIMITS)?)?;
    all.push(planner.plan(draft, true).await.map_err(|mistakes| mistakes[0].clone())?);
    for model in all {
        let folder = directory.join(model.target.name());
        std::fs::create_dir_all(&folder)?;
        let rows = rows(model.draft.mode);
        parquet(&folder.join("relation.parquet"), &rows)?;
        std::fs::write(folder.join("model.sql"), &model.draft.sql)?;
        let relation = model.draft.relation();
        let found = rewrite::select(&session(LIMITS)?, &model.draft.sql, relation, vec![rows]).await?;
        let found = concat_batches(&found[0].schema(), &found)?;
        parquet(&folder.join("expected.parquet"), &as_stored(&model, &found)?)?;
        let mut keys = model.draft.keys.clone();
        if let Mode::Window(_) = model.draft.mode {
            keys.push("window_start".to_owned());
        }
        let about = serde_json::json!({ "relation": relation, "keys": keys });
        std::fs::write(folder.join("model.json"), about.to_string())?;
    }
    Ok(())
}

/// An answer with the types of its table, without the date that the engine fills in.
fn as_stored(model: &cloud_ingester::gold::Model, found: &RecordBatch) -> Result<RecordBatch, Anything> {
    let schema = model.target.schema();
    let partitions = model.target.partition_columns();
    let mut fields: Vec<Field> = vec![];
    let mut columns: Vec<ArrayRef> = vec![];
    for field in schema.fields().iter().filter(|field| !partitions.contains(&field.name().as_str())) {
        let column = found.column_by_name(field.name()).ok_or_else(|| format!("no column {}", field.name()))?;
        fields.push(field.as_ref().clone());
        columns.push(cast(column, field.data_type())?);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

fn parquet(path: &Path, rows: &RecordBatch) -> Result<(), Anything> {
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, rows.schema(), None)?;
    writer.write(rows)?;
    writer.close()?;
    Ok(())
}

/// A number that looks drawn and is the same on every machine.
fn drawn(seed: i64, upto: i64) -> i64 {
    let mut x = u64::from_le_bytes(seed.to_le_bytes()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 32;
    i64::try_from(x % upto.unsigned_abs()).unwrap_or(0)
}

/// Rows with everything that is awkward: ties in time, nulls, texts, refused ones, units that differ.
fn rows(mode: Mode) -> RecordBatch {
    let schema = relation(mode);
    let size = match mode {
        Mode::Window(windows) => windows,
        _ => cloud_ingester::gold::Windows::Session { gap: 1 },
    };
    let all = || 0..ROWS;
    let device = |at: i64| drawn(at, 7);
    let metric = |at: i64| ["temperature", "level", "state"][usize::try_from(drawn(at + 10_000, 3)).unwrap_or(0)];
    let time = |at: i64| BEGIN + drawn(at + 20_000, 1_200) * 1_000_000 + drawn(at + 30_000, 2) * 250_000;
    let value =
        |at: i64| (metric(at) != "state" && drawn(at + 40_000, 11) != 0).then(|| drawn(at + 50_000, 4_001) - 2_000);
    let refused = |at: i64| drawn(at + 60_000, 50) == 0;
    let texts = |of: &dyn Fn(i64) -> Option<String>| -> ArrayRef { Arc::new(all().map(of).collect::<StringArray>()) };
    let times = |of: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(all().map(of)).with_timezone("UTC"))
    };
    let windows: Vec<(i64, i64)> = all()
        .map(|at| match size {
            cloud_ingester::gold::Windows::Grid(grid) => {
                let mut held = vec![];
                grid.holding(time(at), &mut held);
                held[0]
            }
            cloud_ingester::gold::Windows::Session { .. } => (time(at), time(at)),
        })
        .collect();
    let start = |at: i64| windows[usize::try_from(at).unwrap_or(0)].0;
    let end = |at: i64| windows[usize::try_from(at).unwrap_or(0)].1;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "reading_id" => texts(&|at| Some(format!("g/00000000000000aa/{at}"))),
            "gateway_id" => texts(&|at| Some(format!("gw-{}", device(at) % 2))),
            "device_id" => texts(&|at| Some(format!("press-{}", device(at)))),
            "metric" => texts(&|at| Some(metric(at).to_owned())),
            "unit" => texts(&|at| (device(at) != 3).then(|| if device(at) == 4 { "K" } else { "Cel" }.to_owned())),
            "value" => Arc::new(all().map(|at| value(at).map(|value| value as f64 / 64.0)).collect::<Float64Array>()),
            "value_text" => texts(&|at| (metric(at) == "state").then(|| format!("s{}", drawn(at, 3)))),
            "value_kind" => texts(&|at| Some(if metric(at) == "state" { "text" } else { "number" }.to_owned())),
            "source_seq" => {
                Arc::new(all().map(|at| (drawn(at, 5) != 0).then_some(drawn(at, 9))).collect::<Int64Array>())
            }
            "event_time" => times(&time),
            "received_time" | "enqueued_time" => times(&|at| time(at) + drawn(at, 90) * 1_000_000),
            "rejected" => Arc::new(all().map(|at| Some(refused(at))).collect::<BooleanArray>()),
            "expected_interval_s" => {
                Arc::new(all().map(|at| (device(at) == 2).then_some(30.0)).collect::<Float64Array>())
            }
            "hub" => texts(&|_| Some("hub".to_owned())),
            "incarnation" | "sequence_number" | "seq" => Arc::new(Int64Array::from_iter_values(all())),
            "partition_id" | "message_index" => Arc::new(Int32Array::from(vec![0; windows.len()])),
            "window_start" => times(&start),
            "window_end" => times(&end),
            _ => new_null_array(field.data_type(), windows.len()),
        }
    });
    let columns: Vec<ArrayRef> = columns.collect();
    debug_assert!(columns.iter().all(|column| column.data_type() != &DataType::Null));
    RecordBatch::try_new(schema, columns).expect("each column as the relation has it")
}
