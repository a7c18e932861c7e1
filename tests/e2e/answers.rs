//! The hub answers devices, and keeps what it answered through a death at the worst moment.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport};
use serde_json::{Value, json};
use shared::sas::{self, Key};
use tests::program::Name;
use tests::{probe, wait};
use tokio::time::timeout;

use crate::scenario::launcher;

const PATIENCE: Duration = Duration::from_secs(60);
const FAR: i64 = 32_503_680_000;
const HOST: &str = "answers.azure-devices.net";

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Site {
    _dir: tempfile::TempDir,
    config: PathBuf,
    data: PathBuf,
    mqtt: SocketAddr,
    http: SocketAddr,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect();
        let [mqtt, amqp, http] = [0, 1, 2].map(|at| held[at].local_addr().expect("its address"));
        let (config, data) = (dir.path().join("hub.toml"), dir.path().join("hub"));
        let text = format!(
            "[hub]\nname = \"answers\"\nhost-name = \"{HOST}\"\ndata-dir = {data:?}\nmqtt-listen = \"{mqtt}\"\n\
             amqp-listen = \"{amqp}\"\ndevices = [\"d\"]\n[hub.http]\nlisten = \"{http}\"\n"
        );
        fs::write(&config, text).expect("written");
        Self { _dir: dir, config, data, mqtt, http }
    }

    fn run(&self, crash_at: Option<&str>) -> Running {
        let config = self.config.to_str().expect("a path of ours");
        let mut command = launcher().command(Name::Simulator, &["--config", config, "hub"]);
        command.envs(crash_at.map(|place| ("CRASH_AT", place)));
        let running = Running(command.spawn().expect("it starts"));
        wait::until(PATIENCE, || probe::is_ready(self.http).then_some(())).expect("ready");
        running
    }

    async fn device(&self) -> (AsyncClient, EventLoop) {
        let registry = fs::read_to_string(self.data.join("identity/devices.toml")).expect("a registry");
        let (_, device) = registry.split_once("id = \"d\"").expect("the device");
        let (_, key) = device.split_once("primary-key = \"").expect("its key");
        let key = Key::device(key.split('"').next().expect("a text")).expect("base64");
        let mut options = MqttOptions::new("d", "127.0.0.1", self.mqtt.port());
        let token = sas::sign(&sas::device_resource(HOST, "d"), &key, FAR, None);
        options.set_credentials(format!("{HOST}/d/?api-version=2021-04-12"), token);
        let ca = fs::read(ca(&self.data)).expect("an authority");
        let tls = TlsConfiguration::Simple { ca, alpn: None, client_auth: None };
        options.set_transport(Transport::tls_with_config(tls));
        let (client, mut events) = AsyncClient::new(options, 8);
        client.subscribe("$iothub/twin/res/#", QoS::AtLeastOnce).await.expect("queued");
        until(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
        (client, events)
    }
}

fn ca(data: &Path) -> PathBuf {
    data.join("identity/ca.pem")
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

async fn told(events: &mut EventLoop) -> Publish {
    until(events, |packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None }).await
}

#[tokio::test]
async fn a_hub_that_dies_between_a_twins_write_and_its_answer_has_the_write_and_a_repeat_does_no_harm() {
    shared::tls::install_provider();
    let site = Site::new();
    let report = "$iothub/twin/PATCH/properties/reported/?$rid=1";
    let patch = json!({"firmware": {"version": "1.2"}}).to_string();

    let mut dying = site.run(Some("hub-twin-written"));
    let (client, mut events) = site.device().await;
    client.publish(report, QoS::AtLeastOnce, false, patch.clone()).await.expect("queued");
    let answered = async {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(answer))) => return Some(answer.topic),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    assert_eq!(timeout(PATIENCE, answered).await.expect("in time"), None, "it dies before it answers");
    assert!(!dying.0.wait().expect("it ended").success());
    drop((client, events, dying));

    let _running = site.run(None);
    let (client, mut events) = site.device().await;
    let get = "$iothub/twin/GET/?$rid=2";
    client.publish(get, QoS::AtLeastOnce, false, "").await.expect("queued");
    let twin: Value = serde_json::from_slice(&told(&mut events).await.payload).expect("JSON");
    assert_eq!(twin["reported"], json!({"firmware": {"version": "1.2"}, "$version": 2}), "it was written");
    client.publish(report, QoS::AtLeastOnce, false, patch).await.expect("queued");
    assert_eq!(told(&mut events).await.topic, "$iothub/twin/res/204/?$rid=1&$version=3");
    client.publish(get, QoS::AtLeastOnce, false, "").await.expect("queued");
    let twin: Value = serde_json::from_slice(&told(&mut events).await.payload).expect("JSON");
    assert_eq!(twin["reported"], json!({"firmware": {"version": "1.2"}, "$version": 3}));
    let status = probe::status(site.http).expect("books");
    assert_eq!((&status["twins"], &status["commands"]["waiting"]), (&json!(1), &json!(0)), "{status}");
}
