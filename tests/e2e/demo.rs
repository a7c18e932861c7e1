//! The demo as people use it: with a recording and settings of their own, gone on with, interrupted, killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value as Json;
use tests::program::Name;
use tests::wait;

use crate::scenario::launcher;

const PATIENCE: Duration = Duration::from_secs(90);

/// Twenty-one hours of a sensor that twice had nothing to say, in a second and a half; moved to end now.
const CONFIG: &str = r#"
[[edge.presilver.rule]]
device = "old-box"
missing-values = [-200.0]

[sim.replay]
device = "old-box"
missing-values = [-200.0]
fate = "reading"
speed = "48000"
shift-to-now = true
"#;

fn recording() -> String {
    let row = |hour: i64| format!("2004-03-10 {hour:02}:00:00,{}\n", if hour % 10 == 7 { -200 } else { 20 + hour });
    std::iter::once("time,T\n".to_owned()).chain((0..21).map(row)).collect()
}

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tests"));
    command.arg("demo").args(args).stdin(Stdio::null());
    command
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn holds(output: &Output) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("The proof holds."), "{said}");
    said
}

#[test]
fn a_recording_with_settings_is_proved_at_its_own_speed_and_keep_sends_nothing_twice() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (file, config, dir) = (temp.path().join("old.csv"), temp.path().join("demo.toml"), temp.path().join("demo"));
    fs::write(&file, recording()).expect("writes");
    fs::write(&config, CONFIG).expect("writes");
    let (file, config, dir_text) = (text(&file), text(&config), text(&dir));
    let common = ["--replay", &file, "--config", &config, "--dir", &dir_text];
    let said = holds(&demo(&[&["--"][..], &common].concat()).output().expect("the demo starts"));
    assert!(said.contains("21 sends, 21 values"), "{said}");
    let rows = || -> Json {
        let sql = "SELECT count(*) AS n, CAST(max(event_time) AS STRING) AS last, CAST(min(event_time) AS STRING) AS first, \
                   CAST(max(enqueued_time) AS STRING) AS enqueued FROM silver.readings";
        let config = text(&dir.join("config/ingest.toml"));
        let output = launcher().run(Name::CloudIngester, &["query", sql, "--format", "json", "--config", &config]);
        let output = output.expect("query starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one row")
    };
    let first = rows();
    assert_eq!(first["n"], 19, "two of twenty-one said nothing: {first}");
    // Moved: the last row carries the time at which it went out, and the first lies twenty hours before it.
    let micros = |name: &str| {
        let text = first[name].as_str().expect("a time").replacen(' ', "T", 1);
        let text = if text.ends_with('Z') { text } else { text + "Z" };
        shared::time::Timestamp::parse_rfc3339(&text).unwrap_or_else(|| panic!("{text}")).micros()
    };
    assert_eq!(micros("last") - micros("first"), 20 * 3_600_000_000, "{first}");
    assert!((micros("enqueued") - micros("last")).abs() < 60_000_000, "{first}");

    let said = holds(&demo(&[&common[..], &["--keep"]].concat()).output().expect("the demo starts"));
    assert!(said.contains("21 sends, 21 values"), "{said}");
    assert_eq!(rows()["n"], 19, "nothing was sent twice");
}

/// A demo under way, in a process group of its own, as a terminal would start it.
struct UnderWay {
    demo: Child,
    dir: PathBuf,
    _temp: tempfile::TempDir,
}

impl UnderWay {
    fn start() -> Self {
        use std::os::unix::process::CommandExt as _;
        let temp = tempfile::tempdir().expect("a temporary folder");
        let dir = temp.path().join("demo");
        let dir_text = text(&dir);
        let mut command = demo(&["--seconds", "600", "--devices", "3", "--rate", "30", "--dir", &dir_text]);
        command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(fs::File::create(temp.path().join("said")).expect("a file"));
        let under_way = Self { demo: command.spawn().expect("the demo starts"), dir, _temp: temp };
        let sent = wait::until(PATIENCE, || {
            let ledger = fs::metadata(under_way.dir.join("ledger.jsonl")).ok()?;
            (1_000 < ledger.len()).then_some(())
        });
        assert!(sent.is_some(), "the devices send");
        under_way
    }

    /// Processes that still run in the demo's folder.
    fn running(&self) -> usize {
        let dir = text(&self.dir);
        let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&dir)).count()
    }

    /// Sends a signal to a process, or with a minus to its whole group.
    fn signal(&self, signal: &str, whom: i64) {
        let order = format!("kill -{signal} {whom}");
        let sent = Command::new("sh").args(["-c", &order]).status().expect("a shell");
        assert!(sent.success(), "{order}");
    }

    /// Waits until the demo has ended, and all it started.
    fn gone(&mut self) -> std::process::ExitStatus {
        let ended = wait::until(PATIENCE, || self.demo.try_wait().expect("a child")).expect("the demo ends");
        let gone = wait::until(PATIENCE, || (self.running() == 0).then_some(()));
        assert!(gone.is_some(), "{} processes are left", self.running());
        ended
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.demo.kill();
        let _ = self.demo.wait();
    }
}

#[test]
fn ctrl_c_in_a_terminal_lets_every_program_of_the_demo_drain() {
    let mut demo = UnderWay::start();
    assert!(4 < demo.running(), "hub, ingester, agent, devices and the demo");
    demo.signal("INT", -i64::from(demo.demo.id())); // to the whole group, as a terminal does
    assert_eq!(demo.gone().code(), Some(1), "interrupted: nothing was proved");
    for (log, word) in [("agent", "agent stopped"), ("hub", "the hub has stopped")] {
        let log = fs::read_to_string(demo.dir.join(format!("logs/{log}.log"))).expect("a log");
        assert!(log.contains(word), "it ended in order:\n{log}");
    }
}

#[test]
fn a_demo_that_is_killed_takes_its_programs_with_it() {
    let mut demo = UnderWay::start();
    demo.signal("KILL", demo.demo.id().into());
    assert!(!demo.gone().success());
}
