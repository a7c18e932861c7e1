//! The proof holds under each misfortune that the hub can be scripted to have.

use serde_json::Value as Json;
use tests::stack::Part;

use crate::scenario::Scenario;

/// Runs the fleet through a hub with these rules, waits until each has struck, and asks for the proof.
fn holds_under(name: &str, rules: &[&str]) {
    let config: String = rules.iter().map(|rule| format!("[[sim.hub.faults]]\n{}\n", rule.replace("; ", "\n"))).collect();
    let mut scenario = Scenario::with(name, &config);
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for("stroke of every rule", |scenario| {
        let status = scenario.stack.status(Part::Hub)?;
        let struck = |rule: &Json| rule["struck"].as_u64().is_some_and(|struck| 0 < struck);
        status["faults"].as_array().filter(|all| all.len() == rules.len() && all.iter().all(struck)).map(|_| ())
    });
    scenario.finish_and_prove();
}

macro_rules! misfortunes {
    ($($name:ident: [$($rule:literal),+ $(,)?],)+) => {
        $(#[test] fn $name() { holds_under(stringify!($name), &[$($rule),+]); })+
    };
}

misfortunes! {
    messages_dropped: ["fault = 'drop'; skip = 2; every = 4; times = 2"],
    pubacks_delayed: ["fault = 'delay'; every = 2; lasts = '700ms'"],
    messages_duplicated: ["fault = 'duplicate'; chance = 0.5; seed = 3"],
    a_black_hole_without_fin: ["fault = 'black-hole'; skip = 3; lasts = '4s'; times = 1"],
    a_connection_cut_every_third_message: ["fault = 'disconnect'; every = 3; times = 5"],
    pubacks_lost_after_the_store: ["fault = 'lose-puback'; every = 2; times = 5"],
    a_token_that_ends_early: ["fault = 'expire-token'; skip = 3; times = 2"],
    a_throttle: ["fault = 'throttle'; skip = 2; times = 1; lasts = '3s'"],
    connects_refused: ["fault = 'disconnect'; skip = 2; times = 1", "fault = 'refuse'; skip = 1; times = 3"],
    receivers_detached: ["fault = 'detach-receivers'; after = '2s'; again = '1s'; times = 4"],
    partitions_moved: ["fault = 'move-partition'; after = '2s'; again = '2s'; times = 3"],
    tokens_of_services_ended: ["fault = 'expire-service-tokens'; after = '3s'; times = 1"],
    services_in_a_black_hole: ["fault = 'black-hole-services'; after = '3s'; lasts = '4s'; times = 1"],
    a_slow_fsync: ["fault = 'slow-fsync'; lasts = '400ms'; every = 2"],
    a_clock_that_jumps_ahead_and_back: [
        "fault = 'shift-clock'; by = '2h'; after = '3s'",
        "fault = 'shift-clock'; by = '-5m'; after = '5s'",
        "fault = 'shift-clock'; by = '0s'; after = '7s'",
    ],
    everything_at_once_by_seed: [
        "fault = 'duplicate'; chance = 0.2; seed = 7",
        "fault = 'lose-puback'; chance = 0.15; seed = 8; times = 6",
        "fault = 'delay'; chance = 0.2; seed = 9; lasts = '300ms'",
        "fault = 'detach-receivers'; after = '2s'; again = '3s'; times = 3",
    ],
}
