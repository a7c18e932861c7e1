//! The port over real sockets, with requests written byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustls::pki_types::ServerName;
use serde_json::Value;
use shared::config::Span;
use shared::sas::{Key, sign};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Port, serve};
use crate::gate::Books;
use crate::gate::websocket::Spoken;
use crate::hub::amqp::{self, AmqpHub};
use crate::hub::api::Api;
use crate::hub::api::jobs::{self, Jobs};
use crate::hub::ca;
use crate::hub::config::HttpsLimits;
use crate::hub::mqtt::tests::{FAR, HOST, PATIENCE, Stand};

/// A hub's HTTPS port beside its MQTT port.
pub(in crate::hub) struct Served {
    pub(in crate::hub) stand: Stand,
    pub(in crate::hub) addr: SocketAddr,
    pub(in crate::hub) api: Arc<Api>,
    serving: JoinHandle<()>,
    doing: JoinHandle<()>,
}

/// What was answered.
#[derive(Debug)]
pub(in crate::hub) struct Reply {
    pub(in crate::hub) status: u16,
    pub(in crate::hub) head: String,
    pub(in crate::hub) body: Value,
}

impl Reply {
    /// The code in `Message`, as the SDK for Node reads it.
    pub(in crate::hub) fn code(&self) -> &str {
        let message = self.body["Message"].as_str().unwrap_or_default();
        message.split(';').next().and_then(|part| part.split(':').nth(1)).unwrap_or_default()
    }

    pub(in crate::hub) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value))
    }
}

pub(in crate::hub) fn limits() -> HttpsLimits {
    let ten = Span::new(Duration::from_secs(10));
    HttpsLimits { connections_max: 100, connect_timeout: ten, idle_timeout: ten }
}

impl Served {
    pub(in crate::hub) async fn open() -> Self {
        Self::open_with(limits()).await
    }

    pub(in crate::hub) async fn open_with(limits: HttpsLimits) -> Self {
        let stand = Stand::open(crate::hub::mqtt::tests::limits()).await;
        let door = &stand.door;
        let server = ca::server(stand.dir.path(), &door.desk.hosts, door.desk.clock.now()).expect("a certificate");
        let jobs = Jobs::open(stand.dir.path().join("jobs.jsonl")).expect("jobs");
        let api = Arc::new(Api { desk: door.desk.clone(), jobs });
        let doing = tokio::spawn(jobs::run(Arc::clone(&api), door.stop.clone()));
        let setup = amqp::Setup {
            name: "hub".to_owned(),
            desk: door.desk.clone(),
            policies: Arc::new(Vec::new),
            consumer_groups: vec![],
            limits: amqp::Limits::default(),
        };
        let amqp = AmqpHub::new(door.log.clone(), setup, door.desk.clock.clone());
        let (door, stop) = (Arc::clone(door), door.stop.clone());
        let books = Books::new(&mut Registry::default());
        let gate = limits.gate(books, stop);
        let idle_timeout = limits.idle_timeout.duration();
        let port = Arc::new(Port { api: Arc::clone(&api), door, amqp, idle_timeout, gate });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        let serving = tokio::spawn(serve(listener, server.device_tls, port));
        Self { stand, addr, api, serving, doing }
    }

    pub(in crate::hub) fn tls(&self) -> rustls::ClientConfig {
        rustls::ClientConfig::builder().with_root_certificates(self.stand.roots()).with_no_client_auth()
    }

    pub(in crate::hub) async fn dial(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.addr).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(self.tls())).connect(name, socket).await.expect("encrypted")
    }

    pub(in crate::hub) fn token(&self, policy: &str) -> String {
        let known = self.stand.door.desk.registry.now();
        let key = known.policy(policy).expect("a policy").keys().remove(0);
        sign(HOST, &key, FAR, Some(policy))
    }

    /// Asks as iothubowner, with the api-version; `headers` are lines.
    pub(in crate::hub) async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let sign = if path.contains('?') { '&' } else { '?' };
        let token = self.token("iothubowner");
        let headers = format!("Authorization: {token}\r\n{headers}");
        self.ask_raw(method, &format!("{path}{sign}api-version=2021-04-12"), &headers, body).await
    }

    pub(in crate::hub) async fn ask_raw(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        let mut stream = self.dial().await;
        stream.write_all(request.as_bytes()).await.expect("asked");
        reply(&mut stream).await
    }

    pub(in crate::hub) async fn close(self) {
        self.stand.door.stop.cancel();
        timeout(PATIENCE, self.serving).await.expect("in time").expect("no panic");
        timeout(PATIENCE, self.doing).await.expect("in time").expect("no panic");
        self.stand.close().await;
    }
}

async fn reply(stream: &mut TlsStream<TcpStream>) -> Reply {
    let mut bytes = vec![];
    // A peer that closes without TLS's goodbye has still answered.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("in time");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Reply { status, head: head.to_owned(), body: serde_json::from_str(body).unwrap_or_default() }
}

#[tokio::test]
async fn whoever_has_no_right_is_told_so_in_the_services_form() {
    let served = Served::open().await;
    let path = "/devices/d-1?api-version=2021-04-12";
    let wrong = sign(HOST, &Key::service("wrong"), FAR, Some("iothubowner"));
    for (what, token) in [
        ("a device's token", served.stand.token("d-1", FAR)),
        ("a wrong key", wrong),
        ("without the right", served.token("service")),
        ("that signs for devices", served.token("device")),
        ("nonsense", "SharedAccessSignature x".to_owned()),
    ] {
        let reply = served.ask_raw("GET", path, &format!("Authorization: {token}\r\n"), "").await;
        assert_eq!((reply.status, reply.code()), (401, "IotHubUnauthorizedAccess"), "{what}");
        assert_eq!(reply.header("iothub-errorcode"), Some("IotHubUnauthorizedAccess"), "{what}");
        assert!(!reply.body.to_string().contains("sig="), "{what}");
    }
    let reply = served.ask_raw("GET", path, "", "").await;
    assert_eq!(reply.status, 401, "no token at all");
    let token = served.token("registryRead");
    let reply = served.ask_raw("GET", path, &format!("Authorization: {token}\r\n"), "").await;
    assert_eq!((reply.status, reply.body["deviceId"].as_str()), (200, Some("d-1")));
    let reply = served.ask_raw("DELETE", path, &format!("Authorization: {token}\r\n"), "").await;
    assert_eq!(reply.status, 401, "who may read may not write");
    served.close().await;
}

#[tokio::test]
async fn a_version_is_demanded_and_what_is_not_there_is_said_to_be_not_there() {
    let served = Served::open().await;
    let owner = format!("Authorization: {}\r\n", served.token("iothubowner"));
    for (method, path, status, code) in [
        ("GET", "/devices", 400, "InvalidProtocolVersion"),
        ("GET", "/devices?api-version=new", 400, "InvalidProtocolVersion"),
        ("GET", "/nowhere?api-version=2021-04-12", 404, "GenericNotFound"),
        ("PATCH", "/devices/d-1?api-version=2021-04-12", 405, "GenericMethodNotAllowed"),
        ("GET", "/devices/stranger?api-version=2021-04-12", 404, "DeviceNotFound"),
        ("GET", "/devices/d-1/modules/m?api-version=2021-04-12", 404, "ModuleNotFound"),
        ("GET", "/configurations/c?api-version=2021-04-12", 501, "FeatureNotSupported"),
        ("GET", "/devices/%ff?api-version=2021-04-12", 400, "ArgumentInvalid"),
    ] {
        let reply = served.ask_raw(method, path, &owner, "").await;
        assert_eq!((reply.status, reply.code()), (status, code), "{method} {path}: {}", reply.body);
    }
    let reply = served.ask_raw("GET", "/devices?api-version=2020-05-31-preview", &owner, "").await;
    assert_eq!(reply.status, 200);
    served.close().await;
}

#[tokio::test]
async fn connections_heads_and_bodies_have_bounds() {
    let mut small = limits();
    small.connections_max = 2;
    small.idle_timeout = Span::new(Duration::from_secs(1));
    let served = Served::open_with(small).await;
    let large = "x".repeat(300 * 1024);
    let reply = served.ask("PUT", "/devices/d", "", &large).await;
    assert_eq!((reply.status, reply.code()), (413, "MessageTooLarge"));
    let reply = served.ask("GET", "/devices", &format!("x-large: {large}\r\n"), "").await;
    assert_eq!(reply.status, 431);
    // Chunked: its size is not announced.
    let owner = served.token("iothubowner");
    let mut stream = served.dial().await;
    let head = format!(
        "PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {owner}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("asked");
    for _ in 0..20 {
        let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(reply_status(&mut stream).await, 413);

    // Two who say nothing take all the room, until their time is up.
    let (mut first, _second) = (served.dial().await, served.dial().await);
    let mut third = TcpStream::connect(served.addr).await.expect("connected");
    let mut byte = [0];
    let ended = timeout(PATIENCE, third.read(&mut byte)).await.expect("in time");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let ended = timeout(PATIENCE, first.read(&mut byte)).await.expect("in time");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let again = async {
        loop {
            let socket = TcpStream::connect(served.addr).await.expect("connected");
            let name = ServerName::try_from("localhost").expect("a name");
            if TlsConnector::from(Arc::new(served.tls())).connect(name, socket).await.is_ok() {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("there is room again");
    served.close().await;
}

async fn reply_status(stream: &mut TlsStream<TcpStream>) -> u16 {
    reply(stream).await.status
}

#[tokio::test]
async fn what_is_no_request_for_websocket_is_refused_where_only_websocket_is() {
    let served = Served::open().await;
    let reply = served.ask_raw("GET", "/$iothub/websocket", "", "").await;
    assert_eq!(reply.status, 400);
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: soap\r\n";
    let reply = served.ask_raw("GET", "/$iothub/websocket", upgrade, "").await;
    assert_eq!(reply.status, 400);
    served.close().await;
}

#[test]
fn in_websocket_messages_the_event_hubs_endpoint_speaks_no_mqtt() {
    for path in ["/$iothub/websocket", "/$IotHub/WebSocket/"] {
        assert!(super::spoken(path).contains(&Spoken::Mqtt), "{path}");
    }
    assert_eq!(super::spoken("/$servicebus/websocket"), [Spoken::Amqp]);
    assert!(super::spoken("/devices").is_empty());
}
