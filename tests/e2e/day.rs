//! A day of a fleet at speed, late, twice and out of order: read into one lake by an ingester that is left alone, into another
//! by one that is killed again and again. Both lakes hold the same, row for row, and what the fleet sent.

pub(crate) mod fleet; // what is sent, and what has to come of it

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use cloud_ingester::lake::session::{Limits, lake_session, query};
use cloud_ingester::lake::{Lake, Location};
use toml::Table;

use self::fleet::{DAY, DIRECT, Day, Draw, GATEWAYS, HOUR, Key, MINUTE};
use crate::scenario::{Scenario, launcher};
use tests::bench::deliver;
use tests::program::{Name, Program};
use tests::stack::{Part, caught_up};
use tests::{probe, wait};

/// Long enough on a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(300);

const LIMITS: Limits = Limits { memory_bytes: 512 << 20 };

/// Users' models: windows that lie over each other, windows that join, local days, windows that wait until they are final.
const MODELS: [(&str, &str); 4] = [
    (
        "sliding",
        "-- target = \"gold.sliding\"
-- mode = \"window\"
-- keys = [\"gateway_id\", \"metric\"]
-- refresh = \"5s\"
-- [window]
-- kind = \"sliding\"
-- size = \"30m\"
-- slide = \"10m\"
select gateway_id, metric, window_start, window_end, count(*) as readings, avg(value) as value_avg
from windowed group by gateway_id, metric, window_start, window_end
",
    ),
    (
        "sessions",
        "-- target = \"gold.sessions\"
-- mode = \"window\"
-- keys = [\"device_id\", \"metric\"]
-- refresh = \"5s\"
-- [window]
-- kind = \"session\"
-- gap = \"90s\"
select device_id, metric, window_start, window_end, count(*) as readings, max(value) as highest
from windowed group by device_id, metric, window_start, window_end
",
    ),
    (
        "local",
        "-- target = \"gold.local\"
-- mode = \"window\"
-- keys = [\"site\", \"metric\"]
-- refresh = \"final\"
-- [window]
-- kind = \"tumbling\"
-- size = \"1d\"
-- timezone = \"Asia/Kathmandu\"
select site, metric, window_start, window_end, count(*) as readings, min(value) as lowest
from windowed group by site, metric, window_start, window_end
",
    ),
    (
        "closed",
        "-- target = \"gold.closed\"
-- mode = \"window\"
-- keys = [\"device_id\"]
-- refresh = \"final\"
-- [window]
-- kind = \"tumbling\"
-- size = \"15m\"
select device_id, window_start, window_end, count(*) as readings, sum(value) as value_sum
from windowed group by device_id, window_start, window_end
",
    ),
];

/// Every table with what orders it, but for gold.watermarks, which tells of the clock.
const TABLES: [(&str, &str); 15] = [
    ("bronze.messages", "partition_id, sequence_number"),
    ("silver.readings", "reading_id"),
    ("silver.quarantine", "id"),
    ("silver.gaps", "gateway_id, epoch, kind, from_seq"),
    ("silver.devices", "gateway_id, device_id, valid_from"),
    ("gold.metric_1m", "gateway_id, device_id, metric, unit, window_start"),
    ("gold.metric_1h", "gateway_id, device_id, metric, unit, window_start"),
    ("gold.metric_1d", "gateway_id, device_id, metric, unit, window_start"),
    ("gold.device_latest", "gateway_id, device_id, metric, unit"),
    ("gold.device_health", "gateway_id, device_id, window_start"),
    ("gold.gateway_health", "gateway_id, epoch"),
    ("gold.sliding", "gateway_id, metric, window_start"),
    ("gold.sessions", "device_id, metric, window_start"),
    ("gold.closed", "device_id, window_start"),
    ("gold.local", "site, metric, window_start"),
];

/// Columns that tell of the clock.
const BY_THE_CLOCK: [&str; 2] = ["ingest_time", "ingest_date"];

/// Averages and deviations depend on the order in which rows are added up.
const ABOUT: [&str; 3] = ["value_avg", "value_stddev", "value_sum"];

/// An ingester with a lake of its own beside the scenario's.
struct Killed {
    config: PathBuf,
    lake: PathBuf,
    log: PathBuf,
    http: std::net::SocketAddr,
    running: Option<Program>,
}

impl Killed {
    fn beside(scenario: &Scenario) -> Self {
        let layout = &scenario.stack.layout;
        let mut config: Table =
            std::fs::read_to_string(layout.config("ingest")).expect("a config").parse().expect("TOML");
        let http = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let lake = layout.dir().join("killed");
        let set = |table: &mut Table, part: &str, key: &str, value: String| {
            let part = table.get_mut(part).and_then(toml::Value::as_table_mut).expect("a table");
            part.insert(key.to_owned(), value.into());
        };
        set(&mut config, "hub", "consumer-group", "killed".to_owned());
        set(&mut config, "lake", "url", lake.display().to_string());
        set(&mut config, "http", "listen", http.to_string());
        let path = layout.config("killed");
        std::fs::write(&path, config.to_string()).expect("a config");
        Self { config: path, lake, log: layout.logs().join("killed.log"), http, running: None }
    }

    fn start(&mut self) {
        let config = self.config.display().to_string();
        let started = launcher().start(Name::CloudIngester, &["--config", &config, "run"], &[], &self.log);
        self.running = Some(started.expect("the ingester starts"));
    }

    fn kill(&mut self) {
        let mut program = self.running.take().expect("it runs");
        assert_eq!(program.ended(), None, "it ended by itself: {}", program.last_lines(30));
        program.kill();
    }

    /// Events in its bronze, as it says.
    fn committed(&self) -> Option<i64> {
        let status = probe::status(self.http)?;
        Some(
            status["streams"]
                .as_array()?
                .iter()
                .filter_map(|stream| stream["committed"].as_i64())
                .map(|last| last + 1)
                .sum(),
        )
    }

    /// Runs a command with its config.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let config = self.config.display().to_string();
        let mut whole = args.to_vec();
        whole.extend(["--config", &config]);
        let output = launcher().run(Name::CloudIngester, &whole).expect("it starts");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn tail(&self) -> String {
        format!("--- killed\n{}", tests::program::last_lines(&self.log, 40))
    }
}

/// Brings messages to the hub; dropped, it stops.
struct Delivery(Child);

impl Delivery {
    fn of(messages: &[fleet::Message], file: &Path, credentials: &Path, hub: &str) -> Self {
        let mut out = BufWriter::new(File::create(file).expect("a file"));
        for message in messages {
            deliver::write(&mut out, &message.device, &message.properties, &message.body).expect("written");
        }
        out.flush().expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
        command.args(["bench", "deliver", "--addr", hub]).arg("--credentials").arg(credentials).arg("--file").arg(file);
        Self(command.stdin(Stdio::null()).spawn().expect("the delivery starts"))
    }

    fn wait(mut self) {
        let ended = wait::until(PATIENCE, || self.0.try_wait().expect("its status"));
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Both fail only for a child that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How large a day is, and how often the ingester is killed in it.
struct Run {
    seed: u64,
    /// Seconds between two readings of a number.
    interval: i64,
    kills: u64,
    /// Milliseconds that pass at most between Events in bronze and the kill: in whichever hop.
    jitter_ms: u64,
}

fn check(run: &Run) {
    let day = Day::new(run.seed, run.interval);
    let folder = tempfile::tempdir().expect("a folder");
    let mut scenario = Scenario::with("day", &config(folder.path()));
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);
    let mut killed = Killed::beside(&scenario);
    killed.start();
    let said = scenario.stack.run(Name::Simulator, &["hub", "connection-strings", "--json"]).expect("it runs");
    let credentials = scenario.stack.layout.dir().join("devices.json");
    std::fs::write(&credentials, &said.stdout).expect("a file");
    let hub = scenario.stack.layout.ports.hub_mqtt.to_string();

    let begun = Instant::now();
    let mut draw = Draw::new(run.seed + 1);
    let portions = usize::try_from(run.kills + 1).expect("few");
    let size = day.messages.len().div_ceil(portions);
    for (at, portion) in day.messages.chunks(size).enumerate() {
        let file = folder.path().join("portion");
        let delivery = Delivery::of(portion, &file, &credentials, &hub);
        if at < portions - 1 {
            // Somewhere within the portion, in whatever it is doing then.
            let share = draw.below(u64::try_from(portion.len()).expect("few"));
            let wanted = i64::try_from((at * size) as u64 + share).expect("few");
            let come = wait::until(PATIENCE, || killed.committed().filter(|committed| wanted <= *committed));
            assert!(come.is_some(), "never came to Event {wanted}\n{}\n{}", killed.tail(), scenario.books());
            std::thread::sleep(Duration::from_millis(draw.below(run.jitter_ms)));
            killed.kill();
            killed.start();
        }
        delivery.wait();
    }
    eprintln!("{:?}: {} messages delivered, {} kills", begun.elapsed(), day.messages.len(), run.kills);
    settle(&mut scenario, &mut killed, day.end);
    eprintln!("{:?}: both lakes have all", begun.elapsed());

    let lakes = [scenario.stack.layout.lake(), killed.lake.clone()];
    let models = folder.path().join("models");
    for lake in &lakes {
        let (holds, said) = scenario.verify_at(&lake.display().to_string(), &[]);
        assert!(holds, "{said}\n{}\n{}", killed.tail(), scenario.books());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(Box::pin(async {
        same(&lakes, &models).await;
        for lake in &lakes {
            as_sent(lake, &day).await;
        }
    }));
    eprintln!("{:?}: both lakes are as sent", begun.elapsed());
    // Judged and computed anew, in one go, it is the same once more.
    for args in [&["hop", "--full-refresh", "silver.readings"][..], &["hop"]] {
        let (done, said) = killed.run(args);
        assert!(done, "{args:?}: {said}");
    }
    runtime.block_on(Box::pin(same(&lakes, &models)));
}

fn config(folder: &Path) -> String {
    let models = folder.join("models");
    std::fs::create_dir(&models).expect("a folder");
    for (name, text) in MODELS {
        std::fs::write(models.join(name).with_extension("sql"), text).expect("a model");
    }
    let catalogue = folder.join("devices.toml");
    let mut rows = String::new();
    for (device, site, from) in
        [("gw-01-d0", "Ulm", "2020-01-01"), ("gw-02-d1", "Kiel", "2020-01-01"), ("press-1", "Ulm", "2020-01-01")]
    {
        rows += &format!(
            "[[device]]\ndevice = \"{device}\"\nsite = \"{site}\"\nexpected-interval = \"60s\"\nvalid-from = \"{from}T00:00:00Z\"\n"
        );
    }
    std::fs::write(&catalogue, rows).expect("a catalogue");
    let devices: Vec<String> = GATEWAYS.iter().chain(&DIRECT).map(|device| format!("\"{device}\"")).collect();
    // What waits for final windows waits until the partitions have been idle for so long.
    format!(
        "[ingest.silver]\ncatalogue = \"{}\"\n\
         [[ingest.silver.mapping]]\ndevice = \"press-*\"\nmessage-id = \"unique\"\n\
         [ingest.gold]\nmodels = \"{}\"\nlateness = \"1s\"\nidle = \"2s\"\n\
         [sim.hub]\npartitions = 4\nconsumer-groups = [\"$Default\", \"killed\"]\ndevices = [{}]\n",
        catalogue.display(),
        models.display(),
        devices.join(", ")
    )
}

/// Waits until both lakes hold all, what comes by the clock too; stops everything.
fn settle(scenario: &mut Scenario, killed: &mut Killed, end: i64) {
    let level = wait::until(PATIENCE, || {
        let hub = scenario.stack.status(Part::Hub)?;
        let all = [scenario.stack.status(Part::Ingester)?, probe::status(killed.http)?];
        all.iter().all(|ingester| caught_up(&hub, ingester) == Some(true)).then_some(())
    });
    assert!(level.is_some(), "no lake that caught up\n{}\n{}", killed.tail(), scenario.books());
    let sql = format!(
        "SELECT count(*) AS n FROM gold.watermarks WHERE partition_id IS NULL AND {end} <= unix_micros(watermark)"
    );
    scenario.wait_for("final windows", |scenario| {
        let (_, said) = killed.run(&["query", &sql, "--format", "json"]);
        (scenario.count(&sql) == Some(1) && said.contains("\"n\":1")).then_some(())
    });
    let hopped = scenario.stack.run(Name::CloudIngester, &["hop"]).expect("it starts");
    assert!(hopped.status.success(), "{}", String::from_utf8_lossy(&hopped.stderr));
    let (hopped, said) = killed.run(&["hop"]);
    assert!(hopped, "{said}");
    let ended = killed.running.take().expect("it runs").stop(PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", killed.tail());
    scenario.finish();
}

/// All rows of each table, in order, without what the clock says.
async fn rows(lake: &Path, models: &Path) -> Vec<(&'static str, RecordBatch)> {
    let location = Location::parse(&lake.display().to_string(), HashMap::new()).expect("a path");
    let (lake, own) = cloud_ingester::gold::models::open(location, Some(models)).await.expect("a lake");
    assert_eq!(own.mistakes, []);
    let session = lake_session(&lake, LIMITS).await.expect("a session");
    let mut all = vec![];
    for (table, order) in TABLES {
        let schema = lake.named(table).expect("a table").schema();
        let names = schema.fields().iter().map(|field| field.name().as_str());
        let names: Vec<_> = names.filter(|name| !BY_THE_CLOCK.contains(name)).collect();
        let sql = format!("select {} from {table} order by {order}", names.join(", "));
        let batches = query(&session, &sql).await.expect(table);
        all.push((table, concat_batches(&batches[0].schema(), &batches).expect("of one schema")));
    }
    all
}

/// Both lakes hold the same rows.
async fn same(lakes: &[PathBuf; 2], models: &Path) {
    let [left, killed] = [rows(&lakes[0], models).await, rows(&lakes[1], models).await];
    for ((table, left), (_, killed)) in left.iter().zip(&killed) {
        assert!(0 < left.num_rows(), "{table} is empty");
        assert_eq!(left.num_rows(), killed.num_rows(), "{table}");
        for (at, field) in left.schema().fields().iter().enumerate() {
            let (a, b) = (left.column(at), killed.column(at));
            let equal = if ABOUT.contains(&field.name().as_str()) { is_about(a, b) } else { a == b };
            if !equal {
                let row = (0..left.num_rows()).find(|row| a.slice(*row, 1) != b.slice(*row, 1)).unwrap_or(0);
                let shown = pretty_format_batches(&[left.slice(row, 1), killed.slice(row, 1)]).expect("printable");
                panic!("{table}.{}, row {row}:\n{shown}", field.name());
            }
        }
    }
}

/// Within 1e-9.
fn is_about(a: &ArrayRef, b: &ArrayRef) -> bool {
    let [a, b] = [a, b].map(|column| column.as_primitive::<Float64Type>());
    a.iter().zip(b.iter()).all(|pair| match pair {
        (Some(a), Some(b)) => about(a, b),
        (a, b) => a == b,
    })
}

fn about(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// Silver holds what was sent, once, and gold what comes of it.
async fn as_sent(lake: &Path, day: &Day) {
    let location = Location::parse(&lake.display().to_string(), HashMap::new()).expect("a path");
    let lake = Lake::open(location).expect("a lake");
    let session = lake_session(&lake, LIMITS).await.expect("a session");
    let ask = async |sql: &str| {
        let batches = query(&session, sql).await.expect(sql);
        concat_batches(&batches[0].schema(), &batches).expect("of one schema")
    };
    for (sql, wanted) in [
        ("select reading_id as id from silver.readings where gateway_id <> '-' order by id", &day.readings),
        ("select id from silver.quarantine where epoch is not null order by id", &day.refused),
    ] {
        let found = ask(sql).await;
        let found = cast(found.column(0), &DataType::Utf8).expect("text");
        let found: Vec<_> = found.as_string::<i32>().iter().flatten().collect();
        assert!(found.iter().copied().eq(wanted.iter()), "{sql}: {} found, {} sent", found.len(), wanted.len());
    }
    let direct = ask("select (select count(*) from silver.readings where gateway_id = '-') as readings, \
         (select count(*) from silver.quarantine where epoch is null) as refused")
    .await;
    let count = |at: usize| direct.column(at).as_primitive::<Int64Type>().value(0);
    assert_eq!((count(0), count(1)), day.direct, "of devices without a gateway");
    for (table, size) in [("gold.metric_1m", MINUTE), ("gold.metric_1h", HOUR), ("gold.metric_1d", DAY)] {
        let sql = format!(
            "select gateway_id, device_id, metric, unit, unix_micros(window_start) as start, readings, value_avg, \
             value_min, value_max, value_first, value_last from {table} where gateway_id <> '-'"
        );
        let found = ask(&sql).await;
        let texts = [0, 1, 2, 3].map(|at| cast(found.column(at), &DataType::Utf8).expect("text"));
        let text = |at: usize| texts[at].as_string::<i32>();
        let whole = |at: usize| found.column(at).as_primitive::<Int64Type>();
        let number = |at: usize| found.column(at).as_primitive::<Float64Type>();
        let mut windows = day.windows(size);
        assert_eq!(found.num_rows(), windows.len(), "{table}");
        for row in 0..found.num_rows() {
            let unit = (!text(3).is_null(row)).then(|| text(3).value(row).to_owned());
            let [gateway, device, metric] = [0, 1, 2].map(|at| text(at).value(row).to_owned());
            let key: Key = (gateway, device, metric, unit, whole(4).value(row));
            let window = windows.remove(&key).unwrap_or_else(|| panic!("{table}: {key:?} is there and was not sent"));
            assert_eq!(whole(5).value(row), window.readings, "{table}: {key:?}");
            let numbers = window.numbers.iter().map(|(_, _, number)| *number);
            let wanted = (!window.numbers.is_empty()).then(|| {
                let mean = numbers.clone().sum::<f64>() / window.numbers.len() as f64;
                let (low, high) = (numbers.clone().fold(f64::MAX, f64::min), numbers.clone().fold(f64::MIN, f64::max));
                [mean, low, high, window.numbers[0].2, window.numbers[window.numbers.len() - 1].2]
            });
            let found = (!number(6).is_null(row)).then(|| [6, 7, 8, 9, 10].map(|at| number(at).value(row)));
            let equal = match (found, wanted) {
                (Some(found), Some(wanted)) => about(found[0], wanted[0]) && found[1..] == wanted[1..],
                (found, wanted) => found == wanted,
            };
            assert!(equal, "{table}: {key:?}: {found:?}, but {wanted:?}");
        }
    }
}

#[test]
fn a_day_late_twice_and_out_of_order_is_the_same_row_for_row_when_the_ingester_is_killed_three_times_in_it() {
    check(&Run { seed: 1, interval: 60, kills: 3, jitter_ms: 1_500 });
}

#[test]
#[ignore = "a day of half a million readings, and thirty kills, take a quarter of an hour"]
fn a_larger_day_is_the_same_row_for_row_when_the_ingester_is_killed_thirty_times_in_it() {
    check(&Run { seed: 2, interval: 8, kills: 30, jitter_ms: 20_000 });
}
