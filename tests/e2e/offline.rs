//! The hub is away, for longer than the disk lasts, or says no: nothing is lost, and the agent says what is wrong.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::program::Launcher;
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

/// The programs, of which the agent has its database on a disk of 12 MiB; who is not root is it in a namespace of its own.
fn on_a_small_disk(folder: &Path) -> Launcher {
    let script = folder.join("programs");
    let text = format!(
        r#"#!/bin/sh
programs='{}'
[ "$2" = edge-agent ] || exec "$programs" "$@"
[ "$(id -u)" = 0 ] || user=--map-root-user
exec unshare --mount $user sh -c 'mount -t tmpfs -o size=12m tmpfs "${{4%/*/*}}/edge" && exec "$0" "$@"' "$programs" "$@"
"#,
        env!("CARGO_BIN_EXE_tests")
    );
    std::fs::write(&script, text).expect("writes");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("makes it executable");
    Launcher::new(script)
}

/// Many rows of some size: to mark all of them at once takes more than the agent puts aside for that.
#[test]
fn on_a_full_disk_what_the_hub_has_makes_room_and_all_that_waited_arrives() {
    const MESSAGES: usize = 6_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut scenario = Scenario::started_by(on_a_small_disk(folder.path()), "full-disk", "");
    scenario.start_all();
    scenario.stack.kill(Part::Hub);
    let listener = scenario.stack.layout.ports.agent_mqtt;
    let mut devices = Command::new("mosquitto_pub")
        .args(["-h", &listener.ip().to_string(), "-p", &listener.port().to_string()])
        .args(["-q", "1", "-i", "press", "-t", "telemetry/press", "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("mosquitto_pub is installed (Debian package mosquitto-clients; `cargo verify` says so)");
    let mut lines = devices.stdin.take().expect("a pipe");
    let text = "x".repeat(1_500);
    let sending = std::thread::spawn(move || {
        for n in 1..=MESSAGES {
            writeln!(lines, r#"{{"n":{n},"state":"{n} {text}"}}"#).expect("mosquitto_pub reads");
        }
    });
    let full = |scenario: &mut Scenario| scenario.stack.status(Part::Agent)?["outbox"]["full"].as_str().map(drop);
    scenario.wait_for("word that the outbox is full", full);
    scenario.start(Part::Hub);
    let ended = tests::wait::until(Duration::from_secs(120), || devices.try_wait().ok().flatten());
    assert!(
        ended.is_some_and(|status| status.success()),
        "all is acknowledged: {ended:?}\n{}",
        scenario.tail(Part::Agent)
    );
    sending.join().expect("all was written");
    scenario.finish();
    let distinct =
        "SELECT count(*) AS n, count(DISTINCT value_text) AS texts FROM silver.readings WHERE metric = 'state'";
    let rows = scenario.rows(distinct);
    assert_eq!((rows[0]["n"].as_u64(), rows[0]["texts"].as_u64()), (Some(MESSAGES as u64), Some(MESSAGES as u64)));
}
