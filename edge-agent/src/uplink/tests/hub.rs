//! A small hub: it acknowledges, stays silent, hangs up or refuses as told, and has a twin.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode};
use rumqttc::{Error as MqttError, QoS};
use serde_json::{Value as Json, json};
use shared::clock::Clock;
use shared::envelope::{Envelope, decompress};
use shared::sas;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};

use super::{HUB, KEY};
use crate::remote::document::{Section, merge};
use crate::remote::topic;

/// What the hub does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Acknowledge,
    /// Takes publishes and says nothing.
    Silent,
    /// Hangs up, on everybody.
    Away,
    /// CONNACK 5.
    Refuse,
    /// Acknowledges, but not a SUBSCRIBE.
    NoSuback,
    /// Acknowledges, but answers nothing about twins.
    NoTwin,
    /// Acknowledges, but has no time for twins: 429.
    Throttle,
    /// Acknowledges, but hangs up on a SUBSCRIBE.
    NoTier,
}

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connections: usize,
    pub(super) goodbyes: usize,
    /// Connection and publish.
    pub(super) publishes: Vec<(usize, Publish)>,
    pub(super) faults: Vec<String>,
    pub(super) subscribes: usize,
    /// Topics and payloads under `$iothub/`.
    pub(super) said: Vec<(String, Vec<u8>)>,
    /// PUBACKs of the device.
    pub(super) acked: usize,
    pub(super) desired: Section,
    pub(super) reported: Section,
}

impl Seen {
    /// A question about the twin; the answer's status, version and body.
    fn twin(&mut self, topic: &str, payload: &[u8]) -> (u16, String) {
        if topic.starts_with("$iothub/twin/GET/") {
            return (200, json!({ "desired": self.desired, "reported": self.reported }).to_string());
        }
        let patch: Section = serde_json::from_slice(payload).expect("an object");
        merge(&mut self.reported, &patch);
        (204, String::new())
    }
}

pub(super) struct Hub {
    pub(super) port: u16,
    pub(super) mode: watch::Sender<Mode>,
    pub(super) seen: Arc<Mutex<Seen>>,
    tell: broadcast::Sender<(String, Vec<u8>)>,
}

impl Hub {
    pub(super) async fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let (mode, modes) = watch::channel(mode);
        let mut seen = Seen::default();
        seen.desired.insert("$version".into(), json!(1));
        let seen = Arc::new(Mutex::new(seen));
        let (tell, _) = broadcast::channel(4_096);
        let (all, told) = (seen.clone(), tell.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, modes.clone(), all.clone(), told.subscribe()));
            }
        });
        Self { port, mode, seen, tell }
    }

    /// Publishes to whoever is connected.
    pub(super) fn tell(&self, topic: impl Into<String>, payload: impl Into<Vec<u8>>) {
        self.tell.send((topic.into(), payload.into())).expect("somebody is connected");
    }

    /// Changes desired properties, and tells whoever is connected if `loudly`.
    pub(super) fn desire(&self, name: &str, value: Json, loudly: bool) -> i64 {
        let version = {
            let mut seen = self.seen.lock().expect("no panic");
            let version = seen.desired["$version"].as_i64().expect("a number") + 1;
            seen.desired.insert("$version".into(), json!(version));
            seen.desired.insert(name.into(), value.clone());
            version
        };
        if loudly {
            let topic = format!("$iothub/twin/PATCH/properties/desired/?$version={version}");
            self.tell(topic, json!({ name: value, "$version": version }).to_string());
        }
        version
    }

    pub(super) fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.seen.lock().expect("no panic"))
    }

    pub(super) fn envelopes(&self) -> Vec<Envelope> {
        self.look(|seen| seen.publishes.iter().map(|(_, publish)| unpacked(publish)).collect())
    }

    /// Waits until the hub has read this many DISCONNECTs.
    pub(super) async fn said_goodbye(&self, times: usize) {
        for _ in 0..1_000 {
            if times <= self.look(|seen| seen.goodbyes) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no DISCONNECT came");
    }

    /// Distinct seqs, in the order they first came.
    pub(super) fn seqs(&self) -> Vec<i64> {
        let mut seqs = Vec::new();
        for reading in self.envelopes().iter().flat_map(|envelope| &envelope.readings) {
            if !seqs.contains(&reading.s.0) {
                seqs.push(reading.s.0);
            }
        }
        seqs
    }
}

fn unpacked(publish: &Publish) -> Envelope {
    Envelope::from_json(&decompress(&publish.payload).expect("zstd")).expect("an Envelope")
}

async fn serve(
    mut stream: TcpStream,
    mut modes: watch::Receiver<Mode>,
    seen: Arc<Mutex<Seen>>,
    mut told: broadcast::Receiver<(String, Vec<u8>)>,
) {
    let connection = {
        let mut seen = seen.lock().expect("no panic");
        seen.connections += 1;
        seen.connections
    };
    let mut inbox = BytesMut::new();
    loop {
        let mode = *modes.borrow_and_update();
        if mode == Mode::Away {
            return;
        }
        let packet = match Packet::read(&mut inbox, 1 << 20) {
            Ok(packet) => packet,
            Err(MqttError::InsufficientBytes(_)) => {
                tokio::select! {
                    read = stream.read_buf(&mut inbox) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    },
                    _ = modes.changed() => {}
                    Ok((topic, payload)) = told.recv() => {
                        let mut out = BytesMut::new();
                        publish(topic, payload, &mut out);
                        if stream.write_all(&out).await.is_err() {
                            return;
                        }
                    }
                }
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut out = BytesMut::new();
        match packet {
            Packet::Connect(connect) => {
                let code =
                    if mode == Mode::Refuse { ConnectReturnCode::NotAuthorized } else { ConnectReturnCode::Success };
                if let Some(fault) = fault(&connect) {
                    seen.lock().expect("no panic").faults.push(fault);
                }
                ConnAck::new(code, false).write(&mut out).expect("fits");
            }
            Packet::Subscribe(subscribe) => {
                let filters: Vec<&str> = subscribe.filters.iter().map(|filter| filter.path.as_str()).collect();
                let mut seen = seen.lock().expect("no panic");
                seen.subscribes += 1;
                if filters != topic::FILTERS {
                    seen.faults.push(format!("{filters:?}"));
                }
                match mode {
                    Mode::NoTier => return,
                    Mode::NoSuback => {}
                    _ => {
                        let granted = filters.iter().map(|_| SubscribeReasonCode::Success(QoS::AtLeastOnce)).collect();
                        SubAck::new(subscribe.pkid, granted).write(&mut out).map(|_| ()).expect("fits");
                    }
                }
            }
            Packet::PubAck(_) => seen.lock().expect("no panic").acked += 1,
            Packet::Publish(said) if said.topic.starts_with("$iothub/") => {
                let mut seen = seen.lock().expect("no panic");
                if said.qos != QoS::AtMostOnce {
                    seen.faults.push(format!("{:?} on {}", said.qos, said.topic));
                }
                seen.said.push((said.topic.clone(), said.payload.to_vec()));
                if said.topic.starts_with("$iothub/twin/") && mode != Mode::NoTwin {
                    let (status, body) = match mode {
                        Mode::Throttle => (429, String::new()),
                        _ => seen.twin(&said.topic, &said.payload),
                    };
                    let rid = said.topic.split("$rid=").nth(1).expect("a rid");
                    publish(format!("$iothub/twin/res/{status}/?$rid={rid}&$version=1"), body.into_bytes(), &mut out);
                }
            }
            Packet::Publish(publish) => {
                if !matches!(mode, Mode::Silent | Mode::Refuse) {
                    PubAck::new(publish.pkid).write(&mut out).expect("fits");
                }
                seen.lock().expect("no panic").publishes.push((connection, publish));
            }
            Packet::PingReq => rumqttc::mqttbytes::v4::PingResp.write(&mut out).map(|_| ()).expect("fits"),
            Packet::Disconnect => seen.lock().expect("no panic").goodbyes += 1,
            other => seen.lock().expect("no panic").faults.push(format!("{other:?}")),
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn publish(topic: String, payload: Vec<u8>, out: &mut BytesMut) {
    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload);
    publish.pkid = 9;
    publish.write(out).map(|_| ()).expect("fits");
}

/// What is wrong with a CONNECT, as IoT Hub sees it.
fn fault(connect: &rumqttc::mqttbytes::v4::Connect) -> Option<String> {
    let login = connect.login.as_ref()?;
    let token = sas::Token::parse(&login.password).ok()?;
    let key = sas::Key::device(KEY).expect("base64");
    let now_s = Clock::Real.now().micros() / 1_000_000;
    if connect.client_id != "gw-01" {
        return Some(format!("client id {}", connect.client_id));
    }
    if login.username != format!("{HUB}/gw-01/?api-version=2021-04-12") {
        return Some(format!("user {}", login.username));
    }
    if token.resource != format!("{HUB}/devices/gw-01") {
        return Some(format!("resource {}", token.resource));
    }
    token.check([&key], now_s).err().map(|refusal| refusal.to_string())
}
