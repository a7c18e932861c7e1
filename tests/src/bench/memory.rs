//! What the service side is measured against: the same AMQP acceptor without a hub. Events lie ready in memory, tokens
//! are not looked at, nothing is read from disk.
//!
//! It says 202 to every token, and gives every receiver the same messages again and again, shaped as the hub's are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerConnectionHandle, ListenerSessionHandle,
    SaslAnonymousMechanism, SessionAcceptor, SupportedSenderSettleModes,
};
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Timestamp, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::speak::{self, Line};

/// As the hub has them.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
const HANDLE_MAX: u32 = 255;
const CONNECTION_FRAMES: usize = 64;
const SESSION_FRAMES: usize = 512;
/// Messages made beforehand.
const MESSAGES: i64 = 1000;
/// The SDK loses a receipt that comes sooner than it has noted its own sending.
const PAUSE: Duration = Duration::from_millis(20);

type Answer = Message<AmqpValue<Value>>;

/// Arguments of the server.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// Bytes of a message's body
    #[arg(long)]
    body: usize,
}

/// Serves until standard input ends.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let messages: Arc<[Message<Data>]> = (0..MESSAGES).map(|number| message(number, args.body)).collect();
    let listener = TcpListener::bind(args.listen).await?;
    Line::Begin.say()?;
    tokio::select! {
        () = speak::until_told() => Ok(()),
        failed = accept(listener, messages) => failed,
    }
}

/// With everything the hub says of a message of a device that says nothing more itself.
fn message(number: i64, body: usize) -> Message<Data> {
    let enqueued = || Value::Timestamp(Timestamp::from_milliseconds(1_795_428_000_000 + number));
    let text = |text: &str| Value::String(text.to_owned());
    let annotations = [
        ("x-opt-sequence-number", Value::Long(number)),
        ("x-opt-offset", Value::String((number * 400).to_string())),
        ("x-opt-enqueued-time", enqueued()),
        ("iothub-connection-device-id", text("device-00042")),
        ("iothub-connection-auth-method", text(r#"{"scope":"device","type":"sas","issuer":"iothub"}"#)),
        ("iothub-connection-auth-generation-id", text("638000000000000000")),
        ("iothub-enqueuedtime", enqueued()),
        ("iothub-message-source", text("Telemetry")),
    ];
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(MessageAnnotations(
            annotations.into_iter().map(|(key, value)| (OwnedKey::from(key), value)).collect(),
        )),
        properties: None,
        application_properties: None,
        body: Data(Binary::from(vec![b'x'; body])),
        footer: None,
    }
}

async fn accept(listener: TcpListener, messages: Arc<[Message<Data>]>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(connection(stream, Arc::clone(&messages)));
    }
}

async fn connection(stream: TcpStream, messages: Arc<[Message<Data>]>) -> Option<()> {
    let acceptor = ConnectionAcceptor::builder()
        .container_id("memory")
        .max_frame_size(FRAME_BYTES_MAX)
        .buffer_size(CONNECTION_FRAMES)
        .sasl_acceptor(SaslAnonymousMechanism {})
        .build();
    let mut connection: ListenerConnectionHandle = acceptor.accept(stream).await.ok()?;
    let mut sessions = JoinSet::new();
    while let Some(incoming) = connection.next_incoming_session().await {
        let acceptor = SessionAcceptor::builder().handle_max(HANDLE_MAX).buffer_size(SESSION_FRAMES).build();
        let session = acceptor.accept_incoming_session(incoming, &mut connection).await.ok()?;
        sessions.spawn(serve(session, Arc::clone(&messages)));
    }
    Some(())
}

async fn serve(mut session: ListenerSessionHandle, messages: Arc<[Message<Data>]>) -> Option<()> {
    let (answers, waiting) = mpsc::channel::<Answer>(16);
    let waiting = Arc::new(Mutex::new(waiting));
    let mut links = JoinSet::new();
    while let Some(attach) = session.next_incoming_attach().await {
        let delivers = delivers(&attach);
        let acceptor = LinkAcceptor::builder()
            .supported_sender_settle_modes(SupportedSenderSettleModes::Settled)
            .fallback_sender_settle_mode(SenderSettleMode::Settled)
            .build();
        match acceptor.accept_incoming_attach(attach, &mut session).await.ok()? {
            LinkEndpoint::Sender(sender) if delivers => links.spawn(deliver(sender, Arc::clone(&messages))),
            LinkEndpoint::Sender(sender) => links.spawn(answer(sender, Arc::clone(&waiting))),
            LinkEndpoint::Receiver(receiver) => links.spawn(listen(receiver, answers.clone())),
        };
    }
    Some(())
}

fn delivers(attach: &Attach) -> bool {
    let source = attach.source.as_ref().and_then(|source| source.address.as_deref());
    attach.role == Role::Receiver && source.is_some_and(|address| address.contains("/Partitions/"))
}

async fn deliver(mut sender: Sender, messages: Arc<[Message<Data>]>) -> Option<()> {
    for message in messages.iter().cycle() {
        let sendable = Sendable { message: message.clone(), message_format: 0, settled: Some(true) };
        sender.send_batchable(sendable).await.map(drop).ok()?;
    }
    None
}

async fn listen(mut receiver: Receiver, answers: mpsc::Sender<Answer>) -> Option<()> {
    loop {
        let delivery = receiver.recv::<Body<Value>>().await.ok()?;
        tokio::time::sleep(PAUSE).await;
        receiver.accept(&delivery).await.ok()?;
        let asked = delivery.into_message().properties.and_then(|properties| properties.message_id);
        answers.send(welcome(asked)).await.ok()?;
    }
}

async fn answer(mut sender: Sender, waiting: Arc<Mutex<mpsc::Receiver<Answer>>>) -> Option<()> {
    let mut waiting = waiting.lock().await;
    loop {
        tokio::select! {
            answer = waiting.recv() => {
                let sendable = Sendable { message: answer?, message_format: 0, settled: Some(true) };
                sender.send_batchable(sendable).await.map(drop).ok()?;
            }
            _ = sender.on_detach() => return None,
        }
    }
}

fn welcome(correlation_id: Option<MessageId>) -> Answer {
    let said = ApplicationProperties::builder()
        .insert("status-code", SimpleValue::Int(202))
        .insert("status-description", SimpleValue::String("Accepted".to_owned()))
        .build();
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Properties { correlation_id, ..Properties::new() }),
        application_properties: Some(said),
        body: AmqpValue(Value::Null),
        footer: None,
    }
}
