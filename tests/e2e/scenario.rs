//! A stack in a folder of its own, and how every test ends: with the proof.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;
use tests::layout::{Layout, Wishes};
use tests::program::{Launcher, Name};
use tests::stack::{Part, Stack};
use tests::wait;

/// Long enough on a machine that also compiles.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stack under test.
pub(crate) struct Scenario {
    pub(crate) stack: Stack,
    // Removed when the test passes; a failing test keeps it and says where.
    dir: tempfile::TempDir,
}

impl Scenario {
    /// A stack of its own, with a small, faulty fleet; nothing runs yet.
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    /// The same with settings of its own: a demo config.
    pub(crate) fn with(name: &str, config: &str) -> Self {
        Self::started_by(launcher(), name, config)
    }

    /// The same, its programs started so.
    pub(crate) fn started_by(launcher: Launcher, name: &str, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("iot-{name}-")).tempdir().expect("a temporary folder");
        let wishes = Wishes::parse(config, &PathBuf::from("the test's config")).expect("the test's config is fine");
        let layout = Layout::create(dir.path()).expect("folders and ports");
        let stack = Stack::prepare(layout, launcher, &wishes).expect("config files");
        Self { stack, dir }
    }

    pub(crate) fn start(&mut self, part: Part) {
        if let Err(error) = self.stack.start(part, &[]) {
            panic!("{error}");
        }
    }

    pub(crate) fn start_all(&mut self) {
        for part in [Part::Hub, Part::Ingester, Part::Agent] {
            self.start(part);
        }
    }

    /// Starts the fleet: ten devices, 100 readings a second for eight seconds, with every fault.
    pub(crate) fn start_devices(&mut self) {
        self.start_devices_for(8);
    }

    /// Starts the same fleet for so many seconds.
    pub(crate) fn start_devices_for(&mut self, seconds: u64) {
        let seconds = seconds.to_string();
        self.stack
            .spawn(Part::Devices, &["--devices", "10", "--rate", "100", "--seconds", &seconds], &[])
            .expect("devices start");
    }

    /// Waits until silver holds at least `count` readings.
    pub(crate) fn wait_for_silver(&mut self, count: i64) {
        self.wait_for("readings in silver", |scenario| {
            scenario.count("SELECT count(*) AS n FROM silver.readings").filter(|n| count <= *n)
        });
    }

    /// The `n` of a query's only row; `None` while the tables are not there yet.
    pub(crate) fn count(&self, sql: &str) -> Option<i64> {
        self.stack.query(sql).ok()?.first()?.get("n")?.as_i64()
    }

    /// The rows of a query.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Json> {
        self.stack.query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Looks until `condition` gives something.
    pub(crate) fn wait_for<T>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<T>) -> T {
        let found = wait::until(PATIENCE, || condition(self));
        found.unwrap_or_else(|| panic!("no {what} within {PATIENCE:?}\n{}", self.books()))
    }

    /// Waits for the devices, lets the agent drain and stop, waits until the lake has all, and asks for the proof.
    pub(crate) fn finish_and_prove(&mut self) {
        self.finish();
        self.prove(&["--held", "0"]);
    }

    /// Waits for the devices, lets the agent drain and stop, waits until the lake has all, stops everything.
    pub(crate) fn finish(&mut self) {
        if self.stack.is_running(Part::Devices) {
            let ended = self.stack.wait_end(Part::Devices, PATIENCE);
            assert!(
                ended.is_some_and(|status| status.success()),
                "the devices ended {ended:?}\n{}",
                self.tail(Part::Devices)
            );
        }
        if self.stack.is_running(Part::Agent) {
            self.wait_for("empty outbox", |scenario| scenario.stack.has_drained().then_some(()));
            let ended = self.stack.stop(Part::Agent);
            assert!(
                ended.is_some_and(|status| status.success()),
                "the agent ended {ended:?}\n{}",
                self.tail(Part::Agent)
            );
        }
        self.settle();
        for part in [Part::Ingester, Part::Hub] {
            let ended = self.stack.stop(part);
            assert!(ended.is_some_and(|s| s.success()), "the {} ended {ended:?}\n{}", part.as_str(), self.tail(part));
        }
    }

    /// Waits until the lake holds all that the hub has.
    pub(crate) fn settle(&mut self) {
        self.wait_for("lake that caught up", |scenario| scenario.stack.has_caught_up().then_some(()));
    }

    /// `simulator verify` says yes.
    pub(crate) fn prove(&self, args: &[&str]) {
        let (holds, said) = self.verify(args);
        assert!(holds, "{said}\n{}", self.books());
    }

    /// What `simulator verify` says of a lake that has caught up, with the ledger if there is one.
    pub(crate) fn verify(&self, args: &[&str]) -> (bool, String) {
        self.verify_at(&self.stack.layout.lake().display().to_string(), args)
    }

    /// The same of a lake elsewhere.
    pub(crate) fn verify_at(&self, lake: &str, args: &[&str]) -> (bool, String) {
        let ledger = self.stack.layout.ledger();
        let ledger_text = ledger.display().to_string();
        let mut whole = vec!["verify", "--settled", "--lake", lake];
        if ledger.exists() {
            whole.extend(["--ledger", &ledger_text]);
        }
        whole.extend(args);
        let output = self.stack.run(Name::Simulator, &whole).expect("verify starts");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    }

    /// The last lines of a part's log.
    pub(crate) fn tail(&self, part: Part) -> String {
        let text = std::fs::read(self.stack.log(part)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {}\n{}", part.as_str(), lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    /// All that a part has printed.
    pub(crate) fn log(&self, part: Part) -> String {
        String::from_utf8_lossy(&std::fs::read(self.stack.log(part)).unwrap_or_default()).into_owned()
    }

    /// What everybody says of themselves, for a failing test.
    pub(crate) fn books(&self) -> String {
        let mut text = format!("in {}\n", self.dir.path().display());
        for part in [Part::Hub, Part::Ingester, Part::Agent] {
            if let Some(status) = self.stack.status(part) {
                text += &format!("--- {} status\n{status}\n", part.as_str());
            }
            text += &format!("{}\n", self.tail(part));
        }
        text + &self.tail(Part::Devices)
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
        }
    }
}

/// Starts the programs of this build.
pub(crate) fn launcher() -> Launcher {
    Launcher::new(env!("CARGO_BIN_EXE_tests"))
}
