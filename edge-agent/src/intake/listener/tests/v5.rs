//! MQTT 5, byte by byte, as its specification has it.

use super::*;

/// A packet of these bytes.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, body.len() as u8][..], body].concat()
}

/// CONNECT with these properties and this client id.
fn connect_v5(properties: &[u8], client: &[u8]) -> Vec<u8> {
    let head = [&b"\0\x04MQTT\x05\x02\0\x3c"[..], &[properties.len() as u8], properties].concat();
    packet(0x10, &[&head[..], &[0, client.len() as u8], client].concat())
}

/// PUBLISH at QoS 1 with these properties.
fn publish_v5(topic: &[u8], packet_id: u8, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let head = [&[0, topic.len() as u8][..], topic, &[0, packet_id, properties.len() as u8], properties].concat();
    packet(0x32, &[&head[..], payload].concat())
}

/// What we promise: no session, Receive Maximum 4, Maximum QoS 1, packets of 64 KiB, 16 aliases, no subscriptions.
const PROMISE: [u8; 24] =
    [0x11, 0, 0, 0, 0, 0x21, 0, 4, 0x24, 1, 0x27, 0, 1, 0, 0, 0x22, 0, 16, 0x28, 0, 0x29, 0, 0x2a, 0];

fn connack(more: &[u8]) -> Vec<u8> {
    let promise = PROMISE;
    packet(0x20, &[&[0, 0, (promise.len() + more.len()) as u8][..], &promise, more].concat())
}

async fn greeted(stand: &Stand) -> TcpStream {
    let mut stream = stand.raw().await;
    stream.write_all(&connect_v5(&[], b"d")).await.expect("written");
    expect_bytes(&mut stream, &connack(&[])).await;
    stream
}

#[tokio::test]
async fn a_device_is_told_what_it_may_do_and_gets_a_name_if_it_has_none() {
    let stand = stand(4, |_, _| {}).await;
    // It asks for a session of an hour, which it does not get, and has a property of its own.
    let wants = [&[0x11, 0, 0, 14, 16, 0x26, 0, 1][..], b"a\0\x01b"].concat();
    let mut stream = stand.raw().await;
    stream.write_all(&connect_v5(&wants, b"d")).await.expect("written");
    expect_bytes(&mut stream, &connack(&[])).await;
    // It wants no aliases of ours: a property that may be 0.
    let mut plain = stand.raw().await;
    plain.write_all(&connect_v5(&[0x22, 0, 0], b"e")).await.expect("written");
    expect_bytes(&mut plain, &connack(&[])).await;
    let mut nameless = stand.raw().await;
    nameless.write_all(&connect_v5(&[], b"")).await.expect("written");
    expect_bytes(&mut nameless, &connack(b"\x12\0\x06auto-3")).await;
}

#[tokio::test]
async fn a_publish_is_acknowledged_after_the_commit_whatever_describes_it() {
    let mut stand = stand(4, |_, _| {}).await;
    let mut stream = greeted(&stand).await;
    // Payload format 1, expiry of a second, content type, response topic, correlation data, a user property.
    let described = b"\x01\x01\x02\0\0\0\x01\x03\0\x04text\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01v";
    stream.write_all(&publish_v5(b"t", 7, described, b"21.5")).await.expect("written");
    let message = stand.message().await;
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("t", &b"21.5"[..]));
    stream.write_all(&[0xc0, 0]).await.expect("written");
    expect_bytes(&mut stream, &[0xd0, 0]).await;
    message.ack.done();
    expect_bytes(&mut stream, &[0x40, 2, 0, 7]).await;
}

#[tokio::test]
async fn topics_may_have_aliases_up_to_the_sixteenth() {
    let mut stand = stand(8, |_, _| {}).await;
    let mut stream = greeted(&stand).await;
    let alias = |alias: u8| [0x23, 0, alias];
    let packets = [
        publish_v5(b"long/topic", 1, &alias(1), b"a"),
        publish_v5(b"other", 2, &alias(16), b"b"),
        publish_v5(b"", 3, &alias(1), b"c"),
        publish_v5(b"", 4, &alias(16), b"d"),
    ];
    stream.write_all(&packets.concat()).await.expect("written");
    for (id, topic) in [(1, "long/topic"), (2, "other"), (3, "long/topic"), (4, "other")] {
        let message = stand.message().await;
        assert_eq!(message.topic, topic);
        message.ack.done();
        expect_bytes(&mut stream, &[0x40, 2, 0, id]).await;
    }
    for bad in
        [publish_v5(b"t", 5, &alias(17), b"x"), publish_v5(b"", 5, &alias(2), b"x"), publish_v5(b"", 5, &[], b"x")]
    {
        let mut stream = greeted(&stand).await;
        assert_eq!(answer(&mut stream, &bad).await, [0xe0, 1, 0x94]);
    }
    stand.until_refused("topic-alias", 3).await;
}

#[tokio::test]
async fn a_publish_without_right_is_refused_in_its_turn_and_the_connection_stays() {
    let right = Right { user: None, topic: "own/#".into() };
    let mut stand = stand(4, |config, _| config.right = vec![right]).await;
    let mut stream = greeted(&stand).await;
    let qos_0 = packet(0x30, b"\0\x06others\0x");
    let packets = [publish_v5(b"own/a", 1, &[], b"a"), publish_v5(b"others", 2, &[], b"b"), qos_0];
    stream.write_all(&packets.concat()).await.expect("written");
    stream.write_all(&publish_v5(b"own/a", 3, &[], b"c")).await.expect("written");
    let (first, third) = (stand.message().await, stand.message().await);
    assert_eq!((&first.payload[..], &third.payload[..]), (&b"a"[..], &b"c"[..]));
    third.ack.done();
    first.ack.done();
    expect_bytes(&mut stream, &[0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x87, 0x40, 2, 0, 3]).await;
    assert_eq!(stand.metrics.of("listener").barred(), 2);
    assert_eq!(stand.metrics.of("listener").acked.get(), 2);
}

#[tokio::test]
async fn what_is_not_served_is_said_with_its_reason() {
    let stand = stand(4, |config, dir| {
        let path = dir.join("passwords");
        std::fs::write(&path, include_str!("../testdata/passwords")).expect("write");
        config.password_file = Some(path);
    })
    .await;
    let wrong = packet(0x10, b"\0\x04MQTT\x05\xc2\0\x3c\0\0\x01d\0\x07press-3\0\x05wrong");
    let will_qos_2 = packet(0x10, b"\0\x04MQTT\x05\x16\0\x3c\0\0\x01d\0\0\x01w\0\x01x");
    let will_of_ours = packet(0x10, b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01d\0\0\x0a$sensors/a\0\x01x");
    let refused = |code: u8| Some(vec![0x20, 3, 0, code, 0]);
    for (name, bytes, wanted) in [
        ("a wrong password", wrong, refused(0x86)),
        ("an authentication method", connect_v5(b"\x15\0\x05SCRAM", b"d"), refused(0x8c)),
        ("a will at QoS 2", will_qos_2, refused(0x9b)),
        ("a will on a topic of the gateway's own", will_of_ours, refused(0x90)),
        ("a version to come", [&[0x10, 14][..], b"\0\x04MQTT\x06\x02\0\x3c\0\0\x01d"].concat(), refused(0x84)),
        ("properties that are none", connect_v5(&[0x77, 0], b"d"), None),
    ] {
        let mut stream = stand.raw().await;
        let got = answer(&mut stream, &bytes).await;
        match wanted {
            Some(wanted) => assert_eq!(got, wanted, "{name}"),
            None => assert!(matches!(got[..], [0x20, _, 0, 0x80..=0xff, ..]), "{name}: {got:?}"),
        }
    }
    for (name, bytes, code) in [
        ("QoS 2", packet(0x34, b"\0\x01t\0\x01\0x"), 0x9b),
        ("a wildcard", publish_v5(b"a/#", 1, &[], b"x"), 0x90),
        ("too large", vec![0x32, 0xff, 0xff, 0x7f], 0x95),
        ("AUTH", vec![0xf0, 0], 0x82),
        ("CONNECT again", connect_v5(&[], b"d"), 0x82),
        ("a PUBACK nobody waits for", vec![0x40, 2, 0, 1], 0x82),
    ] {
        let mut stream = greeted(&stand).await;
        assert_eq!(answer(&mut stream, &bytes).await, [0xe0, 1, code], "{name}");
    }
    let mut stream = greeted(&stand).await;
    stream.write_all(&packet(0x82, b"\0\x09\0\0\x01a\x01\0\x01#\0")).await.expect("written");
    expect_bytes(&mut stream, &[0x90, 5, 0, 9, 0, 0x83, 0x83]).await;
    stream.write_all(&packet(0xa2, b"\0\x0a\0\0\x01a")).await.expect("written");
    expect_bytes(&mut stream, &[0xb0, 4, 0, 10, 0, 0x11]).await;
}

#[tokio::test]
async fn who_must_go_is_told_why() {
    let mut stand = stand(4, |config, _| config.packet_timeout = Span::new(Duration::from_millis(200))).await;
    let mut first = greeted(&stand).await;
    let mut second = greeted(&stand).await;
    assert_eq!(rest(&mut first).await, [0xe0, 1, 0x8e], "taken over");
    second.write_all(&publish_v5(b"t", 1, &[], b"x")[..5]).await.expect("written");
    assert_eq!(rest(&mut second).await, [0xe0, 1, 0x80], "slow");
    let mut unstored = greeted(&stand).await;
    unstored.write_all(&publish_v5(b"t", 1, &[], b"x")).await.expect("written");
    drop(stand.message().await);
    assert_eq!(rest(&mut unstored).await, [0xe0, 1, 0x89], "not stored");
    let mut last = greeted(&stand).await;
    last.write_all(&publish_v5(b"t", 1, &[], b"x")).await.expect("written");
    let message = stand.message().await;
    stand.stop.cancel();
    message.ack.done();
    assert_eq!(rest(&mut last).await, [0x40, 2, 0, 1, 0xe0, 1, 0x8b], "stopping, with everything acknowledged");
}

#[tokio::test]
async fn a_goodbye_may_ask_for_the_will() {
    let mut stand = stand(4, |_, _| {}).await;
    let hello = packet(0x10, b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01d\0\0\x01w\0\x04gone");
    for (goodbye, heard) in [(&[0xe0, 0][..], false), (&[0xe0, 1, 4], true)] {
        let mut stream = stand.raw().await;
        stream.write_all(&[&hello[..], goodbye].concat()).await.expect("written");
        rest(&mut stream).await;
        assert_eq!(stand.messages.try_recv().is_ok(), heard, "{goodbye:?}");
    }
}
