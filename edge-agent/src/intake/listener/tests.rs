//! The listener against rumqttc as a device, and against bytes no device would send.

mod certificates;
mod fuzz;
mod limits;
mod rights;
mod v5;
mod websocket;

use std::time::Duration;

use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use shared::config::{Size, Span};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

struct Stand {
    address: SocketAddr,
    websocket: Option<SocketAddr>,
    messages: mpsc::Receiver<RawMessage>,
    stop: CancellationToken,
    served: JoinHandle<()>,
    metrics: Metrics,
    _dir: tempfile::TempDir,
}

fn config() -> Config {
    Config {
        enabled: true,
        listen: ([127, 0, 0, 1], 0).into(),
        websocket_listen: None,
        anonymous: true,
        password_file: None,
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        tls_client_crl: None,
        right: Vec::new(),
        connections_max: 1000,
        connections_per_address: 1000,
        max_packet: Size::new(64 * 1024),
        bytes_max: Size::new(1024 * 1024),
        unacked_max: 4,
        rate_messages: None,
        rate_bytes: None,
        connect_timeout: Span::new(Duration::from_secs(5)),
        packet_timeout: Span::new(Duration::from_secs(5)),
    }
}

async fn stand(capacity: usize, change: impl FnOnce(&mut Config, &std::path::Path)) -> Stand {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = config();
    change(&mut config, dir.path());
    let listener = Listener::bind(config).await.expect("binds");
    let (address, websocket) = (listener.address(), listener.websocket_address());
    let (tx, messages) = mpsc::channel(capacity);
    let stop = CancellationToken::new();
    let metrics = Metrics::default();
    let served = tokio::spawn(listener.serve(Clock::Real, tx, stop.clone(), metrics.clone()));
    Stand { address, websocket, messages, stop, served, metrics, _dir: dir }
}

impl Stand {
    async fn message(&mut self) -> RawMessage {
        timeout(SOON, self.messages.recv()).await.expect("a message comes").expect("the listener lives")
    }

    fn device(&self, id: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(id, self.address.ip().to_string(), self.address.port());
        options.set_max_packet_size(1 << 20, 1 << 20).set_inflight(50);
        AsyncClient::new(options, 100)
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// How often connections were refused or closed for this reason.
    fn refused(&self, reason: &'static str) -> u64 {
        self.metrics.of("listener").refused(reason)
    }

    /// Waits until so many were.
    async fn until_refused(&self, reason: &'static str, count: u64) {
        let counted = async {
            while self.refused(reason) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(SOON, counted).await;
        assert!(waited.is_ok(), "{reason}: {} of {count}", self.refused(reason));
    }
}

async fn until(events: &mut EventLoop, wanted: impl Fn(&Event) -> bool) -> Event {
    timeout(SOON, async {
        loop {
            let event = events.poll().await.expect("connected");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
    .expect("it happens")
}

async fn connected(events: &mut EventLoop) {
    until(events, |event| matches!(event, Event::Incoming(Packet::ConnAck(_)))).await;
}

/// Sends bytes; returns what came back until the listener closed the connection.
async fn answer(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.expect("write");
    rest(stream).await
}

async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset counts as closed.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the listener closes the connection");
    answer
}

/// CONNECT of MQTT 3.1.1, clean session, client id `d`, no user.
fn connect(keep_alive: u8) -> Vec<u8> {
    vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, keep_alive, 0, 1, b'd']
}

/// A publish at QoS 1 on topic `t`.
fn publish(packet_id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x32, 5 + payload.len() as u8, 0, 1, b't', 0, packet_id];
    bytes.extend_from_slice(payload);
    bytes
}

/// A publish of `x` at QoS 1.
fn publish_to(topic: &str, packet_id: u8) -> Vec<u8> {
    let head = [0x32, 5 + topic.len() as u8, 0, topic.len() as u8];
    [&head[..], topic.as_bytes(), &[0, packet_id, b'x']].concat()
}

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

async fn expect_bytes(stream: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    timeout(SOON, stream.read_exact(&mut got)).await.expect("an answer comes").expect("read");
    assert_eq!(got, wanted);
}

#[tokio::test]
async fn a_publish_is_acknowledged_after_the_commit_and_not_before() {
    let mut stand = stand(16, |_, _| {}).await;
    let (device, mut events) = stand.device("press-3");
    device.publish("telemetry/press-3", QoS::AtLeastOnce, true, "{\"t\":1}").await.expect("queued");
    connected(&mut events).await;
    until(&mut events, |event| matches!(event, Event::Outgoing(Outgoing::Publish(1)))).await;
    let message = stand.message().await;
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("telemetry/press-3", &b"{\"t\":1}"[..]));
    // A ping comes back while the publish still waits, so it was not acknowledged by haste.
    let early = timeout(Duration::from_millis(200), events.poll()).await;
    assert!(early.is_err(), "{early:?}");
    message.ack.done();
    until(&mut events, |event| matches!(event, Event::Incoming(Packet::PubAck(ack)) if ack.pkid == 1)).await;
}

#[tokio::test]
async fn acknowledgements_keep_the_order_of_the_publishes() {
    let mut stand = stand(16, |_, _| {}).await;
    let mut stream = stand.raw().await;
    stream
        .write_all(&[connect(60), publish(7, b"a"), publish(5, b"b"), publish(9, b"c")].concat())
        .await
        .expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    let (a, b, c) = (stand.message().await, stand.message().await, stand.message().await);
    c.ack.done();
    b.ack.done();
    a.ack.done();
    expect_bytes(&mut stream, &[0x40, 2, 0, 7, 0x40, 2, 0, 5, 0x40, 2, 0, 9]).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_ends_the_connection_unacknowledged() {
    let mut stand = stand(16, |_, _| {}).await;
    let mut stream = stand.raw().await;
    stream.write_all(&[connect(60), publish(1, b"a")].concat()).await.expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    drop(stand.message().await);
    assert_eq!(rest(&mut stream).await, b"");
}

#[tokio::test]
async fn unacknowledged_publishes_are_bounded_and_go_on_when_acknowledged() {
    let mut stand = stand(2, |_, _| {}).await;
    let mut stream = stand.raw().await;
    let publishes: Vec<u8> = (1..=20).flat_map(|id| publish(id, b"x")).collect();
    stream.write_all(&[connect(60), publishes].concat()).await.expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(stand.message().await);
    }
    assert!(timeout(Duration::from_millis(200), stand.messages.recv()).await.is_err(), "`unacked-max` is 4");
    let mut acked = 0;
    while acked < 20 {
        if held.is_empty() {
            held.push(stand.message().await);
        }
        held.remove(0).ack.done();
        acked += 1;
        expect_bytes(&mut stream, &[0x40, 2, 0, acked]).await;
    }
}

#[tokio::test]
async fn qos_0_is_taken_while_there_is_room_and_dropped_and_counted_above() {
    let mut stand = stand(2, |_, _| {}).await;
    let mut stream = stand.raw().await;
    let publishes: Vec<u8> = (0..5).flat_map(|n| vec![0x30, 4, 0, 1, b't', b'0' + n]).collect();
    stream.write_all(&[connect(60), publishes, vec![0xc0, 0]].concat()).await.expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    expect_bytes(&mut stream, &[0xd0, 0]).await; // the ping behind them is answered
    for wanted in [b"0", b"1"] {
        assert_eq!(&stand.message().await.payload[..], wanted);
    }
    assert_eq!(stand.metrics.of("listener").dropped.get(), 3);
    assert_eq!(stand.metrics.of("listener").received.get(), 5);
}

#[tokio::test]
async fn a_subscription_is_answered_with_failure() {
    let stand = stand(2, |_, _| {}).await;
    let (device, mut events) = stand.device("d");
    device.subscribe_many([rumqttc::SubscribeFilter::new("#".into(), QoS::AtLeastOnce)]).await.expect("queued");
    let event = until(&mut events, |event| matches!(event, Event::Incoming(Packet::SubAck(_)))).await;
    let Event::Incoming(Packet::SubAck(suback)) = event else { unreachable!() };
    assert_eq!(suback.return_codes, [rumqttc::SubscribeReasonCode::Failure]);
}

#[tokio::test]
async fn a_second_connection_with_the_same_client_id_ends_the_first() {
    let stand = stand(2, |_, _| {}).await;
    let mut first = stand.raw().await;
    first.write_all(&connect(60)).await.expect("write");
    expect_bytes(&mut first, &CONNACK).await;
    let mut second = stand.raw().await;
    second.write_all(&connect(60)).await.expect("write");
    expect_bytes(&mut second, &CONNACK).await;
    assert_eq!(rest(&mut first).await, b"");
    second.write_all(&[0xc0, 0]).await.expect("write");
    expect_bytes(&mut second, &[0xd0, 0]).await;
}

#[tokio::test]
async fn users_of_the_password_file_may_enter_and_nobody_else() {
    let stand = stand(2, |config, dir| {
        let path = dir.join("passwords");
        std::fs::write(&path, include_str!("testdata/passwords")).expect("write");
        config.password_file = Some(path);
        config.anonymous = false;
    })
    .await;
    for (login, wanted) in [
        (Some(("press-3", "secret")), None),
        (Some(("press-3", "wrong")), Some(ConnectReturnCode::BadUserNamePassword)),
        (Some(("nobody", "secret")), Some(ConnectReturnCode::BadUserNamePassword)),
        (None, Some(ConnectReturnCode::BadUserNamePassword)),
    ] {
        let (_device, mut events) = stand.device("d");
        if let Some((user, password)) = login {
            events.mqtt_options.set_credentials(user, password);
        }
        let got = match timeout(SOON, events.poll()).await.expect("an answer comes") {
            Ok(_) => None,
            Err(ConnectionError::ConnectionRefused(code)) => Some(code),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(got, wanted, "{login:?}");
    }
}

#[tokio::test]
async fn what_is_not_mqtt_for_publishing_is_closed() {
    let stand = stand(2, |_, _| {}).await;
    let mqtt31 = [&[0x10, 15, 0, 6][..], b"MQIsdp", &[3, 2, 0, 60, 0, 1, b'd']].concat();
    let level3 = vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 3, 2, 0, 60, 0, 1, b'd'];
    let qos2 = [connect(60), vec![0x34, 5, 0, 1, b't', 0, 1]].concat();
    let id_zero = [connect(60), vec![0x32, 5, 0, 1, b't', 0, 0]].concat();
    let wildcard = [connect(60), vec![0x30, 3, 0, 1, b'#']].concat();
    let of_the_gateway = [connect(60), [&[0x30, 12, 0, 10][..], b"$sensors/a"].concat()].concat();
    let twice = [connect(60), connect(60)].concat();
    let too_large = [connect(60), vec![0x30, 0xff, 0xff, 0x7f]].concat();
    let connack_to_a_server = [connect(60), CONNACK.to_vec()].concat();
    let no_id_but_a_session = vec![0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 60, 0, 0];
    for (name, bytes, wanted) in [
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        ("tls", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], None),
        ("zeros", vec![0; 1000], None),
        ("ones", vec![0xff; 1000], None),
        ("publish first", publish(1, b"x"), None),
        ("ping first", vec![0xc0, 0], None),
        ("a connect without end", vec![0x10, 0xff, 0xff, 0xff, 0x7f], None),
        ("mqtt 3.1", mqtt31, Some([0x20, 2, 0, 1])),
        ("level 3", level3, Some([0x20, 2, 0, 1])),
        ("no id but a session", no_id_but_a_session, Some([0x20, 2, 0, 2])),
        ("qos 2", qos2, Some(CONNACK)),
        ("packet id 0", id_zero, Some(CONNACK)),
        ("wildcard", wildcard, Some(CONNACK)),
        ("a topic of the gateway's own", of_the_gateway, Some(CONNACK)),
        ("connect twice", twice, Some(CONNACK)),
        ("too large", too_large, Some(CONNACK)),
        ("connack", connack_to_a_server, Some(CONNACK)),
    ] {
        let mut stream = stand.raw().await;
        let answer = answer(&mut stream, &bytes).await;
        assert_eq!(answer, wanted.map(|bytes| bytes.to_vec()).unwrap_or_default(), "{name}");
    }
    // And it still serves.
    let (_device, mut events) = stand.device("good");
    connected(&mut events).await;
}

#[tokio::test]
async fn slow_devices_are_closed() {
    let stand = stand(2, |config, _| {
        config.connect_timeout = Span::new(Duration::from_millis(150));
        config.packet_timeout = Span::new(Duration::from_millis(150));
    })
    .await;
    let mut silent = stand.raw().await;
    assert_eq!(rest(&mut silent).await, b"");
    let mut half = stand.raw().await;
    assert_eq!(answer(&mut half, &connect(60)[..9]).await, b"");
    let mut drip = stand.raw().await;
    assert_eq!(answer(&mut drip, &[connect(0), publish(1, b"x")[..4].to_vec()].concat()).await, CONNACK);
    let mut begun = stand.raw().await;
    assert_eq!(answer(&mut begun, &[connect(0), vec![0x32]].concat()).await, CONNACK, "not even a length");
    let mut quiet = stand.raw().await;
    assert_eq!(answer(&mut quiet, &connect(1)).await, CONNACK, "1.5 times a keep-alive of one second");
    for (reason, count) in [("connect-timeout", 2), ("slow", 2), ("keep-alive", 1)] {
        stand.until_refused(reason, count).await;
    }
}

#[tokio::test]
async fn on_stop_what_was_taken_is_still_acknowledged() {
    let mut stand = stand(2, |_, _| {}).await;
    let mut stream = stand.raw().await;
    stream.write_all(&[connect(60), publish(1, b"a")].concat()).await.expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    let message = stand.message().await;
    stand.stop.cancel();
    message.ack.done();
    assert_eq!(rest(&mut stream).await, [0x40, 2, 0, 1]);
    timeout(SOON, stand.served).await.expect("it ends").expect("no panic");
    assert!(stand.messages.recv().await.is_none(), "the way in is closed");
}

#[tokio::test]
async fn on_stop_a_device_that_goes_on_sending_still_reads_its_acknowledgement() {
    let mut stand = stand(2, |_, _| {}).await;
    let mut stream = stand.raw().await;
    stream.write_all(&[connect(60), publish(1, b"a")].concat()).await.expect("write");
    expect_bytes(&mut stream, &CONNACK).await;
    let message = stand.message().await;
    stand.stop.cancel();
    // Bytes that nobody takes any more lie in the socket when the agent hangs up.
    for id in 2..40 {
        stream.write_all(&publish(id, b"b")).await.expect("write");
    }
    message.ack.done();
    assert_eq!(rest(&mut stream).await, [0x40, 2, 0, 1]);
    drop(stream);
    timeout(SOON, stand.served).await.expect("it ends").expect("no panic");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_with_their_setting() {
    shared::tls::install_provider();
    let dir = tempfile::tempdir().expect("temp dir");
    let bad = dir.path().join("bad");
    std::fs::write(&bad, "press-3:secret").expect("write");
    let nowhere = dir.path().join("nowhere");
    let certified = |dir: &std::path::Path, change: &dyn Fn(&mut Config)| {
        let mut config = config();
        certificates::certify(&mut config, dir);
        change(&mut config);
        config
    };
    for (change, wanted) in [
        (Config { password_file: Some(nowhere.clone()), ..config() }, "password-file"),
        (Config { password_file: Some(bad.clone()), ..config() }, "line 1"),
        (Config { tls_cert: Some(nowhere.clone()), tls_key: Some(nowhere), ..config() }, "tls-cert"),
        (Config { tls_cert: Some(bad.clone()), tls_key: Some(bad.clone()), ..config() }, "holds no private key"),
        (certified(dir.path(), &|config| config.tls_client_ca = Some(bad.clone())), "holds no certificate"),
        (certified(dir.path(), &|config| config.tls_client_crl = Some(bad.clone())), "no list of revoked"),
    ] {
        let error = Listener::bind(change).await.err().expect("refused").to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
