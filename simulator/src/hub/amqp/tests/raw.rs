//! What no SDK does by itself, with a plain AMQP client.

use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties, Source};
use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
use shared::clock::{Clock, VirtualClock};
use shared::time::Timestamp;
use tempfile::tempdir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::super::Limits;
use super::kit::{KEY, POLICY, TestHub, within};

pub(super) const PARTITION: &str = "myhub/ConsumerGroups/$Default/Partitions/0";

pub(super) type Peer = (ConnectionHandle<()>, SessionHandle<()>);

pub(super) async fn connect(hub: &TestHub, sasl: SaslProfile) -> Option<Peer> {
    open(TcpStream::connect(("127.0.0.1", hub.port)).await.expect("connected"), sasl).await
}

pub(super) async fn open<S>(stream: S, sasl: SaslProfile) -> Option<Peer>
where
    S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let opening = Connection::builder().container_id("peer").sasl_profile(sasl).open_with_stream(stream);
    let mut connection = within(opening).await.ok()?;
    let session = within(Session::begin(&mut connection)).await.expect("begun");
    Some((connection, session))
}

pub(super) fn plain(key: &str) -> SaslProfile {
    SaslProfile::Plain { username: POLICY.to_owned(), password: key.to_owned() }
}

/// Attaches a receiver; the error it ends with, if it is refused.
pub(super) async fn refused(peer: &mut Peer, name: &str, address: &str) -> String {
    match within(Receiver::attach(&mut peer.1, name, address)).await {
        Ok(mut receiver) => match within(receiver.recv::<Body<Value>>()).await {
            Ok(_) => panic!("delivered"),
            Err(error) => format!("{error:?}"),
        },
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_nothing_is_delivered_and_nothing_answered() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 3).await;
    let mut peer = connect(&hub, SaslProfile::Anonymous).await.expect("anybody may connect");
    for address in [PARTITION, "$management", "amqps://localhost/myhub/ConsumerGroups/$Default/Partitions/0"] {
        let error = refused(&mut peer, address, address).await;
        assert!(error.contains("UnauthorizedAccess"), "{address}: {error}");
    }
    assert!(connect(&hub, plain("wrong")).await.is_none(), "a wrong key over PLAIN");
    let status = hub.hub.status();
    assert_eq!((status.events_delivered, status.links_refused), (0, 3));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_there_is_can_be_attached_to_and_only_for_reading() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    for (address, condition) in [
        ("myhub", "NotFound"),
        ("other/ConsumerGroups/$Default/Partitions/0", "NotFound"),
        ("myhub/ConsumerGroups/$Default/Partitions/00", "NotFound"),
        ("", "NotFound"),
    ] {
        let error = refused(&mut peer, address, address).await;
        assert!(error.contains(condition), "{address}: {error}");
    }
    for address in [PARTITION, "myhub", "amqps://localhost:5671/MyHub/Partitions/0"] {
        let sender = within(Sender::attach(&mut peer.1, address, address)).await;
        let error = match sender {
            Ok(mut sender) => format!("{:?}", within(sender.on_detach()).await),
            Err(error) => format!("{error:?}"),
        };
        assert!(error.contains("UnauthorizedAccess") && error.contains("'Send' claim"), "{address}: {error}");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_of_a_node_that_is_not_to_be_made_are_passed_over() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 1).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let source = Source::builder().address(PARTITION).dynamic_node_properties(Fields::new()).build();
    let attaching = Receiver::builder().name("amqp10").source(source).attach(&mut peer.1);
    let mut receiver = within(attaching).await.expect("attached");
    within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_events_leave_as_there_is_credit_settled_and_with_metrics_if_asked() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 10).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let attaching = Receiver::builder()
        .name("metrics")
        .source(Source::builder().address(PARTITION).build())
        .add_desired_capabilities(Symbol::from("com.microsoft:enable-receiver-runtime-metric"))
        .credit_mode(CreditMode::Manual)
        .attach(&mut peer.1);
    let mut receiver = within(attaching).await.expect("attached");
    receiver.set_credit(3).await.expect("granted");
    for number in 0..3_i64 {
        let delivery = within(receiver.recv::<Body<Value>>()).await.expect("delivered");
        assert_eq!(*delivery.message_format(), Some(0));
        let message = delivery.into_message();
        let metrics = message.delivery_annotations.expect("asked for");
        let last = metrics.get(&OwnedKey::from("last_enqueued_sequence_number"));
        assert_eq!(last, Some(&Value::Long(9)), "of the partition, at event {number}");
    }
    let more = tokio::time::timeout(Duration::from_millis(100), receiver.recv::<Body<Value>>()).await;
    assert!(more.is_err(), "no credit, no event");
    assert_eq!(hub.hub.status().events_delivered, 3);
    receiver.set_credit(7).await.expect("granted");
    for _ in 3..10 {
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_credit_and_no_window_does_not_make_the_hub_read_its_whole_log() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    let body = "x".repeat(200_000);
    for _ in 0..120 {
        hub.log.append(super::kit::event(&device, body.clone())).await.expect("stored");
    }
    let (mut connection, _) = connect(&hub, plain(KEY)).await.expect("the key is right");
    let mut session = within(Session::builder().incoming_window(0).begin(&mut connection)).await.expect("begun");
    let attaching = Receiver::builder().name("greedy").source(PARTITION).credit_mode(CreditMode::Auto(1_000_000));
    let receiver = within(attaching.attach(&mut session)).await.expect("attached");
    within(hub.until(|status| 40 <= status.events_delivered)).await;
    let more = tokio::time::timeout(Duration::from_millis(300), hub.until(|status| 44 <= status.events_delivered));
    assert!(more.await.is_err(), "8 MiB are handed over, and nothing leaves: {:?}", hub.hub.status());
    drop(receiver);
    within(hub.until(|status| status.receivers == 0)).await;
    hub.stop().await;
}

/// Puts a token to `$cbs`; the status it is answered with.
async fn put(peer: &mut Peer, token: &str) -> i32 {
    let mut answers = within(Receiver::attach(&mut peer.1, "answers", "$cbs")).await.expect("attached");
    let mut questions = within(Sender::attach(&mut peer.1, "questions", "$cbs")).await.expect("attached");
    let text = |text: &str| SimpleValue::String(text.to_owned());
    let application = ApplicationProperties::builder()
        .insert("operation", text("put-token"))
        .insert("type", text("servicebus.windows.net:sastoken"))
        .insert("name", text("sb://localhost/myhub"));
    let message = Message::builder()
        .properties(Properties { message_id: Some(MessageId::Ulong(1)), ..Properties::new() })
        .application_properties(application.build())
        .body(AmqpValue(Value::String(token.to_owned())))
        .build();
    within(questions.send(message)).await.expect("taken");
    let answer = within(answers.recv::<Body<Value>>()).await.expect("answered").into_message();
    within(questions.close()).await.expect("closed");
    within(answers.close()).await.expect("closed");
    match answer.application_properties.and_then(|told| told.get("status-code").cloned()) {
        Some(SimpleValue::Int(status)) => status,
        status => panic!("{status:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_ended_is_not_taken_again_and_another_is() {
    let directory = tempdir().expect("a directory");
    let hands = VirtualClock::at(Clock::Real.now());
    let hub = TestHub::start_with(directory.path(), 0, Limits::default(), Clock::Virtual(hands.clone())).await;
    let key = shared::sas::Key::service(KEY);
    let token = |until_s| shared::sas::sign("sb://localhost/myhub", &key, until_s, Some(POLICY));
    let far = 32_503_680_000;
    let mut peer = connect(&hub, SaslProfile::Anonymous).await.expect("anybody may connect");
    assert_eq!(put(&mut peer, &token(far)).await, 202);
    assert_eq!(hub.hub.expire_tokens(), 1);
    // One that was made anew in the same second would be the same, and may come in the next.
    hands.advance(Duration::from_secs(2));
    for (until_s, status) in [(far, 401), (far - 1, 202), (far + 1, 202), (far, 401)] {
        assert_eq!(put(&mut peer, &token(until_s)).await, status, "{}", until_s - far);
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_link_gets_nothing_until_it_has_credit_again() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let device = hub.device_of(0);
    hub.fill(&device, 3).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let attaching = Receiver::builder().name("drained").source(PARTITION).credit_mode(CreditMode::Manual);
    let mut receiver = within(attaching.attach(&mut peer.1)).await.expect("attached");
    receiver.set_credit(10).await.expect("granted");
    for _ in 0..3 {
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    }
    receiver.drain().await.expect("asked");
    // The answer to a question on the same session comes after whatever the drain brought.
    assert_eq!(put(&mut peer, "nonsense").await, 401);
    hub.fill(&device, 2).await;
    let more = tokio::time::timeout(Duration::from_millis(200), receiver.recv::<Body<Value>>()).await;
    assert!(more.is_err(), "the credit is used up");
    assert_eq!(hub.hub.status().events_delivered, 3);
    receiver.set_credit(2).await.expect("granted");
    for _ in 0..2 {
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sixth_receiver_without_owner_level_is_one_too_many() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 1).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let mut receivers = vec![];
    for number in 0..5 {
        let mut receiver =
            within(Receiver::attach(&mut peer.1, format!("r{number}"), PARTITION)).await.expect("attached");
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
        receivers.push(receiver);
    }
    let error = refused(&mut peer, "r5", PARTITION).await;
    assert!(error.contains("ResourceLimitExceeded"), "{error}");
    within(receivers.remove(0).close()).await.expect("closed");
    let mut receiver = within(Receiver::attach(&mut peer.1, "r6", PARTITION)).await.expect("attached");
    within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_token_ends_a_receiver_ends() {
    let directory = tempdir().expect("a directory");
    let hands = VirtualClock::at(Clock::Real.now());
    let clock = Clock::Virtual(hands.clone());
    let hub = TestHub::start_with(directory.path(), 0, Limits::default(), clock).await;
    hub.fill(&hub.device_of(0), 3).await;
    let consumer = hub.consumer().await;
    let receiver =
        super::kit::receiver(&consumer, 0, super::kit::from(azure_messaging_eventhubs::StartLocation::Earliest, false));
    let receiver = receiver.await;
    assert_eq!(super::kit::next(&receiver, 3).await, [0, 1, 2]);
    assert_eq!(hub.hub.status().receivers, 1);
    hands.set(Timestamp::from_millis(i64::MAX / 2000));
    within(async {
        while hub.hub.status().receivers == 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_group_is_there_or_not_and_has_owners_of_its_own() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 1).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let mut receivers = vec![];
    for group in ["$Default", "second", "SECOND"] {
        let address = format!("myhub/ConsumerGroups/{group}/Partitions/0");
        let attaching = Receiver::builder()
            .name(group)
            .source(address.as_str())
            .properties([(Symbol::from("com.microsoft:epoch"), Value::Long(1))].into_iter().collect())
            .attach(&mut peer.1);
        let mut receiver = within(attaching).await.expect("attached");
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
        receivers.push(receiver);
    }
    assert_eq!(hub.hub.status().receivers, 2, "names of groups are the same in any case of letters");
    let error = refused(&mut peer, "third", "myhub/ConsumerGroups/third/Partitions/0").await;
    assert!(error.contains("NotFound") && error.contains("third"), "{error}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_nobody_understands_are_answered_and_the_next_one_too() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    let mut peer = connect(&hub, plain(KEY)).await.expect("the key is right");
    let mut answers = within(Receiver::attach(&mut peer.1, "answers", "$management")).await.expect("attached");
    let mut questions = within(Sender::attach(&mut peer.1, "questions", "$management")).await.expect("attached");
    let text = |text: &str| SimpleValue::String(text.to_owned());
    let hub_type = || ("type", text("com.microsoft:eventhub"));
    let read = || ("operation", text("READ"));
    for (properties, status) in [
        (vec![], 501),
        (vec![read()], 404),
        (vec![read(), hub_type(), ("name", SimpleValue::Int(7))], 404),
        (vec![("operation", SimpleValue::Long(1)), hub_type(), ("name", text("myhub"))], 501),
        (vec![read(), ("type", text("com.microsoft:teapot")), ("name", text("myhub"))], 400),
        (vec![read(), ("type", text("com.microsoft:partition")), ("name", text("myhub"))], 404),
        (vec![("operation", text("DELETE")), hub_type(), ("name", text("myhub"))], 501),
        (vec![read(), hub_type(), ("name", text("myhub"))], 200),
    ] {
        let mut application = ApplicationProperties::builder();
        for (key, value) in properties.clone() {
            application = application.insert(key, value);
        }
        let message = Message::builder()
            .properties(Properties { message_id: Some(MessageId::Ulong(7)), ..Properties::new() })
            .application_properties(application.build())
            .body(AmqpValue(Value::List(vec![Value::Null])))
            .build();
        within(questions.send(message)).await.expect("taken");
        let answer = within(answers.recv::<Body<Value>>()).await.expect("answered").into_message();
        assert_eq!(answer.properties.and_then(|properties| properties.correlation_id), Some(MessageId::Ulong(7)));
        let code = answer.application_properties.and_then(|told| told.get("status-code").cloned());
        assert_eq!(code, Some(SimpleValue::Int(status)), "{properties:?}");
    }
    hub.hub.expire_tokens();
    within(questions.send("anything")).await.expect("taken");
    let answer = within(answers.recv::<Body<Value>>()).await.expect("answered").into_message();
    let code = answer.application_properties.and_then(|told| told.get("status-code").cloned());
    assert_eq!(code, Some(SimpleValue::Int(401)), "no token holds any more");
    hub.stop().await;
}
