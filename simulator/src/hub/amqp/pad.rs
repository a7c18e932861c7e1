//! A stream that makes the acceptor palatable to every SDK: see [`super::frame`] for what is edited, and this.
//!
//! When an SDK drops its `$cbs` links it sends `detach` and at once `end`. If the hub's own `detach` reaches it between
//! the two, Microsoft's Rust SDK closes the whole connection (and its receivers start again where they first began). So
//! every `detach` waits a moment, and is dropped if the session's `end` overtakes it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::frame::{self, ATTACH, CLOSE, DETACH, END, Unit};
use super::nest;

/// How long a `detach` waits for an `end`. In trials 5 ms were enough; a busy machine needs more.
const HOLD: Duration = Duration::from_millis(25);
/// What waits for the socket before the acceptor has to wait.
const READY_MAX: usize = 256 * 1024;
/// The hub's own frames are as long as the peer allows: an event, its properties, and room.
const OUTGOING_FRAME_MAX: usize = 16 * 1024 * 1024;
/// As the hub tells its peers.
pub(super) const INCOMING_FRAME_MAX: usize = 64 * 1024;

/// What leaves: whole frames, padded; each `detach` held back.
#[derive(Debug, Default)]
struct Outgoing {
    /// The beginning of a frame.
    part: BytesMut,
    /// To be written.
    ready: BytesMut,
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
    fn push(&mut self, bytes: &[u8], now: Instant) {
        self.part.extend_from_slice(bytes);
        loop {
            match frame::unit(&self.part, OUTGOING_FRAME_MAX) {
                Unit::Part => return,
                Unit::Whole(length) => {
                    let frame = self.part.split_to(length);
                    self.push_frame(frame, now);
                }
                // Our own acceptor does not write such; if it does, the peer is to see it.
                Unit::Broken => {
                    let rest = self.part.split();
                    self.ready.extend_from_slice(&rest);
                    return;
                }
            }
        }
    }

    fn push_frame(&mut self, mut frame: BytesMut, now: Instant) {
        let performative = frame::performative(&frame);
        let Some(performative) = performative else {
            self.ready.extend_from_slice(&frame);
            return;
        };
        frame::halve_idle_time_out(&mut frame, &performative);
        let channel = performative.channel;
        match performative.code {
            DETACH => {
                let mut padded = BytesMut::new();
                frame::push_padded(&mut padded, &frame, Some(&performative));
                self.held.push_back(Held { channel, due: now + HOLD, frame: padded.freeze() });
                return;
            }
            // The handle may be the detached link's.
            ATTACH => self.release(|held| held.channel == channel),
            END => self.held.retain(|held| held.channel != channel),
            CLOSE => self.held.clear(),
            _ => {}
        }
        frame::push_padded(&mut self.ready, &frame, Some(&performative));
    }

    fn release(&mut self, due: impl Fn(&Held) -> bool) {
        for held in std::mem::take(&mut self.held) {
            if due(&held) {
                self.ready.extend_from_slice(&held.frame);
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
}

/// Why a peer is not listened to any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("not AMQP, or a frame longer than allowed")]
    Bytes,
    #[error("values lie too deep in one another, or are said to be more than there can be")]
    Values,
    #[error("a question longer than a frame")]
    Length,
}

impl Incoming {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        self.part.extend_from_slice(bytes);
        loop {
            match frame::unit(&self.part, INCOMING_FRAME_MAX) {
                Unit::Part => return Ok(()),
                Unit::Broken => return Err(Unfit::Bytes),
                Unit::Whole(length) => {
                    let mut frame = self.part.split_to(length);
                    if !frame::body(&frame).is_none_or(nest::decodable) {
                        return Err(Unfit::Values);
                    }
                    if let Some(performative) = frame::performative(&frame) {
                        frame::halve_idle_time_out(&mut frame, &performative);
                        // What spans frames would be gathered, and could lie deeper than any of its parts shows.
                        if frame::goes_on(&frame, &performative) {
                            return Err(Unfit::Length);
                        }
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
    timer: Pin<Box<Sleep>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> PadIo<S> {
    pub(super) fn new(io: S) -> Self {
        let timer = Box::pin(tokio::time::sleep(HOLD));
        Self { io, incoming: Incoming::default(), outgoing: Outgoing::default(), timer }
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
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PadIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // An idle acceptor only reads, so this is where a held frame has to leave.
        if this.outgoing.deadline().is_some() {
            this.poll_held(cx);
            if this.poll_drain(cx)?.is_ready() {
                let _ = Pin::new(&mut this.io).poll_flush(cx)?;
            }
        }
        while this.incoming.ready.is_empty() {
            let mut bytes = [0; 4096];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            if let Err(unfit) = this.incoming.push(read.filled()) {
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
        this.outgoing.push(buf, Instant::now());
        this.poll_held(cx);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_held(cx);
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outgoing.release(|_| true);
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::nest::tests::nested;
    use super::super::tests::fuzz;
    use super::frame::TRANSFER;
    use super::*;

    fn frame(channel: u8, code: u8, fields: &[u8], count: u8) -> Vec<u8> {
        let word = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
        let list = match u8::try_from(fields.len() + 1) {
            Ok(size) => vec![0xc0, size, count],
            Err(_) => [&[0xd0][..], &word(fields.len() + 4), &[0, 0, 0, count]].concat(),
        };
        let length = word(8 + 3 + list.len() + fields.len());
        [&length[..], &[2, 0, 0, channel, 0, 0x53, code], &list, fields].concat()
    }

    fn padded(frame: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        frame::push_padded(&mut out, frame, frame::performative(frame).as_ref());
        out.to_vec()
    }

    const HEADER: &[u8] = b"AMQP\0\x01\0\0";

    fn detach(channel: u8) -> Vec<u8> {
        frame(channel, DETACH, &[0x43, 0x41], 2)
    }

    fn end(channel: u8) -> Vec<u8> {
        frame(channel, END, &[], 0)
    }

    /// What leaves at once, and what leaves after the hold, in order.
    fn check(written: &[Vec<u8>], at_once: &[Vec<u8>], later: &[Vec<u8>]) {
        let now = Instant::now();
        let mut outgoing = Outgoing::default();
        for frame in written {
            outgoing.push(frame, now);
        }
        assert_eq!(outgoing.ready.to_vec(), at_once.concat());
        outgoing.ready.clear();
        outgoing.release(|held| held.due <= now + HOLD);
        assert_eq!(outgoing.ready.to_vec(), later.concat());
    }

    #[tokio::test]
    async fn a_detach_waits_and_is_dropped_if_the_end_overtakes_it() {
        let transfer = frame(1, TRANSFER, &[0x43], 1);
        let attach = frame(1, ATTACH, &[0xa1, 1, b'n', 0x43], 2);
        let close = frame(0, CLOSE, &[], 0);
        check(&[detach(1)], &[], &[padded(&detach(1))]);
        check(&[detach(1), transfer.clone()], &[padded(&transfer)], &[padded(&detach(1))]);
        check(&[detach(1), detach(2), end(1)], &[padded(&end(1))], &[padded(&detach(2))]);
        check(&[detach(1), attach.clone()], &[padded(&detach(1)), padded(&attach)], &[]);
        check(&[detach(2), attach.clone()], &[padded(&attach)], &[padded(&detach(2))]);
        check(&[detach(1), close.clone()], &[padded(&close)], &[]);
    }

    #[tokio::test]
    async fn any_split_of_the_same_bytes_leaves_alike() {
        let payload = vec![b'x'; 300_000];
        let long = {
            let head = [0, 0x53, TRANSFER, 0xc0, 2, 1, 0x43];
            let length = u32::try_from(8 + head.len() + payload.len()).expect("short").to_be_bytes();
            [&length[..], &[2, 0, 0, 1], &head, &payload].concat()
        };
        let frames = [HEADER.to_vec(), frame(0, 0x10, &[0xa1, 1, b'c'], 1), long, end(1)];
        let whole: Vec<u8> = frames.concat();
        let expected: Vec<u8> = frames.iter().map(|frame| padded(frame)).collect::<Vec<_>>().concat();
        for step in [1, 3, 7, 8, 1000, 65_536, whole.len()] {
            let mut outgoing = Outgoing::default();
            for bytes in whole.chunks(step) {
                outgoing.push(bytes, Instant::now());
            }
            assert_eq!(outgoing.ready.len(), expected.len(), "{step}");
            assert!(outgoing.ready == expected, "{step}");
        }
    }

    #[tokio::test]
    async fn a_held_detach_leaves_while_the_acceptor_only_reads() {
        let (hub, mut peer) = tokio::io::duplex(1024);
        let mut hub = PadIo::new(hub);
        hub.write_all(&detach(3)).await.expect("written");
        hub.flush().await.expect("flushed");
        let reading = tokio::spawn(async move {
            let mut bytes = [0; 8];
            let _ = hub.read_exact(&mut bytes).await;
            bytes
        });
        let mut left = vec![0; padded(&detach(3)).len()];
        peer.read_exact(&mut left).await.expect("the detach");
        assert_eq!(left, padded(&detach(3)));
        peer.write_all(HEADER).await.expect("written");
        assert_eq!(reading.await.expect("no panic"), HEADER);
    }

    #[tokio::test]
    async fn what_arrives_is_the_same_but_for_the_idle_timeout() {
        let long = frame(3, TRANSFER, &[0x43], 1);
        let long: Vec<u8> = long.repeat(1000);
        let fields = |idle: [u8; 4]| [&[0xa1, 1, b'c', 0x40, 0x70, 0, 1, 0, 0, 0x60, 1, 0, 0x70], &idle[..]].concat();
        let open = frame(0, 0x10, &fields(60_000_u32.to_be_bytes()), 5);
        let halved = frame(0, 0x10, &fields(30_000_u32.to_be_bytes()), 5);
        let sent = [HEADER, &open, &detach(1), &long].concat();
        let expected = [HEADER, &halved, &detach(1), &long].concat();
        for step in [1, 5, 29, sent.len()] {
            let (hub, mut peer) = tokio::io::duplex(64);
            let mut hub = PadIo::new(hub);
            let bytes = sent.clone();
            tokio::spawn(async move {
                for bytes in bytes.chunks(step) {
                    peer.write_all(bytes).await.expect("written");
                }
            });
            let mut read = vec![];
            hub.read_to_end(&mut read).await.expect("read");
            assert!(read == expected, "{step}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_does_not_reach_the_acceptor() {
        let with = |value: &[u8]| {
            let fields = [&[0xa1, 1, b'c'][..], &[0x40; 8], value].concat();
            [HEADER, &frame(0, 0x10, &fields, 10)].concat()
        };
        let sasl = |value: &[u8]| {
            let mut bytes = with(value);
            bytes[HEADER.len() + 5] = 1;
            bytes
        };
        // handle, delivery-id, delivery-tag, message-format, settled, more
        let transfer = |more: &[u8]| frame(1, TRANSFER, &[&[0x43, 0x43, 0xa0, 1, 0, 0x43, 0x41], more].concat(), 6);
        for (name, bytes, is) in [
            ("a shallow value", with(&nested("map", 5)), Ok(())),
            ("a deep value", with(&nested("described", 5000)), Err(Unfit::Values)),
            ("a deep value over SASL", sasl(&nested("list", 1000)), Err(Unfit::Values)),
            ("a long frame", vec![0, 1, 0, 1, 2, 0, 0, 0], Err(Unfit::Bytes)),
            ("a transfer", transfer(&[0x42]), Ok(())),
            ("a transfer with more", transfer(&[0x41]), Err(Unfit::Length)),
            ("a transfer with more, at length", transfer(&[0x56, 1]), Err(Unfit::Length)),
        ] {
            assert_eq!(Incoming::default().push(&bytes), is, "{name}");
        }
    }

    proptest! {
        #![proptest_config(fuzz())]

        #[test]
        fn any_frames_in_any_pieces_pass_or_are_refused_alike(
            frames in proptest::collection::vec((0x0f..0x1au8, proptest::collection::vec(any::<u8>(), 0..60)), 1..8),
            step in 1..40usize,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(code, body)| {
                let head = [0, 0x53, *code];
                let length = u32::try_from(8 + head.len() + body.len()).expect("short").to_be_bytes();
                [&length[..], &[2, 0, 0, 1], &head, body].concat()
            }).collect();
            let mut whole = Incoming::default();
            let at_once = whole.push(&bytes);
            let mut pieces = Incoming::default();
            let in_pieces = bytes.chunks(step).try_for_each(|bytes| pieces.push(bytes));
            prop_assert_eq!((at_once, &whole.ready), (in_pieces, &pieces.ready));

            let (mut whole, mut pieces) = (Outgoing::default(), Outgoing::default());
            let now = Instant::now();
            whole.push(&bytes, now);
            bytes.chunks(step).for_each(|bytes| pieces.push(bytes, now));
            prop_assert_eq!(&whole.ready, &pieces.ready);
        }
    }

    #[tokio::test]
    async fn something_else_than_amqp_is_an_error() {
        let (hub, mut peer) = tokio::io::duplex(64);
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
        let error = PadIo::new(hub).read_u8().await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
