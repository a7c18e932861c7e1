//! Several hubs in one process, and what the hub's HTTP face shows and refuses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use serde_json::json;
use tests::program::Name;
use tests::{probe, wait};

use crate::scenario::launcher;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Ended when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hub that is configured.
pub(crate) struct Hub {
    pub(crate) config: PathBuf,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Hub {
    /// Free ports, the one for devices on `ip`; two devices, and `more` of `[hub]`.
    pub(crate) fn new(dir: &Path, name: &str, ip: Ipv4Addr, more: &str) -> Self {
        let held = [ip, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST].map(|ip| TcpListener::bind((ip, 0)).expect("a port"));
        let [mqtt, amqp, http] = held.each_ref().map(|held| held.local_addr().expect("its address"));
        let config = dir.join(format!("{name}.toml"));
        let data = dir.join(name);
        let text = format!(
            "[hub]\nname = \"{name}\"\nhost-name = \"{name}.azure-devices.net\"\ndata-dir = {data:?}\n\
             server-names = [\"{ip}\"]\ndevices = [\"d-1\", \"d-2\"]\n\
             mqtt-listen = \"{mqtt}\"\namqp-listen = \"{amqp}\"\n{more}\n[hub.http]\nlisten = \"{http}\"\n"
        );
        fs::write(&config, text).expect("written");
        Self { config, mqtt, http }
    }

    pub(crate) fn start(&self) -> Running {
        let running = Running(hubs(&[&self.config]).spawn().expect("it starts"));
        wait::until(PATIENCE, || probe::is_ready(self.http).then_some(())).expect("ready");
        running
    }

    /// Has its devices send so many bytes in messages of so many, and stop; how that ended.
    pub(crate) fn load(&self, body: usize, bytes: u64) -> Output {
        let config = self.config.display().to_string();
        let said = launcher().run(Name::Simulator, &["--config", &config, "hub", "connection-strings", "--json"]);
        let credentials = self.config.with_extension("json");
        fs::write(&credentials, said.expect("it runs").stdout).expect("written");
        let (body, bytes, addr) = (body.to_string(), bytes.to_string(), self.mqtt.to_string());
        Command::new(env!("CARGO_BIN_EXE_tests"))
            .args(["bench", "publish", "--credentials", &credentials.display().to_string(), "--addr", &addr])
            .args(["--connections", "2", "--window", "4", "--body", &body, "--bytes", &bytes])
            .output()
            .expect("the load starts")
    }

    /// A number of `/status`, by its path.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        probe::status(self.http)?.pointer(path)?.as_u64()
    }
}

pub(crate) fn hubs(configs: &[&Path]) -> Command {
    let mut args: Vec<String> = configs.iter().map(|path| format!("--config={}", path.display())).collect();
    args.push("hub".to_owned());
    launcher().command(Name::Simulator, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn one_process_serves_several_hubs_each_with_its_own_devices_and_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let east = Hub::new(dir.path(), "east", Ipv4Addr::LOCALHOST, "");
    let west = Hub::new(dir.path(), "west", Ipv4Addr::new(127, 0, 0, 2), "");
    let _running = Running(hubs(&[&east.config, &west.config]).spawn().expect("they start"));
    for (name, hub) in [("east", &east), ("west", &west)] {
        let status = wait::until(PATIENCE, || probe::is_ready(hub.http).then(|| probe::status(hub.http)).flatten());
        assert_eq!(status.expect("ready")["name"], name);
        assert!(dir.path().join(name).join("log").is_dir(), "{name}");
    }
    let sent = west.load(100, 2_000);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert!(20 <= west.number("/events/stored").expect("a count"), "the devices of the second are the second's");
    assert_eq!(east.number("/events/stored"), Some(0));
}

#[test]
fn hubs_that_want_the_same_are_refused_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let east = Hub::new(dir.path(), "east", Ipv4Addr::LOCALHOST, "").config;
    let output = hubs(&[&east, &east]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("two services want")), (Some(64), true), "{said}");
}

#[test]
fn faults_are_taken_checked_counted_and_taken_back_over_http() {
    let dir = tempfile::tempdir().expect("a folder");
    let hub = Hub::new(dir.path(), "faulty", Ipv4Addr::LOCALHOST, "");
    let (_running, http) = (hub.start(), hub.http);
    for (body, status, needle) in [
        (json!({"fault": "drop", "device": "gw-*", "every": 10}), 201, "[1]"),
        (json!([{"fault": "drop"}, {"fault": "trim-log", "partition": 1}]), 201, "[2,3]"),
        (json!({"fault": "earthquake"}), 400, "unknown variant"),
        (json!({"fault": "delay"}), 400, "lasts"),
        (json!([{"fault": "drop"}, {"fault": "drop", "chance": 7}]), 400, "faults[1]"),
        (json!("drop"), 400, "invalid type"),
    ] {
        let (found, said) = probe::post(http, "/faults", &body).expect("answered");
        assert_eq!((found, said.contains(needle)), (status, true), "{body}: {said}");
    }
    let trimmed = wait::until(PATIENCE, || {
        let rules = probe::status(http)?["faults"].as_array()?.clone();
        (rules.len() == 3 && rules[2]["struck"] == 1).then_some(())
    });
    assert!(trimmed.is_some(), "{:?}", probe::status(http));
    let page = probe::get(http, "/").expect("a page for people");
    assert!(page.contains("<title>Local IoT Hub</title>"), "{page}");
}
