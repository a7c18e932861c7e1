//! The lake's storage away for minutes: gone, or there and silent. The service says so and waits, is not taken for dead, needs no
//! more memory for what piles up in the hub, and makes up for all of it.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tests::stack::Part;
use tests::{probe, wait};

use crate::azurite::Azurite;
use crate::memory::{RSS_MAX_KIB, most_resident};
use crate::scenario::{Scenario, launcher};

/// As the unit has it.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Long enough to be told of, and to make up for it, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// What is wrong with the storage.
#[derive(Clone, Copy)]
enum Away {
    /// Nobody listens.
    Gone,
    /// Connections are taken; nobody answers.
    Silent,
}

/// Listens as systemd does for signs of life.
struct Manager {
    beats: Arc<Mutex<(Instant, Duration)>>,
}

impl Manager {
    fn listen(at: &Path) -> Self {
        let socket = UnixDatagram::bind(at).expect("a socket");
        let beats = Arc::new(Mutex::new((Instant::now(), Duration::ZERO)));
        let heard = Arc::clone(&beats);
        // Ends with the test.
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(length) = socket.recv(&mut buffer) {
                if buffer[..length].starts_with(b"WATCHDOG=1") {
                    let mut beats = heard.lock().expect("nobody panics here");
                    *beats = (Instant::now(), beats.1.max(beats.0.elapsed()));
                }
            }
        });
        Self { beats }
    }

    /// For how long no sign of life came at most, up to now.
    fn longest(&self) -> Duration {
        let (last, longest) = *self.beats.lock().expect("nobody panics here");
        longest.max(last.elapsed())
    }
}

/// So that seconds tell as much as minutes: requests, claims and patience that end sooner.
fn hurried(azurite: &Azurite) -> String {
    let sooner = "[ingest.http]\nstalled-after = \"8s\"\n[ingest.hub]\nclaims-expire = \"15s\"\n";
    let config = azurite.config();
    let (lake, options) = config.split_once("[ingest.lake.options]\n").expect("options");
    format!("{sooner}{lake}[ingest.lake.options]\ntimeout = \"10s\"\n{options}")
}

fn check(away: Away, lasts: Duration, config: fn(&Azurite) -> String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut azurite = Azurite::start(&folder.path().join("blobs"));
    let (variable, url) = azurite.variable();
    let mut scenario = Scenario::started_by(launcher().with(variable, &url), "outage", &config(&azurite));
    scenario.start(Part::Hub);
    let socket = folder.path().join("notify");
    let manager = Manager::listen(&socket);
    let told = [("NOTIFY_SOCKET", socket.display().to_string()), ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())];
    let told = told.each_ref().map(|(name, value)| (*name, value.as_str()));
    scenario.stack.start_with(Part::Ingester, &[], &told).unwrap_or_else(|error| panic!("{error}"));
    scenario.start(Part::Agent);
    scenario.start_devices_for(3_600);
    scenario.wait_for_silver(50);

    let ingester = scenario.stack.layout.ports.ingester_http;
    let hub = |scenario: &Scenario| scenario.stack.status(Part::Hub)?["events"]["stored"].as_u64();
    let before = hub(&scenario);
    match away {
        Away::Gone => azurite.stop(),
        Away::Silent => azurite.freeze(),
    }
    let begun = Instant::now();
    let mut refused: Option<Duration> = None;
    while begun.elapsed() < lasts {
        std::thread::sleep(Duration::from_millis(500));
        let ended = scenario.stack.ended(Part::Ingester);
        assert!(ended.is_none(), "the ingester ended {ended:?}\n{}", scenario.tail(Part::Ingester));
        let ready = probe::is_ready(ingester);
        match refused {
            None if !ready => refused = Some(begun.elapsed()),
            // What it did last may have come through in the last moment.
            Some(since) if ready && since < begun.elapsed().saturating_sub(Duration::from_secs(5)) => {
                panic!("ready after {:?} of nothing to write to\n{}", begun.elapsed(), scenario.books());
            }
            Some(_) if ready => refused = None,
            _ => {}
        }
    }
    let meanwhile = hub(&scenario);
    assert!(before < meanwhile, "nothing came to the hub meanwhile: {before:?}, {meanwhile:?}");
    match away {
        Away::Gone => azurite.start_again(),
        Away::Silent => azurite.thaw(),
    }
    let refused = refused.unwrap_or_else(|| panic!("ready all the while\n{}", scenario.books()));
    let ready = wait::until(PATIENCE, || probe::is_ready(ingester).then_some(()));
    assert!(ready.is_some(), "not ready again\n{}", scenario.books());
    let ended = scenario.stack.stop(Part::Devices);
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", scenario.tail(Part::Devices));
    scenario.settle();
    let most = most_resident(scenario.stack.id(Part::Ingester).expect("it runs")).expect("it runs");
    let longest = manager.longest();
    eprintln!("not ready after {refused:?}; {longest:?} without a sign of life; at most {} MiB resident", most >> 10);
    assert!(longest < WATCHDOG, "{longest:?} without a sign of life: systemd would have killed it");
    assert!(most < RSS_MAX_KIB, "{} MiB", most >> 10);
    let log = scenario.log(Part::Ingester);
    assert!(!log.contains("panic"), "what may pass is no panic:\n{log}");
    scenario.finish();
    let (holds, said) = scenario.verify_at(azurite.lake(), &["--held", "0"]);
    assert!(holds, "{said}\n{}", scenario.tail(Part::Ingester));
}

#[test]
fn a_storage_that_is_silent_for_a_while_loses_nothing_and_doubles_nothing() {
    check(Away::Silent, Duration::from_secs(20), hurried);
}

#[test]
#[ignore = "the storage is silent for five minutes"]
fn a_storage_that_is_silent_for_five_minutes_loses_nothing_and_doubles_nothing() {
    check(Away::Silent, Duration::from_secs(300), Azurite::config);
}

#[test]
#[ignore = "the storage is gone for five minutes"]
fn a_storage_that_is_gone_for_five_minutes_loses_nothing_and_doubles_nothing() {
    check(Away::Gone, Duration::from_secs(300), Azurite::config);
}
