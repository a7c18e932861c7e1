//! Several hubs in one process, and what the hub's HTTP face shows and refuses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;
use tests::program::Name;
use tests::{probe, wait};

use crate::scenario::launcher;

const PATIENCE: Duration = Duration::from_secs(60);

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hub's config file with free ports, and its HTTP address.
fn config(dir: &Path, name: &str) -> (PathBuf, SocketAddr) {
    let held: Vec<_> = (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
    let [mqtt, amqp, http] = [0, 1, 2].map(|at| held[at].local_addr().expect("its address"));
    let path = dir.join(format!("{name}.toml"));
    let data = dir.join(name);
    let text = format!(
        "[hub]\nname = \"{name}\"\nhost-name = \"{name}.azure-devices.net\"\ndata-dir = {data:?}\n\
         mqtt-listen = \"{mqtt}\"\namqp-listen = \"{amqp}\"\n[hub.http]\nlisten = \"{http}\"\n"
    );
    fs::write(&path, text).expect("written");
    (path, http)
}

fn hubs(configs: &[&Path]) -> Command {
    let mut args: Vec<String> = configs.iter().map(|path| format!("--config={}", path.display())).collect();
    args.push("hub".to_owned());
    launcher().command(Name::Simulator, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn one_process_serves_several_hubs_each_with_its_own_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let ((east, east_http), (west, west_http)) = (config(dir.path(), "east"), config(dir.path(), "west"));
    let _running = Running(hubs(&[&east, &west]).spawn().expect("they start"));
    for (name, http) in [("east", east_http), ("west", west_http)] {
        let status = wait::until(PATIENCE, || probe::is_ready(http).then(|| probe::status(http)).flatten());
        assert_eq!(status.expect("ready")["name"], name);
        assert!(dir.path().join(name).join("log").is_dir(), "{name}");
    }
}

#[test]
fn hubs_that_want_the_same_are_refused_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let (east, _) = config(dir.path(), "east");
    let output = hubs(&[&east, &east]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.contains("two services want")), (Some(64), true), "{said}");
}

#[test]
fn faults_are_taken_checked_counted_and_taken_back_over_http() {
    let dir = tempfile::tempdir().expect("a folder");
    let (config, http) = config(dir.path(), "faulty");
    let _running = Running(hubs(&[&config]).spawn().expect("it starts"));
    wait::until(PATIENCE, || probe::is_ready(http).then_some(())).expect("ready");
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
