//! The same AMQP inside TLS, and inside WebSocket messages.

use std::sync::Arc;

use fe2o3_amqp::Receiver;
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::primitives::Value;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::tempdir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_util::sync::CancellationToken;

use super::super::{Wrapping, serve};
use super::kit::{KEY, TestHub, event, within};
use super::raw::{PARTITION, Peer, open, plain};
use crate::gate::websocket::WsIo;

struct Port {
    port: u16,
    certificate: CertificateDer<'static>,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Port {
    /// One more port of a hub.
    async fn of(hub: &TestHub, wrapping: fn(Arc<ServerConfig>) -> Wrapping) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (tls, stop) = (Arc::new(config.expect("they belong together")), CancellationToken::new());
        let serving = tokio::spawn(serve(listener, wrapping(tls), hub.hub.clone(), stop.clone()));
        Self { port, certificate: made.cert.der().clone(), stop, serving }
    }

    async fn dial(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("encrypted")
    }

    /// A WebSocket on which AMQP is spoken.
    async fn upgrade(&self, path: &str, subprotocol: &'static str) -> Result<WsIo<TlsStream<TcpStream>>, String> {
        let mut request = format!("wss://localhost{path}").into_client_request().expect("a request");
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(subprotocol));
        let upgrading = Box::pin(tokio_tungstenite::client_async(request, self.dial().await));
        let (socket, response) = within(upgrading).await.map_err(|error| error.to_string())?;
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], subprotocol);
        Ok(WsIo::new(socket))
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.serving).await.expect("no panic").expect("served");
    }
}

async fn receives(mut peer: Peer, bodies: usize) {
    let mut receiver = within(Receiver::attach(&mut peer.1, "r", PARTITION)).await.expect("attached");
    for _ in 0..bodies {
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_same_hub_answers() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 150).await;
    let port = Port::of(&hub, Wrapping::Tls).await;
    receives(Box::pin(open(port.dial().await, plain(KEY))).await.expect("the key is right"), 150).await;
    port.stop().await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket_the_same_hub_answers() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    hub.fill(&device, 150).await;
    hub.log.append(event(&device, "x".repeat(256 * 1024))).await.expect("stored");
    let port = Port::of(&hub, Wrapping::WebSocket).await;
    for (path, subprotocol) in [("/$servicebus/websocket", "AMQPWSB10"), ("/$servicebus/websocket/", "amqp")] {
        let stream = port.upgrade(path, subprotocol).await.expect("upgraded");
        receives(Box::pin(open(stream, plain(KEY))).await.expect("the key is right"), 151).await;
    }
    for (path, subprotocol, is) in [("/", "amqp", "404"), ("/$servicebus/websocket", "mqtt", "400")] {
        let refused = port.upgrade(path, subprotocol).await.map(|_| ()).expect_err("refused");
        assert!(refused.contains(is), "{path} {subprotocol}: {refused}");
    }
    for garbage in [&b"AMQP\x03\x01\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0\0\0\0\0\r\n\r\n"] {
        let mut stream = port.dial().await;
        stream.write_all(garbage).await.expect("written");
        let mut answer = vec![];
        let _ = within(stream.read_to_end(&mut answer)).await;
    }
    within(hub.until(|status| status.connections == 0)).await;
    assert_eq!(hub.hub.status().handshakes_failed, 5);
    port.stop().await;
    hub.stop().await;
}
