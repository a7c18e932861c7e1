//! From a row of gold to the readings it was made of, and to where the hub had them.

use std::collections::BTreeMap;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use serde::Serialize;
use serde_json::{Map, Value};
use shared::time::Timestamp;

use super::model::{Mode, Model, Source};
use super::planned::CATALOGUE;
use crate::lake::session::{Limits, query, session};
use crate::lake::{Lake, LakeError, Table};
use crate::silver::devices;

/// How many rows of gold are shown where more than one fits.
const SHOWN: usize = 10;

/// Which row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The table, by its full name.
    pub table: String,
    /// What the row is told apart by, each `COLUMN=VALUE`; nothing after the sign stands for null.
    pub keys: Vec<String>,
    /// Where its window begins, in RFC 3339.
    pub window: Option<String>,
}

/// Where a row comes from.
#[derive(Debug, Serialize)]
pub struct Origin {
    /// The table.
    pub table: String,
    /// The row.
    pub row: Map<String, Value>,
    /// The version of silver.readings that the row was computed from.
    pub version: i64,
    /// One per partition of a hub.
    pub events: Vec<Events>,
    /// What it was made of.
    pub readings: Vec<Map<String, Value>>,
}

/// Events of one partition.
#[derive(Debug, Serialize)]
pub struct Events {
    /// The event hub.
    pub hub: String,
    /// Its incarnation.
    pub incarnation: i64,
    /// The partition.
    pub partition: i32,
    /// Ascending; an Event may hold several of the readings.
    pub sequence_numbers: Vec<i64>,
}

/// A row that was found, with what it is made of.
#[derive(Debug)]
pub struct Found {
    /// Both, for scripts.
    pub origin: Origin,
    row: RecordBatch,
    readings: Vec<RecordBatch>,
}

impl Found {
    /// Both, for people.
    ///
    /// # Errors
    /// When the rows can't be shown.
    pub fn text(&self) -> Result<String, LakeError> {
        let table = |batches: &[RecordBatch]| {
            arrow::util::pretty::pretty_format_batches(batches).map(|table| table.to_string()).map_err(shape)
        };
        let Origin { table: name, version, events, readings, .. } = &self.origin;
        let mut text = format!("{name}\n{}\n", table(std::slice::from_ref(&self.row))?);
        let count = readings.len();
        text += &format!("computed from {count} rows of silver up to version {version} of silver.readings\n");
        text += &format!("{}\n", table(&self.readings)?);
        for events in events {
            let Events { hub, incarnation, partition, sequence_numbers } = events;
            let numbers = ranges(sequence_numbers).join(", ");
            text +=
                &format!("hub {hub} (incarnation {incarnation}), partition {partition}: sequence numbers {numbers}\n");
        }
        Ok(text)
    }
}

/// Looks for the row and for what it is made of; or says why that can't be told.
///
/// # Errors
/// A question that makes no sense, or what the lake says.
pub async fn find(
    lake: &Lake,
    models: &[Model],
    limits: Limits,
    asked: &Asked,
) -> Result<Result<Found, String>, LakeError> {
    let question = |why: String| LakeError::Question { source: Box::new(DataFusionError::Plan(why)) };
    let target = lake.named(&asked.table).ok_or_else(|| question(format!("there is no table {}", asked.table)))?;
    let model = models.iter().find(|model| model.target == target);
    let keys: Vec<String> = match (model, target) {
        (Some(model), _) => model.draft.keys.clone(),
        (None, Table::GoldGatewayHealth) => vec!["gateway_id".to_owned(), "epoch".to_owned()],
        _ => return Err(question(format!("rows of {} are not made of readings", asked.table))),
    };
    let session = session(limits)?;
    let row = match row(lake, &session, target, asked).await? {
        Ok(row) => row,
        Err(why) => return Ok(Err(why)),
    };
    let mut conditions: Vec<String> = vec![];
    for key in &keys {
        conditions.push(same(key, text_of(&row, key)?.as_deref()));
    }
    match model.map(|model| model.draft.mode) {
        Some(Mode::Window(_)) => {
            let (from, to) = (micros_of(&row, "window_start")?, micros_of(&row, "window_end")?);
            conditions.push(format!("timestamp_micros({from}) <= event_time and event_time < timestamp_micros({to})"));
        }
        Some(Mode::Latest) => {
            conditions.push(format!("event_time = timestamp_micros({})", micros_of(&row, "event_time")?));
        }
        Some(Mode::Append) if row.column_by_name("reading_id").is_some() => {
            conditions.push(same("reading_id", text_of(&row, "reading_id")?.as_deref()));
        }
        Some(Mode::Append) => return Err(question(format!("{} does not keep reading_id", asked.table))),
        Some(Mode::Full) | None => {}
    }
    let version = relation(lake, &session, target, model, &keys).await?;
    let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") };
    let sql = format!(
        "select reading_id, rejected, device_id, metric, value, value_text, event_time, enqueued_time, hub, incarnation, \
         partition_id, sequence_number, message_index from traced where {condition} \
         order by hub, incarnation, partition_id, sequence_number, message_index"
    );
    let readings = query(&session, &sql).await?;
    let origin = Origin {
        table: asked.table.clone(),
        row: objects(std::slice::from_ref(&row))?.into_iter().next().unwrap_or_default(),
        version,
        events: events(&readings),
        readings: objects(&readings)?,
    };
    Ok(Ok(Found { origin, row, readings }))
}

/// The one row that fits, or why there is none.
async fn row(
    lake: &Lake,
    session: &SessionContext,
    target: Table,
    asked: &Asked,
) -> Result<Result<RecordBatch, String>, LakeError> {
    let question = |why: String| LakeError::Question { source: Box::new(DataFusionError::Plan(why)) };
    let mut conditions = vec![];
    for key in &asked.keys {
        let (column, value) =
            key.split_once('=').ok_or_else(|| question(format!("--key {key}: write COLUMN=VALUE")))?;
        if target.schema().field_with_name(column).is_err() {
            return Err(question(format!("{} has no column {column}", asked.table)));
        }
        conditions.push(same(column, (!value.is_empty()).then_some(value)));
    }
    if let Some(window) = &asked.window {
        let time = Timestamp::parse_rfc3339(window)
            .ok_or_else(|| question(format!("--window {window}: write a time as 2026-11-23T10:00:00Z")))?;
        conditions.push(format!("window_start = timestamp_micros({})", time.micros()));
    }
    let condition = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" and ") };
    register(session, "target", lake.view(target).await?.provider().await?)?;
    let batches = query(session, &format!("select * from target where {condition} limit {}", SHOWN + 1)).await?;
    let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches).map_err(shape)?;
    Ok(match rows.num_rows() {
        0 => Err(format!("no row of {} fits", asked.table)),
        1 => Ok(rows),
        _ => {
            let some = rows.slice(0, SHOWN.min(rows.num_rows()));
            let table = arrow::util::pretty::pretty_format_batches(&[some]).map_err(shape)?;
            Err(format!("more than one row of {} fits; say which by --key and --window:\n{table}", asked.table))
        }
    })
}

/// Registers `traced`: what the rows of the target were computed from, with its keys. The version of silver.readings.
async fn relation(
    lake: &Lake,
    session: &SessionContext,
    target: Table,
    model: Option<&Model>,
    keys: &[String],
) -> Result<i64, LakeError> {
    const COLUMNS: [&str; 13] = [
        "gateway_id",
        "device_id",
        "metric",
        "unit",
        "epoch",
        "value",
        "value_text",
        "hub",
        "incarnation",
        "partition_id",
        "sequence_number",
        "message_index",
        "enqueued_time",
    ];
    let readings = lake.view(Table::SilverReadings).await?;
    let quarantine = lake.view(Table::SilverQuarantine).await?;
    let done = lake.view(target).await?.txn(&target.app_id(&readings.id())).await?;
    let done = done.filter(|done| 0 <= *done).unwrap_or(readings.version());
    // Where the log does not reach back so far, the newest version holds those rows as well.
    let as_read = readings.at(done).await.unwrap_or(readings);
    let version = as_read.version();
    let known = as_read.table().schema();
    let more: Vec<&str> = keys
        .iter()
        .map(String::as_str)
        .filter(|key| !COLUMNS.contains(key) && !["reading_id", "event_time"].contains(key))
        .collect();
    let stored = |name: &&str| known.field_with_name(name).is_ok();
    let plain: Vec<&str> = COLUMNS.into_iter().chain(more.iter().copied().filter(stored)).collect();
    let mut parts =
        vec![format!("select reading_id, event_time, false as rejected, {} from as_read", plain.join(", "))];
    register(session, "as_read", as_read.provider().await?)?;
    if model.is_some_and(|model| model.draft.sources.contains(&Source::Rejected)) {
        register(session, "refused", quarantine.provider().await?)?;
        let has = quarantine.table().schema();
        let columns: Vec<String> = plain
            .iter()
            .map(|name| if has.field_with_name(name).is_ok() { (*name).to_owned() } else { format!("null as {name}") })
            .collect();
        parts.push(format!(
            "select id as reading_id, enqueued_time as event_time, true as rejected, {} from refused where replayed_at is null",
            columns.join(", ")
        ));
    }
    let mut sql = parts.join(" union all ");
    let joined: Vec<String> = CATALOGUE
        .iter()
        .filter(|(name, _)| more.contains(name))
        .map(|(name, column)| format!("{} as {name}", devices::joined(column)))
        .collect();
    if !joined.is_empty() {
        register(session, "devices", lake.view(Table::SilverDevices).await?.provider().await?)?;
        sql = format!("select r.*, {} from ({sql}) r {}", joined.join(", "), devices::joins("devices"));
    }
    let view = session.sql(&sql).await.map_err(failed)?.into_view();
    register(session, "traced", view)?;
    Ok(version)
}

fn register(
    session: &SessionContext,
    name: &str,
    table: std::sync::Arc<dyn datafusion::catalog::TableProvider>,
) -> Result<(), LakeError> {
    session.register_table(name, table).map(|_| ()).map_err(failed)
}

fn failed(source: DataFusionError) -> LakeError {
    LakeError::Query { act: "trace a row", source: Box::new(source) }
}

fn shape(error: arrow::error::ArrowError) -> LakeError {
    failed(error.into())
}

/// A condition that a column has this text.
fn same(column: &str, value: Option<&str>) -> String {
    match value {
        None => format!("{column} is null"),
        Some(value) => format!("cast({column} as string) = '{}'", value.replace('\\', "\\\\").replace('\'', "''")),
    }
}

fn column<'a>(row: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, LakeError> {
    row.column_by_name(name).ok_or_else(|| failed(DataFusionError::Plan(format!("the row has no column {name}"))))
}

fn text_of(row: &RecordBatch, name: &str) -> Result<Option<String>, LakeError> {
    let text = cast(column(row, name)?, &DataType::Utf8).map_err(shape)?;
    let text = text.as_string::<i32>();
    Ok((!text.is_null(0)).then(|| text.value(0).to_owned()))
}

fn micros_of(row: &RecordBatch, name: &str) -> Result<i64, LakeError> {
    let times = cast(column(row, name)?, &crate::lake::tables::timestamp()).map_err(shape)?;
    Ok(times.as_primitive::<TimestampMicrosecondType>().value(0))
}

fn objects(batches: &[RecordBatch]) -> Result<Vec<Map<String, Value>>, LakeError> {
    let mut out = vec![];
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(&mut out);
    for batch in batches {
        writer.write(batch).map_err(shape)?;
    }
    writer.finish().map_err(shape)?;
    drop(writer);
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

fn events(batches: &[RecordBatch]) -> Vec<Events> {
    let mut found: BTreeMap<(String, i64, i32), Vec<i64>> = BTreeMap::new();
    for batch in batches {
        let of = |name: &str, kind: &DataType| {
            cast(batch.column_by_name(name).expect("selected"), kind).expect("as silver has it")
        };
        let (hub, incarnation) = (of("hub", &DataType::Utf8), of("incarnation", &DataType::Int64));
        let (partition, sequence) = (of("partition_id", &DataType::Int32), of("sequence_number", &DataType::Int64));
        for at in 0..batch.num_rows() {
            let stream = (
                hub.as_string::<i32>().value(at).to_owned(),
                incarnation.as_primitive::<Int64Type>().value(at),
                partition.as_primitive::<Int32Type>().value(at),
            );
            found.entry(stream).or_default().push(sequence.as_primitive::<Int64Type>().value(at));
        }
    }
    found
        .into_iter()
        .map(|((hub, incarnation, partition), mut sequence_numbers)| {
            sequence_numbers.sort_unstable();
            sequence_numbers.dedup();
            Events { hub, incarnation, partition, sequence_numbers }
        })
        .collect()
}

/// `3, 7-9`.
fn ranges(numbers: &[i64]) -> Vec<String> {
    let mut runs: Vec<(i64, i64)> = vec![];
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let shown = |(from, to): (i64, i64)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    runs.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use shared::blame::Blame;

    use super::*;
    use crate::hop::tests::kit::{Kit, LIMITS, envelope, event};

    #[test]
    fn neighbouring_numbers_are_shown_as_ranges() {
        assert_eq!(ranges(&[3, 7, 8, 9, 12]), ["3", "7-9", "12"]);
        assert!(ranges(&[]).is_empty());
    }

    #[test]
    fn a_key_is_quoted() {
        assert_eq!(same("unit", None), "unit is null");
        assert_eq!(same("metric", Some("it's")), "cast(metric as string) = 'it''s'");
    }

    #[tokio::test]
    async fn a_row_of_gold_leads_to_the_hubs_sequence_numbers() {
        let kit = Kit::new().await;
        let mut hops = kit.hops().await;
        kit.store(&[
            event(4, "g", &envelope(3, &[(1, "t", 1.0, 0), (2, "t", 2.0, 59), (3, "t", 3.0, 60)])),
            event(5, "g", &envelope(5, &[(4, "t", 4.0, 30), (5, "p", 5.0, 0)])),
            event(9, "g", &envelope(6, &[(6, "t", 4.0, 10)])),
        ])
        .await;
        kit.settle(&mut hops).await;
        let models = crate::gold::models::embedded().await.expect("all");
        let ask = async |table: &str, keys: &[&str], window: Option<&str>| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            let asked = Asked { table: table.to_owned(), keys, window: window.map(str::to_owned) };
            find(&kit.lake, &models, LIMITS, &asked).await
        };
        for (table, keys, window, readings, numbers) in [
            ("gold.metric_1m", &["metric=t"][..], Some("2026-11-23T10:00:00Z"), 4, vec![4, 5, 9]),
            ("gold.metric_1m", &["metric=t", "unit="], Some("2026-11-23T10:01:00Z"), 1, vec![4]),
            ("gold.metric_1d", &["metric=p"], None, 1, vec![5]),
            ("gold.device_latest", &["metric=t"], None, 1, vec![4]),
            ("gold.device_health", &[], None, 6, vec![4, 5, 9]),
            ("gold.gateway_health", &["gateway_id=g"], None, 6, vec![4, 5, 9]),
        ] {
            let found = ask(table, keys, window).await.expect(table).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(found.origin.readings.len(), readings, "{table}");
            assert_eq!(found.origin.events.len(), 1, "{table}");
            assert_eq!(found.origin.events[0].sequence_numbers, numbers, "{table}");
            assert!(found.text().expect("printable").contains("partition 0: sequence numbers"), "{table}");
        }
        let several = ask("gold.metric_1m", &["metric=t"], None).await.expect("an answer");
        assert!(several.is_err_and(|why| why.contains("more than one row")));
        let none = ask("gold.metric_1m", &["metric=x"], None).await.expect("an answer");
        assert!(none.is_err_and(|why| why.contains("no row")));
        for (table, keys) in [("gold.x", &[][..]), ("gold.watermarks", &[]), ("gold.metric_1m", &["metric"])] {
            assert!(ask(table, keys, None).await.is_err_and(|error| error.blame() == Blame::Config), "{table}");
        }
    }
}
