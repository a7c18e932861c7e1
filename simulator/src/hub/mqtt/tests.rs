//! The device side over real sockets, with rumqttc as an independent client, and with bytes no client sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry as Metered;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration,
    Transport,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use shared::clock::Clock;
use shared::config::Span;
use shared::sas::{self, Key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::hub::ca;
use crate::hub::changes::Source;
use crate::hub::desk::Stood;
use crate::hub::devices::Registry;
use crate::hub::faults::{Fault, Rule};
use crate::hub::limits::{self, Limits, SharedLimits};
use crate::hub::log::{Options, StoredEvent};

pub(in crate::hub) const HOST: &str = "hub.azure-devices.net";
/// Never waited for, only waited at most.
pub(in crate::hub) const PATIENCE: Duration = Duration::from_secs(20);
pub(in crate::hub) const FAR: i64 = 32_503_680_000;

mod answers;
mod commands;
mod faults;
mod hostile;
mod methods;
mod sessions;
mod tiers;
mod websocket;
mod x509;

pub(in crate::hub) struct Stand {
    metered: Metered,
    pub(in crate::hub) dir: tempfile::TempDir,
    addr: SocketAddr,
    pub(in crate::hub) door: Arc<Door>,
    served: JoinHandle<()>,
    kept: JoinHandle<std::io::Result<()>>,
}

impl Stand {
    pub(in crate::hub) async fn open(limits: MqttLimits) -> Self {
        Self::open_with(limits, Config::load(None).expect("the default").hub.limits).await
    }

    async fn open_with(limits: MqttLimits, tier: limits::Config) -> Self {
        Self::open_telling(limits, tier, &[]).await
    }

    async fn open_telling(limits: MqttLimits, tier: limits::Config, sources: &[Source]) -> Self {
        shared::tls::install_provider();
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options::new(4, Clock::Real);
        let log = Log::open(&dir.path().join("log"), &options).expect("a log");
        let registry = Registry::prepare(dir.path().join("devices.toml"), &["d-1".to_owned(), "d-2".to_owned()]);
        let hosts = ca::server_names(HOST, &[], &[]);
        let server = ca::server(dir.path(), &hosts, Clock::Real.now()).expect("a certificate");
        let mut metered = Metered::default();
        let metrics = Metrics::new(&mut metered);
        let desk = Desk::stand(Stood {
            directory: dir.path(),
            registry: registry.expect("a registry"),
            log: log.clone(),
            limits: SharedLimits::new(Limits::new(tier, limits::Metered::default())),
            hosts,
            metrics: Arc::clone(&metrics),
            sources: sources.to_vec(),
        });
        let door = Arc::new(Door {
            desk,
            authorities: Authorities::read(&[ca::device_ca_file(dir.path())]).expect("authorities"),
            sessions: Sessions::open(dir.path().join("sessions.jsonl")).expect("sessions"),
            log,
            limits,
            ended: Ended::default(),
            metrics,
            stop: CancellationToken::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let served = tokio::spawn(serve(listener, server.device_tls, Arc::clone(&door)));
        let kept = tokio::spawn({
            let (desk, stop) = (door.desk.clone(), door.stop.clone());
            async move { desk.run(stop).await }
        });
        Self { metered, dir, addr, door, served, kept }
    }

    pub(in crate::hub) async fn close(self) {
        self.door.stop.cancel();
        timeout(PATIENCE, self.served).await.expect("in time").expect("no panic");
        timeout(PATIENCE, self.kept).await.expect("in time").expect("no panic").expect("a disk");
    }

    /// What a counter says, by its name and reason.
    pub(super) fn count(&self, counter: &str, reason: &str) -> u64 {
        self.total(&format!("{counter}_total{{reason=\"{reason}\"}}"))
    }

    /// What a line of the metrics says, by all before its value but the prefix.
    fn total(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metered).expect("text");
        let line = format!("hub_{line} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().expect("a number"))
    }

    pub(in crate::hub) fn token(&self, device: &str, expiry_s: i64) -> String {
        let known = self.door.desk.registry.now();
        let key = known.device(device).map_or_else(|| Key::service("none"), |device| device.auth.keys().remove(0));
        sas::sign(&sas::device_resource(HOST, device), &key, expiry_s, None)
    }

    pub(in crate::hub) fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(ca::ca_file(self.dir.path())).expect("a certificate");
        roots.add(authority).expect("added");
        roots
    }

    fn device(&self, device: &str, token: String) -> (AsyncClient, EventLoop) {
        AsyncClient::new(self.options(device, token), 64)
    }

    fn options(&self, device: &str, token: String) -> MqttOptions {
        let mut options = MqttOptions::new(device, "127.0.0.1", self.addr.port());
        options.set_credentials(format!("{HOST}/{device}/?api-version=2021-04-12"), token);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_clean_session(true);
        let tls = rustls::ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        options
    }

    /// As [`Stand::options`], for a module with keys.
    fn module(&self, device: &str, module: &str) -> MqttOptions {
        let known = self.door.desk.registry.now();
        let known = known.device(device).and_then(|device| device.module(module)).expect("known").auth.keys().remove(0);
        let token = sas::sign(&format!("{HOST}/devices/{device}/modules/{module}"), &known, FAR, None);
        let mut options = self.options(&format!("{device}/{module}"), token.clone());
        options.set_credentials(format!("{HOST}/{device}/{module}/?api-version=2021-04-12"), token);
        options
    }

    fn good(&self, device: &str) -> (AsyncClient, EventLoop) {
        self.device(device, self.token(device, FAR))
    }

    async fn stored(&self, device: &str) -> Vec<StoredEvent> {
        let partition = self.door.log.partition_of(device);
        let events = self.door.log.read(partition, 0, 10_000, 1 << 30).await.expect("read");
        events.into_iter().filter(|event| event.device_id == device).collect()
    }

    /// The bytes of a CONNECT.
    fn connect(&self, device: &str, keep_alive_s: u8) -> Vec<u8> {
        let (user, token) = (format!("{HOST}/{device}/"), self.token(device, FAR));
        packet(
            0x10,
            [&text("MQTT")[..], &[4, 0xc2, 0, keep_alive_s], &text(device), &text(&user), &text(&token)].concat(),
        )
    }

    async fn raw(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        let socket = TcpStream::connect(self.addr).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.expect("TLS 1.2")
    }
}

fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(kind: u8, body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short");
    let length = [u8::try_from(length % 128).expect("7 bits") | 0x80, u8::try_from(length / 128).expect("7 bits")];
    [&[kind], &length[..], &body].concat()
}

/// The bytes of a PUBLISH at QoS 1.
fn publish(device: &str, id: u8) -> Vec<u8> {
    packet(0x32, [&text(&events(device))[..], &[0, id], b"x"].concat())
}

pub(in crate::hub) fn limits() -> MqttLimits {
    MqttLimits {
        connections_max: 100,
        connect_timeout: Span::new(Duration::from_secs(10)),
        packet_timeout: Span::new(Duration::from_secs(10)),
        unacknowledged_max: 16,
        clock_skew: Span::new(Duration::from_secs(60)),
    }
}

fn events(device: &str) -> String {
    format!("devices/{device}/messages/events/")
}

/// Polls until a packet comes for which `wanted` holds.
async fn until(events: &mut EventLoop, wanted: impl Fn(&Packet) -> bool) -> Result<(), ConnectionError> {
    let poll = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await?
                && wanted(&packet)
            {
                return Ok(());
            }
        }
    };
    timeout(PATIENCE, poll).await.expect("in time")
}

/// Polls until a publish comes from the hub.
async fn told(events: &mut EventLoop) -> rumqttc::Publish {
    let poll = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.expect("connected") {
                return publish;
            }
        }
    };
    timeout(PATIENCE, poll).await.expect("in time")
}

/// Subscribes, and waits until that is granted.
async fn listen(client: &AsyncClient, events: &mut EventLoop, filters: &[&str], qos: QoS) {
    for filter in filters {
        client.subscribe(*filter, qos).await.expect("queued");
        until(events, |packet| matches!(packet, Packet::SubAck(_))).await.expect("granted");
    }
}

/// Returns once it is so.
async fn soon(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect(what);
}

async fn connected(events: &mut EventLoop) -> Result<(), ConnectionError> {
    until(events, |packet| matches!(packet, Packet::ConnAck(_))).await
}

async fn acknowledged(events: &mut EventLoop) -> Result<(), ConnectionError> {
    until(events, |packet| matches!(packet, Packet::PubAck(_))).await
}

fn now_s() -> i64 {
    Clock::Real.now().millis() / 1_000
}

#[tokio::test]
async fn a_publish_is_on_disk_when_it_is_acknowledged() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    let topic = format!("{}%24.mid=m-1&%24.ct=application%2Fjson&a%20b=x%26y", events("d-1"));
    client.publish(topic, QoS::AtLeastOnce, true, "{}").await.expect("queued");
    acknowledged(&mut device).await.expect("acknowledged");
    let stored = stand.stored("d-1").await;
    assert_eq!(stored.len(), 1);
    let event = &stored[0];
    assert_eq!((event.sequence_number, &event.body[..], event.message_source.as_str()), (0, &b"{}"[..], "Telemetry"));
    assert_eq!(event.system.message_id.as_deref(), Some("m-1"));
    assert_eq!(event.properties, [("a b", "x&y"), ("mqtt-retain", "true")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert!(event.auth_method.contains(r#""scope":"device""#));
    assert_eq!(event.auth_generation_id, stand.door.desk.registry.now().device("d-1").expect("known").generation_id);
    assert_eq!(stand.door.desk.seats.devices(), ["d-1"]);
    stand.close().await;
}

#[tokio::test]
async fn publishes_of_a_connection_keep_their_order_and_are_all_acknowledged() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    let sender = tokio::spawn(async move {
        for number in 0..300u32 {
            client.publish(events("d-1"), QoS::AtLeastOnce, false, number.to_string()).await.expect("queued");
        }
    });
    let mut pkids = vec![];
    while pkids.len() < 300 {
        match timeout(PATIENCE, device.poll()).await.expect("in time").expect("connected") {
            Event::Incoming(Packet::PubAck(ack)) => pkids.push(ack.pkid),
            _ => continue,
        }
    }
    sender.await.expect("sent");
    assert!(pkids.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == 1), "in order: {pkids:?}");
    let bodies: Vec<_> = stand.stored("d-1").await.into_iter().map(|event| event.body).collect();
    assert_eq!(bodies, (0..300u32).map(|number| number.to_string()).collect::<Vec<_>>());
    stand.close().await;
}

#[tokio::test]
async fn whoever_has_no_right_is_told_so() {
    let stand = Stand::open(limits()).await;
    let wrong = sas::sign(&sas::device_resource(HOST, "d-1"), &Key::service("wrong"), FAR, None);
    for (what, device, token) in [
        ("a wrong key", "d-1", wrong),
        ("an expired token", "d-1", stand.token("d-1", now_s() - 61)),
        ("another device's token", "d-1", stand.token("d-2", FAR)),
        ("an unknown device", "stranger", stand.token("stranger", FAR)),
        ("no token", "d-1", String::new()),
    ] {
        let (_client, mut events) = stand.device(device, token);
        let refused = connected(&mut events).await.expect_err(what);
        let code = ConnectReturnCode::NotAuthorized;
        assert!(matches!(&refused, ConnectionError::ConnectionRefused(found) if *found == code), "{what}: {refused:?}");
    }
    assert!(stand.door.desk.seats.devices().is_empty());
    stand.close().await;
}

#[tokio::test]
async fn a_token_that_ends_ends_the_connection() {
    let stand = Stand::open(limits()).await;
    let (_client, mut device) = stand.device("d-1", stand.token("d-1", now_s() + 2));
    connected(&mut device).await.expect("admitted");
    acknowledged(&mut device).await.expect_err("closed");
    assert!(now_s() >= stand.door.desk.clock.now().millis() / 1_000 - 1);
    stand.close().await;
}

#[tokio::test]
async fn what_the_service_forbids_closes_the_connection_and_stores_nothing() {
    let stand = Stand::open(limits()).await;
    let large = vec![0; 257 * 1024];
    for (what, topic, qos, body) in [
        ("257 KB", events("d-1"), QoS::AtLeastOnce, large),
        ("QoS 2", events("d-1"), QoS::ExactlyOnce, vec![1]),
        ("a foreign topic", "a/b".to_owned(), QoS::AtLeastOnce, vec![1]),
        ("another device's topic", events("d-2"), QoS::AtLeastOnce, vec![1]),
    ] {
        let (client, mut device) = stand.good("d-1");
        connected(&mut device).await.expect("admitted");
        client.publish(topic, qos, false, body).await.expect("queued");
        assert!(acknowledged(&mut device).await.is_err(), "{what}");
    }
    assert!(stand.stored("d-1").await.is_empty() && stand.stored("d-2").await.is_empty());

    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    client.publish(events("d-1"), QoS::AtLeastOnce, false, vec![0; 256 * 1024]).await.expect("queued");
    acknowledged(&mut device).await.expect("256 KB are allowed");
    stand.close().await;
}

#[tokio::test]
async fn known_filters_are_granted_and_others_close() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    for filter in ["devices/d-1/messages/devicebound/#", "$iothub/twin/res/#", "$iothub/methods/POST/#"] {
        client.subscribe(filter, QoS::ExactlyOnce).await.expect("queued");
        let granted = |packet: &Packet| matches!(packet, Packet::SubAck(ack) if ack.return_codes == [rumqttc::SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
        until(&mut device, granted).await.expect(filter);
    }
    client.subscribe("devices/d-2/messages/devicebound/#", QoS::AtLeastOnce).await.expect("queued");
    until(&mut device, |packet| matches!(packet, Packet::SubAck(_))).await.expect_err("closed");
    stand.close().await;
}

#[tokio::test]
async fn a_second_connection_of_a_device_drops_the_first() {
    let stand = Stand::open(limits()).await;
    let (_first_client, mut first) = stand.good("d-1");
    connected(&mut first).await.expect("admitted");
    let (second_client, mut second) = stand.good("d-1");
    connected(&mut second).await.expect("admitted");
    acknowledged(&mut first).await.expect_err("dropped");
    second_client.publish(events("d-1"), QoS::AtLeastOnce, false, "x").await.expect("queued");
    acknowledged(&mut second).await.expect("the second stays");
    assert_eq!(stand.door.desk.seats.devices(), ["d-1"]);
    stand.close().await;
}

#[tokio::test]
async fn a_lost_puback_leaves_the_event_stored_and_the_connection_dead() {
    let stand = Stand::open(limits()).await;
    stand.door.desk.faults.add(Rule { times: Some(1), ..Rule::new(Fault::LosePuback) });
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    client.publish(events("d-1"), QoS::AtLeastOnce, false, "once").await.expect("queued");
    acknowledged(&mut device).await.expect_err("lost");
    assert_eq!(stand.stored("d-1").await.len(), 1);
    // The client connects again; what was not acknowledged is sent again, as at least once demands.
    client.publish(events("d-1"), QoS::AtLeastOnce, false, "once").await.expect("queued");
    acknowledged(&mut device).await.expect("acknowledged now");
    assert_eq!(stand.stored("d-1").await.len(), 2);
    stand.close().await;
}

#[tokio::test]
async fn a_log_that_cannot_store_acknowledges_nothing() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    std::fs::remove_dir_all(stand.dir.path().join("log")).expect("deleted");
    client.publish(events("d-1"), QoS::AtLeastOnce, false, "x").await.expect("queued");
    acknowledged(&mut device).await.expect_err("closed instead");
    assert!(stand.door.log.stopped().is_cancelled());
    stand.close().await;
}

#[tokio::test]
async fn a_device_that_vanishes_has_its_will_stored_and_one_that_leaves_has_not() {
    let stand = Stand::open(limits()).await;
    for (vanishes, stored) in [(false, 0), (true, 1)] {
        let topic = format!("{}why=gone", events("d-1"));
        let will = rumqttc::LastWill::new(topic, "bye", QoS::AtLeastOnce, false);
        let mut options = MqttOptions::new("d-1", "127.0.0.1", stand.addr.port());
        options.set_credentials(format!("{HOST}/d-1/"), stand.token("d-1", FAR));
        options.set_last_will(will);
        let tls = rustls::ClientConfig::builder().with_root_certificates(stand.roots()).with_no_client_auth();
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        let (client, mut device) = AsyncClient::new(options, 8);
        connected(&mut device).await.expect("admitted");
        if !vanishes {
            client.disconnect().await.expect("queued");
            until(&mut device, |_| false).await.expect_err("left");
        }
        drop(device);
        let gone = async {
            while !stand.door.desk.seats.devices().is_empty() || stand.stored("d-1").await.len() < stored {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, gone).await.expect("in time");
        assert_eq!(stand.stored("d-1").await.len(), stored);
    }
    assert_eq!(
        (stand.total("events_total"), stand.door.metrics.metered_units()),
        (1, 1),
        "a will counts as any message"
    );
    let event = stand.stored("d-1").await.remove(0);
    assert!(event.properties.contains(&("iothub-MessageType".to_owned(), "Will".to_owned())));
    stand.close().await;
}

#[tokio::test]
async fn garbage_and_half_packets_are_hung_up_on() {
    let short = Span::new(Duration::from_millis(300));
    let stand = Stand::open(MqttLimits { connect_timeout: short, ..limits() }).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x16\x03\x01", &[0; 4096], b"\x10\x20\x00\x04MQTT"] {
        let mut socket = TcpStream::connect(stand.addr).await.expect("connected");
        // The hub may hang up while we write: that is what is asked of it.
        let _ = socket.write_all(bytes).await;
        let mut rest = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("hung up on, plain");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x10", b"\x10\x20\x00\x04MQTT", b"\xc0\x00", &[0xff; 4096]] {
        let mut socket = stand.raw().await;
        let _ = socket.write_all(bytes).await;
        let mut rest = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("hung up on, inside TLS");
    }
    stand.close().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_room_comes_back() {
    let stand = Stand::open(MqttLimits { connections_max: 1, ..limits() }).await;
    let (client, mut first) = stand.good("d-1");
    connected(&mut first).await.expect("admitted");
    let (_second_client, mut second) = stand.good("d-2");
    connected(&mut second).await.expect_err("no room");
    client.disconnect().await.expect("queued");
    until(&mut first, |_| false).await.expect_err("left");
    let comes_in = async {
        while connected(&mut second).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, comes_in).await.expect("room again");
    stand.close().await;
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_before_the_hub_stops() {
    let stand = Stand::open(limits()).await;
    let mut sent = stand.connect("d-1", 60);
    for id in 1..=5 {
        sent.extend(publish("d-1", id));
    }
    let mut socket = stand.raw().await;
    socket.write_all(&sent).await.expect("written");
    let mut answer = [0; 8];
    socket.read_exact(&mut answer).await.expect("a CONNACK and a PUBACK");
    assert_eq!(answer, [0x20, 2, 0, 0, 0x40, 2, 0, 1]);
    stand.door.stop.cancel();
    let mut rest = vec![];
    socket.read_to_end(&mut rest).await.expect("an orderly end");
    let acknowledged: Vec<u8> = rest.chunks(4).map(|puback| puback[3]).collect();
    let taken: Vec<u8> = (2..).take(stand.stored("d-1").await.len() - 1).collect();
    assert_eq!(acknowledged, taken);
    stand.close().await;
}
