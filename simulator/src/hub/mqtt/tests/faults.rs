//! What the script of faults does to messages and connections.

use tokio::time::Instant;

use super::*;
use crate::hub::faults::{Fault, Rule};

const LASTS: Duration = Duration::from_millis(400);

async fn scripted(fault: Fault) -> Stand {
    let stand = Stand::open(limits()).await;
    let lasts = matches!(fault, Fault::Delay | Fault::BlackHole | Fault::Throttle).then(|| Span::new(LASTS));
    stand.door.desk.faults.add(Rule { device: Some("d-*".to_owned()), times: Some(1), lasts, ..Rule::new(fault) });
    stand
}

/// Publishes `first` and `second`; gives the ids acknowledged until both are or the connection ends.
async fn publish_two(client: &AsyncClient, device: &mut EventLoop) -> (Vec<u16>, bool) {
    for body in ["first", "second"] {
        client.publish(events("d-1"), QoS::AtLeastOnce, false, body).await.expect("queued");
    }
    let mut ids = vec![];
    let two = async {
        while ids.len() < 2 {
            match device.poll().await {
                Ok(Event::Incoming(Packet::PubAck(ack))) => ids.push(ack.pkid),
                Ok(_) => {}
                Err(_) => return true,
            }
        }
        false
    };
    let ended = timeout(2 * LASTS, two).await.unwrap_or(false);
    (ids, ended)
}

async fn bodies(stand: &Stand) -> Vec<String> {
    let stored = stand.stored("d-1").await;
    stored.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect()
}

#[tokio::test]
async fn a_message_meets_what_was_scripted_for_it() {
    for (fault, acknowledged, ends, stored, closed) in [
        (Fault::Drop, &[2][..], false, &["second"][..], None),
        (Fault::Duplicate, &[1, 2], false, &["first", "first", "second"], None),
        (Fault::Disconnect, &[], true, &[], Some("disconnect")),
        (Fault::LosePuback, &[], true, &["first"], Some("puback-lost")),
        (Fault::ExpireToken, &[], true, &[], Some("token-ended")),
    ] {
        let stand = scripted(fault).await;
        let (client, mut device) = stand.good("d-1");
        connected(&mut device).await.expect("admitted");
        let (ids, ended) = publish_two(&client, &mut device).await;
        assert_eq!((ids.as_slice(), ended), (acknowledged, ends), "{fault:?}");
        let mut found = bodies(&stand).await;
        if fault == Fault::LosePuback {
            // The second may have been on its way when the connection ended.
            found.truncate(1);
        }
        assert_eq!(found, stored, "{fault:?}");
        if let Some(reason) = closed {
            assert_eq!(stand.count("closed", reason), 1, "{fault:?}");
        }
        assert_eq!(stand.count("dropped", "fault"), u64::from(fault == Fault::Drop));
        stand.close().await;
    }
}

#[tokio::test]
async fn a_token_that_was_ended_is_not_taken_again_and_another_is() {
    let stand = scripted(Fault::ExpireToken).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    assert_eq!(publish_two(&client, &mut device).await, (vec![], true));
    let (_client, mut again) = stand.good("d-1");
    let refused = connected(&mut again).await.expect_err("refused");
    let code = ConnectReturnCode::NotAuthorized;
    assert!(matches!(&refused, ConnectionError::ConnectionRefused(found) if *found == code), "{refused:?}");
    let (_client, mut renewed) = stand.device("d-1", stand.token("d-1", FAR - 1));
    connected(&mut renewed).await.expect("another one");
    let (_client, mut other) = stand.good("d-2");
    connected(&mut other).await.expect("another device's");
    stand.close().await;
}

#[tokio::test]
async fn a_delayed_puback_is_late_and_is_not_overtaken() {
    let stand = scripted(Fault::Delay).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    let before = Instant::now();
    assert_eq!(publish_two(&client, &mut device).await, (vec![1, 2], false));
    assert!(LASTS <= before.elapsed());
    assert_eq!(bodies(&stand).await, ["first", "second"]);
    stand.close().await;
}

#[tokio::test]
async fn a_black_hole_swallows_everything_and_then_lets_go() {
    let stand = scripted(Fault::BlackHole).await;
    let mut socket = stand.raw().await;
    let sent = [stand.connect("d-1", 60), publish("d-1", 1), vec![0xc0, 0]].concat();
    socket.write_all(&sent).await.expect("written");
    let before = Instant::now();
    let mut answer = vec![];
    let ended = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("let go");
    assert_eq!(ended.expect_err("no goodbye").kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(answer, [0x20, 2, 0, 0], "a CONNACK, and no PUBACK and no PINGRESP");
    assert!(LASTS <= before.elapsed());
    assert!(stand.stored("d-1").await.is_empty());
    stand.close().await;
}

#[tokio::test]
async fn a_throttle_stops_pubacks_and_then_the_connection() {
    let tier = limits::Config { patience: Span::new(Duration::from_millis(200)), ..tiers::none() };
    let stand = Stand::open_with(limits(), tier).await;
    let lasts = Some(Span::new(Duration::from_secs(3600)));
    stand.door.desk.faults.add(Rule { times: Some(1), lasts, ..Rule::new(Fault::Throttle) });
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    assert_eq!(publish_two(&client, &mut device).await, (vec![], true));
    assert!(stand.stored("d-1").await.is_empty());
    assert_eq!((stand.count("closed", "throttled"), stand.count("dropped", "limits")), (1, 2));
    let (_client, mut again) = stand.good("d-1");
    connected(&mut again).await.expect_err("new connections are throttled too");
    stand.close().await;
}

#[tokio::test]
async fn a_refused_connection_is_told_that_the_server_is_unavailable() {
    let stand = scripted(Fault::Refuse).await;
    let (_client, mut device) = stand.good("d-1");
    let refused = connected(&mut device).await.expect_err("refused");
    let code = ConnectReturnCode::ServiceUnavailable;
    assert!(matches!(&refused, ConnectionError::ConnectionRefused(found) if *found == code), "{refused:?}");
    connected(&mut device).await.expect("once only");
    stand.close().await;
}
