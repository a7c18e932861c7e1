//! A gateway that knows only the provisioning service gets its hub from there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::{Value as Json, json};
use tests::layout::HUB_HOST_NAME;
use tests::program::Name;
use tests::stack::Part;

use crate::flows::mosquitto_pub;
use crate::scenario::Scenario;

/// Loopback addresses nobody listens on.
pub(crate) fn free<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("an address"))
}

#[test]
fn a_gateway_that_knows_only_the_provisioning_service_brings_a_reading_to_bronze() {
    let [dps, http] = free();
    let config = format!("[sim.dps]\nlisten = \"{dps}\"\nretry-after = \"1s\"\n[sim.dps.http]\nlisten = \"{http}\"\n");
    let mut scenario = Scenario::with("provision", &config);
    let enrolled = simulator(&scenario, &["hub", "enroll", "line-1", "--group", "--json"]);
    let group_key = enrolled["primary-key"].as_str().unwrap_or_else(|| panic!("{enrolled}")).to_owned();
    edit(&scenario, "edge", |edge| {
        edge["hub"].as_table_mut().expect("a table").remove("connection-string");
        let provisioning = format!(
            "id-scope = {}\nregistration-id = \"gw-77\"\ngroup-key = \"{group_key}\"\nhost = \"127.0.0.1\"\nport = {}\nca-file = {:?}\n",
            enrolled["id-scope"],
            dps.port(),
            scenario.stack.layout.hub_ca()
        );
        edge.insert("provisioning".into(), toml::Value::Table(provisioning.parse().expect("toml")));
    });
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);

    // Without an enrolment it says no, and why.
    edit_registration(&scenario, "gw-77", "gw-78", "bm8ga2V5");
    let output = scenario.stack.run(Name::EdgeAgent, &["provision"]).expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains("refuses this gateway's key"),
        "{:?} {said}",
        output.status
    );
    edit_registration(&scenario, "gw-78", "gw-77", &group_key);

    let output = scenario.stack.run(Name::EdgeAgent, &["provision"]).expect("it starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains(&format!("assigned to {HUB_HOST_NAME}, device gw-77")), "{said}");
    let check = scenario.stack.run(Name::EdgeAgent, &["check"]).expect("it starts");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains(&format!("device gw-77 of {HUB_HOST_NAME}, assigned")), "{said}");

    scenario.start(Part::Agent);
    mosquitto_pub(scenario.stack.layout.ports.agent_mqtt, "telemetry/press-3", r#"{"n":1,"temperature":21.5}"#);
    scenario.wait_for("reading in bronze and silver", |s| {
        let sql = "SELECT count(*) AS n FROM silver.readings WHERE device_id = 'press-3' AND gateway_id = 'gw-77'";
        s.count(sql).filter(|n| *n == 1)
    });
    let status = scenario.stack.status(Part::Agent).expect("a status");
    assert_eq!((&status["gateway"], &status["hub"]["by"]), (&json!("gw-77"), &json!("provisioning")), "{status}");

    // A run without the file asks by itself.
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    let mut record = scenario.stack.layout.outbox().into_os_string();
    record.push(".hub");
    std::fs::remove_file(&record).expect("the hub was kept");
    scenario.start(Part::Agent);
    scenario.wait_for("hub", |s| (s.stack.status(Part::Agent)?["uplink"]["link"] == "live").then_some(()));
    assert!(scenario.log(Part::Agent).contains("asking the provisioning service"), "{}", scenario.tail(Part::Agent));
    assert!(std::path::Path::new(&record).exists(), "it is kept again");
    scenario.finish_and_prove();
}

/// What a command of the simulator prints as JSON.
pub(crate) fn simulator(scenario: &Scenario, args: &[&str]) -> Json {
    let output = scenario.stack.run(Name::Simulator, args).expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("json")
}

/// Changes a program's config file.
pub(crate) fn edit(scenario: &Scenario, program: &str, change: impl FnOnce(&mut toml::Table)) {
    let path = scenario.stack.layout.config(program);
    let mut table: toml::Table = std::fs::read_to_string(&path).expect("a config").parse().expect("toml");
    change(&mut table);
    std::fs::write(&path, table.to_string()).expect("written");
}

/// Another name and key to ask a hub with.
fn edit_registration(scenario: &Scenario, from: &str, to: &str, key: &str) {
    edit(scenario, "edge", |edge| {
        let provisioning = edge["provisioning"].as_table_mut().expect("a table");
        assert_eq!(provisioning.insert("registration-id".into(), to.into()), Some(from.into()));
        provisioning.insert("group-key".into(), key.into());
    });
}
