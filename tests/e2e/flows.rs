//! A reading reaches gold; a broken one reaches quarantine with its bytes; the demo's books balance.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::program::Name;
use tests::stack::Part;
use tests::wait;

use crate::scenario::Scenario;

/// Publishes with Mosquitto's own client at QoS 1.
pub(crate) fn mosquitto_pub(addr: std::net::SocketAddr, topic: &str, payload: &str) {
    let status = Command::new("mosquitto_pub")
        .args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string(), "-q", "1", "-t", topic, "-m", payload])
        .status()
        .expect("mosquitto_pub is installed (Debian package mosquitto-clients; `cargo verify` says so)");
    assert!(status.success(), "mosquitto_pub {topic}: {status}");
}

#[test]
fn a_reading_made_by_hand_reaches_gold_and_a_broken_one_quarantine_with_its_bytes() {
    let mut scenario = Scenario::new("by-hand");
    scenario.start_all();
    let listener = scenario.stack.layout.ports.agent_mqtt;
    mosquitto_pub(
        listener,
        "telemetry/press-3",
        r#"{"n":1,"temperature":{"v":21.5,"u":"Cel"},"door":true,"state":"idle"}"#,
    );
    mosquitto_pub(listener, "telemetry/press-3/pressure", "1013.25");
    mosquitto_pub(listener, "telemetry/press-3", "{\"n\":2,\"temperature\":");
    scenario.wait_for_silver(4);
    scenario
        .wait_for("row in quarantine", |s| s.count("SELECT count(*) AS n FROM silver.quarantine").filter(|n| *n == 1));
    scenario.finish_and_prove();

    let readings = scenario
        .rows("SELECT metric, value, value_text, value_kind, unit, source_seq FROM silver.readings ORDER BY metric");
    let readings: Vec<String> = readings.iter().map(ToString::to_string).collect();
    assert_eq!(readings.len(), 4, "{readings:?}");
    for (reading, parts) in readings.iter().zip([
        &["door", "1", "bool"][..],
        &["pressure", "1013.25", "number"],
        &["state", "idle", "text"],
        &["temperature", "21.5", "Cel", "number"],
    ]) {
        assert!(parts.iter().all(|part| reading.contains(part)), "{reading} holds {parts:?}");
    }
    let refused =
        scenario.rows("SELECT device_id, layer, CAST(raw AS STRING) AS raw, raw_len, topic FROM silver.quarantine");
    assert_eq!(refused[0]["raw"], "{\"n\":2,\"temperature\":", "{refused:?}");
    assert_eq!((&refused[0]["layer"], &refused[0]["topic"]), (&"edge".into(), &"telemetry/press-3".into()));
    let gold = scenario.rows("SELECT metric, readings, value_avg FROM gold.metric_1m WHERE metric = 'temperature'");
    assert_eq!((&gold[0]["readings"], gold[0]["value_avg"].as_f64()), (&1.into(), Some(21.5)), "{gold:?}");
    let latest = scenario.rows("SELECT metric, value FROM gold.device_latest WHERE metric = 'pressure'");
    assert_eq!(latest[0]["value"].as_f64(), Some(1013.25));
}

#[test]
fn mosquitto_as_the_broker_carries_readings_before_and_after_it_was_away() {
    check_broker_away(Duration::ZERO);
}

#[test]
#[ignore = "the broker is away for a whole minute"]
fn mosquitto_as_the_broker_carries_readings_over_a_minute_without_it() {
    check_broker_away(Duration::from_secs(60));
}

fn check_broker_away(away: Duration) {
    let mut broker = Broker::start();
    let mut scenario = Scenario::with(
        "broker",
        &format!(
            "[edge.intake.broker]\nenabled = true\nhost = \"127.0.0.1\"\nport = {}\n[edge.intake.listener]\nenabled = false\n",
            broker.port
        ),
    );
    scenario.start_all();
    let addr = broker.addr();
    scenario.wait_for("subscription at the broker", |_| {
        mosquitto_pub(addr, "telemetry/probe/up", "1");
        Some(())
    });
    scenario.wait_for("reading through the broker", |s| {
        mosquitto_pub(addr, "telemetry/press-3", r#"{"n":1,"temperature":21.5}"#);
        s.count("SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3'").filter(|n| *n == 1)
    });
    broker.stop();
    let gone = Instant::now();
    scenario.wait_for("notice that the broker is gone", |s| {
        s.log(Part::Agent).contains("no connection to the broker").then_some(())
    });
    std::thread::sleep(away.saturating_sub(gone.elapsed())); // the time itself is what is tested
    broker.restart();
    scenario.wait_for("reading after the broker came back", |s| {
        mosquitto_pub(addr, "telemetry/press-4", r#"{"n":1,"temperature":22.5}"#);
        s.count("SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-4'").filter(|n| 1 <= *n)
    });
    scenario.finish_and_prove();
}

#[test]
fn a_fleet_with_every_fault_balances_its_books() {
    let mut scenario = Scenario::new("faults");
    scenario.start_all();
    scenario.start_devices();
    scenario.finish_and_prove();
    let unknown_faults = "SELECT count(*) AS n FROM silver.quarantine WHERE cardinality(reasons) = 0";
    assert_eq!(scenario.count(unknown_faults), Some(0), "every refusal has its reasons");
}

#[test]
fn an_open_epoch_owes_exactly_what_the_outbox_holds() {
    let mut scenario = Scenario::new("held");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(50);
    scenario.stack.kill(Part::Hub);
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    scenario.stack.kill(Part::Agent);
    scenario.start(Part::Hub);
    scenario.settle();
    // The agent is gone and its epoch open: what silver misses of it, as far as it has heard of it, the outbox holds.
    let health = scenario.rows("SELECT epoch, high, outstanding FROM gold.gateway_health WHERE state = 'open'");
    let (epoch, high) = (health[0]["epoch"].as_str().expect("an epoch"), health[0]["high"].as_i64().expect("a number"));
    let arrived: HashSet<i64> = scenario
        .rows("SELECT seq FROM silver.readings UNION ALL SELECT seq FROM silver.quarantine WHERE seq IS NOT NULL")
        .iter()
        .filter_map(|row| row["seq"].as_i64())
        .collect();
    let held = held_seqs(&scenario.stack.layout.outbox(), epoch);
    let owed = held.iter().filter(|seq| **seq <= high && !arrived.contains(seq)).count();
    assert_eq!(health[0]["outstanding"].as_u64(), u64::try_from(owed).ok(), "{health:?}, held {held:?}");
    // Without the ledger, which rightly misses what the outbox still holds.
    let lake = scenario.stack.layout.lake().display().to_string();
    let output =
        scenario.stack.run(Name::Simulator, &["verify", "--settled", "--lake", &lake, "--held", &owed.to_string()]);
    let output = output.expect("verify starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    scenario.start(Part::Agent);
    scenario.finish_and_prove();
}

#[test]
fn the_demo_ends_with_the_proof() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir_text = dir.path().join("demo").display().to_string();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tests"))
        .args(["demo", "--", "--seconds", "5", "--devices", "5", "--rate", "50", "--dir", &dir_text])
        .output()
        .expect("the demo starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    for part in ["metric_1m", "missing", "duckdb"] {
        assert!(said.to_lowercase().contains(part), "{said}");
    }
}

/// The seqs of `epoch` that wait in the outbox of a stopped agent.
fn held_seqs(outbox: &Path, epoch: &str) -> Vec<i64> {
    let database = rusqlite::Connection::open(outbox).expect("the outbox opens");
    let sql =
        "SELECT seq FROM rows JOIN epochs ON epochs.id = rows.epoch_id WHERE state = 0 AND epoch = ?1 ORDER BY seq";
    let mut statement = database.prepare(sql).expect("the outbox has rows and epochs");
    let seqs = statement.query_map([epoch], |row| row.get(0)).expect("reads");
    seqs.collect::<Result<_, _>>().expect("numbers")
}

/// A Mosquitto broker on a free port.
pub(crate) struct Broker {
    port: u16,
    config: tempfile::NamedTempFile,
    child: Option<std::process::Child>,
}

impl Broker {
    pub(crate) fn start() -> Self {
        use std::io::Write as _;
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut config = tempfile::NamedTempFile::new().expect("a temporary file");
        write!(config, "listener {port} 127.0.0.1\nallow_anonymous true\n").expect("writes");
        let mut broker = Self { port, config, child: None };
        broker.restart();
        broker
    }

    pub(crate) fn addr(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn restart(&mut self) {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.config.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        self.child = Some(child.expect("mosquitto is installed (Debian package mosquitto; `cargo verify` says so)"));
        let up = wait::until(Duration::from_secs(20), || std::net::TcpStream::connect(self.addr()).ok());
        assert!(up.is_some(), "mosquitto listens on {}", self.port);
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}
