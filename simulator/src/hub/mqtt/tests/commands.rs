//! Commands (cloud-to-device messages) on their way to devices.

use super::*;
use crate::hub::commands::{Ack, Command, Outcome};
use crate::hub::devices::{self, Means};
use crate::hub::faults::{Fault, Rule};
use crate::hub::who::Who;

const COMMANDS: &str = "devices/d-1/messages/devicebound/#";

fn command(id: &str) -> Command {
    Command { message_id: Some(id.to_owned()), ack: Ack::Full, body: id.to_owned().into(), ..Command::default() }
}

/// A device that acknowledges when it wants to.
fn slow(stand: &Stand, clean: bool) -> (AsyncClient, EventLoop) {
    let mut options = stand.options("d-1", stand.token("d-1", FAR));
    options.set_clean_session(clean).set_manual_acks(true);
    AsyncClient::new(options, 64)
}

/// The same, with a session that stays.
fn staying(stand: &Stand) -> (AsyncClient, EventLoop) {
    slow(stand, false)
}

async fn leave(client: AsyncClient, mut device: EventLoop) {
    client.disconnect().await.expect("queued");
    until(&mut device, |_| false).await.expect_err("left");
}

async fn send(stand: &Stand, ids: &[&str]) {
    for id in ids {
        stand.door.desk.commands.send(&Who::device("d-1"), command(id)).await.expect("taken");
    }
}

/// What became of the commands, in order.
async fn feedback(stand: &Stand, count: usize) -> Vec<(String, Outcome)> {
    let mut ends = vec![];
    while ends.len() < count {
        let records = timeout(PATIENCE, stand.door.desk.commands.feedback(16)).await.expect("in time");
        stand.door.desk.commands.settle_feedback(&records, true).expect("a disk");
        ends.extend(records.into_iter().map(|record| (record.original_message_id, record.outcome)));
    }
    ends
}

#[tokio::test]
async fn commands_of_a_time_away_come_in_order_and_again_until_they_are_acknowledged() {
    let stand = Stand::open(limits()).await;
    let who = Who::device("d-1");
    let (client, mut device) = staying(&stand);
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[COMMANDS], QoS::AtLeastOnce).await;
    leave(client, device).await;
    send(&stand, &["a", "b", "c"]).await;
    assert_eq!(stand.door.desk.commands.depth(&who), 3);
    for (expected, acknowledged) in [(&["a", "b", "c"][..], "b"), (&["a", "c"], "a"), (&["c"], "c")] {
        // The session stays: nobody subscribes again.
        let (client, mut device) = staying(&stand);
        for id in expected {
            let publish = told(&mut device).await;
            assert_eq!((&publish.payload[..], publish.qos), (id.as_bytes(), QoS::AtLeastOnce));
            let to = "%24.to=%2Fdevices%2Fd-1%2Fmessages%2Fdevicebound";
            assert_eq!(publish.topic, format!("devices/d-1/messages/devicebound/%24.mid={id}&{to}&iothub-ack=full"));
            if *id == acknowledged {
                client.ack(&publish).await.expect("queued");
            }
        }
        let before = expected.len();
        let polled = tokio::spawn(async move {
            loop {
                device.poll().await.expect("connected");
            }
        });
        soon("completed", || stand.door.desk.commands.depth(&who) == before - 1).await;
        client.disconnect().await.expect("queued");
        polled.await.expect_err("left");
    }
    let success = |id: &str| (id.to_owned(), Outcome::Success);
    assert_eq!(feedback(&stand, 3).await, ["b", "a", "c"].map(success));
    stand.close().await;
}

#[tokio::test]
async fn a_command_that_is_never_completed_is_given_up_and_so_is_one_that_is_too_old() {
    let stand = Stand::open(limits()).await;
    let now = stand.door.desk.clock.now();
    let old = Command { expiry: Some(now), ..command("old") };
    stand.door.desk.commands.send(&Who::device("d-1"), old).await.expect("taken");
    assert_eq!(feedback(&stand, 1).await, [("old".to_owned(), Outcome::Expired)]);
    send(&stand, &["poison"]).await;
    for _ in 0..10 {
        let (client, mut device) = slow(&stand, true);
        connected(&mut device).await.expect("admitted");
        listen(&client, &mut device, &[COMMANDS], QoS::AtLeastOnce).await;
        assert_eq!(&told(&mut device).await.payload[..], b"poison");
        leave(client, device).await;
    }
    assert_eq!(feedback(&stand, 1).await, [("poison".to_owned(), Outcome::DeliveryCountExceeded)]);
    assert_eq!(stand.door.desk.commands.status().waiting, 0);
    stand.close().await;
}

#[tokio::test]
async fn quality_of_service_is_that_of_the_subscription_and_modules_have_commands_too() {
    let stand = Stand::open(limits()).await;
    let file = stand.dir.path().join("devices.toml");
    devices::register(&file, "d-1", Some("m"), Means::Sas, None).expect("registered");
    let who = Who::module("d-1", "m");
    let (client, mut module) = AsyncClient::new(stand.module("d-1", "m"), 8);
    connected(&mut module).await.expect("admitted");
    listen(&client, &mut module, &["devices/d-1/modules/m/messages/devicebound/#"], QoS::AtMostOnce).await;
    let full = Command {
        correlation_id: Some("c 1".to_owned()),
        user_id: Some("u".to_owned()),
        to: Some("/x".to_owned()),
        content_type: Some("text/plain".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        properties: vec![("a b".to_owned(), "x&y+é".to_owned())],
        ..command("m-1")
    };
    stand.door.desk.commands.send(&who, full).await.expect("taken");
    let publish = told(&mut module).await;
    assert_eq!(
        (publish.topic.as_str(), publish.qos),
        (
            "devices/d-1/modules/m/messages/devicebound/%24.mid=m-1&%24.to=%2Fx&%24.cid=c%201&%24.uid=u\
             &%24.ct=text%2Fplain&%24.ce=utf-8&iothub-ack=full&a%20b=x%26y%2B%C3%A9",
            QoS::AtMostOnce
        )
    );
    assert_eq!(feedback(&stand, 1).await, [("m-1".to_owned(), Outcome::Success)]);
    stand.close().await;
}

#[tokio::test]
async fn a_lost_command_comes_with_the_next_connection_and_a_late_one_late() {
    let stand = Stand::open(limits()).await;
    stand.door.desk.faults.add(Rule { times: Some(1), ..Rule::new(Fault::DropCommand) });
    let lasts = Some(Span::new(Duration::from_millis(100)));
    stand.door.desk.faults.add(Rule { skip: Some(1), times: Some(1), lasts, ..Rule::new(Fault::DelayCommand) });
    send(&stand, &["lost", "late", "good"]).await;
    for expected in [&["good", "late"][..], &["lost"]] {
        let (client, mut device) = stand.good("d-1");
        connected(&mut device).await.expect("admitted");
        listen(&client, &mut device, &[COMMANDS], QoS::AtLeastOnce).await;
        for id in expected {
            assert_eq!(&told(&mut device).await.payload[..], id.as_bytes());
        }
        // Another packet takes the PUBACKs with it.
        client.publish(events("d-1"), QoS::AtLeastOnce, false, "x").await.expect("queued");
        acknowledged(&mut device).await.expect("acknowledged");
        leave(client, device).await;
    }
    soon("completed", || stand.door.desk.commands.status().waiting == 0).await;
    stand.close().await;
}

#[tokio::test]
async fn a_device_that_takes_a_seat_gets_what_the_one_before_had_and_did_not_complete() {
    let stand = Stand::open(limits()).await;
    send(&stand, &["a"]).await;
    let (client, mut first) = staying(&stand);
    connected(&mut first).await.expect("admitted");
    listen(&client, &mut first, &[COMMANDS], QoS::AtLeastOnce).await;
    assert_eq!(&told(&mut first).await.payload[..], b"a");
    let (_second_client, mut second) = staying(&stand);
    assert_eq!(&told(&mut second).await.payload[..], b"a");
    stand.close().await;
}
