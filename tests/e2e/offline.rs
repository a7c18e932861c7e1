//! The hub is away, or says no: nothing is lost, and the agent says what is wrong.

use std::time::Duration;

use tests::stack::Part;

use crate::scenario::Scenario;

#[test]
fn readings_wait_in_the_outbox_while_the_hub_is_away() {
    let mut scenario = Scenario::new("hub-away");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(20);
    scenario.stack.kill(Part::Hub);
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "devices are acknowledged while the hub is away: {ended:?}");
    scenario.wait_for("rows held in the outbox", |s| {
        s.stack.status(Part::Agent)?["outbox"]["held"].as_u64().filter(|held| 0 < *held)
    });
    scenario.start(Part::Hub);
    scenario.finish_and_prove();
}

#[test]
fn a_wrong_key_is_named_and_nothing_is_lost() {
    let mut scenario = Scenario::new("wrong-key");
    let credential = scenario.stack.layout.agent_credential();
    let right = std::fs::read_to_string(&credential).expect("the connection string");
    let (head, _) = right.split_once("SharedAccessKey=").expect("it has a key");
    std::fs::write(&credential, format!("{head}SharedAccessKey=d3Jvbmc=")).expect("writes");
    scenario.start_all();
    scenario.start_devices();
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "devices are acknowledged all the same: {ended:?}");
    scenario.wait_for("word about the key", |s| {
        s.tail(Part::Agent)
            .to_lowercase()
            .contains("not authorized")
            .then_some(())
            .or_else(|| s.tail(Part::Agent).contains("key").then_some(()))
    });
    scenario.stack.kill(Part::Agent);
    std::fs::write(&credential, right).expect("writes");
    scenario.start(Part::Agent);
    scenario.finish_and_prove();
}
