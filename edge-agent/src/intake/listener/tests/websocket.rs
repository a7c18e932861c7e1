//! Devices in WebSocket messages, by hand: the upgrade as RFC 6455 has it, then masked frames.

use super::certificates::{certify, dial};
use super::*;

const UPGRADE: &str = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A masked frame; the mask is four zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let head = match payload.len() {
        length @ ..126 => vec![first, 0x80 | length as u8],
        length => [&[first, 0xfe][..], &(length as u16).to_be_bytes()].concat(),
    };
    [&head[..], &[0; 4], payload].concat()
}

async fn upgraded<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    stream.write_all(UPGRADE.as_bytes()).await.expect("written");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, stream.read_u8()).await.expect("soon").expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
    // The example of RFC 6455.
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
}

async fn web_stand(change: impl FnOnce(&mut Config, &std::path::Path)) -> (Stand, SocketAddr) {
    let stand = stand(8, |config, dir| {
        config.websocket_listen = Some(([127, 0, 0, 1], 0).into());
        change(config, dir);
    })
    .await;
    let address = stand.websocket.expect("listens");
    (stand, address)
}

/// CONNECT and a publish, cut anyhow, with a ping between, and what comes back.
async fn publishes<S: AsyncRead + AsyncWrite + Unpin>(stand: &mut Stand, stream: &mut S) {
    let (hello, publish) = (connect(60), publish(7, b"21.5"));
    let (begin, rest) = publish.split_at(3);
    let frames =
        [frame(0x82, &hello[..5]), frame(0x02, &[&hello[5..], begin].concat()), frame(0x89, b"?"), frame(0x80, rest)];
    stream.write_all(&frames.concat()).await.expect("written");
    // The pong may come before or after what is answered to CONNECT.
    let mut answers = vec![0; 9];
    timeout(SOON, stream.read_exact(&mut answers)).await.expect("soon").expect("answers");
    let connack = [&[0x82, 4][..], &CONNACK].concat();
    let pong = [0x8a, 1, b'?'];
    assert!(answers == [&connack[..], &pong].concat() || answers == [&pong[..], &connack].concat(), "{answers:?}");
    let message = stand.message().await;
    assert_eq!(&message.payload[..], b"21.5");
    message.ack.done();
    expect_bytes(stream, &[0x82, 4, 0x40, 2, 0, 7]).await;
}

#[tokio::test]
async fn over_websocket_devices_are_the_same_as_over_tcp() {
    let (mut stand, address) = web_stand(|_, _| {}).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    upgraded(&mut stream).await;
    publishes(&mut stand, &mut stream).await;
    // The one over TCP takes the place of the one over WebSocket.
    let mut other = stand.raw().await;
    other.write_all(&connect(60)).await.expect("written");
    expect_bytes(&mut other, &CONNACK).await;
    assert_eq!(rest(&mut stream).await, b"");
    let mut leaves = TcpStream::connect(address).await.expect("connects");
    upgraded(&mut leaves).await;
    leaves.write_all(&frame(0x88, &[3, 232])).await.expect("written");
    assert_eq!(rest(&mut leaves).await, [0x88, 2, 3, 232], "a goodbye is answered");
}

#[tokio::test]
async fn over_websocket_and_tls_certificates_count_too() {
    shared::tls::install_provider();
    let (mut stand, address) = web_stand(|config, dir| {
        certify(config, dir);
        config.anonymous = false;
    })
    .await;
    let mut stream = dial(address, Some(include_str!("../testdata/devices/press-3.pem"))).await;
    upgraded(&mut stream).await;
    publishes(&mut stand, &mut stream).await;
}

#[tokio::test]
async fn on_stop_what_came_over_websocket_is_acknowledged() {
    let (mut stand, address) = web_stand(|_, _| {}).await;
    let mut stream = TcpStream::connect(address).await.expect("connects");
    upgraded(&mut stream).await;
    let packets = [connect(60), publish(1, b"a")].concat();
    stream.write_all(&frame(0x82, &packets)).await.expect("written");
    let message = stand.message().await;
    stand.stop.cancel();
    message.ack.done();
    let answers = [&[0x82, 4][..], &CONNACK, &[0x82, 4, 0x40, 2, 0, 1]].concat();
    assert!(rest(&mut stream).await.starts_with(&answers));
}

#[tokio::test]
async fn what_is_no_upgrade_to_mqtt_is_refused_and_counted() {
    let (stand, address) = web_stand(|_, _| {}).await;
    for (count, (request, status)) in [
        (UPGRADE.replace("Protocol: mqtt", "Protocol: amqp"), "400"),
        (UPGRADE.replace("\r\n\r\n", "\r\nOrigin: http://elsewhere\r\n\r\n"), "403"),
        (UPGRADE.replace("Upgrade: websocket\r\n", ""), ""),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), ""),
        ("\u{10}\r\0\u{4}MQTT".to_owned() + &"x".repeat(100), ""),
        ("x".repeat(200_000), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&rest(&mut stream).await).into_owned();
        assert!(!answer.contains("101") && answer.contains(status), "{answer}");
        stand.until_refused("websocket", count as u64 + 1).await;
    }
}

#[tokio::test]
async fn frames_that_are_none_and_frames_that_do_not_end_are_closed() {
    let (stand, address) = web_stand(|config, _| {
        config.connect_timeout = Span::new(Duration::from_millis(300));
        config.packet_timeout = Span::new(Duration::from_millis(300));
    })
    .await;
    for (count, bad) in [frame(0x81, b"text"), vec![0x82, 1, b'x'], frame(0x83, b"x")].into_iter().enumerate() {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        upgraded(&mut stream).await;
        stream.write_all(&bad).await.expect("written");
        rest(&mut stream).await;
        stand.until_refused("garbage", count as u64 + 1).await;
    }
    // A request, a CONNECT and a publish that do not end.
    let mut head = TcpStream::connect(address).await.expect("connects");
    head.write_all(&UPGRADE.as_bytes()[..60]).await.expect("written");
    assert_eq!(rest(&mut head).await, b"");
    let mut hello = TcpStream::connect(address).await.expect("connects");
    upgraded(&mut hello).await;
    hello.write_all(&frame(0x82, &connect(60))[..9]).await.expect("written");
    assert_eq!(rest(&mut hello).await, b"");
    stand.until_refused("connect-timeout", 2).await;
    let mut packet = TcpStream::connect(address).await.expect("connects");
    upgraded(&mut packet).await;
    let publish = frame(0x82, &publish(1, b"x"));
    packet.write_all(&[&frame(0x82, &connect(0))[..], &publish[..publish.len() - 1]].concat()).await.expect("written");
    rest(&mut packet).await;
    stand.until_refused("slow", 1).await;
}
