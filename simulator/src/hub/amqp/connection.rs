//! One connection: its sessions, and what each link of a session is attached to.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, IncomingSession, LinkAcceptor, LinkEndpoint, ListenerConnectionHandle, ListenerSessionHandle,
    SessionAcceptor, SupportedReceiverSettleModes, SupportedSenderSettleModes,
};
use fe2o3_amqp_types::definitions::{self, AmqpError, ConnectionError, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::Attach;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::{self, Node};
use super::cbs::{self, Realm, Tokens};
use super::line::Line;
use super::pad::{INCOMING_FRAME_MAX, PadIo};
use super::quota::{Ahead, CREDIT, HANDLE_MAX};
use super::receiver::{self, Delivery, Place};
use super::request::{Answers, Desk, Response};
use super::sasl::Mechanisms;
use super::{AmqpHub, claim, commands, feedback, management};

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
        .buffer_size(CONNECTION_FRAMES);
    let patience = hub.limits().handshake;
    let mut stream = PadIo::new(stream);
    let begun = stream.sessions();
    let mechanisms = Mechanisms::new(hub.clone(), Arc::clone(&tokens));
    let accepting = async {
        let failed = |error: &dyn std::fmt::Display| HandshakeError::Failed(error.to_string());
        // Microsoft's Node SDK for back ends leaves SASL out; it has no rights either until `$cbs` takes a token.
        match stream.begins_with_sasl().await.map_err(|error| failed(&error))? {
            true => acceptor.sasl_acceptor(mechanisms).build().accept(stream).await,
            false => acceptor.build().accept(stream).await,
        }
        .map_err(|error| failed(&error))
    };
    let mut connection = tokio::select! {
        accepted = timeout(patience, accepting) => accepted.map_err(|_| HandshakeError::Slow(patience))??,
        () = stop.cancelled() => return Ok(()),
    };
    let end = Arc::new(watch::Sender::new(None));
    let mut ending = end.subscribe();
    let shared = Shared { hub, tokens, end };
    let mut sessions = JoinSet::new();
    let error = loop {
        let known = shared.tokens.until_any(shared.hub.now_s()).is_some();
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
                    if STRANGERS_LINKS_MAX <= links.len() && shared.tokens.until_any(shared.hub.now_s()).is_none() {
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
    /// Takes commands for devices.
    Commands,
    /// Tells what became of them.
    Feedback,
    /// Would tell of uploaded files, of which there are none.
    Silence,
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
    unset(&mut attach);
    let purpose = purpose(&attach, shared).await;
    if let Ok(Purpose::Deliver(..)) = &purpose {
        ahead.count(&attach.name);
    }
    if attach.role == Role::Receiver && attach.target.is_none() {
        attach.target = Some(Box::new(TargetArchetype::Target(Target::default())));
    }
    let link = match link_acceptor(purpose.as_ref().ok()).accept_incoming_attach(attach, session).await {
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
                    Desk::Management if tokens.until_any(hub.now_s()).is_none() => {
                        Response::refused(401, "Unauthorized access: no token holds any more.")
                    }
                    Desk::Management => management::answer(request, hub.name(), hub.log()),
                };
                answers.listen(desk, receiver, answer).await;
            });
        }
        (Ok(Purpose::Commands), LinkEndpoint::Receiver(receiver)) => {
            links.spawn(commands::take(receiver, shared.clone()));
        }
        (Ok(Purpose::Feedback), LinkEndpoint::Sender(sender)) => {
            links.spawn(feedback::tell(sender, shared.clone()));
        }
        (Ok(Purpose::Silence), LinkEndpoint::Sender(sender)) => {
            links.spawn(feedback::stay_silent(sender, shared.clone()));
        }
        (Ok(Purpose::Deliver(..) | Purpose::Feedback | Purpose::Silence), LinkEndpoint::Receiver(_))
        | (Ok(Purpose::Commands), LinkEndpoint::Sender(_)) => unreachable!("a purpose goes with the peer's role"),
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

/// Takes out the properties of a node that is not to be made, for which the acceptor would refuse the link. There are none,
/// but amqp10, on which Microsoft's first Event Hubs SDK for Node stands, writes so.
fn unset(attach: &mut Attach) {
    if let Some(source) = attach.source.as_deref_mut().filter(|source| !source.dynamic) {
        source.dynamic_node_properties = None;
    }
    if let Some(TargetArchetype::Target(target)) = attach.target.as_deref_mut()
        && !target.dynamic
    {
        target.dynamic_node_properties = None;
    }
}

type Acceptor = LinkAcceptor<fn(Source) -> Option<Source>, fn(Target) -> Option<Target>>;

fn link_acceptor(purpose: Option<&Purpose>) -> Acceptor {
    let builder = LinkAcceptor::builder();
    match purpose {
        // Settled by the peer, once it has done what is to be done.
        Some(Purpose::Feedback | Purpose::Silence) => builder
            .supported_sender_settle_modes(SupportedSenderSettleModes::Unsettled)
            .fallback_sender_settle_mode(SenderSettleMode::Unsettled)
            .build(),
        // Longer commands than the service takes are refused one by one, up to what a connection may have under way. A peer
        // that would rather settle after the hub has (Microsoft's Python SDK) waits for ever if it is let.
        Some(Purpose::Commands) => builder
            .supported_receiver_settle_modes(SupportedReceiverSettleModes::First)
            .fallback_receiver_settle_mode(ReceiverSettleMode::First)
            .build(),
        _ => {
            // The acceptor tolerates a peer that would rather have unsettled deliveries; its version is pinned for that.
            let builder = builder
                .supported_sender_settle_modes(SupportedSenderSettleModes::Settled)
                .fallback_sender_settle_mode(SenderSettleMode::Settled)
                .max_message_size(MESSAGE_BYTES_MAX);
            let metrics = matches!(purpose, Some(Purpose::Deliver(delivery, _)) if delivery.metrics);
            if metrics { builder.add_offered_capabilities(claim::METRICS).build() } else { builder.build() }
        }
    }
}

/// What a link is for, or why it may not be.
async fn purpose(attach: &Attach, shared: &Shared) -> Result<Purpose, definitions::Error> {
    let address = match (&attach.role, attach.source.as_deref(), attach.target.as_deref()) {
        (Role::Receiver, Some(source), _) => source.address.as_deref(),
        (Role::Sender, _, Some(TargetArchetype::Target(target))) => target.address.as_deref(),
        _ => None,
    };
    let address = address.unwrap_or_default();
    let now_s = shared.hub.now_s();
    let node = address::node(address);
    match (node, &attach.role) {
        (Node::Cbs, _) => Ok(Purpose::Desk(Desk::Cbs)),
        (Node::Management, _) if shared.tokens.until_any_of(Realm::Events, now_s).is_some() => {
            Ok(Purpose::Desk(Desk::Management))
        }
        (Node::Management, _) => Err(unauthorized("Listen", address)),
        (Node::Partition { entity, consumer_group, partition }, Role::Receiver) => {
            if shared.tokens.until(Realm::Events, address::path(address), now_s).is_none() {
                return Err(unauthorized("Listen", address));
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
            let (delivery, place) = claim::receive(attach, address, &consumer_group, &partition, shared).await?;
            Ok(Purpose::Deliver(delivery, place))
        }
        // A right that no policy of an IoT hub has.
        (Node::Partition { .. }, Role::Sender) => Err(unauthorized("Send", address)),
        (Node::Unknown, Role::Sender) if address::covers(shared.hub.name(), address::path(address)) => {
            Err(unauthorized("Send", address))
        }
        (Node::DeviceBound | Node::Feedback | Node::FileNotifications, _)
            if shared.tokens.until(Realm::Hub, address::path(address), now_s).is_none() =>
        {
            Err(unauthorized("ServiceConnect", address))
        }
        (Node::DeviceBound, Role::Sender) => Ok(Purpose::Commands),
        (Node::Feedback, Role::Receiver) => Ok(Purpose::Feedback),
        (Node::FileNotifications, Role::Receiver) => Ok(Purpose::Silence),
        (Node::DeviceBound | Node::Feedback | Node::FileNotifications, _) => {
            Err(error(AmqpError::NotAllowed, format!("'{address}' is for links in the other direction.")))
        }
        (Node::Unknown, _) => Err(not_found(format!("The messaging entity '{address}' could not be found."))),
    }
}

pub(super) fn error(condition: AmqpError, description: String) -> definitions::Error {
    definitions::Error::new(condition, description, None)
}

pub(super) fn not_found(description: String) -> definitions::Error {
    error(AmqpError::NotFound, description)
}

fn unauthorized(right: &str, address: &str) -> definitions::Error {
    let why = format!(
        "Unauthorized access. '{right}' claim(s) are required to perform this operation. Resource: '{address}'."
    );
    error(AmqpError::UnauthorizedAccess, why)
}
