//! DataFusion over the lake: limits, time zone, dialect, Spark's names, and queries that can only read.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::TableReference;
use datafusion::common::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_spark::SessionStateBuilderSpark as _;
use deltalake::delta_datafusion::planner::DeltaPlanner;

use super::error::LakeError;
use super::steps::{Steps, Watched};
use super::store::Lake;
use super::tables::{Layer, timestamp};

/// What a session may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of memory for joins, sorts and groups; beyond it they spill to disk.
    pub memory_bytes: u64,
}

fn failed(act: &'static str) -> impl Fn(DataFusionError) -> LakeError {
    move |source| LakeError::Query { act, source: Box::new(source) }
}

/// What each sort sets aside of the pool before it begins, so that it can merge what it spills.
const SORT_RESERVE: usize = 1 << 20;

/// What a thread of a query gets of the pool at least: on a machine with many cores the parts would be too small to sort
/// anything in.
const THREAD_BYTES: u64 = 32 << 20;

/// How many threads a query runs on.
fn threads(cores: usize, limits: Limits) -> usize {
    let enough = usize::try_from(limits.memory_bytes / THREAD_BYTES).unwrap_or(usize::MAX);
    cores.min(enough).max(1)
}

/// A session without tables: UTC, Databricks' dialect, Delta's planner, Spark's function names.
///
/// # Errors
/// When the spill directory can't be made.
pub fn session(limits: Limits) -> Result<SessionContext, LakeError> {
    watched(limits, &Steps::default())
}

/// The same; whatever its memory does counts among `steps`.
///
/// # Errors
/// As [`session`].
pub fn watched(limits: Limits, steps: &Steps) -> Result<SessionContext, LakeError> {
    let cores = SessionConfig::new().target_partitions();
    with(limits, SessionConfig::new().with_target_partitions(threads(cores, limits)), steps)
}

#[cfg(test)]
fn session_on(cores: usize, limits: Limits) -> Result<SessionContext, LakeError> {
    with(limits, SessionConfig::new().with_target_partitions(threads(cores, limits)), &Steps::default())
}

/// The same on one thread, which is handed so many rows at a time.
///
/// # Errors
/// As [`session`].
pub fn one_thread(limits: Limits, rows: usize) -> Result<SessionContext, LakeError> {
    with(limits, SessionConfig::new().with_target_partitions(1).with_batch_size(rows), &Steps::default())
}

fn with(limits: Limits, config: SessionConfig, steps: &Steps) -> Result<SessionContext, LakeError> {
    let memory = usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(Watched { inner: FairSpillPool::new(memory), steps: steps.clone() }))
        .build_arc()
        .map_err(failed("prepare a query session"))?;
    over(runtime, config)
}

/// The same; what it puts aside lies on a disk of the caller's.
#[cfg(test)]
pub(crate) fn on_disk(
    limits: Limits,
    disk: Arc<dyn datafusion::execution::TempFileFactory>,
) -> Result<SessionContext, LakeError> {
    let memory = usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX);
    let disk = datafusion::execution::disk_manager::DiskManagerBuilder::default().with_temp_file_factory(disk);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(failed("prepare a query session"))?;
    over(runtime, SessionConfig::new())
}

/// A session without tables that shares memory and spill directory with another.
///
/// # Errors
/// As [`session`].
pub fn sibling(session: &SessionContext) -> Result<SessionContext, LakeError> {
    let threads = session.state().config().target_partitions();
    over(session.runtime_env(), SessionConfig::new().with_target_partitions(threads))
}

fn over(runtime: Arc<RuntimeEnv>, config: SessionConfig) -> Result<SessionContext, LakeError> {
    let mut config = config.with_information_schema(true).with_sort_spill_reservation_bytes(SORT_RESERVE);
    // Exactly `UTC`: any other spelling makes a type Delta refuses, none makes times without a zone.
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    config.options_mut().sql_parser.dialect = Dialect::Databricks;
    // So that what is wrong with a statement has a place in it.
    config.options_mut().sql_parser.collect_spans = true;
    let state = SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        // After the defaults: where both have a name, Spark's meaning counts.
        .with_spark_features()
        .with_runtime_env(runtime)
        .with_query_planner(DeltaPlanner::new())
        .build();
    let session = SessionContext::new_with_state(state);
    for shim in shims() {
        session.register_udf(shim);
    }
    for extreme in super::extremes::functions() {
        session.register_udaf(extreme);
    }
    let catalog = session.catalog("datafusion").expect("the default catalog has this name");
    for layer in [Layer::Bronze, Layer::Silver, Layer::Gold] {
        catalog
            .register_schema(layer.name(), Arc::new(MemorySchemaProvider::new()))
            .map_err(failed("name the layers"))?;
    }
    Ok(session)
}

/// A session with every table of the lake at its newest version. Tables that do not exist are left out.
///
/// # Errors
/// When a table can't be read.
pub async fn lake_session(lake: &Lake, limits: Limits) -> Result<SessionContext, LakeError> {
    let session = session(limits)?;
    for &table in lake.tables() {
        if !lake.exists(table).await? {
            continue;
        }
        let provider = lake.view(table).await?.provider().await?;
        let name = TableReference::partial(table.layer().name(), table.name());
        session.register_table(name, provider).map_err(failed("name the tables"))?;
    }
    Ok(session)
}

/// Answers one SELECT. What the plan holds decides, not how the statement begins: nothing that would write, create,
/// copy or set passes, in whatever it is wrapped.
///
/// # Errors
/// When the statement does not parse, is not a query, or fails.
pub async fn query(session: &SessionContext, sql: &str) -> Result<Vec<RecordBatch>, LakeError> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let planned = session.sql_with_options(sql, options).await;
    let frame = planned.map_err(|source| LakeError::Question { source: Box::new(source) })?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let mut batches = frame.collect().await.map_err(|source| match source.find_root() {
        // A division by zero, a text that is no number: another question would be answered.
        DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => {
            LakeError::Question { source: Box::new(source) }
        }
        _ => failed("run the query")(source),
    })?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    Ok(batches)
}

/// Spark's functions that `datafusion-spark` lacks.
fn shims() -> Vec<datafusion::logical_expr::ScalarUDF> {
    let cast_to = |name: &str, from: DataType, to: DataType| {
        let target = to.clone();
        let cast = move |args: &[ColumnarValue]| args[0].cast_to(&target, None);
        create_udf(name, vec![from], to, Volatility::Immutable, Arc::new(cast))
    };
    let scaled = |name: &str, factor: i64| {
        let scale = move |args: &[ColumnarValue]| {
            let scaled = args[0].clone().into_array(1)?;
            let scaled = arrow::compute::cast(&scaled, &DataType::Int64)?;
            let scaled: arrow::array::Int64Array =
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&scaled)
                    .unary(|value| value.saturating_mul(factor));
            let array = arrow::compute::cast(&scaled, &timestamp())?;
            Ok(ColumnarValue::Array(array))
        };
        create_udf(name, vec![DataType::Int64], timestamp(), Volatility::Immutable, Arc::new(scale))
    };
    vec![
        cast_to("timestamp_micros", DataType::Int64, timestamp()),
        scaled("timestamp_millis", 1_000),
        scaled("timestamp_seconds", 1_000_000),
    ]
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    const LIMITS: Limits = Limits { memory_bytes: 64 << 20 };

    async fn check(sql: &str, expected: &str) {
        let session = session(LIMITS).expect("a session");
        let batches = query(&session, sql).await.expect(sql);
        let shown = pretty_format_batches(&batches).expect("printable").to_string();
        assert!(shown.contains(expected), "{sql}\n{shown}");
    }

    #[tokio::test]
    async fn sparks_names_work_and_times_stay_utc() {
        check("select timestamp_micros(1500000) as t", "1970-01-01T00:00:01.500Z").await;
        check("select timestamp_millis(1500) as t", "1970-01-01T00:00:01.500Z").await;
        check("select timestamp_seconds(90) as t", "1970-01-01T00:01:30Z").await;
        check("select unix_micros(timestamp_seconds(2)) as t", "2000000").await;
        check("select pmod(-1, 60) as p", "59").await;
        check("select to_date(timestamp_seconds(86400)) as d", "1970-01-02").await;
        check("select date_trunc('day', timestamp_seconds(90000)) as d", "1970-01-02T00:00:00Z").await;
        check(
            "select timestamp_micros(unix_micros(t) - pmod(unix_micros(t), 60000000)) as w from (select timestamp_seconds(119) as t)",
            "1970-01-01T00:01:00Z",
        )
        .await;
    }

    #[test]
    fn on_a_machine_with_many_cores_what_sorts_set_aside_is_a_small_part_of_the_memory_there_is() {
        for memory_bytes in [64 << 20, 192 << 20, 1 << 30] {
            let limits = Limits { memory_bytes };
            for cores in [1, 2, 8, 20, 128] {
                let session = session_on(cores, limits).expect("a session");
                let state = session.state();
                let options = state.config_options();
                let (threads, each) =
                    (options.execution.target_partitions, options.execution.sort_spill_reservation_bytes);
                assert!((1..=cores).contains(&threads), "{threads} of {cores}");
                assert!(16 * (threads * each) as u64 <= memory_bytes, "{threads} threads, {each} bytes each");
            }
        }
    }

    #[tokio::test]
    async fn nothing_but_reading_passes_in_whatever_it_is_wrapped() {
        let directory = tempfile::tempdir().expect("a directory");
        let target = directory.path().join("out.csv");
        for sql in [
            "create table t (a int)",
            "create view v as select 1",
            "drop table t",
            "select 1 as a into t",
            "insert into information_schema.tables select 1",
            "explain analyze copy (select 1) to 'OUT' stored as csv",
            "copy (select 1) to 'OUT' stored as csv",
            "prepare q as select 1",
            "set datafusion.execution.batch_size = 1",
            "delete from information_schema.tables",
        ] {
            let session = session(LIMITS).expect("a session");
            let sql = sql.replace("OUT", target.to_str().expect("UTF-8"));
            let refused = query(&session, &sql).await;
            assert!(refused.is_err(), "{sql}");
            assert!(!target.exists(), "{sql}");
        }
    }
}
