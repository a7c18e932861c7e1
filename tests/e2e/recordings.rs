//! Recorded data: sentinels go to quarantine, and daily means over silver are those of the recording.
//!
//! The recordings are found through `REPLAY_DATA_DIR`; where it is not set, this says so and asserts nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use tests::stack::Part;

use crate::readers::{readers, run};
use crate::scenario::Scenario;

/// (metric, day) -> (readings, mean).
type Days = BTreeMap<(String, String), (i64, f64)>;

fn check(recording: &str, example: &str, time: &str, null: &str) -> Option<Scenario> {
    let Some(folder) = std::env::var_os("REPLAY_DATA_DIR").map(PathBuf::from) else {
        use std::io::Write as _;
        // Straight to the terminal: the test harness shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "NOT CHECKED: {recording} (REPLAY_DATA_DIR is not set)");
        return None;
    };
    let file = folder.join(recording).display().to_string();
    let example = std::fs::read_to_string(example_path(example)).expect("the example config is there");
    let mut scenario = Scenario::with("recording", &example);
    scenario.start_all();
    scenario.stack.spawn_replay(&file, &[]).expect("replay starts");
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(600));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", scenario.tail(Part::Devices));
    scenario.finish_and_prove();

    let recorded = days(readers(&["-", "csv", &file, time, null]).as_array().expect("rows"));
    let sql = "SELECT metric, CAST(to_date(event_time) AS STRING) AS day, count(*) AS n, avg(value) AS mean \
               FROM silver.readings GROUP BY metric, to_date(event_time)";
    let queried: Vec<Json> = scenario
        .rows(sql)
        .into_iter()
        .map(|row| Json::Array(vec![row["metric"].clone(), row["day"].clone(), row["n"].clone(), row["mean"].clone()]))
        .collect();
    same_days("as `query` computes them", &days(&queried), &recorded);
    let lake = scenario.stack.layout.lake().display().to_string();
    same_days("as DuckDB reads silver", &days(readers(&[&lake, "daily"]).as_array().expect("rows")), &recorded);

    let unexplained = "SELECT count(*) AS n FROM silver.quarantine WHERE NOT array_to_string(reasons, ';') LIKE '%missing-value: -200%'";
    assert_eq!(scenario.count(unexplained), Some(0), "{:?}", scenario.rows("SELECT * FROM silver.quarantine LIMIT 5"));
    let text = std::fs::read_to_string(&file).expect("the recording");
    let sentinels =
        text.lines().skip(1).flat_map(|line| line.split(',').skip(2)).filter(|cell| *cell == "-200").count();
    let refused = scenario.count("SELECT count(*) AS n FROM silver.quarantine");
    assert_eq!(refused, i64::try_from(sentinels).ok(), "every -200 is in quarantine");
    Some(scenario)
}

fn example_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../simulator/examples")).join(name)
}

fn days(rows: &[Json]) -> Days {
    rows.iter()
        .map(|row| {
            let text = |i: usize| row[i].as_str().unwrap_or_default().to_owned();
            ((text(0), text(1)), (row[2].as_i64().unwrap_or(-1), row[3].as_f64().unwrap_or(f64::NAN)))
        })
        .collect()
}

fn same_days(what: &str, got: &Days, recorded: &Days) {
    assert!(!recorded.is_empty());
    assert_eq!(got.keys().collect::<Vec<_>>(), recorded.keys().collect::<Vec<_>>(), "{what}: the same days");
    for (day, (readings, mean)) in recorded {
        let (got_readings, got_mean) = got[day];
        assert_eq!(got_readings, *readings, "{what}: readings on {day:?}");
        assert!((got_mean - mean).abs() <= 1e-9 * mean.abs().max(1.0), "{what}: {got_mean} for {mean} on {day:?}");
    }
}

#[test]
fn air_quality_keeps_its_daily_means_and_every_sentinel_goes_to_quarantine() {
    let _ = check("air_quality.csv", "air-quality.toml", "Date,Time", "-200");
}

#[test]
fn machine_temperature_keeps_its_daily_means_and_the_notebook_finds_its_failure() {
    let Some(scenario) = check("machine_temperature.csv", "machine-temperature.toml", "timestamp", "-200") else {
        return;
    };
    let lake = scenario.stack.layout.lake().display().to_string();
    let said = run("notebook.py", &[NOTEBOOK, &lake]);
    assert!(said.contains("'the failure': True"), "{said}");
}

const NOTEBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cloud-ingester/docs/medallion.ipynb");

#[test]
fn the_notebook_is_kept_without_outputs() {
    let text = std::fs::read_to_string(NOTEBOOK).expect("the notebook is there");
    let notebook: Json = serde_json::from_str(&text).expect("JSON");
    for cell in notebook["cells"].as_array().expect("cells").iter().filter(|cell| cell["cell_type"] == "code") {
        assert_eq!((&cell["outputs"], &cell["execution_count"]), (&Json::Array(vec![]), &Json::Null), "{cell}");
    }
}
