//! What no SDK does by itself, with a plain AMQP client.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{Body, Source};
use fe2o3_amqp_types::primitives::{Symbol, Value};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use shared::clock::{Clock, VirtualClock};
use shared::time::Timestamp;
use tempfile::tempdir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::super::{Limits, Wrapping, serve};
use super::kit::{KEY, POLICY, TestHub, within};

const PARTITION: &str = "myhub/ConsumerGroups/$Default/Partitions/0";

type Peer = (ConnectionHandle<()>, SessionHandle<()>);

async fn connect(hub: &TestHub, sasl: SaslProfile) -> Option<Peer> {
    open(TcpStream::connect(("127.0.0.1", hub.port)).await.expect("connected"), sasl).await
}

async fn open<S>(stream: S, sasl: SaslProfile) -> Option<Peer>
where
    S: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin + 'static,
{
    let opening = Connection::builder().container_id("peer").sasl_profile(sasl).open_with_stream(stream);
    let mut connection = within(opening).await.ok()?;
    let session = within(Session::begin(&mut connection)).await.expect("begun");
    Some((connection, session))
}

fn plain(key: &str) -> SaslProfile {
    SaslProfile::Plain { username: POLICY.to_owned(), password: key.to_owned() }
}

/// Attaches a receiver; the error it ends with, if it is refused.
async fn refused(peer: &mut Peer, name: &str, address: &str) -> String {
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
    let sender = within(Sender::attach(&mut peer.1, "sender", PARTITION)).await;
    let error = match sender {
        Ok(mut sender) => format!("{:?}", within(sender.on_detach()).await),
        Err(error) => format!("{error:?}"),
    };
    assert!(error.contains("NotAllowed"), "{error}");
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
async fn over_tls_the_same_hub_answers() {
    let directory = tempdir().expect("a directory");
    let hub = TestHub::start(directory.path()).await;
    hub.fill(&hub.device_of(0), 150).await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (tls, stop) = (Arc::new(config.expect("they belong together")), CancellationToken::new());
    let serving = tokio::spawn(serve(listener, Wrapping::Tls(tls), hub.hub.clone(), stop.clone()));

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("encrypted");
    let mut peer = Box::pin(open(stream, plain(KEY))).await.expect("the key is right");
    let mut receiver = within(Receiver::attach(&mut peer.1, "r", PARTITION)).await.expect("attached");
    for _ in 0..150 {
        within(receiver.recv::<Body<Value>>()).await.expect("delivered");
    }
    stop.cancel();
    within(serving).await.expect("no panic").expect("served");
    hub.stop().await;
}
