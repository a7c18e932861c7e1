//! One connection: its sessions, and what each link of a session is attached to.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, IncomingSession, LinkAcceptor, LinkEndpoint, ListenerConnectionHandle, ListenerSessionHandle,
    SessionAcceptor, SupportedSenderSettleModes,
};
use fe2o3_amqp_types::definitions::{
    self, AmqpError, ConnectionError, ErrorCondition, LinkError, Role, SenderSettleMode,
};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::{self, Node};
use super::cbs::{self, Tokens};
use super::line::Line;
use super::management;
use super::owners::Denied;
use super::pad::{INCOMING_FRAME_MAX, PadIo};
use super::quota::{Ahead, CREDIT, HANDLE_MAX};
use super::receiver::{self, Delivery, Ending, Place};
use super::request::{Answers, Desk, Response};
use super::sasl::Mechanisms;
use super::{AmqpHub, filter};
use crate::hub::log::Position;

/// As the service answers.
const FRAME_BYTES_MAX: u32 = INCOMING_FRAME_MAX as u32;
const CHANNEL_MAX: u16 = 4999;
/// Sessions of a peer that has no token: the SDKs need one or two. Each takes some 20 KiB.
const STRANGERS_SESSIONS_MAX: usize = 16;
/// Sessions of a peer that has one: the SDKs open one for each partition.
const SESSIONS_MAX: usize = 512;
/// Links of one session of a peer that has no token: two for `$cbs`, and some that are about to be refused.
const STRANGERS_LINKS_MAX: usize = 8;
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;
/// Frames between a session and its connection. Few: each may be a frame long, and behind them waits the log.
const CONNECTION_FRAMES: usize = 64;
/// Frames and attaches of a session. More than it may have handles, or its engine would wait for itself.
const SESSION_FRAMES: usize = 512;
/// How long a peer may take to answer a closing frame.
const FAREWELL: Duration = Duration::from_secs(2);

const METRICS: &str = "com.microsoft:enable-receiver-runtime-metric";
const EPOCH: &str = "com.microsoft:epoch";
const SELECTOR: &str = "apache.org:selector-filter:string";
/// The same, misspelt, by one SDK.
const RECEIVER_NAMES: [&str; 2] = ["com.microsoft:receiver-name", "com.microsoft.com:receiver-name"];

/// What the links of a connection share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) hub: AmqpHub,
    pub(super) tokens: Arc<Tokens>,
    end: Arc<watch::Sender<Option<definitions::Error>>>,
}

impl Shared {
    /// Has the connection closed.
    pub(super) fn close(&self, error: definitions::Error) {
        self.end.send_replace(Some(error));
    }
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("the peer took longer than {0:?} over the handshake")]
    Slow(Duration),
    #[error("the handshake failed: {0}")]
    Failed(String),
}

/// Serves a peer until it closes the connection or `stop` is cancelled.
pub(super) async fn serve<S>(
    stream: S,
    line: Arc<Line>,
    hub: AmqpHub,
    stop: CancellationToken,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Debug + Send + Unpin + 'static,
{
    let tokens = Arc::new(Tokens::default());
    let _here = hub.enter(Arc::clone(&line), Arc::clone(&tokens));
    let silence_ms = u32::try_from(hub.limits().silence.as_millis()).unwrap_or(u32::MAX);
    let acceptor = ConnectionAcceptor::builder()
        .container_id(hub.name())
        .max_frame_size(FRAME_BYTES_MAX)
        .channel_max(CHANNEL_MAX)
        // The peer is told half of it ([`super::frame`]).
        .idle_time_out(silence_ms)
        .buffer_size(CONNECTION_FRAMES)
        .sasl_acceptor(Mechanisms::new(Arc::clone(&hub.inner.setup.policies), Arc::clone(&tokens)))
        .build();
    let patience = hub.limits().handshake;
    let stream = PadIo::new(stream);
    let begun = stream.sessions();
    let mut connection = tokio::select! {
        accepted = timeout(patience, acceptor.accept(stream)) => accepted
            .map_err(|_| HandshakeError::Slow(patience))?
            .map_err(|error| HandshakeError::Failed(error.to_string()))?,
        () = stop.cancelled() => return Ok(()),
    };
    let end = Arc::new(watch::Sender::new(None));
    let mut ending = end.subscribe();
    let shared = Shared { hub, tokens, end };
    let mut sessions = JoinSet::new();
    let error = loop {
        let known = shared.tokens.until_any(shared.hub.clock().now().millis().div_euclid(1_000)).is_some();
        let sessions_max = if known { SESSIONS_MAX } else { STRANGERS_SESSIONS_MAX };
        if sessions_max < sessions.len() {
            let why = format!("More than {sessions_max} sessions.");
            break definitions::Error::new(ConnectionError::ConnectionForced, why, None);
        }
        tokio::select! {
            incoming = connection.next_incoming_session() => match incoming {
                Some(incoming) => {
                    let ahead = begun.of(incoming.channel);
                    let Some(session) = begin(incoming, &mut connection).await else { return Ok(()) };
                    sessions.spawn(serve_session(session, ahead, shared.clone()));
                }
                None => return Ok(()),
            },
            Some(ended) = sessions.join_next() => log_panic(ended),
            () = stop.cancelled() => {
                let why = "The hub is shutting down.".to_owned();
                break definitions::Error::new(ConnectionError::ConnectionForced, why, None);
            }
            Some(error) = ordered(&mut ending) => break error,
        }
    };
    if timeout(FAREWELL, connection.close_with_error(error)).await.is_err() {
        // It was told to leave, and could stay for as long as it is not silent.
        line.cut();
    }
    Ok(())
}

/// The error somebody wants the connection closed with.
async fn ordered(ending: &mut watch::Receiver<Option<definitions::Error>>) -> Option<definitions::Error> {
    ending.wait_for(Option::is_some).await.ok()?.clone()
}

async fn begin(incoming: IncomingSession, connection: &mut ListenerConnectionHandle) -> Option<ListenerSessionHandle> {
    let acceptor = SessionAcceptor::builder().handle_max(HANDLE_MAX).buffer_size(SESSION_FRAMES).build();
    match acceptor.accept_incoming_session(incoming, connection).await {
        Ok(session) => Some(session),
        Err(error) => {
            tracing::debug!(%error, "failed to begin a session");
            None
        }
    }
}

async fn serve_session(mut session: ListenerSessionHandle, ahead: Arc<Ahead>, shared: Shared) {
    let answers = Arc::new(Answers::default());
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            attach = session.next_incoming_attach() => match attach {
                Some(attach) => {
                    if STRANGERS_LINKS_MAX <= links.len() && shared.tokens.until_any(now_s(&shared.hub)).is_none() {
                        let why = format!("More than {STRANGERS_LINKS_MAX} links without a token.");
                        shared.close(definitions::Error::new(ConnectionError::ConnectionForced, why, None));
                        break;
                    }
                    accept(attach, &mut session, &ahead, &mut links, &answers, &shared).await;
                }
                None => break,
            },
            Some(ended) = links.join_next() => log_panic(ended),
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a task of a connection panicked");
    }
}

/// What a link that may be opened will do.
enum Purpose {
    Desk(Desk),
    Deliver(Delivery, Place),
}

/// Accepts a link and starts its task. A link that is refused is accepted too, and closed with the reason: so the
/// service does it, and so the SDKs understand it.
async fn accept(
    mut attach: Attach,
    session: &mut ListenerSessionHandle,
    ahead: &Arc<Ahead>,
    links: &mut JoinSet<()>,
    answers: &Arc<Answers>,
    shared: &Shared,
) {
    let purpose = purpose(&attach, shared).await;
    if let Ok(Purpose::Deliver(..)) = &purpose {
        ahead.count(&attach.name);
    }
    let metrics = matches!(&purpose, Ok(Purpose::Deliver(delivery, _)) if delivery.metrics);
    if attach.role == Role::Receiver && attach.target.is_none() {
        attach.target = Some(Box::new(TargetArchetype::Target(Target::default())));
    }
    let link = match link_acceptor(metrics).accept_incoming_attach(attach, session).await {
        Ok(LinkEndpoint::Receiver(mut receiver)) => {
            // What the acceptor gives at first never reaches the peer ([`super::quota`]).
            if receiver.set_credit(CREDIT).await.is_err() {
                return;
            }
            LinkEndpoint::Receiver(receiver)
        }
        Ok(link) => link,
        Err(error) => {
            tracing::debug!(%error, "failed to attach a link");
            return;
        }
    };
    match (purpose, link) {
        (Ok(Purpose::Deliver(delivery, place)), LinkEndpoint::Sender(sender)) => {
            links.spawn(receiver::deliver(sender, place, delivery, Arc::clone(ahead)));
        }
        (Ok(Purpose::Desk(desk)), LinkEndpoint::Sender(sender)) => {
            let answers = Arc::clone(answers);
            links.spawn(async move { answers.serve(desk, sender).await });
        }
        (Ok(Purpose::Desk(desk)), LinkEndpoint::Receiver(receiver)) => {
            let (answers, Shared { hub, tokens, .. }) = (Arc::clone(answers), shared.clone());
            links.spawn(async move {
                let answer = |request: &_| match desk {
                    Desk::Cbs => cbs::answer(request, &hub, &tokens),
                    Desk::Management if tokens.until_any(now_s(&hub)).is_none() => {
                        Response::refused(401, "Unauthorized access: no token holds any more.")
                    }
                    Desk::Management => management::answer(request, hub.name(), hub.log()),
                };
                answers.listen(desk, receiver, answer).await;
            });
        }
        (Ok(Purpose::Deliver(..)), LinkEndpoint::Receiver(_)) => unreachable!("only receivers are delivered to"),
        (Err(error), link) => {
            tracing::debug!(%error, "refused a link");
            shared.hub.books().link_refused();
            links.spawn(async move {
                let _ = match link {
                    LinkEndpoint::Sender(sender) => timeout(FAREWELL, sender.close_with_error(error)).await,
                    LinkEndpoint::Receiver(receiver) => timeout(FAREWELL, receiver.close_with_error(error)).await,
                };
            });
        }
    }
}

type Acceptor = LinkAcceptor<fn(Source) -> Option<Source>, fn(Target) -> Option<Target>>;

fn link_acceptor(metrics: bool) -> Acceptor {
    // The acceptor tolerates a peer that would rather have unsettled deliveries; its version is pinned for that.
    let builder = LinkAcceptor::builder()
        .supported_sender_settle_modes(SupportedSenderSettleModes::Settled)
        .fallback_sender_settle_mode(SenderSettleMode::Settled)
        .max_message_size(MESSAGE_BYTES_MAX);
    if metrics { builder.add_offered_capabilities(METRICS).build() } else { builder.build() }
}

/// What a link is for, or why it may not be.
async fn purpose(attach: &Attach, shared: &Shared) -> Result<Purpose, definitions::Error> {
    let address = match (&attach.role, attach.source.as_deref(), attach.target.as_deref()) {
        (Role::Receiver, Some(source), _) => source.address.as_deref(),
        (Role::Sender, _, Some(TargetArchetype::Target(target))) => target.address.as_deref(),
        _ => None,
    };
    let address = address.unwrap_or_default();
    let now_s = now_s(&shared.hub);
    match address::node(address) {
        Node::Cbs => Ok(Purpose::Desk(Desk::Cbs)),
        Node::Management if shared.tokens.until_any(now_s).is_some() => Ok(Purpose::Desk(Desk::Management)),
        Node::Management => Err(unauthorized(address)),
        Node::Partition { entity, consumer_group, partition } if attach.role == Role::Receiver => {
            if shared.tokens.until(address::path(address), now_s).is_none() {
                return Err(unauthorized(address));
            }
            if !entity.eq_ignore_ascii_case(shared.hub.name()) {
                return Err(not_found(format!("The messaging entity '{address}' could not be found.")));
            }
            if !shared.hub.has_group(&consumer_group) {
                let hub = shared.hub.name();
                let why = format!(
                    "The messaging entity '{hub}:ConsumerGroup:{consumer_group}' could not be found (consumer groups are \
                     named in `hub.consumer-groups`)."
                );
                return Err(not_found(why));
            }
            receive(attach, address, &consumer_group, &partition, shared).await
        }
        Node::Partition { .. } => {
            Err(error(AmqpError::NotAllowed, "Events cannot be sent to this endpoint.".to_owned()))
        }
        Node::Unknown => Err(not_found(format!("The messaging entity '{address}' could not be found."))),
    }
}

async fn receive(
    attach: &Attach,
    address: &str,
    consumer_group: &str,
    partition: &str,
    shared: &Shared,
) -> Result<Purpose, definitions::Error> {
    let log = shared.hub.log();
    let count = log.partition_count();
    let id = management::partition_id(partition, count)
        .ok_or_else(|| not_found(management::no_partition(partition, count)))?;
    let position = position(attach).map_err(|bad| error(AmqpError::InvalidField, bad.to_string()))?;
    within(position, id, shared)?;
    let next = log.seek(id, position).await.map_err(|disk| {
        tracing::error!(partition = id, error = %disk, "failed to seek in the log");
        error(AmqpError::InternalError, format!("the log of partition {id} cannot be read"))
    })?;
    let place = claim(attach, consumer_group, id, shared)?;
    let desired = attach.desired_capabilities.as_ref();
    let metrics = desired.is_some_and(|desired| desired.iter().any(|capability| capability.as_str() == METRICS));
    let delivery = Delivery { partition: id, next, path: address::path(address).to_owned(), metrics };
    Ok(Purpose::Deliver(delivery, place))
}

/// Takes a place among the receivers, and tells those who lose theirs.
fn claim(attach: &Attach, consumer_group: &str, partition: u32, shared: &Shared) -> Result<Place, definitions::Error> {
    let level = property(attach, EPOCH).and_then(|value| match value {
        Value::Long(level) => Some(*level),
        Value::Int(level) => Some(i64::from(*level)),
        _ => None,
    });
    let name = RECEIVER_NAMES.iter().find_map(|name| property(attach, name)).and_then(|value| match value {
        Value::String(name) => Some(name.as_str()),
        _ => None,
    });
    let key = (consumer_group.to_ascii_lowercase(), partition);
    let (tell, lost) = oneshot::channel();
    let claimed = shared.hub.owners().claim(key.clone(), level, tell).map_err(|denied| {
        let condition: ErrorCondition = match denied {
            Denied::Owned { .. } => LinkError::Stolen.into(),
            Denied::Full => AmqpError::ResourceLimitExceeded.into(),
        };
        definitions::Error::new(condition, denied.to_string(), None)
    })?;
    for displaced in claimed.displaced {
        let (name, level) = (name.unwrap_or("nil"), level.unwrap_or_default());
        let why = format!(
            "New receiver '{name}' with higher epoch of '{level}' is created hence current receiver is getting \
             disconnected. If you are recreating the receiver, make sure a higher epoch is used."
        );
        // Who has just gone by itself need not be told.
        let _ = displaced.send(Ending::Stolen(why));
    }
    Ok(Place { shared: shared.clone(), key, id: claimed.id, lost })
}

/// Refuses a position behind the end: it is one of another log, and waiting for it would hide a loss.
fn within(position: Position, partition: u32, shared: &Shared) -> Result<(), definitions::Error> {
    let Some(info) = shared.hub.log().info(partition) else { return Ok(()) };
    let last_offset = info.last_enqueued_offset.parse().unwrap_or(-1_i64);
    let (what, asked, last) = match position {
        Position::Offset { offset, .. } if last_offset < offset => ("offset", offset, last_offset),
        Position::Sequence { sequence_number, inclusive } => {
            let last = info.last_enqueued_sequence_number;
            if sequence_number <= last.saturating_add(i64::from(inclusive)) {
                return Ok(());
            }
            ("sequence number", sequence_number, last)
        }
        _ => return Ok(()),
    };
    let why = format!(
        "The supplied {what} '{asked}' is invalid. The last {what} in the system is '{last}' (partition {partition}, hub \
         made at {} ms).",
        shared.hub.log().created_at()
    );
    let condition = ErrorCondition::Custom(Symbol::from("com.microsoft:argument-out-of-range"));
    Err(definitions::Error::new(condition, why, None))
}

/// Where the receiver wants to begin: at the beginning, unless a filter says otherwise.
fn position(attach: &Attach) -> Result<Position, filter::BadFilter> {
    let filters = attach.source.as_ref().and_then(|source| source.filter.as_ref());
    match filters.and_then(|filters| filters.get(SELECTOR)) {
        None | Some(Value::Null) => Ok(Position::Earliest),
        Some(value) => filter::parse(selector(value)),
    }
}

/// The text of a filter, described (by code or by name) or bare.
fn selector(value: &Value) -> &str {
    match value {
        Value::Described(described) => selector(&described.value),
        Value::String(text) => text,
        Value::Symbol(symbol) => symbol.as_str(),
        Value::Binary(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        _ => "",
    }
}

fn now_s(hub: &AmqpHub) -> i64 {
    hub.clock().now().millis().div_euclid(1000)
}

fn property<'a>(attach: &'a Attach, name: &str) -> Option<&'a Value> {
    attach.properties.as_ref()?.get(name)
}

fn error(condition: AmqpError, description: String) -> definitions::Error {
    definitions::Error::new(condition, description, None)
}

fn not_found(description: String) -> definitions::Error {
    error(AmqpError::NotFound, description)
}

fn unauthorized(address: &str) -> definitions::Error {
    let why = format!(
        "Unauthorized access. 'Listen' claim(s) are required to perform this operation. Resource: '{address}'."
    );
    error(AmqpError::UnauthorizedAccess, why)
}
