//! What the service may use of memory, whatever it is fed.

use std::process::Command;
use std::time::Duration;

use tests::stack::Part;
use tests::wait;

use crate::peers::Peers;

/// The promise.
const RSS_MAX_KIB: u64 = 512 << 10;

/// Long enough to read, refuse and store it all on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn a_backlog_of_200_mb_of_garbage_is_taken_in_with_bounded_memory() {
    let mut peers = Peers::new("poison", "");
    peers.scenario.start(Part::Hub);
    let hub = peers.scenario.stack.layout.ports.hub_mqtt.to_string();
    let sent = Command::new(env!("CARGO_BIN_EXE_tests"))
        .args(["bench", "publish", "--credentials", &peers.devices, "--addr", &hub])
        .args(["--connections", "8", "--window", "8", "--body", "200000", "--bytes", "200000000"])
        .output()
        .expect("the load starts");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    peers.start_second();
    let most = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", peers.second_id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()
    };
    let caught_up = wait::until(PATIENCE, || {
        let status = tests::probe::status(peers.http(1))?;
        (1_000 <= peers.bronze() && status["caught_up"] == true).then_some(())
    });
    let most = most().expect("it runs");
    println!("at most {} MiB resident", most >> 10);
    assert!(caught_up.is_some(), "{}", peers.books());
    assert!(most < RSS_MAX_KIB, "{} MiB\n{}", most >> 10, peers.books());
    let quarantined = peers.scenario.count("SELECT count(*) AS n FROM silver.quarantine");
    let read = peers.scenario.count("SELECT count(*) AS n FROM silver.readings");
    println!("{quarantined:?} quarantined, {read:?} readings");
}
