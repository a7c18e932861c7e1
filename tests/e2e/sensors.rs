//! Sensors on the gateway's own pins: read, in trouble, and back, over buses that `simulator sensors` stands in for.

use std::path::Path;
use std::process::Output;

use serde_json::{Value as Json, json};
use tests::program::{Name, Program};
use tests::stack::Part;

use crate::provisioned::free;
use crate::remote::{Api, reported};
use crate::scenario::{Scenario, launcher};

/// Running sensors, in a folder of their own.
struct Bench {
    dir: tempfile::TempDir,
    program: Option<Program>,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("iot-bench-").tempdir().expect("a temporary folder");
        let config = format!("[sensors]\ndir = {:?}\n", dir.path());
        std::fs::write(dir.path().join("sim.toml"), config).expect("written");
        let mut bench = Self { dir, program: None };
        bench.restart();
        bench
    }

    fn restart(&mut self) {
        let (config, log) = (self.config(), self.dir.path().join("bench.log"));
        let args = ["--config", &config, "sensors"];
        self.program = Some(launcher().start(Name::Simulator, &args, &[], &log).expect("sensors start"));
        let up = || self.run(&["tell", "show"]).status.success().then_some(());
        tests::wait::until(std::time::Duration::from_secs(60), up).expect("sensors serve");
    }

    fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill();
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        let config = self.config();
        let mut whole = vec!["--config", &config, "sensors"];
        whole.extend(args);
        launcher().run(Name::Simulator, &whole).expect("it runs")
    }

    fn tell(&self, text: &str) -> String {
        let output = self.run(&["tell", text]);
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What it says a gateway has to be told, as the `[edge]` of a test's config.
    fn edge(&self) -> String {
        let said = String::from_utf8(self.run(&["agent-config"]).stdout).expect("UTF-8");
        said.replace("[[sensors]]", "[[edge.sensors]]").replace("[led]", "[edge.led]")
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn config(&self) -> String {
        self.dir.path().join("sim.toml").display().to_string()
    }
}

/// What the agent says of the sensor of this device.
fn sensor(scenario: &Scenario, device: &str) -> Option<Json> {
    let status = scenario.stack.status(Part::Agent)?;
    status["sensors"].as_array()?.iter().find(|sensor| sensor["device"] == device).cloned()
}

fn wait_for_sensor(scenario: &mut Scenario, device: &str, what: &str, holds: impl Fn(&Json) -> bool) -> Json {
    scenario.wait_for(&format!("{device} that {what}"), |s| sensor(s, device).filter(|one| holds(one)))
}

fn is_answering(sensor: &Json) -> bool {
    sensor["state"] == "answering"
}

#[test]
fn sensors_on_the_gateways_pins_reach_silver_with_their_units_and_the_proof_holds() {
    let bench = Bench::start();
    let mut scenario = Scenario::with("sensors", &bench.edge());
    scenario.start_all();
    wait_for_sensor(&mut scenario, "counter", "answers", is_answering);
    bench.tell("pulse 17 250");
    scenario.wait_for_silver(60);
    scenario.wait_for("pulses in silver", |s| {
        s.count("SELECT count(*) AS n FROM silver.readings WHERE metric = 'count-total' AND value = 250")
            .filter(|n| 0 < *n)
    });
    let led = bench.tell("show");
    assert!(led.contains("line 22 is driven"), "{led}");
    scenario.finish_and_prove();

    let rows = scenario.rows(
        "SELECT device_id, metric, unit, min(value) AS low, max(value) AS high, sum(value) AS sum, \
         min(time_quality) AS quality FROM silver.readings GROUP BY device_id, metric, unit",
    );
    let row = |device: &str, metric: &str| {
        let found = rows.iter().find(|row| row["device_id"] == device && row["metric"] == metric);
        found.unwrap_or_else(|| panic!("no {metric} of {device}: {rows:?}"))
    };
    for (device, metric, unit, value, off) in [
        ("bme280-1", "temperature", "Cel", 21.5, 0.011),
        ("bme280-1", "pressure", "hPa", 1_013.25, 0.02),
        ("bme280-1", "humidity", "%", 45.0, 0.1),
        ("bmp280-2", "temperature", "Cel", 21.5, 0.011),
        ("bmp280-2", "pressure", "hPa", 1_013.25, 0.02),
        ("sht3x-3", "temperature", "Cel", 21.5, 0.002),
        ("sht3x-3", "humidity", "%", 45.0, 0.002),
        ("sht4x-4", "temperature", "Cel", 21.5, 0.002),
        ("sht4x-4", "humidity", "%", 45.0, 0.002),
        ("ads1115-5", "level", "m", 8.0, 0.001),
        ("ds18b20-6", "temperature", "Cel", 21.5, 0.0001),
    ] {
        let row = row(device, metric);
        assert_eq!((&row["unit"], &row["quality"]), (&unit.into(), &"gateway".into()), "{row}");
        for end in ["low", "high"] {
            let got = row[end].as_f64().expect("a number");
            assert!((got - value).abs() <= off, "{device} {metric}: {got} is not {value} within {off}");
        }
    }
    assert_eq!(row("counter", "count")["sum"].as_f64(), Some(250.0), "each pulse is counted once");
}

#[test]
fn each_misfortune_of_a_sensor_is_counted_told_and_recovered_from() {
    let mut bench = Bench::start();
    let edge = bench.edge().replace("every = \"1s\"", "every = \"1s\"\nretry-max = \"2s\"");
    let mut scenario = Scenario::with("misfortune-of-sensors", &edge);
    scenario.start(Part::Agent); // no hub: readings wait in the outbox
    for device in ["bme280-1", "sht3x-3", "sht4x-4", "ads1115-5", "ds18b20-6", "counter"] {
        wait_for_sensor(&mut scenario, device, "answers", is_answering);
    }
    for (device, told, reason) in [
        ("bme280-1", "nak 0x76 2", "no-answer"),
        ("ads1115-5", "nak 0x48 2", "no-answer"),
        ("sht3x-3", "crc 0x44 1", "crc"),
        ("sht4x-4", "crc 0x45 1", "crc"),
        // Set up by the settings of before, it would give values by another one's calibration.
        ("bme280-1", "swap 0x76", "reset"),
    ] {
        bench.tell(told);
        let one = wait_for_sensor(&mut scenario, device, reason, |one| {
            is_answering(one) && 0 < one["failed"][reason].as_u64().unwrap_or_default()
        });
        assert!(one["last_error"].is_string(), "{told}: {one}");
    }
    bench.tell("lose 1");
    scenario.wait_for("lost arbitration", |s| {
        s.stack.status(Part::Agent)?["sensors"]
            .as_array()?
            .iter()
            .any(|one| one["failed"]["arbitration"] == 1)
            .then_some(())
    });

    // Pulled out and back.
    for (device, name) in [("bme280-1", "0x76"), ("ds18b20-6", "28-0316a2795fff")] {
        bench.tell(&format!("pull {name}"));
        // It may have failed at something else just before.
        wait_for_sensor(&mut scenario, device, "fails", |one| {
            let silent = one["last_error"].as_str().is_some_and(|error| error.contains("nobody answers"));
            one["state"] == "failing" && silent
        });
        let said = scenario.stack.run(Name::EdgeAgent, &["status"]).expect("it runs").stdout;
        let said = String::from_utf8(said).expect("UTF-8");
        for part in [name, "failing since", "nobody answers; look at its power"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        bench.tell(&format!("plug {name}"));
        wait_for_sensor(&mut scenario, device, "answers again", is_answering);
    }
    bench.tell("crc 28-0316a2795fff 1");
    wait_for_sensor(&mut scenario, "ds18b20-6", "has wrong checksums", |one| {
        0 < one["failed"]["crc"].as_u64().unwrap_or_default()
    });
    bench.tell("crc 28-0316a2795fff 0");
    wait_for_sensor(&mut scenario, "ds18b20-6", "answers again", is_answering);

    // A bus that is stuck holds up its own sensors, and nobody else.
    bench.tell("stick");
    for device in ["bme280-1", "sht3x-3", "ads1115-5"] {
        wait_for_sensor(&mut scenario, device, "hangs", |one| {
            0 < one["failed"]["timeout"].as_u64().unwrap_or_default()
        });
    }
    let read = |one: &Json| one["read"].as_u64().unwrap_or_default();
    for device in ["counter", "ds18b20-6"] {
        let before = sensor(&scenario, device).as_ref().map(read).unwrap_or_default();
        wait_for_sensor(&mut scenario, device, "is read meanwhile", |one| before + 2 <= read(one));
    }
    bench.tell("free");
    for device in ["bme280-1", "sht3x-3", "sht4x-4", "ads1115-5"] {
        wait_for_sensor(&mut scenario, device, "answers again", is_answering);
    }

    // The whole adapter is gone and back.
    bench.kill();
    wait_for_sensor(&mut scenario, "bme280-1", "has no bus", |one| {
        0 < one["failed"]["no-bus"].as_u64().unwrap_or_default()
    });
    wait_for_sensor(&mut scenario, "counter", "has no chip", |one| one["state"] == "failing");
    bench.restart();
    for device in ["bme280-1", "sht3x-3", "sht4x-4", "ads1115-5", "ds18b20-6", "counter"] {
        wait_for_sensor(&mut scenario, device, "answers again", is_answering);
    }
    let log = scenario.log(Part::Agent);
    for reason in ["no-answer", "crc", "timeout", "no-bus"] {
        assert!(log.contains(reason), "{reason} was told");
    }
    let metrics = tests::probe::get(scenario.stack.layout.ports.agent_http, "/metrics").expect("metrics");
    for name in ["edge_sensors_failed_total", "edge_sensors_recovered_total", "edge_sensors_missed_total"] {
        assert!(metrics.contains(name), "{metrics}");
    }
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn the_twin_says_how_often_a_sensor_is_read_at_once_and_from_the_next_start_on() {
    let (bench, [https]) = (Bench::start(), free());
    // Whoever waits for their turns waits for an hour.
    let edge = bench.edge().replace("every = \"1s\"", "every = \"1h\"");
    let mut scenario = Scenario::with("intervals", &format!("{edge}\n[sim.hub]\nhttps-listen = \"{https}\"\n"));
    scenario.start(Part::Hub);
    scenario.start(Part::Agent);
    let api = Api::of(&scenario, https);
    for device in ["bme280-1", "bmp280-2", "sht3x-3", "counter"] {
        wait_for_sensor(&mut scenario, device, "was read once", |one| one["read"] == 1 && one["every"] == "1h");
    }
    let acked = |scenario: &mut Scenario, version: i64| {
        let said = reported(scenario, &api, "an acknowledgement", |reported| reported["intervals"]["av"] == version);
        (said["intervals"]["ac"].clone(), said["intervals"]["ad"].as_str().unwrap_or_default().to_owned())
    };

    let version = api.desire(json!({ "intervals": { "sensors": { "bme280-1": "1s", "counter": "1s" } } }));
    assert_eq!(acked(&mut scenario, version).0, 200);
    for device in ["bme280-1", "counter"] {
        wait_for_sensor(&mut scenario, device, "is read each second", |one| {
            one["every"] == "1s" && 3 <= one["read"].as_u64().unwrap_or_default() && one["missed"] == 0
        });
    }
    let other = sensor(&scenario, "bmp280-2").expect("there");
    assert_eq!((&other["read"], &other["every"]), (&json!(1), &json!("1h")), "on the same bus, and not spoken of");

    // Who is not there, and what cannot be: nothing of the set counts.
    for (sensors, words) in [
        (json!({ "boiler-9": "1s", "bmp280-2": "1s" }), "counts as `boiler-9`; there are: `ads1115-5`, `bme280-1`, "),
        (json!({ "boiler-9": null, "bmp280-2": "1ms" }), "`bmp280-2`: must be at least 100ms"),
    ] {
        let version = api.desire(json!({ "intervals": { "sensors": sensors } }));
        let (code, said) = acked(&mut scenario, version);
        assert!(code == 400 && said.contains(words), "{code}: {said}");
        let every = |device| sensor(&scenario, device).map(|one| one["every"].clone());
        assert_eq!((every("bmp280-2"), every("bme280-1")), (Some(json!("1h")), Some(json!("1s"))));
    }

    // Left out is as configured; the rest of the set is kept for the next start, where one of its sensors is gone.
    let version = api.desire(json!({
        "intervals": { "sensors": { "bmp280-2": null, "bme280-1": null, "sht3x-3": "1m" } }, "log-level": "debug",
    }));
    assert_eq!(acked(&mut scenario, version).0, 200);
    wait_for_sensor(&mut scenario, "bme280-1", "is read as configured", |one| one["every"] == "1h");
    wait_for_sensor(&mut scenario, "sht3x-3", "is read each minute", |one| one["every"] == "1m");
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    scenario.stack.kill(Part::Hub);
    let path = scenario.stack.layout.config("edge");
    let mut config: toml::Table = std::fs::read_to_string(&path).expect("a file").parse().expect("TOML");
    let sensors = config["sensors"].as_array_mut().expect("sensors");
    sensors.retain(|one| one["device"].as_str() != Some("sht3x-3"));
    std::fs::write(&path, config.to_string()).expect("written");
    scenario.start(Part::Agent);
    wait_for_sensor(&mut scenario, "counter", "is read each second, without the hub", |one| {
        one["every"] == "1s" && 3 <= one["read"].as_u64().unwrap_or_default()
    });
    let remote = scenario.stack.status(Part::Agent).expect("a status")["remote"].clone();
    assert_eq!((&remote["settings_version"], &remote["log_level"]), (&json!(version), &json!("debug")), "{remote}");
    assert!(scenario.log(Part::Agent).contains("does not have any more: left out"));
    scenario.start(Part::Hub);
    let said = reported(&mut scenario, &api, "a refusal", |reported| reported["intervals"]["ac"] == 400);
    assert!(said["intervals"]["ad"].as_str().is_some_and(|ad| ad.contains("counts as `sht3x-3`")), "{said}");
    let version = api.desire(json!({ "intervals": { "sensors": { "sht3x-3": null } } }));
    assert_eq!(acked(&mut scenario, version).0, 200);
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn a_technician_sees_what_is_on_a_bus_and_what_each_sensor_says() {
    let bench = Bench::start();
    let agent = bench.path().join("edge.toml");
    std::fs::write(&agent, String::from_utf8(bench.run(&["agent-config"]).stdout).expect("UTF-8")).expect("written");
    let run = |args: &[&str]| {
        let agent = agent.display().to_string();
        let mut whole = vec!["--config", &agent, "sensors"];
        whole.extend(args);
        let output = launcher().run(Name::EdgeAgent, &whole).expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (code, scanned) = run(&["scan"]);
    assert_eq!(code, Some(0), "{scanned}");
    for (at, kind) in [
        ("0x44", "sht3x"),
        ("0x45", "sht4x"),
        ("0x48", "ads1115"),
        ("0x76", "bme280"),
        ("0x77", "bmp280"),
        ("28-0316a2795fff", "ds18b20"),
    ] {
        let line = scanned.lines().find(|line| line.trim_start().starts_with(at));
        assert!(line.is_some_and(|line| line.contains(kind)), "{at} {kind}: {scanned}");
    }
    let (code, read) = run(&["read"]);
    assert_eq!(code, Some(0), "{read}");
    for part in ["21.5", "adc_T=", "9600 = 1.2 V", "8 m", "edges"] {
        assert!(read.contains(part), "{part}: {read}");
    }

    // Whole-number formulae find again what was put into registers by those with fractions, cold and hot, high and low.
    for (celsius, hectopascals, percent) in
        [(-40.0, 300.0, 5.0), (-0.01, 700.0, 99.0), (25.08, 1_100.0, 0.0), (85.0, 1_000.0, 50.0)]
    {
        for (quantity, value) in [("temperature", celsius), ("pressure", hectopascals), ("humidity", percent)] {
            bench.tell(&format!("set 0x76 {quantity} {value}"));
        }
        let (_, read) = run(&["read", "--json"]);
        let read: Json = serde_json::from_str(&read).expect("JSON");
        let values = &read[0]["values"];
        for (index, value, off) in [(0, celsius, 0.011), (1, hectopascals, 0.03), (2, percent, 0.1)] {
            let got = values[index]["value"].as_f64().unwrap_or_else(|| panic!("a number: {read:#}"));
            assert!((got - value).abs() <= off, "{got} is not {value} within {off}: {values}");
        }
    }

    bench.tell("pull 0x44");
    let (code, read) = run(&["read", "--json"]);
    assert_eq!(code, Some(1), "{read}");
    let read: Json = serde_json::from_str(&read).expect("JSON");
    let failed = read.as_array().expect("a list").iter().filter(|one| !one["error"].is_null());
    let failed: Vec<_> = failed.map(|one| one["device"].clone()).collect();
    assert_eq!(failed, ["sht3x-3"], "{read:#}");
    assert_eq!(run(&["scan", "--bus", "/nowhere/i2c-9"]).0, Some(1));
}
