//! The frames of RFC 6455 as a server reads and writes them, as a stream of bytes: nothing of a message is kept until
//! the rest of it comes, so how large a device makes its messages and how it cuts them costs nothing.

/// Longest payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What a device did that WebSocket, or MQTT within it, does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameFault {
    #[error("a WebSocket frame with a reserved bit or kind")]
    Reserved,
    #[error("a WebSocket frame without a mask")]
    Unmasked,
    #[error("a WebSocket text message: MQTT comes in binary ones")]
    Text,
    #[error("a WebSocket message begun within another, or continued that was not begun")]
    Order,
    #[error("a WebSocket control frame that is cut or too long")]
    Control,
    #[error("a WebSocket frame longer than there are")]
    Length,
}

/// The state of one direction, from device to server.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The head of the frame that comes, as far as it is there; two to fourteen bytes.
    head: Vec<u8>,
    /// Of the frame whose head is whole.
    frame: Option<Frame>,
    /// A message has begun and not ended.
    in_message: bool,
    /// The payload of a control frame.
    control: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    mask: [u8; 4],
    /// Bytes of its payload, and how many of them have come.
    length: u64,
    come: u64,
}

impl Frames {
    /// True once the device has closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes what came; hands what is in the messages to `read`, and appends what is to be answered to `answers`.
    ///
    /// # Errors
    /// The device does not keep to the protocol; nothing more is to be taken.
    pub(super) fn take(
        &mut self,
        mut wire: &mut [u8],
        mut read: impl FnMut(&[u8]),
        answers: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        while !self.closed {
            let Some(frame) = &mut self.frame else {
                let Some((byte, rest)) = std::mem::take(&mut wire).split_first_mut() else { return Ok(()) };
                self.head.push(*byte);
                wire = rest;
                if let Some(frame) = judge(&self.head, self.in_message)? {
                    if frame.kind < CLOSE {
                        self.in_message = self.head[0] & FIN == 0;
                    }
                    self.head.clear();
                    self.frame = Some(frame);
                }
                continue;
            };
            let left = usize::try_from(frame.length - frame.come).unwrap_or(usize::MAX);
            let here = left.min(wire.len());
            let (payload, rest) = std::mem::take(&mut wire).split_at_mut(here);
            wire = rest;
            for byte in payload.iter_mut() {
                *byte ^= frame.mask[(frame.come % 4) as usize];
                frame.come += 1;
            }
            let (kind, whole) = (frame.kind, frame.come == frame.length);
            match kind {
                CLOSE | PING | PONG => self.control.extend_from_slice(payload),
                _ if !payload.is_empty() => read(payload),
                _ => {}
            }
            if whole {
                self.frame = None;
                self.end(kind, answers);
            } else if wire.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn end(&mut self, kind: u8, answers: &mut Vec<u8>) {
        match kind {
            PING => write(PONG, &self.control, answers),
            CLOSE => {
                // Its code goes back, if it has one.
                write(CLOSE, self.control.get(..2).unwrap_or_default(), answers);
                self.closed = true;
            }
            _ => {}
        }
        self.control = Vec::new();
    }
}

/// A frame whose head is whole; `None` while it is not.
fn judge(head: &[u8], in_message: bool) -> Result<Option<Frame>, FrameFault> {
    let [first, second, rest @ ..] = head else { return Ok(None) };
    let (kind, length) = (first & 0x0f, second & 0x7f);
    if first & 0x70 != 0 {
        return Err(FrameFault::Reserved);
    }
    match kind {
        CONTINUATION if !in_message => return Err(FrameFault::Order),
        BINARY if in_message => return Err(FrameFault::Order),
        CLOSE | PING | PONG if first & FIN == 0 || CONTROL_BYTES_MAX < u64::from(length) => {
            return Err(FrameFault::Control);
        }
        CONTINUATION | BINARY | CLOSE | PING | PONG => {}
        1 => return Err(FrameFault::Text),
        _ => return Err(FrameFault::Reserved),
    }
    if second & MASKED == 0 {
        return Err(FrameFault::Unmasked);
    }
    let (length, mask) = match length {
        126 => {
            let Some((bytes, mask)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*bytes)), mask)
        }
        127 => {
            let Some((bytes, mask)) = rest.split_first_chunk() else { return Ok(None) };
            (u64::from_be_bytes(*bytes), mask)
        }
        length => (u64::from(length), rest),
    };
    if length >> 63 != 0 {
        return Err(FrameFault::Length);
    }
    let Some(mask) = mask.first_chunk() else { return Ok(None) };
    Ok(Some(Frame { kind, mask: *mask, length, come: 0 }))
}

/// Appends MQTT's bytes as a message.
pub(super) fn write_message(bytes: &[u8], out: &mut Vec<u8>) {
    write(BINARY, bytes, out);
}

/// Appends a goodbye: normal closure.
pub(super) fn write_close(out: &mut Vec<u8>) {
    write(CLOSE, &1000_u16.to_be_bytes(), out);
}

/// A server masks nothing.
fn write(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(FIN | kind);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => out.push(length),
        (_, Ok(length)) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client writes it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 0, 99, 255];
        let mut unmasked = vec![];
        write(0, payload, &mut unmasked);
        let head = unmasked.len() - payload.len();
        let mut out = unmasked[..head].to_vec();
        out[0] = first;
        out[1] |= MASKED;
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// What is read and answered, with the bytes coming in pieces of this size.
    fn taken(wire: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, Result<(), FrameFault>) {
        let (mut frames, mut read, mut answers) = (Frames::default(), vec![], vec![]);
        let mut wire = wire.to_vec();
        let outcome = wire
            .chunks_mut(piece)
            .try_for_each(|piece| frames.take(piece, |bytes| read.extend_from_slice(bytes), &mut answers));
        (read, answers, outcome)
    }

    #[test]
    fn however_messages_are_cut_the_bytes_in_them_are_one_stream() {
        let long = vec![5; 70_000];
        let wire = [
            frame(FIN | BINARY, b"ab"),
            frame(BINARY, b"c"),
            frame(FIN | PING, b"?"),
            frame(CONTINUATION, b""),
            frame(FIN | CONTINUATION, b"d"),
            frame(FIN | PONG, b"!"),
            frame(FIN | BINARY, &[6; 300]),
            frame(FIN | BINARY, &long),
            frame(FIN | CLOSE, &[3, 232, b'x']),
            frame(FIN | BINARY, b"after"),
        ]
        .concat();
        let said = [&b"abcd"[..], &[6; 300], &long].concat();
        let answers = [&[FIN | PONG, 1, b'?'][..], &[FIN | CLOSE, 2, 3, 232]].concat();
        for piece in [1, 2, 3, 1000, wire.len()] {
            assert!(taken(&wire, piece) == (said.clone(), answers.clone(), Ok(())), "in pieces of {piece}");
        }
    }

    #[test]
    fn what_a_device_may_not_send_ends_the_stream_and_what_came_before_is_read() {
        let long = frame(FIN | PING, &[0; 126]);
        for (name, bad, fault) in [
            ("text", frame(FIN | 1, b"x"), FrameFault::Text),
            ("reserved kind", frame(FIN | 3, b"x"), FrameFault::Reserved),
            ("reserved bit", frame(FIN | 0x40 | BINARY, b"x"), FrameFault::Reserved),
            ("no mask", vec![FIN | BINARY, 1, b'x'], FrameFault::Unmasked),
            ("continued, not begun", frame(FIN | CONTINUATION, b"x"), FrameFault::Order),
            ("begun twice", [frame(BINARY, b""), frame(BINARY, b"")].concat(), FrameFault::Order),
            ("a long ping", long, FrameFault::Control),
            ("a cut ping", frame(PING, b"x"), FrameFault::Control),
            ("endless", [&[FIN | BINARY, MASKED | 127][..], &[0xff; 12]].concat(), FrameFault::Length),
        ] {
            let wire = [frame(FIN | BINARY, b"ok"), bad].concat();
            for piece in [1, wire.len()] {
                let (read, _, outcome) = taken(&wire, piece);
                assert_eq!((&read[..], outcome), (&b"ok"[..], Err(fault)), "{name} in pieces of {piece}");
            }
        }
    }
}
