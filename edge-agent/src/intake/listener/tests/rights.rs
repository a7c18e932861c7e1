//! Who may publish what, and who may make whom leave.

use super::*;

fn right(user: Option<&str>, topic: &str) -> Right {
    Right { user: user.map(str::to_owned), topic: topic.to_owned() }
}

#[tokio::test]
async fn mqtt_3_1_1_is_closed_at_a_topic_without_right_and_nothing_is_acknowledged_by_it() {
    let mut stand = stand(4, |config, _| config.right = vec![right(None, "own/{client}")]).await;
    let mut stream = stand.raw().await;
    let packets = [connect(60), publish_to("own/d", 1), publish_to("own/e", 2), publish_to("own/d", 3)];
    stream.write_all(&packets.concat()).await.expect("written");
    expect_bytes(&mut stream, &CONNACK).await;
    let first = stand.message().await;
    assert_eq!(first.topic, "own/d");
    assert_eq!(rest(&mut stream).await, b"", "no PUBACK: it would say that something is stored");
    stand.until_refused("barred", 1).await;
    assert_eq!(stand.metrics.of("listener").barred(), 1);
    drop(first);
    assert!(stand.messages.try_recv().is_err(), "nothing else was taken");
}

#[tokio::test]
async fn a_client_id_of_another_user_makes_nobody_leave() {
    let stand = stand(2, |config, dir| {
        let path = dir.join("passwords");
        std::fs::write(&path, include_str!("../testdata/passwords")).expect("write");
        config.password_file = Some(path);
    })
    .await;
    let login =
        [&[0x10, 30, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 60, 0, 1, b'd', 0, 7][..], b"press-3\0\x06secret"];
    let mut device = stand.raw().await;
    device.write_all(&login.concat()).await.expect("written");
    expect_bytes(&mut device, &CONNACK).await;
    // Nobody, with the same client id.
    let mut other = stand.raw().await;
    other.write_all(&connect(60)).await.expect("written");
    expect_bytes(&mut other, &CONNACK).await;
    device.write_all(&[0xc0, 0]).await.expect("written");
    expect_bytes(&mut device, &[0xd0, 0]).await;
    // The same user: it is the device itself, that lost its connection and came again.
    let mut again = stand.raw().await;
    again.write_all(&login.concat()).await.expect("written");
    expect_bytes(&mut again, &CONNACK).await;
    assert_eq!(rest(&mut device).await, b"");
    stand.until_refused("taken-over", 1).await;
}

/// CONNECT with a will on `topic`.
fn connect_with_will(topic: &str, will_qos: u8) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04".to_vec();
    body.extend([0x06 | will_qos << 3, 0, 60, 0, 1, b'd', 0, topic.len() as u8]);
    body.extend(topic.as_bytes());
    body.extend(b"\0\x04gone");
    [&[0x10, body.len() as u8][..], &body].concat()
}

#[tokio::test]
async fn a_will_is_published_when_its_device_goes_without_goodbye_and_only_where_it_may() {
    let mut stand = stand(4, |config, _| config.right = vec![right(None, "own/#")]).await;
    let mut leaves = stand.raw().await;
    leaves.write_all(&[connect_with_will("own/left", 1), vec![0xe0, 0]].concat()).await.expect("written");
    assert_eq!(rest(&mut leaves).await, CONNACK);
    let mut barred = stand.raw().await;
    barred.write_all(&connect_with_will("others/d", 1)).await.expect("written");
    expect_bytes(&mut barred, &CONNACK).await;
    drop(barred);
    let mut vanishes = stand.raw().await;
    vanishes.write_all(&connect_with_will("own/d", 1)).await.expect("written");
    expect_bytes(&mut vanishes, &CONNACK).await;
    drop(vanishes);
    let message = stand.message().await;
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("own/d", &b"gone"[..]));
    let barred = async {
        while stand.metrics.of("listener").barred() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, barred).await.expect("counted");
    for bad in [connect_with_will("own/d", 2), connect_with_will("own/#", 0)] {
        let mut stream = stand.raw().await;
        assert_eq!(answer(&mut stream, &bad).await, [0x20, 2, 0, 5]);
    }
}
