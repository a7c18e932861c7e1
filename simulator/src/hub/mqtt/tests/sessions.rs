//! Sessions that stay, keep-alive, versions.

use tokio::time::Instant;

use super::super::connection::Connection;
use super::*;
use crate::hub::devices::{self, Means};
use crate::hub::faults::{Fault, Rule};
use crate::hub::who::Who;

/// Connects and gives the session-present flag.
async fn present(stand: &Stand, clean: bool) -> (bool, AsyncClient, EventLoop) {
    let mut options = stand.options("d-1", stand.token("d-1", FAR));
    options.set_clean_session(clean);
    let (client, mut device) = AsyncClient::new(options, 8);
    let connack = async {
        loop {
            if let Event::Incoming(Packet::ConnAck(connack)) = device.poll().await.expect("admitted") {
                return connack.session_present;
            }
        }
    };
    let present = timeout(PATIENCE, connack).await.expect("in time");
    (present, client, device)
}

#[tokio::test]
async fn connack_says_whether_something_of_an_earlier_session_is_left() {
    let stand = Stand::open(limits()).await;
    for (clean, found) in [(false, false), (false, true), (true, false), (false, false), (false, true)] {
        let (present, client, mut device) = present(&stand, clean).await;
        assert_eq!(present, found);
        client.subscribe("$iothub/methods/POST/#", QoS::AtLeastOnce).await.expect("queued");
        until(&mut device, |packet| matches!(packet, Packet::SubAck(_))).await.expect("granted");
    }
    let kept = std::fs::read_to_string(stand.dir.path().join("sessions.jsonl")).expect("read");
    assert!(kept.trim_end().ends_with(r#"{"client":"d-1","filters":[["$iothub/methods/POST/#",1]]}"#), "{kept}");
    stand.close().await;
}

#[tokio::test]
async fn a_sixth_subscription_closes_though_the_first_were_an_earlier_connections() {
    let stand = Stand::open(limits()).await;
    for method in 0..6 {
        let (_, client, mut device) = present(&stand, false).await;
        client.subscribe(format!("$iothub/methods/POST/{method}/#"), QoS::AtMostOnce).await.expect("queued");
        let granted = until(&mut device, |packet| matches!(packet, Packet::SubAck(_))).await;
        assert_eq!(granted.is_ok(), method < 5, "{method}");
    }
    assert_eq!(stand.count("closed", "subscriptions"), 1);
    stand.close().await;
}

#[tokio::test]
async fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let stand = Stand::open(limits()).await;
    let (mut quiet, mut endless) = (stand.raw().await, stand.raw().await);
    quiet.write_all(&stand.connect("d-1", 1)).await.expect("written");
    endless.write_all(&stand.connect("d-2", 0)).await.expect("written");
    let before = Instant::now();
    let mut answer = vec![];
    timeout(PATIENCE, quiet.read_to_end(&mut answer)).await.expect("in time").expect("an orderly end");
    assert!(Duration::from_millis(1_500) <= before.elapsed());
    assert_eq!(stand.count("closed", "keep-alive"), 1);
    assert_eq!(stand.door.desk.seats.devices(), ["d-2"], "no keep-alive: the service's own maximum");
    stand.close().await;
}

#[tokio::test]
async fn a_device_without_keep_alive_that_is_busy_stays() {
    let stand = Stand::open(limits()).await;
    let (hub, mut device) = tokio::io::duplex(1024);
    let patience = Instant::now() + PATIENCE;
    let connection = Connection::new(hub, Arc::clone(&stand.door)).quiet_after(Duration::from_secs(2));
    let served = tokio::spawn(connection.serve(vec![], patience));
    device.write_all(&stand.connect("d-1", 0)).await.expect("written");
    let mut connack = [0; 4];
    device.read_exact(&mut connack).await.expect("admitted");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        device.write_all(&[0xc0, 0]).await.expect("a ping");
        let mut pong = [0; 2];
        device.read_exact(&mut pong).await.expect("still there");
        assert_eq!(pong, [0xd0, 0]);
    }
    // And then it is silent.
    let (end, _) = timeout(PATIENCE, served).await.expect("in time").expect("no panic");
    assert_eq!(end.as_str(), Some("keep-alive"));
    stand.close().await;
}

#[tokio::test]
async fn a_device_that_was_not_heard_because_its_pubacks_were_late_was_not_silent() {
    let stand = Stand::open(MqttLimits { unacknowledged_max: 1, ..limits() }).await;
    let lasts = Some(Span::new(Duration::from_millis(1_800)));
    stand.door.desk.faults.add(Rule { lasts, ..Rule::new(Fault::Delay) });
    // Which of two things the hub sees first is chance.
    let mut sockets = vec![];
    for device in 1..=6 {
        let device = format!("d-{device}");
        devices::register(&stand.dir.path().join("devices.toml"), &device, None, Means::Sas, None).expect("registered");
        let mut socket = stand.raw().await;
        socket.write_all(&[stand.connect(&device, 1), publish(&device, 1)].concat()).await.expect("written");
        sockets.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    for socket in &mut sockets {
        socket.write_all(&[0xc0, 0]).await.expect("a ping");
    }
    for socket in &mut sockets {
        let mut answer = [0; 10];
        timeout(PATIENCE, socket.read_exact(&mut answer)).await.expect("in time").expect("still there");
        assert_eq!(answer, [0x20, 2, 0, 0, 0x40, 2, 0, 1, 0xd0, 0], "CONNACK, PUBACK, PINGRESP");
    }
    stand.close().await;
}

#[tokio::test]
async fn other_versions_are_told_so() {
    let stand = Stand::open(limits()).await;
    let connect = |name: &str, level: u8| packet(0x10, [&text(name)[..], &[level, 2, 0, 60], &text("d-1")].concat());
    for (name, level) in [("MQIsdp", 3), ("MQTT", 5), ("MQTT", 3)] {
        let mut socket = stand.raw().await;
        socket.write_all(&connect(name, level)).await.expect("written");
        let mut answer = vec![];
        timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time").expect("an orderly end");
        assert_eq!(answer, [0x20, 2, 0, 1], "{name} {level}");
    }
    // And a nameless client, which the standard lets a server refuse.
    let mut socket = stand.raw().await;
    let nameless =
        [&text("MQTT")[..], &[4, 0xc2, 0, 60], &text(""), &text(&format!("{HOST}/d-1/")), &text("x")].concat();
    socket.write_all(&packet(0x10, nameless)).await.expect("written");
    let mut answer = vec![];
    timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("in time").expect("an orderly end");
    assert_eq!(answer, [0x20, 2, 0, 2]);
    stand.close().await;
}

#[tokio::test]
async fn whoever_went_is_known_to_have_been_there() {
    let stand = Stand::open(limits()).await;
    let (who, seats) = (Who::device("d-1"), &stand.door.desk.seats);
    let generation = who.known(&stand.door.desk.registry.now()).expect("known").generation_id;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    let (there, came) = seats.seen(&who, &generation);
    let came = came.expect("it is there");
    assert!(there);
    client.publish(events("d-1"), QoS::AtLeastOnce, false, "x").await.expect("queued");
    until(&mut device, |packet| matches!(packet, Packet::PubAck(_))).await.expect("stored");
    drop((client, device));
    soon("it goes", || !seats.seen(&who, &generation).0).await;
    soon("that is known", || seats.seen(&who, &generation).1.is_some_and(|last| came.changed < last.changed)).await;
    let went = seats.seen(&who, &generation).1.expect("remembered");
    assert!(came.active < went.active && went.active <= went.changed, "{came:?} {went:?}");
    stand.close().await;
}
