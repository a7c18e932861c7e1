//! The proof holds under each misfortune that the hub can be scripted to have.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tests::probe;
use tests::stack::Part;

use crate::scenario::Scenario;

/// Runs the fleet through a hub with these rules, waits until each has struck, and asks for the proof.
fn holds_under(name: &str, rules: &[&str]) {
    let rule = |rule: &&str| format!("[[sim.hub.faults]]\n{}\n", rule.replace("; ", "\n"));
    // A minute in which a lost PUBACK is waited for is too long for a test.
    let patience = "[edge.uplink]\npuback-timeout = \"5s\"\n".to_owned();
    let config = patience + &rules.iter().map(rule).collect::<String>();
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
    connections_of_services_broken: ["fault = 'reset-services'; after = '2s'; again = '2s'; times = 3"],
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

#[test]
fn of_a_log_that_was_trimmed_unread_exactly_the_trimmed_is_missing_and_the_gaps_name_the_hubs_numbers() {
    let mut scenario = Scenario::new("trimmed");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(50);
    scenario.stack.kill(Part::Ingester);
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    scenario.wait_for("empty outbox", |s| s.stack.has_drained().then_some(()));

    let read = scenario.rows("SELECT partition_id, max(sequence_number) AS last FROM bronze.messages GROUP BY 1");
    let unread: Vec<Unread> = (0..partitions(&scenario)).map(|at| Unread::ask(&scenario, at, &read)).collect();
    let trimmed: BTreeSet<i64> = unread.iter().flat_map(|unread| &unread.seqs).copied().collect();
    assert!(20 < trimmed.len(), "more came while nobody read: {trimmed:?}");
    let hub = scenario.stack.layout.ports.hub_http;
    let (status, said) = probe::post(hub, "/faults", &json!({"fault": "trim-log"})).expect("the hub answers");
    assert_eq!(status, 201, "{said}");
    scenario.wait_for("trimmed log", |s| (s.stack.status(Part::Hub)?["events"]["kept"] == json!(0)).then_some(()));

    scenario.start(Part::Ingester);
    scenario.start_devices();
    scenario.finish();

    let sql = "SELECT partition_id, from_seq, to_seq FROM silver.gaps WHERE kind = 'hub-retention'";
    let mut gaps: Vec<_> = scenario
        .rows(sql)
        .iter()
        .map(|gap| ["partition_id", "from_seq", "to_seq"].map(|name| number(&gap[name])))
        .collect();
    gaps.sort_unstable();
    let lost = unread.iter().filter(|unread| unread.first < unread.next);
    let lost: Vec<_> = lost.map(|unread| [unread.partition, unread.first, unread.next - 1]).collect();
    assert_eq!(gaps, lost, "the gaps name the hub's numbers");

    let sql = "SELECT seq FROM silver.readings UNION SELECT seq FROM silver.quarantine WHERE seq IS NOT NULL";
    let here: BTreeSet<i64> = scenario.rows(sql).iter().map(|row| number(&row["seq"])).collect();
    let last = *here.last().expect("readings came");
    let missing: BTreeSet<i64> = (1..=last).filter(|seq| !here.contains(seq)).collect();
    assert_eq!(missing, trimmed, "exactly the trimmed are missing");
    let counted = scenario.count("SELECT sum(missing) AS n FROM gold.gateway_health");
    assert_eq!(counted, i64::try_from(trimmed.len()).ok(), "and gold says so");
    let (holds, said) = scenario.verify(&[]);
    assert!(!holds, "the proof must not hold over a loss:\n{said}");
}

/// What a partition of the hub holds beyond what bronze has.
#[derive(Debug)]
struct Unread {
    partition: i64,
    first: i64,
    next: i64,
    /// The gateway's numbers in it.
    seqs: Vec<i64>,
}

impl Unread {
    fn ask(scenario: &Scenario, partition: i64, read: &[Json]) -> Self {
        let read = read.iter().find(|row| row["partition_id"] == json!(partition));
        let first = read.map_or(0, |row| number(&row["last"]) + 1);
        let path = format!("/events?partition={partition}&from={first}&max=1000");
        let page = probe::get(scenario.stack.layout.ports.hub_http, &path).expect("the hub answers");
        let page: Json = serde_json::from_str(&page).expect("JSON");
        let events = page["events"].as_array().expect("events").iter();
        let seqs = events.flat_map(|event| seqs(event["message-id"].as_str().expect("an Envelope has an id")));
        Self { partition, first, next: number(&page["next"]), seqs: seqs.collect() }
    }
}

/// The numbers that a message id names: `epoch:first-last`.
fn seqs(id: &str) -> std::ops::RangeInclusive<i64> {
    let (_, range) = id.split_once(':').expect("epoch:first-last");
    let (first, last) = range.split_once('-').expect("first-last");
    first.parse().expect("a number")..=last.parse().expect("a number")
}

fn partitions(scenario: &Scenario) -> i64 {
    let status = scenario.stack.status(Part::Hub).expect("the hub answers");
    status["partitions"].as_array().expect("partitions").len() as i64
}

fn number(json: &Json) -> i64 {
    json.as_i64().or_else(|| json.as_str()?.parse().ok()).expect("a whole number")
}
