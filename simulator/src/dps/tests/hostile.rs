//! Bytes, topics and habits that no device should have.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

#[tokio::test]
async fn what_the_service_forbids_closes_the_connection() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    let long = format!("{REGISTER}{}", "r".repeat(300));
    for (what, topic, qos, body) in [
        ("97 KB", format!("{REGISTER}1"), QoS::AtLeastOnce, vec![b' '; 97 * 1024]),
        ("200 KB", format!("{REGISTER}1"), QoS::AtLeastOnce, vec![b' '; 200 * 1024]),
        ("QoS 2", format!("{REGISTER}1"), QoS::ExactlyOnce, b"{}".to_vec()),
        ("a long request id", long, QoS::AtLeastOnce, b"{}".to_vec()),
        ("a hub's topic", "devices/d/messages/events/".to_owned(), QoS::AtLeastOnce, b"{}".to_vec()),
        ("an answer", "$dps/registrations/res/200/?$rid=1".to_owned(), QoS::AtLeastOnce, b"{}".to_vec()),
    ] {
        let device = stand.connect("d", &shows).await.expect(what);
        device.client.publish(topic, qos, false, body).await.expect("queued");
        device.closed().await;
    }
    for filter in ["#", "$dps/registrations/#", "$iothub/twin/res/#"] {
        let device = stand.connect("d", &shows).await.expect("admitted");
        device.client.subscribe(filter, QoS::AtLeastOnce).await.expect("queued");
        device.closed().await;
    }
    stand.register("d", &shows).await;
    stand.close().await;
}

#[tokio::test]
async fn whoever_is_not_subscribed_is_not_told_and_registered_nevertheless() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    let mut device = stand.connect("d", &shows).await.expect("admitted");
    device.client.unsubscribe(ANSWERS).await.expect("queued");
    device.say(&format!("{REGISTER}1"), b"{}").await;
    let acknowledged = device.until(|packet| match packet {
        Packet::PubAck(_) => Some(true),
        Packet::Publish(_) => Some(false),
        _ => None,
    });
    assert!(acknowledged.await.expect("acknowledged"));
    stand.idle().await;
    assert_eq!(stand.homes("d").len(), 1);
    stand.close().await;
}

#[tokio::test]
async fn a_second_connection_drops_the_first_unless_it_is_a_strangers() {
    let stand = Stand::open(Setup::default()).await;
    let shows = stand.by_key("d");
    let mut first = stand.connect("d", &shows).await.expect("admitted");
    let stranger = stand.token("d", &Secret::new("d3Jvbmc="));
    let _stranger = stand.connect("d", &stranger).await.expect("admitted, to be told no");
    assert_eq!(first.ask(STATUS, "&operationId=4.0.none", " ").await.status, 404, "it is still there");
    let mut second = stand.connect("D", &stand.token("D", &stand.key("d"))).await.expect("admitted");
    first.closed().await;
    assert_eq!(second.ask(STATUS, "&operationId=4.0.none", " ").await.status, 404);
    assert_eq!(stand.door.seats.registrations(), ["d"]);
    stand.close().await;
}

#[tokio::test]
async fn a_stranger_is_not_borne_for_long_and_a_token_that_ends_ends_the_connection() {
    let mut setup = Setup::default();
    setup.limits.connect_timeout = Span::new(Duration::from_millis(1_500));
    let stand = Stand::open(setup).await;
    let stranger = stand.token("d", &Secret::new("d3Jvbmc="));
    stand.connect("d", &stranger).await.expect("admitted, to be told no").closed().await;
    assert_eq!(stand.count("closed_total{reason=\"unknown-device\"}"), 1);

    stand.enroll(wish("d"));
    let key = Key::device(stand.key("d").reveal()).expect("base64");
    let end_s = Clock::Real.now().millis() / 1_000 + 2;
    let token = sas::sign(&format!("{SCOPE}/registrations/d"), &key, end_s, Some("registration"));
    stand.connect("d", &Shows::Token(token)).await.expect("admitted").closed().await;
    assert_eq!(stand.count("closed_total{reason=\"token-ended\"}"), 1);
    stand.close().await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_room_comes_back() {
    let mut setup = Setup::default();
    setup.limits.connections_max = 1;
    let stand = Stand::open(setup).await;
    let shows = stand.by_key("d");
    let first = stand.connect("d", &shows).await.expect("admitted");
    let other = stand.by_key("e");
    stand.connect("e", &other).await.err().expect("no room");
    first.client.disconnect().await.expect("queued");
    first.closed().await;
    let comes_in = async {
        while stand.connect("e", &other).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, comes_in).await.expect("room again");
    stand.close().await;
}

#[tokio::test]
async fn garbage_and_half_packets_are_hung_up_on() {
    let mut setup = Setup::default();
    setup.limits.connect_timeout = Span::new(Duration::from_millis(300));
    let stand = Stand::open(setup).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x16\x03\x01", &[0; 4096], b"\x10\x20\x00\x04MQTT"] {
        let mut socket = TcpStream::connect(stand.addr).await.expect("connected");
        // The service may hang up while we write: that is what is asked of it.
        let _ = socket.write_all(bytes).await;
        let mut rest = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("hung up on, plain");
    }
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", b"\x10", b"\x10\x20\x00\x04MQTT", b"\xc0\x00", &[0xff; 4096]] {
        let tls = rustls::ClientConfig::builder().with_root_certificates(stand.roots()).with_no_client_auth();
        let socket = TcpStream::connect(stand.addr).await.expect("connected");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let mut socket = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("TLS");
        let _ = socket.write_all(bytes).await;
        let mut rest = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("hung up on, inside TLS");
    }
    stand.close().await;
}
