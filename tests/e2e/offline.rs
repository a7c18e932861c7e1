//! The hub is away, or says no: nothing is lost, and the agent says what is wrong.

use std::time::{Duration, Instant};

use tests::stack::Part;

use crate::scenario::Scenario;

/// The hub is away while the devices send for so many seconds, and for at least `away`.
fn check_hub_away(name: &str, seconds: u64, away: Duration) {
    let mut scenario = Scenario::new(name);
    scenario.start_all();
    scenario.start_devices_for(seconds);
    scenario.wait_for_silver(20);
    scenario.stack.kill(Part::Hub);
    let gone = Instant::now();
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(60 + seconds));
    assert!(ended.is_some_and(|status| status.success()), "devices are acknowledged while the hub is away: {ended:?}");
    std::thread::sleep(away.saturating_sub(gone.elapsed())); // the time itself is what is tested
    scenario.wait_for("rows held in the outbox", |s| {
        s.stack.status(Part::Agent)?["outbox"]["held"].as_u64().filter(|held| 0 < *held)
    });
    scenario.start(Part::Hub);
    scenario.finish_and_prove();
}

#[test]
fn readings_wait_in_the_outbox_while_the_hub_is_away() {
    check_hub_away("hub-away", 8, Duration::ZERO);
}

#[test]
#[ignore = "the hub is away for a whole minute"]
fn readings_wait_in_the_outbox_while_the_hub_is_away_for_a_minute() {
    check_hub_away("hub-away-a-minute", 50, Duration::from_secs(60));
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
    scenario.wait_for("word about the refused key", |s| {
        s.log(Part::Agent).contains("the hub refuses this device's key (").then_some(())
    });
    scenario.stack.kill(Part::Agent);
    std::fs::write(&credential, right).expect("writes");
    scenario.start(Part::Agent);
    scenario.finish_and_prove();
}
