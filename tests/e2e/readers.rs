//! Other Delta readers read the tables: PyPI `deltalake` and DuckDB.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;

use crate::scenario::Scenario;

/// The variable that names a Python with `deltalake` and DuckDB's Delta reader.
pub(crate) const PYTHON: &str = "READERS_PYTHON";

/// The tables of the contract: their columns in order, as the Delta log calls the types. Written down here anew, so that
/// a column that is renamed, moved or made another type is seen.
const TABLES: [(&str, &str); 7] = [
    (
        "bronze/messages",
        "body binary, body_encoding string, hub string, incarnation long, partition_id integer, sequence_number long, \
         hub_offset string, enqueued_time timestamp, device_id string, message_id string, content_type string, \
         properties map<string,string>, system_properties map<string,string>, ingest_time timestamp, ingest_date date",
    ),
    (
        "silver/readings",
        "reading_id string, gateway_id string, epoch string, seq long, high long, source_seq long, device_id string, \
         metric string, value double, value_text string, value_kind string, unit string, event_time timestamp, \
         received_time timestamp, time_quality string, enqueued_time timestamp, ingest_time timestamp, hub string, \
         incarnation long, partition_id integer, sequence_number long, message_index integer, rules string, \
         _rescued string, event_date date",
    ),
    (
        "silver/quarantine",
        "id string, gateway_id string, epoch string, seq long, high long, device_id string, metric string, \
         layer string, reasons array<string>, raw binary, raw_len long, topic string, rules string, \
         enqueued_time timestamp, ingest_time timestamp, hub string, incarnation long, partition_id integer, \
         sequence_number long, message_index integer, replayed_at timestamp, ingest_date date",
    ),
    (
        "silver/gaps",
        "gateway_id string, epoch string, from_seq long, to_seq long, kind string, reason string, \
         readings map<string,long>, hub string, incarnation long, partition_id integer, sequence_number long, \
         ingest_date date",
    ),
    (
        "gold/metric_1m",
        "gateway_id string, device_id string, metric string, unit string, window_start timestamp, \
         window_end timestamp, readings long, value_avg double, value_min double, value_max double, \
         value_stddev double, value_p50 double, value_p95 double, value_first double, value_last double, \
         window_date date",
    ),
    (
        "gold/device_latest",
        "gateway_id string, device_id string, metric string, unit string, value double, value_text string, \
         value_kind string, event_time timestamp, received_time timestamp, reading_id string",
    ),
    (
        "gold/gateway_health",
        "gateway_id string, epoch string, state string, high long, last long, arrived long, quarantined long, \
         given_up long, gap_arrived long, outstanding long, missing long, last_enqueued_time timestamp",
    ),
];

/// What `readers.py` prints.
pub(crate) fn readers(args: &[&str]) -> Json {
    let python = std::env::var_os(PYTHON).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{PYTHON} names no Python with deltalake and duckdb; `cargo verify` prepares one and sets it")
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/readers.py");
    let output = Command::new(python).arg(script).args(args).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("readers.py prints JSON")
}

#[test]
fn deltalake_and_duckdb_read_every_table_at_protocol_one_two_with_the_columns_of_the_contract() {
    let mut scenario = Scenario::new("readers");
    scenario.start_all();
    scenario.start_devices();
    scenario.finish_and_prove();

    let lake = scenario.stack.layout.lake().display().to_string();
    let seen = readers(&[&lake, "tables"]);
    let seen = seen.as_object().expect("a table of tables");
    assert_eq!(seen.keys().collect::<Vec<_>>().len(), TABLES.len(), "{:?}", seen.keys().collect::<Vec<_>>());
    for (name, columns) in TABLES {
        let table = seen.get(name).unwrap_or_else(|| panic!("{name} is among {:?}", seen.keys().collect::<Vec<_>>()));
        assert_eq!((&table["reader"], &table["writer"]), (&1.into(), &2.into()), "{name}");
        let columns: Vec<(&str, &str)> =
            columns.split(", ").map(|c| c.split_once(' ').expect("name and type")).collect();
        assert_eq!(pairs(&table["columns"]), columns, "{name} as deltalake reads it");
        let in_duckdb: Vec<_> = columns.iter().map(|(column, delta)| (*column, duckdb_type(delta))).collect();
        assert_eq!(pairs(&table["duckdb_columns"]), in_duckdb, "{name} as DuckDB reads it");
        let sql = format!("SELECT count(*) AS n FROM {}", name.replace('/', "."));
        let ours = scenario.count(&sql);
        assert_eq!(table["duckdb_rows"].as_i64(), ours, "{name} as DuckDB reads it");
        assert_eq!(table["rows"].as_i64(), ours, "{name} as deltalake reads it");
    }
}

fn pairs(columns: &Json) -> Vec<(&str, &str)> {
    let columns = columns.as_array().expect("a list of columns");
    columns.iter().map(|pair| (pair[0].as_str().expect("a name"), pair[1].as_str().expect("a type"))).collect()
}

/// What DuckDB calls a type of the Delta log.
fn duckdb_type(delta: &str) -> &'static str {
    match delta {
        "string" => "VARCHAR",
        "long" => "BIGINT",
        "integer" => "INTEGER",
        "double" => "DOUBLE",
        "binary" => "BLOB",
        "date" => "DATE",
        "timestamp" => "TIMESTAMP WITH TIME ZONE",
        "array<string>" => "VARCHAR[]",
        "map<string,string>" => "MAP(VARCHAR, VARCHAR)",
        "map<string,long>" => "MAP(VARCHAR, BIGINT)",
        other => panic!("the contract has no type {other}"),
    }
}
