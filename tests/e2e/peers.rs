//! Several ingesters on one hub and one lake: each reads its share, whatever happens to the others, and each Event is in
//! the lake once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tests::program::{Launcher, Name, Program};
use tests::stack::Part;
use tests::{probe, wait};

use crate::azurite::Azurite;
use crate::day::fleet::Draw;
use crate::scenario::{Scenario, launcher};

/// What is promised: who joins, leaves or dies is made up for within this time.
const REBALANCED: Duration = Duration::from_secs(60);

/// Two ingesters on one hub of four partitions: the scenario's own, and this one.
pub(crate) struct Peers {
    // Ends before its folder goes.
    second: Option<Program>,
    pub(crate) scenario: Scenario,
    /// The connection strings of the devices, as a file.
    pub(crate) devices: String,
    launcher: Launcher,
    second_http: SocketAddr,
}

impl Peers {
    pub(crate) fn new(name: &str, config: &str) -> Self {
        Self::started_by(launcher(), name, config)
    }

    fn started_by(launcher: Launcher, name: &str, config: &str) -> Self {
        let devices: Vec<String> = (1..=10).map(|device| format!("\"device-{device:04}\"")).collect();
        // The fleet sends some messages twice on purpose.
        let config = format!(
            "[[ingest.silver.mapping]]\ndevice = \"device-*\"\nmessage-id = \"unique\"\n\
             [sim.hub]\npartitions = 4\ndevices = [\"gw-01\", {}]\n{config}",
            devices.join(", ")
        );
        let scenario = Scenario::started_by(launcher.clone(), name, &config);
        let said = scenario.stack.run(Name::Simulator, &["hub", "connection-strings", "--json"]).expect("it runs");
        let file = scenario.stack.layout.dir().join("devices.json");
        std::fs::write(&file, &said.stdout).expect("a file");
        let second_http =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        Self { scenario, devices: file.display().to_string(), launcher, second: None, second_http }
    }

    fn start_devices(&mut self, seconds: u64) {
        let seconds = seconds.to_string();
        let args = ["--direct", &self.devices, "--rate", "200", "--seconds", &seconds];
        self.scenario.stack.spawn(Part::Devices, &args, &[]).expect("devices start");
    }

    pub(crate) fn start_second(&mut self) {
        let config = self.scenario.stack.layout.config("ingest").display().to_string();
        let log = self.scenario.stack.layout.logs().join("second.log");
        let listen = self.second_http.to_string();
        let env = [("INGEST__HTTP__LISTEN", listen.as_str())];
        let started = self.launcher.start(Name::CloudIngester, &["--config", &config, "run"], &env, &log);
        self.second = Some(started.expect("the second ingester starts"));
    }

    fn start(&mut self, which: usize) {
        match which {
            0 => self.scenario.stack.spawn(Part::Ingester, &[], &[]).expect("the first ingester starts"),
            _ => self.start_second(),
        }
    }

    fn kill(&mut self, which: usize) {
        match which {
            0 => self.scenario.stack.kill(Part::Ingester),
            _ => self.second.take().expect("it runs").kill(),
        }
    }

    pub(crate) fn http(&self, which: usize) -> SocketAddr {
        [self.scenario.stack.layout.ports.ingester_http, self.second_http][which]
    }

    /// How many partitions an ingester says it reads.
    fn partitions(&self, which: usize) -> Option<i64> {
        let metrics = probe::get(self.http(which), "/metrics")?;
        metrics.lines().find_map(|line| line.strip_prefix("ingest_source_partitions ")?.parse().ok())
    }

    /// Waits until the ingesters read so many partitions; says how long that took.
    fn wait_for_partitions(&self, wanted: [Option<i64>; 2]) -> Duration {
        let begun = Instant::now();
        let found = wait::until(REBALANCED, || {
            (0..2).all(|which| wanted[which].is_none() || self.partitions(which) == wanted[which]).then_some(())
        });
        let now: Vec<_> = (0..2).map(|which| self.partitions(which)).collect();
        assert!(found.is_some(), "{wanted:?} partitions, but {now:?} after {REBALANCED:?}\n{}", self.books());
        begun.elapsed()
    }

    /// The process id of the second one.
    pub(crate) fn second_id(&self) -> u32 {
        self.second.as_ref().expect("it runs").id()
    }

    pub(crate) fn bronze(&self) -> i64 {
        self.scenario.count("SELECT count(*) AS n FROM bronze.messages").unwrap_or(0)
    }

    fn wait_for_more(&mut self, layer: &str) {
        let sql = format!("SELECT count(*) AS n FROM {layer}");
        let before = self.scenario.count(&sql).unwrap_or(0);
        self.scenario.wait_for("more rows", |scenario| scenario.count(&sql).filter(|now| before < *now));
    }

    pub(crate) fn books(&self) -> String {
        let log = std::fs::read_to_string(self.scenario.stack.layout.logs().join("second.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("{}\n--- second\n{}", self.scenario.books(), lines[lines.len().saturating_sub(40)..].join("\n"))
    }

    fn status(&self) -> Json {
        self.scenario.stack.status(Part::Ingester).unwrap_or_default()
    }
}

#[test]
fn one_of_two_ingesters_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let mut peers = Peers::new("peers", "");
    peers.scenario.start(Part::Hub);
    peers.scenario.start(Part::Ingester);
    peers.wait_for_partitions([Some(4), None]);
    peers.start_second();
    let joined = peers.wait_for_partitions([Some(2), Some(2)]);
    peers.start_devices(60);
    let mut took = vec![];
    for which in [0, 1, 0, 1] {
        peers.wait_for_more("bronze.messages");
        peers.wait_for_more("silver.readings");
        peers.kill(which);
        let mut wanted = [Some(4); 2];
        wanted[which] = None;
        took.push(peers.wait_for_partitions(wanted));
        // Whoever held the hops: they go on.
        peers.wait_for_more("silver.readings");
        peers.start(which);
        took.push(peers.wait_for_partitions([Some(2), Some(2)]));
    }
    eprintln!("joined after {joined:?}; taken over and shared again after {took:?}");
    assert!(0 < peers.bronze());
    // A clean stop hands over at once.
    let ended = peers.second.take().expect("it runs").stop(Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", peers.books());
    let left = peers.wait_for_partitions([Some(4), None]);
    assert!(left < Duration::from_secs(20), "{left:?}");
    assert_eq!(peers.status()["streams"].as_array().map(Vec::len), Some(4));
    peers.scenario.finish();
    peers.scenario.prove(&[]);
}

#[test]
fn the_hops_go_on_within_a_minute_when_their_holder_is_killed_or_stopped() {
    let mut peers = Peers::new("peers-hops", "");
    peers.scenario.start(Part::Hub);
    peers.scenario.start(Part::Ingester);
    peers.start_second();
    peers.wait_for_partitions([Some(2), Some(2)]);
    peers.start_devices(30);
    let first = peers.http(0).to_string();
    let holder = |peers: &Peers| {
        let status = probe::status(peers.http(1)).unwrap_or_default();
        status["holder"].as_str().unwrap_or_default().to_owned()
    };
    assert!(holder(&peers).contains(&first), "the first one that came holds the lease: {}", holder(&peers));
    peers.wait_for_more("silver.readings");
    peers.kill(0);
    let begun = Instant::now();
    let second = peers.http(1).to_string();
    let taken = wait::until(REBALANCED, || holder(&peers).contains(&second).then_some(()));
    assert!(taken.is_some(), "{}", peers.books());
    peers.wait_for_more("silver.readings");
    eprintln!("hops handed over after {:?}", begun.elapsed());
    peers.start(0);
    peers.wait_for_partitions([Some(2), Some(2)]);
    let ended = peers.second.take().expect("it runs").stop(Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", peers.books());
    peers.scenario.wait_for("hops", |scenario| {
        let status = scenario.stack.status(Part::Ingester)?;
        status["holder"].as_str().filter(|holder| holder.contains(&first)).map(|_| ())
    });
    peers.scenario.finish();
    peers.scenario.prove(&[]);
}

#[test]
fn with_the_lake_in_an_object_store_a_killed_ingester_is_made_up_for_within_a_minute() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut azurite = Azurite::start(&folder.path().join("blobs"));
    let (variable, url) = azurite.variable();
    let mut peers = Peers::started_by(launcher().with(variable, &url), "peers-azurite", &azurite.config());
    peers.scenario.start(Part::Hub);
    peers.scenario.start(Part::Ingester);
    peers.wait_for_partitions([Some(4), None]);
    peers.start_second();
    peers.wait_for_partitions([Some(2), Some(2)]);
    peers.start_devices(90);
    let mut took = vec![];
    for which in [0, 1] {
        peers.wait_for_more("bronze.messages");
        peers.wait_for_more("silver.readings");
        peers.kill(which);
        let mut wanted = [Some(4); 2];
        wanted[which] = None;
        took.push(peers.wait_for_partitions(wanted));
        peers.wait_for_more("silver.readings");
        peers.start(which);
        took.push(peers.wait_for_partitions([Some(2), Some(2)]));
    }
    // Started again at once, nobody waits for anything to run out.
    peers.kill(0);
    peers.start(0);
    took.push(peers.wait_for_partitions([Some(2), Some(2)]));
    // Without the store nobody knows who reads what: nobody reads. With it both go on.
    azurite.stop();
    peers.wait_for_partitions([Some(0), Some(0)]);
    azurite.start_again();
    took.push(peers.wait_for_partitions([Some(2), Some(2)]));
    eprintln!("taken over and shared again after {took:?}");
    let ended = peers.second.take().expect("it runs").stop(Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", peers.books());
    peers.scenario.finish();
    let (holds, said) = peers.scenario.verify_at(azurite.lake(), &[]);
    assert!(holds, "{said}\n{}", peers.books());
}

/// Two ingesters on a lake in an object store, one of them killed so many times; now and then before the other has made up for
/// it, or while the one that came back claims its share.
fn killed_in_turn(name: &str, kills: u64, claims_expire: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let azurite = Azurite::start(&folder.path().join("blobs"));
    let (variable, url) = azurite.variable();
    // With claims that run out before a busy machine renews them nobody would read for long.
    let config = format!("[ingest.hub]\nclaims-expire = \"{claims_expire}\"\n{}", azurite.config());
    let mut peers = Peers::started_by(launcher().with(variable, &url), name, &config);
    peers.scenario.start(Part::Hub);
    peers.scenario.start(Part::Ingester);
    peers.start_second();
    peers.wait_for_partitions([Some(2), Some(2)]);
    peers.start_devices(3_600);
    let begun = Instant::now();
    let mut draw = Draw::new(kills);
    for kill in 0..kills {
        let which = usize::from(kill % 2 == 1);
        peers.wait_for_more("bronze.messages");
        std::thread::sleep(Duration::from_millis(draw.below(2_000)));
        peers.kill(which);
        let mut alone = [Some(4); 2];
        alone[which] = None;
        match draw.below(3) {
            // Its place is known to be free: nobody waits for its claims to run out.
            0 => {}
            1 => {
                peers.wait_for_partitions(alone);
            }
            _ => {
                peers.wait_for_partitions(alone);
                peers.wait_for_more("silver.readings");
            }
        }
        peers.start(which);
        if draw.below(4) != 0 {
            peers.wait_for_partitions([Some(2), Some(2)]);
        }
    }
    eprintln!("{kills} kills in {:?}", begun.elapsed());
    peers.wait_for_partitions([Some(2), Some(2)]);
    peers.wait_for_more("silver.readings");
    let ended = peers.scenario.stack.stop(Part::Devices);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", peers.books());
    let ended = peers.second.take().expect("it runs").stop(Duration::from_secs(60));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", peers.books());
    peers.scenario.finish();
    let (holds, said) = peers.scenario.verify_at(azurite.lake(), &[]);
    assert!(holds, "{said}\n{}", peers.books());
}

#[test]
fn two_ingesters_on_an_object_store_killed_in_turn_lose_nothing_and_double_nothing() {
    killed_in_turn("peers-in-turn", 2, "15s");
}

#[test]
#[ignore = "ten kills, one about every minute"]
fn two_ingesters_on_an_object_store_one_of_them_killed_every_minute_lose_nothing_and_double_nothing() {
    killed_in_turn("peers-ten", 10, "30s");
}
