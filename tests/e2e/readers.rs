//! Other Delta readers read the tables: PyPI `deltalake` and DuckDB.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;

use crate::scenario::Scenario;

/// The variable that names a Python with `deltalake` and DuckDB's Delta reader.
pub(crate) const PYTHON: &str = "READERS_PYTHON";

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
fn deltalake_and_duckdb_read_every_table_at_protocol_one_two_with_utc_times() {
    let mut scenario = Scenario::new("readers");
    scenario.start_all();
    scenario.start_devices();
    scenario.finish_and_prove();

    let lake = scenario.stack.layout.lake().display().to_string();
    let seen = readers(&[&lake, "tables"]);
    let seen = seen.as_object().expect("a table of tables");
    for name in [
        "bronze/messages",
        "silver/readings",
        "silver/quarantine",
        "silver/gaps",
        "gold/metric_1m",
        "gold/device_latest",
        "gold/gateway_health",
    ] {
        let table = seen.get(name).unwrap_or_else(|| panic!("{name} is among {:?}", seen.keys().collect::<Vec<_>>()));
        assert_eq!((&table["reader"], &table["writer"]), (&1.into(), &2.into()), "{name}");
        let types = table["types"].to_string();
        assert!(!types.contains("timestamp_ntz"), "{name} has a time without a zone: {types}");
        let sql = format!("SELECT count(*) AS n FROM {}", name.replace('/', "."));
        let ours = scenario.count(&sql);
        assert_eq!(table["duckdb_rows"].as_i64(), ours, "{name} as DuckDB reads it");
        assert_eq!(table["rows"].as_i64(), ours, "{name} as deltalake reads it");
    }
}
