//! The service over real sockets, with rumqttc as an independent device, and with bytes no device sends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::registry::Registry as Metered;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration,
    Transport,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::config::{Secret, Span};
use shared::sas::{self, Key};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::enrolments::{Book, Means, Proof, Wish};
use super::hubs::Hubs;
use super::listener::Way;
use super::metrics::Metrics;
use super::registrations::Registrations;
use super::throttle::Bucket;
use super::*;
use crate::hub::Link;
use crate::hub::ca::{self, DeviceCertificate};
use crate::hub::desk::Desk;
use crate::hub::devices::{Auth, Registry};

mod hostile;
mod policies;
mod refused;
mod ways;
mod websocket;

const SCOPE: &str = "0ne0000CAFE";
/// Never waited for, only waited at most.
const PATIENCE: Duration = Duration::from_secs(20);
const FAR: i64 = 32_503_680_000;
const ANSWERS: &str = "$dps/registrations/res/#";
const REGISTER: &str = "$dps/registrations/PUT/iotdps-register/?$rid=";
const STATUS: &str = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=";

/// What a stand is made with.
struct Setup {
    limits: Limits,
    per_minute: u32,
    hubs: Vec<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        let long = Span::new(Duration::from_secs(10));
        let limits = Limits { connections_max: 100, connect_timeout: long, packet_timeout: long };
        Self { limits, per_minute: 1_000, hubs: vec!["east", "west"] }
    }
}

/// A service that listens, and the registries of its hubs.
struct Stand {
    metered: Metered,
    dir: tempfile::TempDir,
    addr: SocketAddr,
    websocket: SocketAddr,
    door: Arc<Door>,
    linked: Vec<LinkedHub>,
    served: [JoinHandle<()>; 2],
}

/// What a device shows.
enum Shows {
    Nothing,
    Token(String),
    Certificate(DeviceCertificate),
}

impl Stand {
    async fn open(setup: Setup) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::open_in(dir, setup).await
    }

    /// In a folder that may hold what an earlier one left.
    async fn open_in(dir: tempfile::TempDir, setup: Setup) -> Self {
        shared::tls::install_provider();
        let names = ca::server_names("dps.azure-devices-provisioning.net", &[], &[]);
        let server = ca::provisioning_server(dir.path(), &names, Clock::Real.now()).expect("a certificate");
        let linked = |name: &&str| {
            let registry = dir.path().join(name).join("devices.toml");
            let known = Registry::prepare(registry.clone(), &[]).expect("a registry");
            let link = Some(Link::standing(&dir.path().join(name), known));
            LinkedHub { host_name: (*name).to_owned(), registry, link }
        };
        let linked: Vec<LinkedHub> = setup.hubs.iter().map(linked).collect();
        let mut metered = Metered::default();
        let service = Service {
            enrolments: Book::open(dir.path().join("enrolments.toml")).expect("enrolments"),
            hubs: Hubs::new(linked.clone()),
            registrations: Registrations::open(dir.path().join("registrations.jsonl")).expect("registrations"),
            metrics: Metrics::new(&mut metered),
            clock: Clock::Real,
            retry_after: Duration::from_secs(3),
            throttle: Mutex::new(Bucket::new(setup.per_minute, Duration::from_secs(60))),
            underway: Mutex::new(HashMap::new()),
        };
        let door = Arc::new(Door {
            id_scope: SCOPE.to_owned(),
            limits: setup.limits,
            seats: Seats::default(),
            service: Arc::new(service),
            stop: CancellationToken::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let beside = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let websocket = beside.local_addr().expect("its address");
        let serve = |listener, way| {
            tokio::spawn(listener::serve(listener, way, Arc::clone(&server.device_tls), Arc::clone(&door)))
        };
        let served = [serve(listener, Way::Plain), serve(beside, Way::WebSocket)];
        Self { metered, dir, addr, websocket, door, linked, served }
    }

    /// Stops; the folder stays.
    async fn close(self) -> tempfile::TempDir {
        self.door.stop.cancel();
        for served in self.served {
            timeout(PATIENCE, served).await.expect("in time").expect("no panic");
        }
        self.dir
    }

    fn enroll(&self, wish: Wish) {
        enrolments::enroll(&self.dir.path().join("enrolments.toml"), wish).expect("enrolled");
    }

    /// The keys of an individual enrolment or a group.
    fn key(&self, id: &str) -> Secret {
        let now = self.door.service.enrolments.now();
        let enrolment = now.individual(id).or(now.group(id)).expect("enrolled");
        match &enrolment.proof {
            Proof::Keys { primary, .. } => primary.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn token(&self, id: &str, key: &Secret) -> Shows {
        let key = Key::device(key.reveal()).expect("base64");
        Shows::Token(sas::sign(&format!("{SCOPE}/registrations/{id}"), &key, FAR, Some("registration")))
    }

    /// Enrols by a key, and signs with it.
    fn by_key(&self, id: &str) -> Shows {
        self.enroll(Wish { id: id.to_owned(), ..Wish::default() });
        self.token(id, &self.key(id))
    }

    /// The registry of a hub.
    fn registry(&self, hub: &str) -> Registry {
        Registry::prepare(self.dir.path().join(hub).join("devices.toml"), &[]).expect("a registry")
    }

    /// What a hub keeps of its devices.
    fn desk(&self, hub: &str) -> Desk {
        let linked = self.linked.iter().find(|linked| linked.host_name == hub).expect("linked");
        linked.link.as_ref().and_then(Link::desk).expect("it runs")
    }

    /// The hubs that know a device.
    fn homes(&self, device: &str) -> Vec<String> {
        let names = self.door.service.hubs.names();
        names.into_iter().filter(|hub| self.registry(hub).now().device(device).is_some()).collect()
    }

    /// What a counter says, by its name and labels.
    fn count(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metered).expect("text");
        let line = format!("dps_{line} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |count| count.parse().expect("a number"))
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(ca::ca_file(self.dir.path())).expect("a certificate");
        roots.add(authority).expect("added");
        roots
    }

    fn options(&self, id: &str, shows: &Shows) -> MqttOptions {
        let mut options = MqttOptions::new(id, "127.0.0.1", self.addr.port());
        let user = format!("{SCOPE}/registrations/{id}/api-version=2019-03-31&ClientVersion=rumqttc");
        let password = if let Shows::Token(token) = shows { token.as_str() } else { "" };
        options.set_credentials(user, password);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(self.tls(shows)))));
        options
    }

    /// Whom a device trusts, and who it is if it shows that here.
    fn tls(&self, shows: &Shows) -> rustls::ClientConfig {
        let tls = rustls::ClientConfig::builder().with_root_certificates(self.roots());
        match shows {
            Shows::Certificate(issued) => {
                let chain = CertificateDer::pem_file_iter(&issued.certificate_file).expect("PEM");
                let key = PrivateKeyDer::from_pem_file(&issued.key_file).expect("PEM");
                tls.with_client_auth_cert(chain.collect::<Result<_, _>>().expect("PEM"), key).expect("a pair")
            }
            _ => tls.with_no_client_auth(),
        }
    }

    /// Connects and subscribes.
    async fn connect(&self, id: &str, shows: &Shows) -> Result<Device, ConnectionError> {
        self.connect_with(self.options(id, shows), QoS::AtLeastOnce).await
    }

    async fn connect_with(&self, options: MqttOptions, qos: QoS) -> Result<Device, ConnectionError> {
        let (client, events) = AsyncClient::new(options, 16);
        let mut device = Device { client, events, asked: 0 };
        device.until(|packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await?;
        device.client.subscribe(ANSWERS, qos).await.expect("queued");
        device.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(())).await?;
        Ok(device)
    }

    /// Registers a device to the end: what it is told last.
    async fn register(&self, id: &str, shows: &Shows) -> Value {
        self.register_over(self.connect(id, shows).await.expect("admitted"), id).await
    }

    async fn register_over(&self, mut device: Device, id: &str) -> Value {
        let begun = device.ask(REGISTER, "", &json!({ "registrationId": id }).to_string()).await;
        if begun.status != 202 {
            return begun.body;
        }
        assert_eq!((begun.query("retry-after"), &begun.body["status"]), (Some("3"), &json!("assigning")));
        let operation = begun.body["operationId"].as_str().expect("an operation").to_owned();
        self.idle().await;
        let ended = device.ask(STATUS, &format!("&operationId={operation}"), " ").await;
        assert_eq!((ended.status, ended.query("retry-after")), (200, None));
        assert_eq!(ended.body["operationId"], json!(operation));
        ended.body
    }

    /// Waits until no registration is under way.
    async fn idle(&self) {
        let idle = async {
            while 0 < self.door.service.under_way() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, idle).await.expect("in time");
    }
}

/// A connected device.
struct Device {
    client: AsyncClient,
    events: EventLoop,
    asked: usize,
}

/// What it is told.
struct Told {
    status: u16,
    topic: String,
    body: Value,
}

impl Told {
    fn query(&self, name: &str) -> Option<&str> {
        let query = self.topic.split_once('?')?.1;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

impl Device {
    async fn until<T>(&mut self, mut wanted: impl FnMut(Packet) -> Option<T>) -> Result<T, ConnectionError> {
        let poll = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await?
                    && let Some(found) = wanted(packet)
                {
                    return Ok(found);
                }
            }
        };
        timeout(PATIENCE, poll).await.expect("in time")
    }

    async fn say(&mut self, topic: &str, body: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, false, body).await.expect("queued");
    }

    async fn ask(&mut self, topic: &str, more: &str, body: &str) -> Told {
        self.asked += 1;
        let rid = format!("r-{}", self.asked);
        self.say(&format!("{topic}{rid}{more}"), body.as_bytes()).await;
        let told = self.told().await.expect("answered");
        assert_eq!(told.query("$rid"), Some(rid.as_str()), "{}", told.topic);
        told
    }

    async fn told(&mut self) -> Result<Told, ConnectionError> {
        let publish = self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish),
            _ => None,
        });
        let publish = publish.await?;
        let status = publish.topic.split('/').nth(3).and_then(|status| status.parse().ok()).expect("a status");
        let body = serde_json::from_slice(&publish.payload).expect("JSON");
        Ok(Told { status, topic: publish.topic, body })
    }

    /// Waits until the service hangs up.
    async fn closed(mut self) {
        let closed = self.until(|_| None::<()>).await;
        closed.expect_err("closed");
    }
}

fn wish(id: &str) -> Wish {
    Wish { id: id.to_owned(), ..Wish::default() }
}

fn state(body: &Value) -> &Value {
    &body["registrationState"]
}
