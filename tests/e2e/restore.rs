//! What people do to a gateway's database, and a hub's data: each is survived, or named.

use std::fs;
use std::path::Path;

use tests::program::Name;
use tests::stack::Part;

use crate::scenario::Scenario;

/// Copies the database and what SQLite keeps beside it.
fn copy_outbox(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (format!("{}{suffix}", from.display()), format!("{}{suffix}", to.display()));
        let _ = fs::remove_file(&to); // it may not be there
        if Path::new(&from).exists() {
            fs::copy(&from, &to).expect("copies");
        }
    }
}

/// How the agent ends before its database is copied away.
#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Killed,
    Stopped,
}

#[test]
fn a_database_copied_away_after_a_kill_and_back_loses_nothing() {
    check_copied_back("copied-back", Ending::Killed);
}

#[test]
fn a_database_copied_away_after_a_stop_and_back_loses_nothing() {
    check_copied_back("copied-back-stopped", Ending::Stopped);
}

fn check_copied_back(name: &str, ending: Ending) {
    let mut scenario = Scenario::new(name);
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(50);
    match ending {
        Ending::Killed => scenario.stack.kill(Part::Agent),
        Ending::Stopped => {
            let ended = scenario.stack.stop(Part::Agent);
            assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
        }
    }
    let outbox = scenario.stack.layout.outbox();
    let away = outbox.with_extension("away");
    copy_outbox(&outbox, &away);
    scenario.start(Part::Agent);
    scenario.wait_for_silver(300);
    let ended = scenario.stack.stop(Part::Agent);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    copy_outbox(&away, &outbox);
    scenario.start(Part::Agent);
    scenario.finish_and_prove();
    assert_eq!(scenario.count("SELECT coalesce(sum(missing), 0) AS n FROM gold.gateway_health"), Some(0));
}

#[test]
fn a_deleted_database_is_named_as_a_loss() {
    let mut scenario = Scenario::new("deleted");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(20);
    // Without the hub, rows stay in the database, which then goes.
    scenario.stack.kill(Part::Hub);
    scenario
        .wait_for("rows held", |s| s.stack.status(Part::Agent)?["outbox"]["held"].as_u64().filter(|held| 20 < *held));
    scenario.stack.kill(Part::Agent);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", scenario.stack.layout.outbox().display()));
    }
    scenario.start(Part::Hub);
    scenario.start(Part::Agent);
    scenario.finish();
    let lost = scenario.count("SELECT count(*) AS n FROM gold.gateway_health WHERE state = 'lost' OR 0 < missing");
    assert!(
        lost.is_some_and(|n| 1 <= n),
        "the loss is named: {:?}",
        scenario.rows("SELECT * FROM gold.gateway_health")
    );
    let (holds, said) = scenario.verify(&[]);
    assert!(!holds && said.contains("BROKEN unknown-loss"), "the proof must not hold over a loss:\n{said}");
}

#[test]
fn an_unreadable_database_is_moved_aside_and_the_agent_runs_on() {
    let mut scenario = Scenario::new("unreadable");
    let outbox = scenario.stack.layout.outbox();
    let unreadable = vec![0x5a; 64 * 1024];
    fs::write(&outbox, &unreadable).expect("writes");
    scenario.start_all();
    let aside = fs::read_dir(outbox.parent().expect("a folder")).expect("lists").filter_map(Result::ok);
    let aside: Vec<_> = aside
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("/outbox.db.unreadable-"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(fs::read(&aside[0]).expect("reads") == unreadable, "nothing of it is lost");
    let name = aside[0].display().to_string();
    assert!(scenario.log(Part::Agent).contains(&name), "the log names {name}\n{}", scenario.tail(Part::Agent));
    scenario.start_devices();
    scenario.finish_and_prove();
}

#[test]
fn rows_dropped_whose_puback_was_lost_are_counted_as_arrived() {
    let mut scenario = Scenario::new("dropped");
    scenario.stack.start_with(Part::Hub, &[], &[("CRASH_AT", "hub-stored:3")]).expect("the hub starts");
    scenario.start(Part::Ingester);
    scenario.start(Part::Agent);
    scenario.start_devices();
    let ended = scenario.stack.wait_end(Part::Hub, std::time::Duration::from_secs(60));
    assert!(ended.is_some(), "the hub dies between fsync and PUBACK");
    let ended = scenario.stack.wait_end(Part::Devices, std::time::Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    let output = scenario.stack.run(Name::EdgeAgent, &["outbox", "drop", "--all"]).expect("drop starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scenario.start(Part::Hub);
    scenario.finish();
    let arrived = scenario.count("SELECT coalesce(sum(gap_arrived), 0) AS n FROM gold.gateway_health");
    assert!(arrived.is_some_and(|n| 1 <= n), "{:?}", scenario.rows("SELECT * FROM gold.gateway_health"));
    // The ledger knows of readings that were given up on purpose; the proof over the gateway's books still holds.
    let lake = scenario.stack.layout.lake().display().to_string();
    let output = scenario.stack.run(Name::Simulator, &["verify", "--settled", "--lake", &lake]).expect("verify starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_hub_that_lost_its_data_is_a_new_incarnation_and_never_silence() {
    let mut scenario = Scenario::new("new-incarnation");
    scenario.start_all();
    scenario.start_devices();
    scenario.wait_for_silver(50);
    // Without the ingester, the hub comes to hold what nobody has read; and then loses it.
    scenario.stack.kill(Part::Ingester);
    let stored = |s: &Scenario| s.stack.status(Part::Hub)?["events"]["stored"].as_u64();
    let before = stored(&scenario).expect("the hub answers");
    scenario.wait_for("event that nobody has read", |s| stored(s).filter(|now| before + 2 <= *now));
    scenario.stack.kill(Part::Hub);
    fs::remove_dir_all(scenario.stack.layout.hub().join("log")).expect("the hub's data is there");
    scenario.start(Part::Hub);
    scenario.start(Part::Ingester);
    scenario.wait_for("word about the hub created anew", |s| {
        let log = s.log(Part::Ingester);
        (log.contains("the hub was created anew") && log.contains("still held unread is lost")).then_some(())
    });
    scenario.finish();
    assert_eq!(scenario.count("SELECT count(DISTINCT incarnation) AS n FROM bronze.messages"), Some(2));
    let missing = scenario.count("SELECT sum(missing) AS n FROM gold.gateway_health WHERE state = 'closed'");
    let missing = missing.expect("the epoch is closed");
    assert!(1 <= missing, "what the hub had acknowledged and lost is named: {missing}");
    let (holds, said) = scenario.verify(&[]);
    assert!(!holds && said.contains("BROKEN missing"), "{said}");
    assert!(said.contains(&format!(" {missing} of ")), "as gold says, {missing} are missing:\n{said}");
    assert!(said.contains("gold.gateway_health says the same"), "{said}");
    assert!(!said.contains("BROKEN bronze"), "each life of the hub counts for itself:\n{said}");
}

#[test]
fn a_hub_that_lost_its_data_under_a_running_ingester_is_read_anew_and_said_so() {
    let mut scenario = Scenario::new("anew-under-way");
    scenario.start_all();
    scenario.start_devices_for(3);
    let ended = scenario.stack.wait_end(Part::Devices, std::time::Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    scenario.wait_for("empty outbox", |s| s.stack.has_drained().then_some(()));
    scenario.settle(); // so that nothing is lost with the data
    scenario.stack.kill(Part::Hub);
    fs::remove_dir_all(scenario.stack.layout.hub().join("log")).expect("the hub's data is there");
    scenario.start(Part::Hub);
    scenario.wait_for("word about the hub created anew", |s| {
        s.log(Part::Ingester).contains("the hub was created anew").then_some(())
    });
    scenario.start_devices_for(3);
    scenario.finish_and_prove();
    assert_eq!(scenario.count("SELECT count(DISTINCT incarnation) AS n FROM bronze.messages"), Some(2));
}
