//! The hub's own services, with a plain AMQP client: commands for devices, and what becomes of them.

use std::time::Duration;

use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{ErrorCondition, SenderSettleMode};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageId, Outcome, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, Value};
use shared::clock::{Clock, VirtualClock};
use shared::sas::{self, Key};
use tempfile::tempdir;

use super::super::Limits;
use super::kit::{DEVICE, KEY, POLICY, TestHub, within};
use super::raw::{PARTITION, Peer, connect, plain, refused};

const COMMANDS: &str = "/messages/devicebound";
const FEEDBACK: &str = "/messages/serviceBound/feedback";
const NOTIFICATIONS: &str = "/messages/serviceBound/filenotifications";

/// Long after these tests.
const LATER_S: i64 = 9_000_000_000;

fn token(host: &str, until_s: i64) -> String {
    sas::sign(host, &Key::device(KEY).expect("base64"), until_s, Some(POLICY))
}

/// As the service takes it over SASL PLAIN.
fn with_token(until_s: i64) -> SaslProfile {
    SaslProfile::Plain { username: format!("{POLICY}@sas.root.myhub"), password: token("localhost", until_s) }
}

async fn backend(hub: &TestHub) -> Peer {
    connect(hub, with_token(LATER_S)).await.expect("the token is right")
}

async fn commands(peer: &mut Peer) -> Sender {
    within(Sender::attach(&mut peer.1, "commands", COMMANDS)).await.expect("attached")
}

fn to(device: &str) -> Properties {
    Properties { to: Some(format!("/devices/{device}/messages/devicebound")), ..Properties::new() }
}

fn message(properties: Properties, body: impl Into<Vec<u8>>) -> Message<Data> {
    Message::builder().properties(properties).data(Binary::from(body.into())).build()
}

/// The condition a command is rejected with.
async fn rejected(sender: &mut Sender, message: Message<Data>) -> String {
    match within(sender.send(message)).await.expect("the link lives") {
        Outcome::Rejected(rejected) => match rejected.error.expect("told why").condition {
            ErrorCondition::Custom(condition) => condition.as_str().to_owned(),
            condition => format!("{condition:?}"),
        },
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_stored_in_order_before_they_are_accepted() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = backend(&hub).await;
    let mut sender = commands(&mut peer).await;
    for number in 0..20 {
        let properties = Properties { message_id: Some(MessageId::String(number.to_string())), ..to(DEVICE) };
        let outcome = within(sender.send(message(properties, format!("command {number}")))).await.expect("sent");
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        assert_eq!(hub.depth(), number + 1, "it is there when it is accepted");
    }
    let bodies: Vec<Vec<u8>> = (0..20).map(|number| format!("command {number}").into_bytes()).collect();
    assert_eq!(hub.take(), bodies);
    assert_eq!(hub.hub.status().commands_accepted, 20);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_spans_frames_arrives_whole() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = backend(&hub).await;
    let mut sender = commands(&mut peer).await;
    // With its properties it is longer than a frame.
    let body: Vec<u8> = (0..65_400u32).map(|at| (at % 251) as u8).collect();
    let properties = Properties { subject: Some("s".repeat(500)), ..to(DEVICE) };
    let outcome = within(sender.send(message(properties, body.clone()))).await.expect("sent");
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    assert!(hub.take() == [body]);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_is_told_why_and_the_link_goes_on() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = backend(&hub).await;
    let mut sender = commands(&mut peer).await;
    let ack = ApplicationProperties::builder().insert("iothub-ack", "sometimes").build();
    for (what, message, condition) in [
        ("no such device", message(to("unknown"), "x"), "NotFound"),
        ("for nobody", message(Properties::new(), "x"), "com.microsoft:argument-error"),
        (
            "feedback there is not",
            Message { application_properties: Some(ack), ..message(to(DEVICE), "x") },
            "com.microsoft:argument-error",
        ),
        ("more than 64 KiB", message(to(DEVICE), vec![0; 65_537]), "MessageSizeExceeded"),
        ("far more", message(to(DEVICE), vec![0; 200_000]), "MessageSizeExceeded"),
    ] {
        let told = rejected(&mut sender, message).await;
        assert!(told.contains(condition), "{what}: {told}");
    }
    for number in 0..50 {
        let outcome = within(sender.send(message(to(DEVICE), "x"))).await.expect("sent");
        assert!(matches!(outcome, Outcome::Accepted(_)), "{number}: {outcome:?}");
    }
    let told = rejected(&mut sender, message(to(DEVICE), "one too many")).await;
    assert!(told.contains("ResourceLimitExceeded"), "{told}");
    let status = hub.hub.status();
    assert_eq!((status.commands_accepted, status.commands_rejected), (50, 6));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_for_the_hub_opens_its_services_and_each_in_its_direction() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut stranger = connect(&hub, SaslProfile::Anonymous).await.expect("anybody may connect");
    let mut reader = connect(&hub, plain(KEY)).await.expect("the key is right");
    let mut backend = backend(&hub).await;
    for peer in [&mut stranger, &mut reader] {
        for address in [FEEDBACK, NOTIFICATIONS] {
            let error = refused(peer, address, address).await;
            assert!(error.contains("UnauthorizedAccess") && error.contains("ServiceConnect"), "{address}: {error}");
        }
        let error = unwelcome(peer, COMMANDS).await;
        assert!(error.contains("UnauthorizedAccess"), "{error}");
    }
    assert!(
        refused(&mut backend, "partition", PARTITION).await.contains("UnauthorizedAccess"),
        "events are another realm"
    );
    assert!(refused(&mut backend, "backwards", COMMANDS).await.contains("NotAllowed"));
    assert!(unwelcome(&mut backend, FEEDBACK).await.contains("NotAllowed"));
    for (what, profile) in [
        (
            "a token of elsewhere",
            SaslProfile::Plain { username: format!("{POLICY}@sas.root.myhub"), password: token("elsewhere", LATER_S) },
        ),
        ("a token that has ended", with_token(1)),
    ] {
        assert!(connect(&hub, profile).await.is_none(), "{what}");
    }
    hub.stop().await;
}

/// Attaches a sender; the error it ends with.
async fn unwelcome(peer: &mut Peer, address: &str) -> String {
    match within(Sender::attach(&mut peer.1, address, address)).await {
        Ok(mut sender) => format!("{:?}", within(sender.on_detach()).await),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_put_to_cbs_opens_them_too() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = connect(&hub, SaslProfile::Anonymous).await.expect("anybody may connect");
    let mut answers = within(Receiver::attach(&mut peer.1, "answers", "$cbs")).await.expect("attached");
    let mut questions = within(Sender::attach(&mut peer.1, "questions", "$cbs")).await.expect("attached");
    for (audience, put, status) in [
        ("https://localhost", token("localhost", 1), 401),
        ("https://elsewhere", token("localhost", LATER_S), 401),
        ("https://localhost", token("localhost", LATER_S), 200),
    ] {
        let application = ApplicationProperties::builder()
            .insert("operation", "put-token")
            .insert("type", "servicebus.windows.net:sastoken")
            .insert("name", audience)
            .build();
        let question =
            Message::builder().application_properties(application).body(AmqpValue(Value::String(put))).build();
        within(questions.send(question)).await.expect("taken");
        let answer = within(answers.recv::<Body<Value>>()).await.expect("answered").into_message();
        let told = answer.application_properties.and_then(|told| told.get("status-code").cloned());
        assert_eq!(told.map(|code| format!("{code:?}")), Some(format!("Int({status})")), "{audience}");
    }
    let mut sender = commands(&mut peer).await;
    let outcome = within(sender.send(message(to(DEVICE), "x"))).await.expect("sent");
    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_is_told_until_somebody_is_done_with_it() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = backend(&hub).await;
    hub.tell("m-1").await;
    let mut receiver = within(Receiver::attach(&mut peer.1, "first", FEEDBACK)).await.expect("attached");
    let told = hear(&mut receiver).await;
    assert_eq!(told.1["originalMessageId"], "m-1");
    within(receiver.release(&told.0)).await.expect("given back");
    let told = hear(&mut receiver).await;
    assert_eq!(told.1["originalMessageId"], "m-1", "given back, told again");
    within(receiver.close()).await.expect("closed");

    let mut receiver = within(Receiver::attach(&mut peer.1, "second", FEEDBACK)).await.expect("attached");
    let told = hear(&mut receiver).await;
    assert_eq!(told.1["originalMessageId"], "m-1", "who has gone was not done with it");
    let properties = told.0.message().properties.clone().expect("set");
    let kind = properties.content_type.expect("set");
    assert_eq!(kind.as_str(), "application/vnd.microsoft.iothub.feedback.json");
    within(receiver.accept(&told.0)).await.expect("settled");

    hub.tell("m-2").await;
    let told = hear(&mut receiver).await;
    assert_eq!(told.1["originalMessageId"], "m-2");
    within(receiver.reject(&told.0, None)).await.expect("settled");
    within(hub.until(|status| status.feedback_settled == 2)).await;
    let more = tokio::time::timeout(Duration::from_millis(100), receiver.recv::<Body<Value>>()).await;
    assert!(more.is_err(), "it is done with");
    hub.stop().await;
}

type Told = (fe2o3_amqp::link::delivery::Delivery<Body<Value>>, serde_json::Value);

/// The next feedback, and its first record.
async fn hear(receiver: &mut Receiver) -> Told {
    let delivery = within(receiver.recv::<Body<Value>>()).await.expect("told");
    let Body::Data(sections) = delivery.body() else { panic!("{:?}", delivery.body()) };
    let bytes = sections.iter().next().expect("one section").0.as_slice();
    let records: serde_json::Value = serde_json::from_slice(bytes).expect("JSON");
    let record = records[0].clone();
    (delivery, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_files_there_is_nothing_to_tell() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = backend(&hub).await;
    let mut receiver = within(Receiver::attach(&mut peer.1, "files", NOTIFICATIONS)).await.expect("attached");
    let told = tokio::time::timeout(Duration::from_millis(100), receiver.recv::<Body<Value>>()).await;
    assert!(told.is_err(), "{told:?}");
    within(receiver.close()).await.expect("closed");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_token_ends_a_backend_ends() {
    let directory = tempdir().expect("a directory");
    let hands = VirtualClock::at(Clock::Real.now());
    let clock = Clock::Virtual(hands.clone());
    let hub = TestHub::start_with(directory.path(), 0, Limits::default(), clock.clone()).await;
    let until_s = clock.now().millis().div_euclid(1000) + 60;
    let mut peer = connect(&hub, with_token(until_s)).await.expect("the token is right");
    let mut sender = Sender::builder()
        .name("commands")
        .target(COMMANDS)
        .sender_settle_mode(SenderSettleMode::Mixed)
        .attach(&mut peer.1)
        .await
        .expect("attached");
    let mut receiver = within(Receiver::attach(&mut peer.1, "feedback", FEEDBACK)).await.expect("attached");
    within(sender.send(message(to(DEVICE), "in time"))).await.expect("accepted");
    hands.advance(Duration::from_secs(61));
    let ended = format!("{:?}", within(sender.on_detach()).await);
    assert!(ended.contains("UnauthorizedAccess"), "{ended}");
    let ended = format!("{:?}", within(receiver.recv::<Body<Value>>()).await.map(|_| ()));
    assert!(ended.contains("Closed"), "{ended}");
    hub.stop().await;
}
