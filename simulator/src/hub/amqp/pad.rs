//! A stream that makes the acceptor palatable to every SDK: see [`super::frame`] for what is edited, and this.
//!
//! When an SDK drops its `$cbs` links it sends `detach` and at once `end`. If the hub's own `detach` reaches it between
//! the two, Microsoft's Rust SDK closes the whole connection (and its receivers start again where they first began). So
//! every `detach` waits a moment, and is dropped if the session's `end` overtakes it.
//!
//! And the acceptor flushes after each frame: a system call, and on a loopback a packet, for each event. Transfers wait here
//! for the next ones until the acceptor has nothing more to write.

mod gather; // [p] deliveries that span frames

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use self::gather::{Gather, Unfit};
use super::frame::{self, ATTACH, CLOSE, DETACH, END, TRANSFER, Unit};
use super::quota::{Quota, Sessions};

/// How long a `detach` waits for an `end`. In trials 5 ms were enough; a busy machine needs more.
const HOLD: Duration = Duration::from_millis(25);
/// What waits for the socket before the acceptor has to wait.
const READY_MAX: usize = 256 * 1024;
/// Transfers wait for one another up to this.
const TOGETHER_MAX: usize = 32 * 1024;
/// The hub's own frames are as long as the peer allows: an event, its properties, and room.
const OUTGOING_FRAME_MAX: usize = 16 * 1024 * 1024;
/// One `disposition` is about at most so many deliveries: the acceptor looks at each number between its first and last,
/// four milliards of them if a peer likes. Most of what leaves is settled, so there is little to be said about it.
const DELIVERIES_MAX: u64 = 10_000;
/// As the hub tells its peers.
pub(super) const INCOMING_FRAME_MAX: usize = 64 * 1024;

/// What leaves: whole frames, padded; each `detach` held back.
#[derive(Debug, Default)]
struct Outgoing {
    /// The beginning of a frame.
    part: BytesMut,
    /// To be written.
    ready: BytesMut,
    /// Whether something other than transfers is to be written.
    urgent: bool,
    /// In order, all with the same delay: the first is due first.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    channel: u16,
    due: Instant,
    frame: Bytes,
}

impl Outgoing {
    fn push(&mut self, bytes: &[u8], now: Instant, quota: &mut Quota) {
        self.part.extend_from_slice(bytes);
        loop {
            match frame::unit(&self.part, OUTGOING_FRAME_MAX) {
                Unit::Part => return,
                Unit::Whole(length) => {
                    let frame = self.part.split_to(length);
                    self.push_frame(frame, now, quota);
                }
                // Our own acceptor does not write such; if it does, the peer is to see it.
                Unit::Broken => {
                    let rest = self.part.split();
                    self.ready.extend_from_slice(&rest);
                    self.urgent = true;
                    return;
                }
            }
        }
    }

    fn push_frame(&mut self, mut frame: BytesMut, now: Instant, quota: &mut Quota) {
        let performative = frame::performative(&frame);
        let Some(performative) = performative else {
            self.ready.extend_from_slice(&frame);
            self.urgent = true;
            return;
        };
        frame::halve_idle_time_out(&mut frame, &performative);
        quota.outgoing(&mut frame, &performative);
        let channel = performative.channel;
        match performative.code {
            DETACH => {
                let mut padded = BytesMut::new();
                frame::push_padded(&mut padded, &frame, Some(&performative));
                self.held.push_back(Held { channel, due: now + HOLD, frame: padded.freeze() });
                return;
            }
            TRANSFER => {}
            // The handle may be the detached link's.
            ATTACH => self.release(|held| held.channel == channel),
            END => self.held.retain(|held| held.channel != channel),
            CLOSE => self.held.clear(),
            _ => {}
        }
        self.urgent |= performative.code != TRANSFER;
        frame::push_padded(&mut self.ready, &frame, Some(&performative));
    }

    /// Whether what is ready may wait for more.
    fn waits(&self) -> bool {
        !self.urgent && (1..TOGETHER_MAX).contains(&self.ready.len())
    }

    fn release(&mut self, due: impl Fn(&Held) -> bool) {
        for held in std::mem::take(&mut self.held) {
            if due(&held) {
                self.ready.extend_from_slice(&held.frame);
                self.urgent = true;
            } else {
                self.held.push_back(held);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|held| held.due)
    }
}

/// What arrives: whole frames, each looked at before the acceptor decodes it.
#[derive(Debug, Default)]
struct Incoming {
    part: BytesMut,
    ready: BytesMut,
    gather: Gather,
}

impl Incoming {
    fn push(&mut self, bytes: &[u8], quota: &mut Quota) -> Result<(), Unfit> {
        self.part.extend_from_slice(bytes);
        loop {
            match frame::unit(&self.part, INCOMING_FRAME_MAX) {
                Unit::Part => return Ok(()),
                Unit::Broken => return Err(Unfit::Bytes),
                Unit::Whole(length) => {
                    let mut frame = self.part.split_to(length);
                    let performative = frame::performative(&frame);
                    self.gather.look(&frame, performative.as_ref())?;
                    if let Some(performative) = performative {
                        frame::halve_idle_time_out(&mut frame, &performative);
                        if frame::deliveries(&frame, &performative).is_none_or(|count| DELIVERIES_MAX < count) {
                            return Err(Unfit::Deliveries);
                        }
                        quota.incoming(&frame, &performative)?;
                    }
                    self.ready.unsplit(frame);
                }
            }
        }
    }
}

/// The stream an acceptor is given instead of the socket.
#[derive(Debug)]
pub(super) struct PadIo<S> {
    io: S,
    incoming: Incoming,
    outgoing: Outgoing,
    quota: Quota,
    /// Whether something was flushed since the acceptor last read: more may follow at once.
    busy: bool,
    /// Whether the stream below was written to and not flushed since.
    unflushed: bool,
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PadIo<S> {
    pub(super) fn new(io: S) -> Self {
        let timer = Box::pin(tokio::time::sleep(HOLD));
        let (incoming, outgoing, quota) = (Incoming::default(), Outgoing::default(), Quota::default());
        Self { io, incoming, outgoing, quota, busy: false, unflushed: false, timer }
    }

    /// The sessions that the peer begins.
    pub(super) fn sessions(&self) -> Sessions {
        self.quota.sessions()
    }

    /// Lets go what has been held long enough, and has the task woken when the next is due.
    fn poll_held(&mut self, cx: &mut Context<'_>) {
        while let Some(deadline) = self.outgoing.deadline() {
            if self.timer.deadline() != deadline {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.outgoing.release(|held| held.due <= deadline);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.ready.has_remaining() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.outgoing.ready))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.ready.advance(written);
            self.unflushed = true;
        }
        self.outgoing.urgent = false;
        Poll::Ready(Ok(()))
    }

    /// Writes what is ready, and flushes.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PadIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An idle acceptor only reads, so this is where a held frame has to leave, and transfers that have waited.
        this.poll_held(cx);
        if this.outgoing.ready.has_remaining() || this.unflushed {
            if std::mem::take(&mut this.busy) && this.outgoing.waits() {
                // To be asked once more, after whatever is about to be written.
                cx.waker().wake_by_ref();
            } else {
                // What is pending will wake the task, and be tried here again.
                let _ = this.poll_leave(cx)?;
            }
        }
        while this.incoming.ready.is_empty() {
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(unfit) = this.incoming.push(read.filled(), &mut this.quota) {
                tracing::debug!(%unfit, "a peer is not listened to any further");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, unfit)));
            }
        }
        let length = this.incoming.ready.len().min(buf.remaining());
        buf.put_slice(&this.incoming.ready.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PadIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if READY_MAX <= this.outgoing.ready.len() {
            ready!(this.poll_drain(cx))?;
        }
        this.outgoing.push(buf, Instant::now(), &mut this.quota);
        this.poll_held(cx);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_held(cx);
        if this.outgoing.waits() {
            this.busy = true;
            return Poll::Ready(Ok(()));
        }
        this.poll_leave(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outgoing.release(|_| true);
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
