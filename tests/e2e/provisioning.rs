//! Devices that know only the provisioning service are told which of several hubs is theirs, and get in there.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};
use serde_json::Value;
use shared::sas::{self, Key};
use tests::program::Name;
use tests::{probe, wait};
use tokio::time::timeout;

use crate::scenario::launcher;

const PATIENCE: Duration = Duration::from_secs(60);
const FAR: i64 = 32_503_680_000;
const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=1";

/// Two hubs and a service, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Their config files, and the service's HTTP address.
struct Site {
    dir: tempfile::TempDir,
    configs: Vec<PathBuf>,
    http: SocketAddr,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let held: Vec<_> = (0..8).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        let free: Vec<SocketAddr> = held.iter().map(|held| held.local_addr().expect("its address")).collect();
        let file = |name: &str, ports: &[SocketAddr], more: &str| {
            let (path, data) = (dir.path().join(format!("{name}.toml")), dir.path().join(name));
            let text = format!(
                "[hub]\nname = \"{name}\"\nhost-name = \"{name}.azure-devices.net\"\ndata-dir = {data:?}\n\
                 mqtt-listen = \"{}\"\namqp-listen = \"{}\"\n[hub.http]\nlisten = \"{}\"\n{more}",
                ports[0], ports[1], ports[2]
            );
            fs::write(&path, text).expect("written");
            path
        };
        let service = format!(
            "[dps]\nlisten = \"{}\"\ndata-dir = {:?}\nretry-after = \"1s\"\n[dps.http]\nlisten = \"{}\"\n",
            free[6],
            dir.path().join("dps"),
            free[7]
        );
        let configs = vec![file("east", &free[..3], ""), file("west", &free[3..6], &service)];
        Self { configs, http: free[7], dir }
    }

    fn args<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let configs = self.configs.iter().flat_map(|path| ["--config", path.to_str().expect("a path of ours")]);
        configs.chain(command.iter().copied()).collect()
    }

    fn run(&self) -> Running {
        self.run_to(None)
    }

    /// Runs them, as far as this place in the program.
    fn run_to(&self, crash_at: Option<&str>) -> Running {
        let mut command = launcher().command(Name::Simulator, &self.args(&["hub"]));
        command.envs(crash_at.map(|place| ("CRASH_AT", place)));
        let running = Running(command.spawn().expect("they start"));
        wait::until(PATIENCE, || probe::is_ready(self.http).then_some(())).expect("ready");
        running
    }

    /// What a command prints as JSON.
    fn json(&self, command: &[&str]) -> Value {
        let said = launcher().run(Name::Simulator, &self.args(command)).expect("it runs");
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice(&said.stdout).expect("JSON")
    }
}

/// What a device dials, and whom it trusts.
fn options(
    id: &str,
    dial: &Value,
    ca: &Path,
    user: &str,
    resource: &str,
    key: &Key,
    policy: Option<&str>,
) -> MqttOptions {
    let (host, port) = (dial["host"].as_str().expect("a host"), dial["port"].as_u64().expect("a port"));
    let mut options = MqttOptions::new(id, host, u16::try_from(port).expect("a port"));
    options.set_credentials(user, sas::sign(resource, key, FAR, policy));
    let ca = fs::read(ca).expect("an authority");
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Simple { ca, alpn: None, client_auth: None }));
    options
}

async fn until<T>(events: &mut EventLoop, wanted: impl Fn(Packet) -> Option<T>) -> T {
    let poll = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.expect("connected")
                && let Some(found) = wanted(packet)
            {
                return found;
            }
        }
    };
    timeout(PATIENCE, poll).await.expect("in time")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// A device that listens to the service's answers.
async fn listening(enrolled: &Value, id: &str, key: &Key) -> (AsyncClient, EventLoop) {
    let (scope, ca) = (text(enrolled, "id-scope"), PathBuf::from(text(enrolled, "ca-file")));
    let resource = format!("{scope}/registrations/{id}");
    let user = format!("{resource}/api-version=2019-03-31");
    let options = options(id, &enrolled["mqtt"], &ca, &user, &resource, key, Some("registration"));
    let (client, events) = AsyncClient::new(options, 8);
    client.subscribe("$dps/registrations/res/#", QoS::AtLeastOnce).await.expect("queued");
    (client, events)
}

/// Registers a device: its registration's state.
async fn register(enrolled: &Value, id: &str, key: &Key) -> Value {
    let device = listening(enrolled, id, key).await;
    follow(device, REGISTER.to_owned()).await
}

/// Asks, and asks again until the registration has ended: its state.
async fn follow((client, mut events): (AsyncClient, EventLoop), mut topic: String) -> Value {
    loop {
        client.publish(topic, QoS::AtLeastOnce, false, "{}").await.expect("queued");
        let told =
            until(&mut events, |packet| if let Packet::Publish(told) = packet { Some(told) } else { None }).await;
        let body: Value = serde_json::from_slice(&told.payload).expect("JSON");
        if told.topic == "$dps/registrations/res/200/?$rid=1" {
            return body["registrationState"].clone();
        }
        assert_eq!(told.topic, "$dps/registrations/res/202/?$rid=1&retry-after=1", "{body}");
        // As the service asked for: more often than five times in ten seconds it would refuse.
        tokio::time::sleep(Duration::from_secs(1)).await;
        topic = status_of(text(&body, "operationId"));
    }
}

fn status_of(operation: &str) -> String {
    format!("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId={operation}")
}

#[tokio::test]
async fn a_registration_that_a_crash_cuts_off_goes_on_under_the_operation_its_device_was_told_of() {
    shared::tls::install_provider();
    let site = Site::new();
    let mut dying = site.run_to(Some("dps-assigned"));
    let enrolled = site.json(&["hub", "enroll", "line-1", "--group", "--member", "press-1", "--json"]);
    let key = Key::device(text(&enrolled["member"], "primary-key")).expect("base64");
    let (client, mut events) = listening(&enrolled, "press-1", &key).await;
    client.publish(REGISTER, QoS::AtLeastOnce, false, "{}").await.expect("queued");
    let closed = async { while events.poll().await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("in time");
    assert!(!dying.0.wait().expect("it ended").success());
    drop((client, events, dying));

    // Whether the answer got through is chance; what it said is on disk.
    let begun = fs::read_to_string(site.dir.path().join("dps/operations.jsonl")).expect("an operation");
    let operation = begun.split('"').find(|text| text.starts_with("4.")).expect("its id").to_owned();
    let _running = site.run();
    let state = follow(listening(&enrolled, "press-1", &key).await, status_of(&operation)).await;
    assert_eq!((text(&state, "status"), text(&state, "deviceId")), ("assigned", "press-1"));
    let status = probe::status(site.http).expect("books");
    assert_eq!(status["registrations"]["assigned"], 1, "{status}");
}

#[tokio::test]
async fn devices_are_given_to_the_hubs_of_the_process_get_in_there_and_stay_after_a_kill() {
    shared::tls::install_provider();
    let site = Site::new();
    let running = site.run();
    // While it runs: what is enrolled is known at once.
    let mut homes = vec![];
    for at in 0..8 {
        let id = format!("press-{at}");
        let enrolled = site.json(&["hub", "enroll", "line-1", "--group", "--member", &id, "--json"]);
        let key = Key::device(text(&enrolled["member"], "primary-key")).expect("base64");
        let state = register(&enrolled, &id, &key).await;
        assert_eq!((text(&state, "status"), text(&state, "deviceId")), ("assigned", id.as_str()));
        homes.push((id, enrolled, key, state));
    }
    let hubs = site.json(&["hub", "connection-strings", "--json"]);
    let hubs = hubs.as_array().expect("two hubs");
    assert!(
        hubs[0]["provisioning"].is_null() && hubs[1]["provisioning"]["groups"]["line-1"]["primary-key"].is_string()
    );
    for (id, _, key, state) in &homes {
        let home = text(state, "assignedHub");
        let hub = hubs.iter().find(|hub| text(hub, "host-name") == home).expect("one of them");
        let ca = PathBuf::from(text(hub, "ca-file"));
        let (user, resource) = (format!("{home}/{id}/?api-version=2021-04-12"), format!("{home}/devices/{id}"));
        let (_client, mut events) = AsyncClient::new(options(id, &hub["mqtt"], &ca, &user, &resource, key, None), 8);
        until(&mut events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
    }
    let status = probe::status(site.http).expect("books");
    let devices = |at: usize| status["hubs"][at]["devices"].as_u64().expect("a number");
    assert_eq!((devices(0) + devices(1), &status["registrations"]["assigned"]), (8, &8.into()), "{status}");

    // By the kernel, without a word.
    drop(running);
    let _running = site.run();
    let (id, enrolled, key, first) = &homes[0];
    let again = register(enrolled, id, key).await;
    for same in ["assignedHub", "createdDateTimeUtc", "substatus"] {
        assert_eq!(again[same], first[same], "{same}");
    }
    drop(site.dir);
}
