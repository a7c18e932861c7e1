//! One connection: a stream, a [`Session`], and what is on its way to the outbox.

mod halt; // when it is not read

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::halt::{Halt, place};
use super::door::{Door, Guest};
use super::end::End;
use super::pace::Pace;
use super::rights::May;
use super::session::head::packet_length;
use super::session::{Act, Fault, Hello, Owed, Publish, Refusal, Session, Spoken};
use crate::intake::acks::Acks;
use crate::intake::{Ack, RawMessage};

/// A device that does not take our few bytes for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// On stop, this long is waited for commits of what was already taken.
const DRAIN: Duration = Duration::from_secs(5);
/// On stop, a device has this long to read its last PUBACKs and hang up.
const LINGER: Duration = Duration::from_secs(1);
/// A will is handed on in this time, or dropped and counted.
const WILL_TIMEOUT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 16 * 1024;
/// What was larger gives its memory back when it is empty: most devices are silent most of the time.
const KEPT_BYTES: usize = 256;

/// Who is at the other end.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    /// What its certificate calls it.
    pub(super) certified: Option<String>,
}

/// Serves one connection to its end. CONNECT must be there at `patience`.
pub(super) async fn serve<S>(
    stream: S,
    peer: Peer,
    patience: Instant,
    door: Arc<Door>,
    tx: mpsc::Sender<RawMessage>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        session: Session::new(door.terms),
        stream,
        inbox: BytesMut::new(),
        outgoing: Vec::new(),
        acks: Acks::default(),
        hold: VecDeque::new(),
        quiet: None,
        quiet_at: None,
        partial_since: None,
        pace: door.pace.clone(),
        large: None,
        halted: None,
        may: May::Everything,
        spoken: Spoken::V3,
        will: None,
        door,
        tx,
    };
    let stop = connection.door.stop.clone();
    let greeted = tokio::select! {
        () = stop.cancelled() => return End::Stopping,
        greeted = timeout_at(patience, connection.greet(peer)) => greeted,
    };
    let guest = match greeted {
        Ok(Ok(guest)) => guest,
        Ok(Err(end)) => return end,
        Err(_) => return End::ConnectTimeout,
    };
    let end = match connection.run(&guest.leave).await {
        Ok(end) | Err(end) => end,
    };
    connection.part(&end).await;
    end
}

struct Connection<S> {
    session: Session,
    stream: S,
    inbox: BytesMut,
    outgoing: Vec<u8>,
    /// Publishes taken and not yet acknowledged; at most `door.unacked_max`.
    acks: Acks<Owed>,
    /// Those of them that found the way to presilver full.
    hold: VecDeque<RawMessage>,
    quiet: Option<Duration>,
    quiet_at: Option<Instant>,
    partial_since: Option<Instant>,
    pace: Pace,
    /// The place of the large packet that is being read.
    large: Option<OwnedSemaphorePermit>,
    halted: Option<Halt>,
    may: May,
    spoken: Spoken,
    will: Option<Publish>,
    door: Arc<Door>,
    tx: mpsc::Sender<RawMessage>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Waits for CONNECT and answers it.
    async fn greet(&mut self, peer: Peer) -> Result<Guest, End> {
        loop {
            while !self.inbox.is_empty() {
                let mut acts = Vec::new();
                let taken = self.session.feed(&self.inbox, &mut acts);
                self.inbox.advance(taken);
                if let Some(hello) = self.perform(&mut acts).await? {
                    return self.welcome(hello, peer).await;
                }
            }
            self.read().await?;
        }
    }

    async fn welcome(&mut self, hello: Hello, peer: Peer) -> Result<Guest, End> {
        let Hello { spoken, client_id, user, password, will } = hello;
        let mut acts = Vec::new();
        // Who has shown a certificate is who it says, whatever CONNECT says.
        let user = match peer.certified {
            Some(name) => Some(name),
            None if self.door.admits(user.clone(), password).await => user,
            None => {
                debug!(peer = %peer.addr, client_id = %client_id.escape_debug(), ?user, "user or password is wrong");
                self.session.refuse(Refusal::Login, &mut acts);
                self.perform(&mut acts).await?;
                return Err(End::Denied);
            }
        };
        debug!(peer = %peer.addr, client_id = %client_id.escape_debug(), ?user, "connected");
        self.may = self.door.rights.of(user.as_deref(), &client_id);
        (self.spoken, self.will) = (spoken, will);
        let nameless = client_id.is_empty();
        let guest = Guest::enter(&self.door, user, client_id);
        let assigned = nameless.then(|| format!("auto-{}", guest.number()));
        self.session.accept(assigned.as_deref(), &mut acts);
        self.perform(&mut acts).await?;
        Ok(guest)
    }

    async fn run(&mut self, leave: &CancellationToken) -> Result<End, End> {
        let (stop, tx) = (self.door.stop.clone(), self.tx.clone());
        let door = Arc::clone(&self.door);
        loop {
            let halt = self.digest().await?;
            self.note(halt);
            let deadline = self.deadline(halt);
            tokio::select! {
                () = stop.cancelled() => return Ok(End::Stopping),
                () = leave.cancelled() => return Ok(End::TakenOver),
                read = read_some(&mut self.stream, &mut self.inbox), if halt.is_none() => read?,
                acked = self.acks.next() => self.acknowledge(acked?).await?,
                permit = tx.reserve(), if !self.hold.is_empty() => {
                    let (Ok(permit), Some(message)) = (permit, self.hold.pop_front()) else { return Ok(End::Stopping) };
                    permit.send(message);
                    if self.hold.is_empty() {
                        self.hold = VecDeque::new();
                    }
                }
                () = door.room.freed(), if halt == Some(Halt::Room) => {}
                place = place(&door, halt), if matches!(halt, Some(Halt::Large(_))) => self.large = place,
                () = sleep_until(deadline) => if halt.is_none() { return Err(self.overdue()) },
            }
        }
    }

    /// Takes packets out of the inbox until more must be read, or may not be. In the latter case the rest stays where
    /// it is, and further down TCP makes the device wait.
    async fn digest(&mut self) -> Result<Option<Halt>, End> {
        let mut acts = Vec::new();
        let mut halt = None;
        while !self.inbox.is_empty() {
            halt = self.must_wait();
            if halt.is_some() {
                break;
            }
            if !self.session.mid_packet() && packet_length(&self.inbox).is_none() {
                break; // how large the packet will be is not known yet
            }
            let taken = self.session.feed(&self.inbox, &mut acts);
            self.inbox.advance(taken);
            let whole = !self.session.mid_packet();
            if whole {
                self.large = None;
            }
            if self.pace.is_limited() {
                self.pace.spend(Instant::now().into_std(), u32::from(whole), taken);
            }
            if self.perform(&mut acts).await?.is_some() {
                return Err(Fault::Protocol.into());
            }
        }
        if self.inbox.is_empty() && KEPT_BYTES < self.inbox.capacity() {
            self.inbox = BytesMut::new();
        }
        self.partial_since = match (self.session.mid_packet() || !self.inbox.is_empty(), self.partial_since) {
            (false, _) => None,
            (true, since) => since.or_else(|| Some(Instant::now())),
        };
        Ok(halt)
    }

    /// What is written is acknowledged in one go: everything that is committed by now.
    async fn acknowledge(&mut self, first: Owed) -> Result<(), End> {
        let mut acts = Vec::new();
        self.answer(first, &mut acts);
        while let Some(next) = self.acks.try_next() {
            self.answer(next?, &mut acts);
        }
        self.perform(&mut acts).await?;
        Ok(())
    }

    fn answer(&mut self, owed: Owed, acts: &mut Vec<Act>) {
        self.session.acknowledge(owed, acts);
        if !owed.barred {
            self.door.metrics.acked.inc();
        }
    }

    /// Does what the session asks. Returns the CONNECT, if there was one.
    async fn perform(&mut self, acts: &mut Vec<Act>) -> Result<Option<Hello>, End> {
        let mut hello = None;
        let mut end = None;
        for act in acts.drain(..) {
            match act {
                Act::Connect(said) => hello = Some(said),
                Act::Send(bytes) => self.outgoing.extend_from_slice(&bytes),
                Act::Publish(publish) => {
                    if let Err(barred) = self.take(publish) {
                        end = Some(barred);
                    }
                }
                Act::Quiet(length) => {
                    self.quiet = length;
                    self.quiet_at = length.map(|length| Instant::now() + length);
                }
                Act::Goodbye(with_will) => end = Some(if with_will { End::LeftWithWill } else { End::Left }),
                Act::Close(fault) => end = Some(fault.into()),
            }
        }
        if !self.outgoing.is_empty() {
            let write = async {
                self.stream.write_all(&self.outgoing).await?;
                self.stream.flush().await
            };
            timeout(WRITE_TIMEOUT, write).await.map_err(|_| End::Deaf)??;
            self.outgoing.clear();
            self.outgoing.shrink_to(KEPT_BYTES);
        }
        match end {
            Some(end) => Err(end),
            None => Ok(hello),
        }
    }

    /// Takes a publish, if the device may publish to its topic. MQTT 3.1.1 has no way to refuse one: a PUBACK would
    /// say that it is stored. So there the connection ends.
    fn take(&mut self, publish: Publish) -> Result<(), End> {
        self.door.metrics.received.inc();
        self.door.metrics.received_bytes.inc_by(publish.payload.len() as u64);
        if !self.may.publish_to(&publish.topic) {
            self.door.metrics.bar();
            if self.spoken == Spoken::V3 {
                return Err(End::Barred);
            }
            if let Some(packet_id) = publish.packet_id {
                let (ack, done) = Ack::channel();
                self.acks.push(Owed { packet_id, barred: true }, done);
                ack.done(); // its turn comes when those before it have theirs
            }
            if let Some(quiet) = self.door.told.again("barred", Instant::now()) {
                let topic = publish.topic.escape_debug();
                tracing::warn!(%topic, quiet, "refused a publish: {}", End::Barred);
            }
            return Ok(());
        }
        let (ack, waits) = match publish.packet_id {
            Some(packet_id) => {
                let (ack, done) = Ack::channel();
                self.acks.push(Owed { packet_id, barred: false }, done);
                (ack, true)
            }
            None => (Ack::none(), false),
        };
        let message = self.message(publish, ack);
        if !self.hold.is_empty() && waits {
            self.hold.push_back(message); // behind those that came before it
            return Ok(());
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
        Ok(())
    }

    fn message(&self, publish: Publish, ack: Ack) -> RawMessage {
        let bytes = publish.topic.len() + publish.payload.len();
        RawMessage {
            topic: publish.topic,
            payload: publish.payload,
            cut: None,
            received: self.door.clock.now(),
            again: false,
            ack: ack.holding(self.door.room.hold(bytes as u64)),
        }
    }

    async fn read(&mut self) -> Result<(), End> {
        read_some(&mut self.stream, &mut self.inbox).await
    }

    /// What is done at the end, as far as it can be.
    async fn part(&mut self, end: &End) {
        if end.leaves_will()
            && let Some(will) = self.will.take()
        {
            self.execute(will).await;
        }
        let stopping = matches!(end, End::Stopping);
        if stopping {
            self.acknowledge_the_last().await;
        }
        if let Some(bye) = end.bye() {
            let mut acts = Vec::new();
            self.session.dismiss(bye, &mut acts);
            // Whoever hears it not has gone.
            let _ = self.perform(&mut acts).await;
        }
        if stopping {
            let _ = timeout(LINGER, self.hang_up()).await;
        }
    }

    /// Publishes the device's will, as if it had done so at QoS 0.
    async fn execute(&mut self, will: Publish) {
        self.door.metrics.received.inc();
        self.door.metrics.received_bytes.inc_by(will.payload.len() as u64);
        if !self.may.publish_to(&will.topic) {
            self.door.metrics.bar();
            return;
        }
        let message = self.message(will, Ack::none());
        if timeout(WILL_TIMEOUT, self.tx.send(message)).await.is_err() {
            self.door.metrics.dropped.inc();
        }
    }

    /// Acknowledges what was taken before the stop, as far as it is committed soon.
    async fn acknowledge_the_last(&mut self) {
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

/// Reads what is there. Nothing is kept ready while nothing is: a thousand idle devices cost no buffers. Cancel-safe:
/// what was read is in the inbox.
async fn read_some<S: AsyncRead + Unpin>(stream: &mut S, inbox: &mut BytesMut) -> Result<(), End> {
    let read = std::future::poll_fn(|context| {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut space))?;
        inbox.extend_from_slice(space.filled());
        Poll::Ready(Ok::<usize, io::Error>(space.filled().len()))
    });
    match read.await? {
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
