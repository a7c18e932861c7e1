//! Cuts PUBLISHes that are larger than their reader takes: it gets their beginning, and is told how long they were.
//!
//! ```text
//! broker -> .. [PUBLISH 20 B] [PUBLISH 90 MB] [PUBLISH 20 B] -> [Sieve] -> [20 B] [beginning of 90 MB] [20 B] -> rumqttc
//! ```
//!
//! rumqttc ends the connection at a packet that is too large for it, and a broker that keeps our session sends the same
//! one again at every new connection: one message, and nothing comes in any more. Here such a packet keeps its flags,
//! its topic and its packet id, so that it can be acknowledged; of its payload the beginning is kept and the rest is
//! hashed and let go. A packet is passed on once its last byte has come. [`Sieve`] is pure, [`Sieved`] its shell.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of a payload that are kept of one that is cut.
pub(crate) const BEGINNING_BYTES: usize = 32 * 1024;
/// Most bytes of a cut packet: topic, packet id and beginning.
pub(crate) const CUT_BYTES_MAX: usize = 2 + 65_535 + 2 + BEGINNING_BYTES;
/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// What a payload was before it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// What was cut, in the order it is read. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cuts(Arc<Mutex<VecDeque<(u64, Cut)>>>);

impl Cuts {
    /// What the PUBLISH with this number (the first of a connection is 1) was before, if it was cut. To be asked in order.
    pub(crate) fn of(&self, number: u64) -> Option<Cut> {
        let mut cuts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match cuts.front() {
            Some((cut, _)) if *cut == number => cuts.pop_front().map(|(_, cut)| cut),
            _ => None,
        }
    }

    fn add(&self, number: u64, cut: Cut) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, cut));
    }
}

/// What comes is not MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent what is not MQTT: {0}")]
pub(crate) struct NoMqtt(&'static str);

/// Where in a packet we are.
enum At {
    /// In its first bytes: kind, and how many follow.
    Head(Vec<u8>),
    /// In one that is passed on as it is.
    Passing { left: usize },
    /// In one that is cut.
    Cutting(Box<Cutting>),
}

struct Cutting {
    first: u8,
    /// Bytes that have not come yet.
    left: usize,
    /// Topic, packet id and the payload's beginning.
    kept: Vec<u8>,
    /// So many bytes stand before the payload, once that is known.
    before: Option<usize>,
    hash: Sha256,
    /// Bytes of the payload that have come.
    bytes: u64,
}

/// Takes bytes as they come, gives bytes as they are to be read.
pub(crate) struct Sieve {
    /// Larger packets (what follows their head) are cut.
    bytes_max: usize,
    at: At,
    /// PUBLISHes so far.
    publishes: u64,
    cuts: Cuts,
}

impl Sieve {
    /// For one connection.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, at: At::Head(Vec::new()), publishes: 0, cuts: Cuts::default() }
    }

    /// What will be cut.
    pub(crate) fn cuts(&self) -> Cuts {
        self.cuts.clone()
    }

    /// More has come; what is to be read is put behind `out`.
    ///
    /// # Errors
    /// It is not MQTT.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), NoMqtt> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Head(head) => {
                    head.push(byte);
                    bytes = rest;
                    if let Some((first, left)) = length(head)? {
                        let is_publish = first >> 4 == 3;
                        self.publishes += u64::from(is_publish);
                        let head = std::mem::take(head);
                        self.at = match is_publish && self.bytes_max < left {
                            true => At::Cutting(Box::new(Cutting::new(first, left))),
                            false => {
                                out.extend_from_slice(&head);
                                At::passing(left)
                            }
                        };
                    }
                }
                At::Passing { left } => {
                    let (now, rest) = bytes.split_at(bytes.len().min(*left));
                    out.extend_from_slice(now);
                    bytes = rest;
                    self.at = At::passing(*left - now.len());
                }
                At::Cutting(cutting) => {
                    bytes = cutting.push(bytes)?;
                    if cutting.left == 0 {
                        cutting.write(out);
                        let hash = std::mem::take(&mut cutting.hash).finalize();
                        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                        self.cuts.add(self.publishes, Cut { bytes: cutting.bytes, sha256 });
                        self.at = At::Head(Vec::new());
                    }
                }
            }
        }
        Ok(())
    }

    /// What is read from `stream` comes through this.
    pub(crate) fn over<S>(self, stream: S) -> Sieved<S> {
        Sieved { stream, sieve: self, out: Vec::new(), read: 0 }
    }
}

impl At {
    fn passing(left: usize) -> Self {
        if left == 0 { At::Head(Vec::new()) } else { At::Passing { left } }
    }
}

/// The first byte of a head and the length it tells, once it is whole.
fn length(head: &[u8]) -> Result<Option<(u8, usize)>, NoMqtt> {
    let Some((first, digits)) = head.split_first() else { return Ok(None) };
    match digits.last() {
        Some(last) if *last & 0x80 == 0 => {
            let length = digits.iter().rev().fold(0, |length, digit| length << 7 | usize::from(digit & 0x7f));
            Ok(Some((*first, length)))
        }
        _ if digits.len() == 4 => Err(NoMqtt("a length of more than four bytes")),
        _ => Ok(None),
    }
}

impl Cutting {
    fn new(first: u8, left: usize) -> Self {
        Self { first, left, kept: Vec::new(), before: None, hash: Sha256::new(), bytes: 0 }
    }

    /// Takes what belongs to the packet, and gives the rest back.
    fn push<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], NoMqtt> {
        let (mut mine, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= mine.len();
        // The topic's length tells where the payload begins.
        while self.before.is_none_or(|before| self.kept.len() < before) {
            let Some((byte, more)) = mine.split_first() else { break };
            self.kept.push(*byte);
            mine = more;
            if let ([high, low], None) = (&self.kept[..], self.before) {
                let packet_id = if self.first & 0b0110 == 0 { 0 } else { 2 };
                let before = 2 + usize::from(u16::from_be_bytes([*high, *low])) + packet_id;
                if self.left + mine.len() + 2 < before {
                    return Err(NoMqtt("a topic longer than its packet"));
                }
                self.before = Some(before);
            }
        }
        self.hash.update(mine);
        self.bytes += mine.len() as u64;
        let room = (self.before.unwrap_or_default() + BEGINNING_BYTES).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&mine[..mine.len().min(room)]);
        Ok(rest)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.first);
        let mut left = self.kept.len();
        loop {
            let digit = (left & 0x7f) as u8;
            left >>= 7;
            out.push(if left == 0 { digit } else { digit | 0x80 });
            if left == 0 {
                break;
            }
        }
        out.extend_from_slice(&self.kept);
    }
}

/// A stream, read through a sieve and written as it is.
pub(crate) struct Sieved<S> {
    stream: S,
    sieve: Sieve,
    out: Vec<u8>,
    /// So much of it has been read.
    read: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieved<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.read < this.out.len() {
                let waiting = &this.out[this.read..];
                let now = &waiting[..waiting.len().min(buf.remaining())];
                buf.put_slice(now);
                this.read += now.len();
                return Poll::Ready(Ok(()));
            }
            // What a large one took is let go.
            this.out.clear();
            this.out.shrink_to(READ_BYTES);
            this.read = 0;
            let mut bytes = [0; READ_BYTES];
            let mut come = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut come))?;
            if come.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let sieved = this.sieve.push(come.filled(), &mut this.out);
            sieved.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieved<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish(qos: u8, topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut kept = (topic.len() as u16).to_be_bytes().to_vec();
        kept.extend_from_slice(topic.as_bytes());
        if qos != 0 {
            kept.extend_from_slice(&[1, 2]);
        }
        kept.extend_from_slice(payload);
        let mut packet = Vec::new();
        Cutting { kept, ..Cutting::new(0x30 | qos << 1, 0) }.write(&mut packet);
        packet
    }

    /// What is read of a stream that comes in pieces of this size, and what was cut.
    type Passed = (Result<Vec<u8>, NoMqtt>, Vec<(u64, Cut)>);

    fn sieve(bytes_max: usize, piece: usize, stream: &[u8]) -> Passed {
        let mut sieve = Sieve::new(bytes_max);
        let mut out = Vec::new();
        let read = stream.chunks(piece).try_for_each(|piece| sieve.push(piece, &mut out));
        let cuts = sieve.cuts().0.lock().expect("nobody panicked").drain(..).collect();
        (read.map(|()| out), cuts)
    }

    #[test]
    fn a_packet_too_large_keeps_topic_and_id_and_the_beginning_and_the_rest_flows() {
        let large: Vec<u8> = (0..300_000_u32).map(|at| at as u8).collect();
        let of = |payload: &[u8]| Cut { bytes: payload.len() as u64, sha256: shared::envelope::sha256_hex(payload) };
        for piece in [1, 7, 8_192, 1 << 20] {
            let connack = [0x20, 2, 0, 0];
            let stream =
                [&connack[..], &publish(1, "t/small", b"1"), &publish(1, "t/large", &large), &publish(0, "t", b"2")];
            let more = [publish(0, "no id", &large[..40_000]), vec![0xd0, 0], publish(2, "t", &[7; 500])];
            let (read, cuts) = sieve(1_000, piece, &[stream.concat(), more.concat()].concat());
            let cut = publish(1, "t/large", &large[..BEGINNING_BYTES]);
            let first = [&connack[..], &publish(1, "t/small", b"1"), &cut, &publish(0, "t", b"2")].concat();
            let second =
                [publish(0, "no id", &large[..BEGINNING_BYTES]), vec![0xd0, 0], publish(2, "t", &[7; 500])].concat();
            assert_eq!(read, Ok([first, second].concat()));
            assert_eq!(cuts, [(2, of(&large)), (4, of(&large[..40_000]))]);
        }
    }

    #[test]
    fn the_bound_is_met_exactly_and_no_other_packet_is_cut() {
        let (fits, larger) = (publish(1, "t", &[0; 95]), publish(1, "t", &[0; 96]));
        assert_eq!(sieve(100, 9, &fits), (Ok(fits.clone()), vec![]));
        let (read, cuts) = sieve(100, 9, &larger);
        assert_eq!((read, cuts.len()), (Ok(larger), 1), "shorter than what is kept: whole, and yet told");
        let suback = [&[0x90, 0x80, 2][..], &[0; 256]].concat();
        assert_eq!(sieve(100, 9, &suback), (Ok(suback.clone()), vec![]));
    }

    #[test]
    fn what_is_cut_is_asked_for_in_order() {
        let cuts = Cuts::default();
        let cut = Cut { bytes: 1, sha256: String::new() };
        cuts.add(2, cut.clone());
        cuts.add(3, cut.clone());
        assert_eq!((1..5).map(|number| cuts.of(number).is_some()).collect::<Vec<_>>(), [false, true, true, false]);
    }

    #[test]
    fn what_is_not_mqtt_is_said_to_be_none() {
        for stream in [&[0x30, 0xff, 0xff, 0xff, 0xff, 1][..], &[0x32, 0x80, 2, 1, 0, 0], &[0x30, 0x80, 2, 0xff, 0xff]]
        {
            assert!(sieve(100, 1, stream).0.is_err(), "{stream:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_however_they_come(stream: Vec<u8>, piece in 1usize..40, bytes_max in 0usize..60) {
            let once = sieve(bytes_max, 10_000, &stream);
            let pieces = sieve(bytes_max, piece, &stream);
            prop_assert_eq!(&once, &pieces);
            if let Ok(read) = once.0 {
                prop_assert!(read.len() <= stream.len());
            }
        }
    }
}
