//! The gateway's own listener, and devices that were not made for it: `mosquitto_pub` and paho, MQTT 3.1.1 and 5, plain,
//! TLS and WebSocket; with passwords and rights; and thousands of connections.

use std::fs;
use std::process::{Command, Output};

use crate::provisioned::free;
use crate::scenario::Scenario;

/// The variable by which `cargo verify` says where paho is.
const PYTHON: &str = "SDK_PYTHON";
/// User `press-3`, password `secret`; see the listener's own tests.
const PASSWORDS: &str = include_str!("../../edge-agent/src/intake/listener/testdata/passwords");
const CERTIFICATE: &str = include_str!("../../edge-agent/src/intake/listener/testdata/listener.pem");
const KEY: &str = include_str!("../../edge-agent/src/intake/listener/testdata/listener.key");
const AUTHORITY: &str = include_str!("../../edge-agent/src/intake/listener/testdata/ca.pem");

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn mosquitto_pub_and_paho_publish_over_tls_and_websocket_what_their_rights_allow() {
    let python = std::env::var_os(PYTHON).expect("SDK_PYTHON names a Python with paho-mqtt; `cargo verify` sets it");
    let files = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str, text: &str| {
        let path = files.path().join(name);
        fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let (certificate, key) = (path("listener.pem", CERTIFICATE), path("listener.key", KEY));
    let (authority, passwords) = (path("ca.pem", AUTHORITY), path("passwords", PASSWORDS));
    let [websocket] = free();
    let config = format!(
        "[edge.intake.listener]\nwebsocket-listen = \"{websocket}\"\nanonymous = false\npassword-file = {passwords:?}\n\
         tls-cert = {certificate:?}\ntls-key = {key:?}\n\
         [[edge.intake.listener.right]]\nuser = \"press-*\"\ntopic = \"telemetry/{{user}}/#\"\n"
    );
    let mut scenario = Scenario::with("devices", &config);
    scenario.start_all();
    let listener = scenario.stack.layout.ports.agent_mqtt;
    let publish = |version: &str, topic: &str, payload: &str, password: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &listener.port().to_string(), "--cafile", &authority, "-V", version]);
        command.args(["-u", "press-3", "-P", password, "-q", "1", "-t", topic, "-m", payload]);
        command.output().expect("mosquitto_pub is installed (Debian package mosquitto-clients; `cargo verify` says so)")
    };
    for (n, version) in [(1, "mqttv311"), (2, "mqttv5")] {
        let output = publish(version, "telemetry/press-3", &format!("{{\"n\":{n},\"temperature\":21.5}}"), "secret");
        assert!(output.status.success(), "{version}: {}", said(&output));
        let output = publish(version, "telemetry/press-3", "{}", "wrong");
        assert!(!output.status.success(), "{version}: a wrong password");
    }
    // MQTT 5 says no, and mosquitto_pub says so; MQTT 3.1.1 is closed, and mosquitto_pub tries for ever.
    let output = publish("mqttv5", "telemetry/press-4", "{\"n\":9,\"temperature\":1}", "secret");
    assert!(said(&output).contains("Not authorized"), "{}", said(&output));

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/devices.py");
    let output = Command::new(python)
        .args([script, &listener.port().to_string(), &websocket.port().to_string(), &authority])
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", said(&output));
    // Two of mosquitto_pub, four of paho (two versions, TCP and WebSocket).
    scenario.wait_for_silver(6);
    scenario.finish_and_prove();
    let rows = scenario.rows("SELECT DISTINCT device_id FROM silver.readings");
    assert_eq!(rows.len(), 1, "nothing of press-4: {rows:?}");
}

#[test]
fn five_thousand_devices_are_connected_and_heard() {
    let mut scenario = Scenario::with("many-devices", "");
    scenario.start_all();
    let listener = scenario.stack.layout.ports.agent_mqtt;
    // The agent raises its own limit of open files; this is the test's.
    rlimit::increase_nofile_limit(6_000).expect("more open files");
    let hello = |number: u32| {
        let id = format!("d{number:05}");
        [&b"\x10\x12\0\x04MQTT\x04\x02\0\0\0\x06"[..], id.as_bytes()].concat()
    };
    let mut devices = Vec::new();
    for number in 0..5_000 {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(listener).expect("connects");
        stream.write_all(&hello(number)).expect("written");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [0x20, 2, 0, 0], "device {number}");
        devices.push(stream);
    }
    crate::flows::mosquitto_pub(listener, "telemetry/press-3", "{\"n\":1,\"temperature\":21.5}");
    scenario.wait_for_silver(1);
    drop(devices);
    scenario.finish_and_prove();
}
