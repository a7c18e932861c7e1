//! `kill -9` of each program, in mid-run and at each named point: after a restart the proof holds, and what the devices
//! sent equals what silver holds, one to one.

use std::time::Duration;

use tests::stack::Part;

use crate::scenario::Scenario;

/// Long enough for the slowest machine to come to the named point.
const PATIENCE: Duration = Duration::from_secs(90);

/// Ends `part` at `place` (the number is of the passage; some of the first are at start), starts it again, lets everything drain, and asks for the proof.
fn check(part: Part, place: &str) {
    let mut scenario = Scenario::new(&format!("crash-{}", place.replace(':', "-")));
    for other in [Part::Hub, Part::Ingester, Part::Agent] {
        if other == part {
            // It may come to the place before it is ready.
            scenario.stack.spawn(part, &[], &[("CRASH_AT", place)]).expect("the part to crash starts");
        } else {
            scenario.start(other);
        }
    }
    scenario.start_devices();
    let ended = scenario.stack.wait_end(part, PATIENCE);
    let ended =
        ended.unwrap_or_else(|| panic!("the {} passes {place} and dies there\n{}", part.as_str(), scenario.tail(part)));
    assert!(!ended.success(), "the {} ended {ended} instead of dying at {place}", part.as_str());
    scenario.start(part);
    scenario.finish_and_prove();
}

/// Kills `part` in mid-run, whatever it is doing.
fn check_killed(part: Part) {
    let mut scenario = Scenario::new(&format!("killed-{}", part.as_str()));
    for other in [Part::Hub, Part::Ingester, Part::Agent] {
        scenario.start(other);
    }
    scenario.start_devices();
    scenario.wait_for_silver(50);
    scenario.stack.kill(part);
    match part {
        Part::Devices => scenario.start_devices(),
        _ => scenario.start(part),
    }
    scenario.finish_and_prove();
}

#[test]
fn an_agent_that_dies_after_the_store_and_before_the_ack_counts_nothing_twice() {
    check(Part::Agent, "outbox-stored:5");
}

#[test]
fn an_agent_that_dies_between_publish_and_puback_sends_again_and_nothing_counts_twice() {
    check(Part::Agent, "uplink-published:5");
}

#[test]
fn an_agent_that_dies_before_it_marks_an_acknowledged_row_sends_it_again() {
    check(Part::Agent, "uplink-acked:5");
}

#[test]
fn a_hub_that_dies_between_its_fsync_and_the_puback_counts_nothing_twice() {
    check(Part::Hub, "hub-stored:5");
}

#[test]
fn an_ingester_that_dies_between_bronze_parquet_and_commit_loses_nothing() {
    check(Part::Ingester, "bronze-parquet-written:3");
}

#[test]
fn an_ingester_that_dies_after_the_bronze_commit_reads_nothing_twice() {
    check(Part::Ingester, "bronze-committed:3");
}

#[test]
fn an_ingester_that_dies_between_silver_parquet_and_commit_loses_nothing() {
    check(Part::Ingester, "silver-parquet-written:3");
}

#[test]
fn an_ingester_that_dies_between_the_side_and_the_main_commit_redoes_just_what_is_missing() {
    check(Part::Ingester, "silver-side-committed:2");
}

#[test]
fn an_ingester_that_dies_after_the_silver_commit_counts_nothing_twice() {
    check(Part::Ingester, "silver-committed:4");
}

#[test]
fn an_ingester_that_dies_between_gold_parquet_and_commit_loses_nothing() {
    check(Part::Ingester, "gold-parquet-written:5");
}

#[test]
fn an_ingester_that_dies_after_the_gold_commit_counts_nothing_twice() {
    check(Part::Ingester, "gold-committed:8");
}

#[test]
fn a_killed_agent_loses_nothing() {
    check_killed(Part::Agent);
}

#[test]
fn a_killed_hub_loses_nothing() {
    check_killed(Part::Hub);
}

#[test]
fn a_killed_ingester_loses_nothing() {
    check_killed(Part::Ingester);
}

#[test]
fn killed_devices_send_again_what_was_not_acknowledged() {
    check_killed(Part::Devices);
}
