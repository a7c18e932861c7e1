//! The lake on Azure's storage (Azurite), behind a proxy that loses answers, refuses, resets, waits and cuts listings,
//! with the ingester killed in between: nothing is lost, nothing is there twice. Azurite away for a while; a disk that
//! fills up in mid-commit.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::layout::free_port;
use tests::proxy::Proxy;
use tests::stack::Part;
use tests::wait;

use crate::scenario::Scenario;

/// The variable by which `cargo verify` says where Azurite is: a folder with `node_modules`.
const STORAGE: &str = "STORAGE_NODE";

/// The account and the key that every Azurite has.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Azurite as a child process; its data outlive it.
struct Azurite {
    node: PathBuf,
    data: tempfile::TempDir,
    addr: SocketAddr,
    child: Option<Child>,
}

impl Azurite {
    fn start() -> Self {
        let node = std::env::var_os(STORAGE).map(PathBuf::from);
        let node = node.unwrap_or_else(|| panic!("{STORAGE} names no folder with Azurite; `cargo verify` makes one"));
        let data = tempfile::tempdir().expect("a temporary folder");
        let mut azurite = Self { node, data, addr: free_port().expect("a free port"), child: None };
        azurite.begin();
        let made = Command::new("node")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/container.mjs"))
            .args([format!("http://{}/{ACCOUNT}", azurite.addr), "lake".into()])
            .output();
        let made = made.expect("node starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        azurite
    }

    fn begin(&mut self) {
        let child = Command::new("node")
            .arg(self.node.join("node_modules/azurite/dist/src/blob/main.js"))
            .args(["--disableTelemetry", "--skipApiVersionCheck", "--silent", "--location"])
            .arg(self.data.path())
            .args(["--blobHost", "127.0.0.1", "--blobPort", &self.addr.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect("node starts"));
        let listens = || std::net::TcpStream::connect(self.addr).ok();
        wait::until(Duration::from_secs(60), listens).expect("Azurite listens");
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        self.end();
    }
}

/// Settings of a stack whose lake is reached at `addr`; what reads it for the proof goes to Azurite itself.
fn settings(addr: SocketAddr, azurite: &Azurite) -> String {
    let options = |addr: SocketAddr| {
        format!(
            "azure_storage_account_name = \"{ACCOUNT}\"\nazure_storage_account_key = \"{KEY}\"\n\
             azure_storage_endpoint = \"http://{addr}/{ACCOUNT}\"\nallow_http = \"true\"\n"
        )
    };
    format!(
        "[ingest.lake]\nurl = \"az://lake/medallion\"\n[ingest.lake.options]\n{}\n[sim.verify.storage]\n{}",
        options(addr),
        options(azurite.addr)
    )
}

/// Starts the ingester as systemd would: again and again until it stays.
fn start_until_it_stays(scenario: &mut Scenario) {
    let started = wait::until(Duration::from_secs(180), || scenario.stack.start(Part::Ingester, &[]).ok());
    started.unwrap_or_else(|| panic!("the ingester does not start\n{}", scenario.tail(Part::Ingester)));
}

/// Waits until the lake has all; an ingester that gave up is started again.
fn finish_and_prove(mut scenario: Scenario) {
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(120));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", scenario.tail(Part::Devices));
    let caught_up = wait::until(Duration::from_secs(240), || {
        if scenario.stack.ended(Part::Ingester).is_some() {
            start_until_it_stays(&mut scenario);
        }
        (scenario.stack.has_drained() && scenario.stack.has_caught_up()).then_some(())
    });
    assert!(caught_up.is_some(), "the lake does not catch up\n{}", scenario.books());
    for part in [Part::Agent, Part::Ingester, Part::Hub] {
        let ended = scenario.stack.stop(part);
        assert!(ended.is_some_and(|s| s.success()), "the {} ended {ended:?}\n{}", part.as_str(), scenario.tail(part));
    }
    let (holds, said) = scenario.verify_at("az://lake/medallion", &["--held", "0"]);
    assert!(holds, "{said}\n{}", scenario.tail(Part::Ingester));
}

/// One seed: faults at the proxy, three `kill -9`.
fn check(seed: u64) {
    let azurite = Azurite::start();
    let proxy = Proxy::start(azurite.addr, seed, 60).expect("a proxy");
    let mut scenario = Scenario::with(&format!("storage-{seed}"), &settings(proxy.addr, &azurite));
    scenario.start(Part::Hub);
    start_until_it_stays(&mut scenario);
    scenario.start(Part::Agent);
    scenario.start_devices_for(20);
    for kill in 0..3 {
        // Not at the same point of its rounds.
        std::thread::sleep(Duration::from_millis(2_000 + (seed * 7 + kill * 13) % 17 * 150));
        scenario.stack.kill(Part::Ingester);
        start_until_it_stays(&mut scenario);
    }
    finish_and_prove(scenario);
    let struck = proxy.struck();
    assert!(5 < struck.values().sum::<u64>(), "seed {seed} met {struck:?} only");
}

#[test]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seed_1() {
    check(1);
}

#[test]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seed_2() {
    check(2);
}

#[test]
#[ignore = "the first two of five seeds are tried with each run"]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seeds_3_to_5() {
    (3..=5).for_each(check);
}

#[test]
fn while_the_storage_is_away_everything_waits_and_then_goes_on() {
    let mut azurite = Azurite::start();
    let mut scenario = Scenario::with("storage-away", &settings(azurite.addr, &azurite));
    scenario.start(Part::Hub);
    start_until_it_stays(&mut scenario);
    scenario.start(Part::Agent);
    scenario.start_devices_for(15);
    scenario.wait_for_silver(50);
    azurite.end();
    // Longer than a lease is looked after without being renewed.
    std::thread::sleep(Duration::from_secs(25));
    azurite.begin();
    finish_and_prove(scenario);
}
