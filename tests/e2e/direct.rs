//! Devices without a gateway: each talks to the hub itself, and what it sent is in silver once.

use std::process::Output;

use serde_json::Value as Json;
use tests::program::Name;
use tests::stack::Part;

use crate::scenario::Scenario;

/// Hub and ingester, no agent; ten devices are registered, and their connection strings lie in a file.
fn scenario(name: &str, hub: &str) -> (Scenario, String) {
    let devices: Vec<String> = (1..=10).map(|device| format!("\"device-{device:04}\"")).collect();
    let config = format!(
        "[[ingest.silver.mapping]]\ndevice = \"device-*\"\nmessage-id = \"unique\"\n\
         [sim.devices.direct]\ntoken-life = \"4s\"\ntoken-margin = \"1s\"\n\
         [sim.hub]\ndevices = [\"gw-01\", {}]\n{hub}",
        devices.join(", ")
    );
    let scenario = Scenario::with(name, &config);
    let said = scenario.stack.run(Name::Simulator, &["hub", "connection-strings", "--json"]).expect("it runs");
    let file = scenario.stack.layout.dir().join("devices.json");
    std::fs::write(&file, &said.stdout).expect("a file");
    (scenario, file.display().to_string())
}

fn start_devices(scenario: &mut Scenario, file: &str, more: &[&str]) {
    let mut args = vec!["--direct", file, "--rate", "200", "--seconds", "10"];
    args.extend(more);
    scenario.stack.spawn(Part::Devices, &args, &[]).expect("devices start");
}

/// Ends the run and asks for the proof; gives its report.
fn finish_and_prove(scenario: &mut Scenario) -> Json {
    scenario.finish();
    let (holds, said) = scenario.verify(&["--json"]);
    assert!(holds, "{said}\n{}", scenario.books());
    serde_json::from_str(said.lines().next().unwrap_or_default()).expect("one line of JSON")
}

#[test]
fn what_direct_devices_sent_is_in_silver_once_whatever_the_hub_does() {
    // Connections that break, messages the hub takes twice, and tokens that end every few seconds.
    let faults = "[[sim.hub.faults]]\nfault = 'disconnect'\nevery = 150\ntimes = 5\n\
                  [[sim.hub.faults]]\nfault = 'duplicate'\nchance = 0.05\nseed = 3\n";
    let (mut scenario, file) = scenario("direct", faults);
    for part in [Part::Hub, Part::Ingester] {
        scenario.start(part);
    }
    start_devices(&mut scenario, &file, &["--json"]);
    let report = finish_and_prove(&mut scenario);
    let ledger = &report["ledger"];
    assert_eq!(ledger["values"], ledger["values_acked"], "all was acknowledged: {report}");
    assert!(0 < ledger["quarantined"].as_u64().expect("a count"), "faults went to quarantine: {report}");
    assert!(0 < report["books"]["duplicates"].as_i64().expect("a count"), "the hub had some twice: {report}");
    assert_eq!(report["epochs"], serde_json::json!([]), "no gateway took part: {report}");
    let last = scenario.log(Part::Devices);
    let last: Json = serde_json::from_str(last.lines().last().unwrap_or_default()).expect("a line of JSON");
    // Ten devices, ten seconds, a token for three of them each time.
    assert!(20 < last["connects"].as_u64().expect("a count"), "tokens are renewed by new connections: {last}");
}

#[test]
fn killed_direct_devices_and_a_killed_hub_lose_nothing_and_nothing_counts_twice() {
    let (mut scenario, file) = scenario("direct-killed", "");
    for part in [Part::Hub, Part::Ingester] {
        scenario.start(part);
    }
    start_devices(&mut scenario, &file, &[]);
    scenario.wait_for_silver(100);
    scenario.stack.kill(Part::Hub);
    scenario.start(Part::Hub);
    let before = scenario.count("SELECT count(*) AS n FROM silver.readings").expect("a count");
    scenario.wait_for_silver(before + 100);
    scenario.stack.kill(Part::Devices);
    start_devices(&mut scenario, &file, &[]);
    scenario.wait_for_silver(before + 200);
    scenario.stack.kill(Part::Ingester);
    scenario.start(Part::Ingester);
    finish_and_prove(&mut scenario);
}

/// Runs devices to their end and gives what they printed.
fn run_devices(scenario: &Scenario, file: &str, more: &[&str]) -> Output {
    let mut args = vec!["devices", "--direct", file, "--seconds", "1"];
    args.extend(more);
    scenario.stack.run(Name::Simulator, &args).expect("it runs")
}

#[test]
fn what_is_wrong_with_connection_strings_is_said_without_showing_them() {
    let (scenario, file) = scenario("direct-wrong", "");
    let strings = std::fs::read_to_string(&file).expect("a file");
    let strings: Json = serde_json::from_str(&strings).expect("JSON");
    let device = strings["devices"]["device-0001"].as_str().expect("a connection string");
    let secret = device.rsplit("SharedAccessKey=").next().expect("a key");
    let wrong = scenario.stack.layout.dir().join("wrong.txt");
    let wrong_text = wrong.display().to_string();
    for (content, said) in [
        (format!("# one\n{device}\n{device}\n"), "line 3 names device-0001 once more"),
        (device.replace("SharedAccessKey=", "SharedAccesKey="), "a part that no device's connection string has"),
        (strings["services"]["service"].as_str().expect("a string").to_owned(), "is of a service"),
    ] {
        std::fs::write(&wrong, content).expect("a file");
        let output = run_devices(&scenario, &wrong_text, &[]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(said) && !text.contains(secret), "{text}");
    }
    let output = run_devices(&scenario, &file, &["--devices", "11"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds 10 devices, 11 are asked for"));
}

#[cfg(not(feature = "azure-iot-sdk"))]
#[test]
fn a_build_without_azure_iot_sdk_says_how_to_get_one() {
    let (scenario, file) = scenario("direct-no-sdk", "");
    let output = run_devices(&scenario, &file, &["--through", "azure-iot-sdk"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains("libssl-dev") && text.contains("feature `azure-iot-sdk`"), "{text}");
}

/// azure_iot_sdk publishes at QoS 0: what it sent arrives once or not at all; on a loopback, all but what a broken
/// connection took along.
#[cfg(feature = "azure-iot-sdk")]
#[test]
fn devices_through_azure_iot_sdk_arrive_at_most_once() {
    // The SDK dials no other port.
    let mut addresses = (2..250).map(|last| std::net::Ipv4Addr::new(127, 0, 4, last));
    let ip = addresses.find(|ip| std::net::TcpListener::bind((*ip, 8883)).is_ok()).expect("a free port 8883");
    let hub = format!("host-name = \"{ip}\"\nmqtt-listen = \"{ip}:8883\"\nserver-names = [\"{ip}\"]\n");
    let (mut scenario, file) = scenario("direct-sdk", &hub);
    for part in [Part::Hub, Part::Ingester] {
        scenario.start(part);
    }
    let ca = scenario.stack.layout.hub_ca().display().to_string();
    let args = ["--direct", &file, "--through", "azure-iot-sdk", "--rate", "100", "--seconds", "10", "--json"];
    scenario.stack.spawn(Part::Devices, &args, &[("SSL_CERT_FILE", &ca)]).expect("devices start");
    scenario.wait_for_silver(100);
    let report = finish_and_prove(&mut scenario);
    let ledger = &report["ledger"];
    assert_eq!(ledger["values_acked"], 0, "nobody acknowledges at QoS 0: {report}");
    let of = |what: &str| ledger[what].as_u64().expect("a count");
    assert_eq!(of("readings") + of("quarantined") + of("never_promised"), of("values"), "{report}");
    assert_eq!(of("never_promised"), 0, "on a loopback, without faults, all arrive: {report}");
}
