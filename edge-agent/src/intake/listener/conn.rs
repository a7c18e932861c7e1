//! One connection: a socket, a [`Session`], and what is on its way to the outbox.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use mqtt_protocol_core::mqtt::result_code::ConnectReturnCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::session::{Act, Fault, Hello, Publish, Session};
use super::{Door, Guest};
use crate::intake::acks::{Acks, Refused};
use crate::intake::{Ack, RawMessage};

/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// On stop, this long is waited for commits of what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// On stop, a device has this long to read its last PUBACKs and hang up.
const LINGER: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 8 * 1024;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the device left")]
    Left,
    #[error("the device closed the connection without DISCONNECT")]
    Vanished,
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("no CONNECT within `intake.listener.connect-timeout`")]
    ConnectTimeout,
    #[error("silence for 1.5 times the device's keep-alive")]
    Quiet,
    #[error("a packet did not end within `intake.listener.packet-timeout`")]
    Slow,
    #[error("user or password is wrong")]
    Denied,
    #[error("another connection came with the same client id")]
    TakenOver,
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("the agent stops")]
    Stopping,
    #[error("reading or writing: {0}")]
    Io(#[from] io::Error),
}

impl End {
    /// As it stands in metrics; `None` where the device ended the connection.
    pub(super) const fn as_str(&self) -> Option<&'static str> {
        match self {
            End::Left | End::Vanished | End::Io(_) | End::Stopping => None,
            End::Fault(fault) => Some(fault.as_str()),
            End::ConnectTimeout => Some("connect-timeout"),
            End::Quiet => Some("keep-alive"),
            End::Slow => Some("slow"),
            End::Denied => Some("denied"),
            End::TakenOver => Some("taken-over"),
            End::Refused(_) => Some("not-stored"),
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, door: Arc<Door>, tx: mpsc::Sender<RawMessage>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        session: Session::new(door.packet_bytes_max),
        stream,
        inbox: BytesMut::new(),
        outgoing: Vec::new(),
        acks: Acks::default(),
        hold: VecDeque::new(),
        quiet: None,
        quiet_at: None,
        partial_since: None,
        door,
        tx,
    };
    let (stop, patience) = (connection.door.stop.clone(), connection.door.connect_timeout);
    let greeted = tokio::select! {
        () = stop.cancelled() => return End::Stopping,
        greeted = timeout(patience, connection.greet(peer)) => greeted,
    };
    let guest = match greeted {
        Ok(Ok(guest)) => guest,
        Ok(Err(end)) => return end,
        Err(_) => return End::ConnectTimeout,
    };
    let end = match connection.run(&guest.leave).await {
        Ok(end) | Err(end) => end,
    };
    if matches!(end, End::Stopping) {
        connection.drain().await;
    }
    end
}

struct Connection<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    outgoing: Vec<u8>,
    /// Publishes taken and not yet acknowledged; at most `door.unacked_max`.
    acks: Acks,
    /// Those of them that found the way to presilver full.
    hold: VecDeque<RawMessage>,
    quiet: Option<Duration>,
    quiet_at: Option<Instant>,
    partial_since: Option<Instant>,
    door: Arc<Door>,
    tx: mpsc::Sender<RawMessage>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Waits for CONNECT and answers it.
    async fn greet(&mut self, peer: SocketAddr) -> Result<Guest, End> {
        loop {
            while !self.inbox.is_empty() {
                let mut acts = Vec::new();
                let taken = self.session.feed(&self.inbox, &mut acts);
                self.inbox.advance(taken);
                if let Some(hello) = self.perform(acts).await? {
                    return self.welcome(hello, peer).await;
                }
            }
            self.read().await?;
        }
    }

    async fn welcome(&mut self, hello: Hello, peer: SocketAddr) -> Result<Guest, End> {
        let Hello { client_id, user, password } = hello;
        let mut acts = Vec::new();
        if !self.door.admits(user.clone(), password).await {
            info!(%peer, client_id = %client_id.escape_debug(), user = ?user, "user or password is wrong");
            self.session.refuse(ConnectReturnCode::BadUserNameOrPassword, &mut acts);
            self.perform(acts).await?;
            return Err(End::Denied);
        }
        debug!(%peer, client_id = %client_id.escape_debug(), "connected");
        let guest = Guest::enter(&self.door, client_id);
        self.session.accept(&mut acts);
        self.perform(acts).await?;
        Ok(guest)
    }

    async fn run(&mut self, leave: &CancellationToken) -> Result<End, End> {
        let (stop, tx) = (self.door.stop.clone(), self.tx.clone());
        loop {
            self.digest().await?;
            let blocked = !self.inbox.is_empty();
            let deadline = self.deadline(blocked);
            tokio::select! {
                () = stop.cancelled() => return Ok(End::Stopping),
                () = leave.cancelled() => return Ok(End::TakenOver),
                read = read_some(&mut self.stream, &mut self.inbox), if !blocked => read?,
                acked = self.acks.next() => self.acknowledge(acked?).await?,
                permit = tx.reserve(), if !self.hold.is_empty() => {
                    let (Ok(permit), Some(message)) = (permit, self.hold.pop_front()) else { return Ok(End::Stopping) };
                    permit.send(message);
                }
                () = sleep_until(deadline) => return Err(self.overdue()),
            }
        }
    }

    /// Takes packets out of the inbox until it is empty or the bound of unacknowledged publishes is reached. Then the
    /// rest stays where it is, and further down TCP makes the device wait.
    async fn digest(&mut self) -> Result<(), End> {
        while !self.inbox.is_empty() && self.acks.len() < self.door.unacked_max {
            let mut acts = Vec::new();
            let taken = self.session.feed(&self.inbox, &mut acts);
            self.inbox.advance(taken);
            self.partial_since = match (self.session.mid_packet(), self.partial_since) {
                (false, _) => None,
                (true, since) => since.or_else(|| Some(Instant::now())),
            };
            if self.perform(acts).await?.is_some() {
                return Err(Fault::Protocol.into());
            }
        }
        if self.inbox.is_empty() && self.inbox.capacity() > 4 * READ_BYTES {
            self.inbox = BytesMut::new(); // a large packet came once; its memory need not stay
        }
        Ok(())
    }

    /// What is written is acknowledged in one go: everything that is committed by now.
    async fn acknowledge(&mut self, first: u16) -> Result<(), End> {
        let mut acts = Vec::new();
        self.session.acknowledge(first, &mut acts);
        self.door.metrics.acked.inc();
        while let Some(next) = self.acks.try_next() {
            self.session.acknowledge(next?, &mut acts);
            self.door.metrics.acked.inc();
        }
        self.perform(acts).await?;
        Ok(())
    }

    /// Does what the session asks. Returns the CONNECT, if there was one.
    async fn perform(&mut self, acts: Vec<Act>) -> Result<Option<Hello>, End> {
        let mut hello = None;
        let mut end = None;
        for act in acts {
            match act {
                Act::Connect(said) => hello = Some(said),
                Act::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
                Act::Publish(publish) => self.take(publish),
                Act::Quiet(length) => {
                    self.quiet = length;
                    self.quiet_at = length.map(|length| Instant::now() + length);
                }
                Act::Goodbye => end = Some(End::Left),
                Act::Close(fault) => end = Some(fault.into()),
            }
        }
        if !self.outgoing.is_empty() {
            let write = async {
                self.stream.write_all(&self.outgoing).await?;
                self.stream.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            self.outgoing.clear();
        }
        match end {
            Some(end) => Err(end),
            None => Ok(hello),
        }
    }

    fn take(&mut self, publish: Publish) {
        self.door.metrics.received.inc();
        self.door.metrics.received_bytes.inc_by(publish.payload.len() as u64);
        let (ack, waits) = match publish.packet_id {
            Some(packet_id) => {
                let (ack, done) = Ack::channel();
                self.acks.push(packet_id, done);
                (ack, true)
            }
            None => (Ack::none(), false),
        };
        let received = self.door.clock.now();
        let message = RawMessage { topic: publish.topic, payload: publish.payload, received, again: false, ack };
        if !self.hold.is_empty() && waits {
            self.hold.push_back(message); // behind those that came before it
            return;
        }
        match self.tx.try_send(message) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(message)) if waits => self.hold.push_back(message),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.door.metrics.dropped.inc();
            }
            // Presilver is gone, so the agent stops; the device will repeat what it was not acknowledged.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// While we refuse to read, silence is ours and not the device's.
    fn deadline(&self, blocked: bool) -> Option<Instant> {
        if blocked {
            return None;
        }
        let slow = self.partial_since.map(|since| since + self.door.packet_timeout);
        match (self.quiet_at, slow) {
            (Some(quiet), Some(slow)) => Some(quiet.min(slow)),
            (quiet, slow) => quiet.or(slow),
        }
    }

    fn overdue(&self) -> End {
        let slow = self.partial_since.map(|since| since + self.door.packet_timeout);
        match slow {
            Some(slow) if slow <= Instant::now() => End::Slow,
            _ => End::Quiet,
        }
    }

    async fn read(&mut self) -> Result<(), End> {
        read_some(&mut self.stream, &mut self.inbox).await
    }

    /// Acknowledges what was taken before the stop, as far as it is committed soon, and hangs up.
    async fn drain(&mut self) {
        self.hold.clear();
        // Late or broken, the device repeats what it was not acknowledged.
        let _ = timeout(DRAIN, async {
            while !self.acks.is_empty() {
                let acked = self.acks.next().await.ok()?;
                self.acknowledge(acked).await.ok()?;
            }
            Some(())
        })
        .await;
        let _ = timeout(LINGER, self.hang_up()).await;
    }

    /// A socket closed with unread bytes is reset, and a reset takes the PUBACKs with it that the device has not read
    /// yet. So what it still sends is read, and not taken, until it hangs up too.
    async fn hang_up(&mut self) -> Result<(), End> {
        self.stream.shutdown().await?;
        loop {
            self.inbox.clear();
            self.read().await?;
        }
    }
}

/// Cancel-safe: what was read is in the inbox.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, inbox: &mut BytesMut) -> Result<(), End> {
    inbox.reserve(READ_BYTES);
    match stream.read_buf(inbox).await? {
        0 => Err(End::Vanished),
        _ => Ok(()),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
