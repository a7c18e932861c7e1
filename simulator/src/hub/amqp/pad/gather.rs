//! Looks at what arrives before the acceptor decodes it ([`nest`]), and at deliveries that span frames once they are whole:
//! they could lie deeper than any of their parts shows.
//!
//! The frames pass as they came, and the acceptor gathers them too. What would make it put together anything else than is
//! looked at here ends the connection: a state, a resumption, an abortion, another delivery in the middle of one.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::super::frame::{self, ATTACH, BEGIN, DETACH, END, Performative, TRANSFER};
use super::super::nest;
use super::super::quota::Exceeded;
use super::DELIVERIES_MAX;

/// What one connection may have under way in deliveries that span frames. The service takes commands of 64 KiB; those that
/// are longer are refused one by one up to here.
const UNDERWAY_BYTES_MAX: usize = 256 * 1024;
/// And in so many of them.
const UNDERWAY_MAX: usize = 64;

/// Why a peer is not listened to any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("not AMQP, or a frame longer than allowed")]
    Bytes,
    #[error("values lie too deep in one another, or are said to be more than there can be")]
    Values,
    #[error("a delivery that spans frames is too long")]
    Length,
    #[error("the parts of a delivery do not belong together")]
    Parts,
    #[error("a disposition about more deliveries than {DELIVERIES_MAX}, or about none")]
    Deliveries,
    #[error(transparent)]
    Quota(#[from] Exceeded),
}

/// The deliveries under way, by channel and handle.
#[derive(Debug, Default)]
pub(super) struct Gather {
    underway: HashMap<(u16, u32), Underway>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Underway {
    delivery_id: Option<u32>,
    payload: BytesMut,
}

impl Gather {
    /// Looks at a whole frame.
    ///
    /// # Errors
    /// If the acceptor must not see it.
    pub(super) fn look(&mut self, frame: &[u8], performative: Option<&Performative>) -> Result<(), Unfit> {
        match performative {
            Some(performative) if performative.code == TRANSFER => return self.transfer(frame, performative),
            Some(performative) => self.others(frame, performative)?,
            None => {}
        }
        decodable(frame::body(frame).unwrap_or_default())
    }

    /// Links and sessions come and go: of those that go nothing is under way any more.
    fn others(&mut self, frame: &[u8], performative: &Performative) -> Result<(), Unfit> {
        let channel = performative.channel;
        match performative.code {
            END => self.forget(|(of, _)| *of == channel),
            BEGIN if self.underway.keys().any(|(of, _)| *of == channel) => return Err(Unfit::Parts),
            ATTACH | DETACH if !self.underway.is_empty() => {
                let handle = frame::handle(frame, performative).ok_or(Unfit::Parts)?;
                if performative.code == DETACH {
                    self.forget(|key| *key == (channel, handle));
                } else if self.underway.contains_key(&(channel, handle)) {
                    return Err(Unfit::Parts);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn transfer(&mut self, frame: &[u8], performative: &Performative) -> Result<(), Unfit> {
        let transfer = frame::transfer(frame, performative).ok_or(Unfit::Values)?;
        let key = (performative.channel, transfer.handle);
        if !transfer.more && !self.underway.contains_key(&key) {
            return decodable(frame::body(frame).unwrap_or_default());
        }
        let (fields, payload) = frame.split_at_checked(performative.end()).ok_or(Unfit::Bytes)?;
        decodable(frame::body(fields).unwrap_or_default())?;
        let known = self.underway.get(&key).and_then(|underway| underway.delivery_id);
        let another = known.is_some() && transfer.delivery_id.is_some() && known != transfer.delivery_id;
        if another || !transfer.plain {
            return Err(Unfit::Parts);
        }
        self.bytes += payload.len();
        if UNDERWAY_BYTES_MAX < self.bytes || UNDERWAY_MAX < self.underway.len() {
            return Err(Unfit::Length);
        }
        let underway = self.underway.entry(key).or_default();
        underway.delivery_id = underway.delivery_id.or(transfer.delivery_id);
        underway.payload.extend_from_slice(payload);
        if transfer.more {
            return Ok(());
        }
        let whole: Bytes = std::mem::take(&mut underway.payload).freeze();
        self.forget(|underway| *underway == key);
        self.bytes -= whole.len();
        decodable(&whole)
    }

    fn forget(&mut self, gone: impl Fn(&(u16, u32)) -> bool) {
        let bytes = &mut self.bytes;
        self.underway.retain(|key, underway| {
            let gone = gone(key);
            if gone {
                *bytes -= underway.payload.len();
            }
            !gone
        });
    }
}

fn decodable(bytes: &[u8]) -> Result<(), Unfit> {
    if nest::decodable(bytes) { Ok(()) } else { Err(Unfit::Values) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame on a channel.
    fn frame(channel: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(8 + body.len()).expect("short");
        [&length.to_be_bytes()[..], &[2, 0, 0, channel], body].concat()
    }

    fn transfer(handle: u8, delivery_id: Option<u8>, more: bool, payload: &[u8]) -> Vec<u8> {
        let id = delivery_id.map_or(vec![0x40], |id| vec![0x52, id]);
        let fields = [&[0x52, handle][..], &id, &[0x40, 0x40, 0x40, if more { 0x41 } else { 0x42 }]].concat();
        let size = u8::try_from(fields.len() + 1).expect("short");
        frame(1, &[&[0, 0x53, TRANSFER, 0xc0, size, 6], &fields[..], payload].concat())
    }

    fn about(code: u8, fields: &[u8], count: u8) -> Vec<u8> {
        let size = u8::try_from(fields.len() + 1).expect("short");
        frame(1, &[&[0, 0x53, code, 0xc0, size, count], fields].concat())
    }

    fn look(gather: &mut Gather, frame: &[u8]) -> Result<(), Unfit> {
        gather.look(frame, frame::performative(frame).as_ref())
    }

    /// Lists in lists, deeper than may be.
    fn deep() -> Vec<u8> {
        (0..200u32).rev().fold(vec![0x45], |inner, _| {
            let size = u32::try_from(inner.len() + 4).expect("short").to_be_bytes();
            [&[0xd0][..], &size, &1u32.to_be_bytes(), &inner].concat()
        })
    }

    #[test]
    fn a_delivery_is_looked_at_once_it_is_whole() {
        let data = [&[0, 0x53, 0x75, 0xb0, 0, 0, 0, 200][..], &[0xf0; 200]].concat();
        for (payload, is) in [(data, Ok(())), (deep(), Err(Unfit::Values))] {
            for part in [1, 7, 50] {
                let mut gather = Gather::default();
                let mut parts = payload.chunks(part).peekable();
                let mut looked = Ok(());
                while let Some(part) = parts.next() {
                    assert_eq!(looked, Ok(()), "before the last part");
                    looked = look(&mut gather, &transfer(3, Some(1), parts.peek().is_some(), part));
                }
                assert_eq!(looked, is, "in parts of {part}");
                assert_eq!((gather.underway.len(), gather.bytes), (0, 0));
            }
        }
    }

    #[test]
    fn what_would_be_put_together_otherwise_is_refused() {
        let begun = || {
            let mut gather = Gather::default();
            assert_eq!(look(&mut gather, &transfer(3, Some(1), true, &[0xb0, 0, 1, 0, 0])), Ok(()));
            gather
        };
        let aborted = about(TRANSFER, &[0x52, 3, 0x40, 0x40, 0x40, 0x40, 0x42, 0x40, 0x40, 0x40, 0x41], 10);
        for (what, frame) in [
            ("another delivery", transfer(3, Some(2), true, &[])),
            ("aborted", aborted),
            ("a session begun where one is", about(BEGIN, &[0x40], 1)),
            ("a link attached where one is", about(ATTACH, &[0xa1, 1, b'n', 0x52, 3], 2)),
            ("a link that cannot be told", about(DETACH, &[0x40], 1)),
        ] {
            assert_eq!(look(&mut begun(), &frame), Err(Unfit::Parts), "{what}");
        }
        for (what, frame, forgotten) in [
            ("another link", about(DETACH, &[0x52, 4], 1), false),
            ("the link", about(DETACH, &[0x52, 3], 1), true),
            ("the session", about(END, &[0x40], 1), true),
        ] {
            let mut gather = begun();
            assert_eq!(look(&mut gather, &frame), Ok(()), "{what}");
            assert_eq!((gather.underway.is_empty(), gather.bytes == 0), (forgotten, forgotten), "{what}");
            // Were it still taken for a part, it would pass for bytes of the value before it.
            let after = look(&mut gather, &transfer(3, Some(1), false, &deep()));
            assert_eq!(after.is_err(), forgotten, "{what}");
        }
    }

    #[test]
    fn a_peer_has_so_much_under_way_and_no_more() {
        let mut gather = Gather::default();
        let part = vec![0; 60 * 1024];
        let mut looked = vec![];
        for handle in 0..5 {
            looked.push(look(&mut gather, &transfer(handle, Some(handle), true, &part)));
        }
        assert_eq!(looked, [Ok(()), Ok(()), Ok(()), Ok(()), Err(Unfit::Length)]);
    }
}
