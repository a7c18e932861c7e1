//! Other Delta readers read the tables, row for row: PyPI `deltalake`, DuckDB, polars, Spark and Sail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;
use tests::program::Name;

use crate::flows::mosquitto_pub;
use crate::scenario::{Scenario, launcher};

/// The variable that names a Python with the packages of `readers.requirements.txt`.
pub(crate) const PYTHON: &str = "READERS_PYTHON";

/// The tables of the contract: their columns in order, as the Delta log calls the types. Written down here anew, so that
/// a column that is renamed, moved or made another type is seen.
const TABLES: [(&str, &str); 12] = [
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
         sequence_number long, message_index integer, replayed_at timestamp, _rescued string, \
         ingest_date date",
    ),
    (
        "silver/gaps",
        "gateway_id string, epoch string, from_seq long, to_seq long, kind string, reason string, \
         readings map<string,long>, hub string, incarnation long, partition_id integer, sequence_number long, \
         _rescued string, ingest_date date",
    ),
    (
        "silver/devices",
        "gateway_id string, device_id string, name string, site string, area string, timezone string, \
         expected_interval_s double, valid_from timestamp, valid_to timestamp",
    ),
    ("gold/metric_1m", WINDOWS),
    ("gold/metric_1h", WINDOWS),
    ("gold/metric_1d", WINDOWS),
    (
        "gold/device_health",
        "gateway_id string, device_id string, window_start timestamp, window_end timestamp, expected double, \
         received long, rejected long, availability double, lateness_p95_s double, window_date date",
    ),
    ("gold/watermarks", "hub string, incarnation long, partition_id integer, watermark timestamp"),
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

/// The columns of readings by window.
const WINDOWS: &str = "gateway_id string, device_id string, metric string, unit string, window_start timestamp, \
         window_end timestamp, readings long, value_avg double, value_min double, value_max double, \
         value_stddev double, value_p50 double, value_p95 double, value_first double, value_last double, \
         window_date date";

/// What `readers.py` prints.
pub(crate) fn readers(args: &[&str]) -> Json {
    script("readers.py", args)
}

/// What a script beside this file prints: JSON.
pub(crate) fn script(name: &str, args: &[&str]) -> Json {
    let said = run(name, args);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{name} prints JSON: {error}\n{said}"))
}

/// Runs a script beside this file; what it printed.
pub(crate) fn run(name: &str, args: &[&str]) -> String {
    let python = std::env::var_os(PYTHON).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{PYTHON} names no Python with the packages of readers.requirements.txt; `cargo verify` prepares one and sets it")
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e").join(name);
    let output = Command::new(python).arg(script).args(args).output().expect("python starts");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Commits come fast, so that checkpoints do.
const FAST: &str = "[ingest.bronze]\nage-max = \"100ms\"\n[ingest.hops]\npause = \"100ms\"\n";

/// What is known of devices: of one by whichever gateway, and of a gateway that is none of ours.
const CATALOGUE: &str = "device_id,gateway_id,name,site,timezone,expected_interval_s,valid_from\n\
    presse-ü,,Presse Ü,Ulm,Europe/Berlin,1800,\npresse-ü,nobody,,Berlin,,7,\nfort,,Fort,,,,2026-10-05T00:00:00Z\n";

/// A lake with everything that readers may stumble over: partitions of several days, nulls, texts, bytes, maps, lists,
/// and checkpoints.
fn varied_lake() -> Scenario {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let catalogue = folder.path().join("devices.csv");
    std::fs::write(&catalogue, CATALOGUE).expect("a file");
    let catalogue = format!("[ingest.silver]\ncatalogue = {:?}\n", catalogue.display().to_string());
    let mut scenario = Scenario::with("readers", &(FAST.to_owned() + &catalogue));
    scenario.start_all();
    scenario.start_devices();
    let listener = scenario.stack.layout.ports.agent_mqtt;
    let log = |table: &str| scenario.stack.layout.lake().join(table).join("_delta_log/_last_checkpoint");
    let checkpoints: Vec<PathBuf> = CHECKPOINTED.iter().map(|table| log(table)).collect();
    let mut n = 0_i64;
    scenario.wait_for("checkpoint of every busy table", |_| {
        n += 1;
        let day = 1 + n % 28;
        let good = format!(
            r#"{{"n":{n},"ts":"2026-10-{day:02}T23:59:59.999999Z","état":"läuft, \"gut\"","leer":"","temperature":{{"v":21.5,"u":"Cel"}}}}"#
        );
        mosquitto_pub(listener, "telemetry/presse-ü", &good);
        mosquitto_pub(listener, "telemetry/presse-ü", &format!("{{\"n\":{n},\"temperature\": '\u{1}"));
        checkpoints.iter().all(|checkpoint| checkpoint.exists()).then_some(())
    });
    scenario.finish_and_prove();
    // What runs by a schedule is brought level too.
    let hopped = scenario.stack.run(Name::CloudIngester, &["hop"]).expect("hop starts");
    assert!(hopped.status.success(), "{}", String::from_utf8_lossy(&hopped.stderr));
    scenario
}

/// Tables with a commit in nearly every round.
const CHECKPOINTED: [&str; 4] = ["bronze/messages", "silver/readings", "silver/quarantine", "gold/metric_1m"];

#[test]
fn five_engines_read_every_table_row_for_row_also_from_checkpoints_alone() {
    let scenario = varied_lake();
    let lake = scenario.stack.layout.lake();
    let lake_text = lake.display().to_string();
    has_the_columns_of_the_contract(&scenario, &lake_text);

    for (table, checkpoint) in readers(&[&lake_text, "checkpoint"]).as_object().expect("tables") {
        let encodings = checkpoint["encodings"].as_object().expect("sets of encodings").keys();
        let encodings: Vec<&String> = encodings.collect();
        assert!(encodings.iter().all(|set| !set.contains("DICTIONARY")), "{table}: {encodings:?}");
    }

    let ours = tempfile::tempdir().expect("a temporary folder");
    let mut rows = BTreeMap::new();
    for name in tables_below(&lake) {
        let table = name.replace('/', ".");
        let said =
            scenario.stack.run(Name::CloudIngester, &["query", &format!("SELECT * FROM {table}"), "--format", "json"]);
        let said = said.expect("query starts");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        rows.insert(name, said.stdout.iter().filter(|byte| **byte == b'\n').count());
        std::fs::write(ours.path().join(format!("{table}.json")), said.stdout).expect("a file");
    }
    assert!(TABLES.iter().all(|(name, _)| rows[*name] != 0), "{rows:?}");
    let ours = ours.path().display().to_string();
    agree("whole", &readers(&[&lake_text, "rows", &ours]), &rows);

    let kept = forget_what_checkpoints_hold(&lake);
    for table in CHECKPOINTED {
        assert!(kept.contains(&table.to_owned()), "{table} among {kept:?}");
    }
    agree("from checkpoints", &readers(&[&lake_text, "rows", &ours]), &rows);

    gold_is_the_same_by_the_models_own_text(&lake_text);
}

/// The pipeline that `export databricks` writes, run by Spark and by Sail over this lake, makes the gold that lies there.
fn gold_is_the_same_by_the_models_own_text(lake: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    export("databricks", folder.path());
    let found = script("conformance.py", &["bundle", lake, &folder.path().display().to_string()]);
    same_by_both_engines(&found, &["metric_1m", "device_latest", "metric_1h", "metric_1d", "device_health"]);
}

/// Every model's text, and one with every function that a model may use, gives the same on Spark and on Sail.
#[test]
fn every_model_and_every_function_gives_the_same_on_spark_and_sail() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    tests::conformance::made(folder.path()).expect("models run here");
    let found = script("conformance.py", &["models", &folder.path().display().to_string()]);
    let all = ["metric_1m", "device_latest", "metric_1h", "metric_1d", "device_health", "functions"];
    same_by_both_engines(&found, &all);
}

fn same_by_both_engines(found: &Json, wanted: &[&str]) {
    let found = found.as_object().expect("models");
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert!(wanted.iter().all(|name| names.contains(name)), "{names:?}");
    for (model, engines) in found {
        for engine in ["spark", "sail"] {
            let saw = &engines[engine];
            assert_eq!(saw["wrong"], Json::Array(vec![]), "{model} as {engine} makes it");
            assert!(saw["rows"].as_u64().is_some_and(|rows| rows != 0), "{model} by {engine} has rows");
        }
    }
}

/// Writes an export of a lake that lies in Azure.
fn export(target: &str, folder: &Path) {
    let url = "abfss://lake@acme.dfs.core.windows.net/iot";
    let folder = folder.display().to_string();
    let said = launcher().run(Name::CloudIngester, &["export", target, "--out", &folder, "--url", url]);
    let said = said.expect("export starts");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn every_export_parses_as_what_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for target in ["synapse", "fabric", "powerbi", "databricks"] {
        export(target, &folder.path().join(target));
    }
    let counts = script("exports.py", &[&folder.path().display().to_string()]);
    for (target, count) in counts.as_object().expect("counts") {
        assert!(count.as_u64().is_some_and(|count| 2 <= count), "{target}: {counts}");
    }
}

#[test]
fn an_export_of_a_lake_on_this_machine_asks_where_services_will_find_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().display().to_string();
    let said = launcher().run(Name::CloudIngester, &["export", "synapse", "--out", &out]).expect("export starts");
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(64), "{text}");
    assert!(text.contains("which no service reaches") && text.contains("--url abfss://"), "{text}");
}

/// Every engine has seen exactly our rows.
fn agree(what: &str, seen: &Json, rows: &BTreeMap<String, usize>) {
    for engine in ["deltalake", "duckdb", "polars", "spark", "sail"] {
        for (table, count) in rows {
            let saw = &seen[engine][table];
            assert_eq!(saw["wrong"], Json::Array(vec![]), "{table} as {engine} reads it, {what}");
            assert_eq!(saw["rows"].as_u64(), u64::try_from(*count).ok(), "{table} as {engine} reads it, {what}");
        }
    }
}

/// The Delta tables below a lake: `silver/readings` and so on.
fn tables_below(lake: &Path) -> Vec<String> {
    let logs = walkdir::WalkDir::new(lake).into_iter().filter_map(Result::ok).filter(|e| e.file_name() == "_delta_log");
    let name = |log: walkdir::DirEntry| log.path().parent()?.strip_prefix(lake).ok()?.to_str().map(str::to_owned);
    logs.filter_map(name).collect()
}

/// Deletes each commit that a checkpoint stands for, as a cleanup of the log does, but for the newest commit of all (Spark
/// wants one); the tables that had a checkpoint.
fn forget_what_checkpoints_hold(lake: &Path) -> Vec<String> {
    let mut tables = tables_below(lake);
    tables.retain(|table| {
        let log = lake.join(table).join("_delta_log");
        let Ok(last) = std::fs::read_to_string(log.join("_last_checkpoint")) else { return false };
        let last: Json = serde_json::from_str(&last).expect("JSON");
        let commit = |version: u64| log.join(format!("{version:020}.json"));
        for version in 0..=last["version"].as_u64().expect("a version") {
            if commit(version + 1).exists() {
                std::fs::remove_file(commit(version)).expect("a commit");
            }
        }
        true
    });
    tables
}

fn has_the_columns_of_the_contract(scenario: &Scenario, lake: &str) {
    let seen = readers(&[lake, "tables"]);
    let seen = seen.as_object().expect("a table of tables");
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
    for (name, table) in seen {
        assert_eq!((&table["reader"], &table["writer"]), (&1.into(), &2.into()), "{name}");
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
