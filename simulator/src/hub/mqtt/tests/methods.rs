//! Direct methods.

use serde_json::{Value, json};

use super::*;
use crate::hub::faults::{Fault, Rule};
use crate::hub::methods::{Call, MethodFault};
use crate::hub::who::Who;

const METHODS: &str = "$iothub/methods/POST/#";

fn call(name: &str, response_timeout: Duration) -> Call {
    Call { name: name.to_owned(), payload: json!({"x": 1}), response_timeout, connect_timeout: Duration::ZERO }
}

fn answer_to(topic: &str, status: i32) -> String {
    let rid = topic.split_once("$rid=").expect("a rid").1;
    format!("$iothub/methods/res/{status}/?$rid={rid}")
}

#[tokio::test]
async fn a_method_is_called_and_answered() {
    let stand = Stand::open(limits()).await;
    let methods = stand.door.desk.methods.clone();
    let who = Who::device("d-1");
    for (qos, answer, payload) in [
        (QoS::AtLeastOnce, "{\"y\":2}", Ok(json!({"y": 2}))),
        (QoS::AtMostOnce, "", Ok(Value::Null)),
        (QoS::AtMostOnce, "{", Err(MethodFault::BadAnswer)),
    ] {
        let (client, mut device) = stand.good("d-1");
        connected(&mut device).await.expect("admitted");
        listen(&client, &mut device, &[METHODS], qos).await;
        let asked = tokio::spawn({
            let (methods, who) = (methods.clone(), who.clone());
            async move { methods.invoke(&who, call("reboot", PATIENCE)).await }
        });
        let request = told(&mut device).await;
        assert!(request.topic.starts_with("$iothub/methods/POST/reboot/?$rid="), "{}", request.topic);
        assert_eq!((&request.payload[..], request.qos), (&b"{\"x\":1}"[..], qos));
        client.publish(answer_to(&request.topic, 200), qos, false, answer).await.expect("queued");
        let polled = tokio::spawn(async move { while device.poll().await.is_ok() {} });
        let answered = asked.await.expect("no panic").map(|answer| (answer.status, answer.payload));
        assert_eq!(answered, payload.map(|payload| (200, payload)));
        polled.abort();
    }
    assert_eq!(methods.under_way(), 0);
    stand.close().await;
}

#[tokio::test]
async fn nobody_listens_or_nobody_answers() {
    let stand = Stand::open(limits()).await;
    let (methods, who) = (&stand.door.desk.methods, Who::device("d-1"));
    let short = Duration::from_millis(50);
    assert_eq!(methods.invoke(&who, call("x", short)).await, Err(MethodFault::NotOnline), "away");
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    assert_eq!(methods.invoke(&who, call("x", short)).await, Err(MethodFault::NotOnline), "not subscribed");
    listen(&client, &mut device, &[METHODS], QoS::AtLeastOnce).await;
    assert_eq!(methods.invoke(&who, call("x", short)).await, Err(MethodFault::TimedOut));
    for (call, fault) in [
        (call("a/b", short), MethodFault::Name),
        (call("", short), MethodFault::Name),
        (Call { payload: json!("x".repeat(128 * 1024)), ..call("x", short) }, MethodFault::TooLarge { bytes: 131_074 }),
    ] {
        assert_eq!(methods.invoke(&who, call).await, Err(fault));
    }
    // One who comes within the connect timeout is waited for.
    let late = Call { connect_timeout: PATIENCE, ..call("x", short) };
    let (methods, other) = (methods.clone(), Who::device("d-2"));
    let asked = tokio::spawn(async move { methods.invoke(&other, late).await });
    let (client, mut device) = stand.good("d-2");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[METHODS], QoS::AtLeastOnce).await;
    told(&mut device).await;
    assert_eq!(asked.await.expect("no panic"), Err(MethodFault::TimedOut));
    stand.close().await;
}

#[tokio::test]
async fn nobody_answers_for_another_device_and_a_lost_answer_is_none() {
    let stand = Stand::open(limits()).await;
    let (methods, who) = (stand.door.desk.methods.clone(), Who::device("d-1"));
    stand.door.desk.faults.add(Rule {
        device: Some("d-1".to_owned()),
        times: Some(1),
        ..Rule::new(Fault::LoseMethodAnswer)
    });
    let (client, mut device) = stand.good("d-1");
    let (liar, mut other) = stand.good("d-2");
    connected(&mut device).await.expect("admitted");
    connected(&mut other).await.expect("admitted");
    listen(&client, &mut device, &[METHODS], QoS::AtLeastOnce).await;
    let asked = tokio::spawn(async move { methods.invoke(&who, call("x", PATIENCE)).await });
    let topic = told(&mut device).await.topic;
    liar.publish(answer_to(&topic, 1), QoS::AtLeastOnce, false, "").await.expect("queued");
    acknowledged(&mut other).await.expect("taken, and left out");
    for status in [2, 3] {
        client.publish(answer_to(&topic, status), QoS::AtLeastOnce, false, "").await.expect("queued");
        acknowledged(&mut device).await.expect("taken");
    }
    let answer = asked.await.expect("no panic").expect("answered");
    assert_eq!(answer.status, 3, "not another device's, and the first was lost");
    stand.close().await;
}

#[tokio::test]
async fn a_thousand_calls_under_way_on_one_device_are_each_answered_as_they_were_asked() {
    let stand = Stand::open(limits()).await;
    let (client, mut device) = stand.good("d-1");
    connected(&mut device).await.expect("admitted");
    listen(&client, &mut device, &[METHODS], QoS::AtLeastOnce).await;
    let calls: Vec<_> = (0..1_000)
        .map(|number| {
            let methods = stand.door.desk.methods.clone();
            tokio::spawn(async move {
                let call = Call { payload: json!(number), ..call("echo", Duration::from_secs(60)) };
                let answer = methods.invoke(&Who::device("d-1"), call).await.expect("answered");
                assert_eq!((answer.status, answer.payload), (200, json!(number)));
            })
        })
        .collect();
    // All are asked before the first is answered.
    let mut asked = vec![];
    while asked.len() < 1_000 {
        asked.push(told(&mut device).await);
    }
    assert_eq!(stand.door.desk.methods.under_way(), 1_000);
    let answers = tokio::spawn(async move {
        for request in asked {
            client
                .publish(answer_to(&request.topic, 200), QoS::AtLeastOnce, false, request.payload)
                .await
                .expect("queued");
        }
    });
    let polled = tokio::spawn(async move { while device.poll().await.is_ok() {} });
    for call in calls {
        timeout(PATIENCE, call).await.expect("in time").expect("no panic");
    }
    answers.await.expect("sent");
    polled.abort();
    stand.close().await;
}
