//! What was refused is shown with its bytes, and taken up again: beside the running service, and the proof holds.

use serde_json::Value as Json;
use tests::program::Name;
use tests::stack::Part;

use crate::scenario::Scenario;

/// Runs the ingester; its exit status and what it printed.
fn ingester(scenario: &Scenario, args: &[&str]) -> (Option<i32>, String) {
    let output = scenario.stack.run(Name::CloudIngester, args).expect("it runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

/// The refusals of a reason, one object each.
fn refusals(scenario: &Scenario, reason: &str) -> Vec<Json> {
    let (code, said) = ingester(scenario, &["quarantine", "ls", "--reason", reason, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_refusal_is_shown_with_its_bytes_and_taken_up_again_beside_the_running_service() {
    let mut scenario = Scenario::with("quarantine", "[sim.devices.faults]\nout-of-range = 0.1\n");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(200);
    let found = scenario.wait_for("a value out of range", |scenario| {
        let found = refusals(scenario, "range");
        (2 <= found.len()).then_some(found)
    });
    let id = found[0]["id"].as_str().expect("an id");
    let (code, said) = ingester(&scenario, &["quarantine", "ls", "--raw", id]);
    assert_eq!((code, said.len() as i64), (Some(0), found[0]["raw_len"].as_i64().expect("a length")), "{said}");
    assert!(serde_json::from_str::<Json>(&said).is_ok(), "the payload as the device sent it: {said}");

    // The gateway refused it: without a word it stays.
    let (code, said) = ingester(&scenario, &["quarantine", "replay", id]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--as-is"), "{said}");
    let repair = ["quarantine", "replay", id, "--set", "value=1.25"];
    let (code, said) = ingester(&scenario, &repair);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Nothing was done"), "{said}");
    let (code, said) = ingester(&scenario, &[&repair[..], &["--apply"]].concat());
    assert_eq!(code, Some(0), "{said}");
    let sql = format!("SELECT count(*) AS n FROM silver.readings WHERE reading_id = '{id}' AND value = 1.25");
    assert_eq!(scenario.count(&sql), Some(1), "it is there when the command ends");
    scenario.finish_and_prove();

    // And without a service, by the command itself; then everything anew.
    let id = found[1]["id"].as_str().expect("an id");
    let (code, said) = ingester(&scenario, &["quarantine", "replay", id, "--as-is", "--apply"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = ingester(&scenario, &["hop", "--full-refresh", "silver.readings"]);
    assert_eq!(code, Some(0), "{said}");
    scenario.prove(&["--held", "0"]);
    assert!(!scenario.stack.is_running(Part::Ingester));
}
