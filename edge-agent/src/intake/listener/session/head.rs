//! The first packet of a connection, before anything in it is believed: what can be refused without reading on.

use super::Fault;

/// Nobody is known yet, so nobody may make us keep much. Names, a password or token and a will fit many times.
pub(super) const CONNECT_BYTES_MAX: usize = 16 * 1024;
/// CONNACK of MQTT 3.1 and 3.1.1: no session, return code 0x01, unacceptable protocol version.
const WRONG_VERSION: &[u8] = &[0x20, 2, 0, 1];
/// CONNACK of MQTT 5 and later: no session, reason code 0x84, unsupported protocol version, no properties.
const WRONG_LATER_VERSION: &[u8] = &[0x20, 3, 0, 0x84, 0];
/// What follows the length: the name, level, flags and keep-alive, and an empty client id.
const SHORTEST: usize = 6 + 1 + 1 + 2 + 2;
/// Type, four bytes of length, two of the name's length, the name, the level; the flags of a version spoken here, whose
/// name is shorter, stand in them, too.
const BYTES: usize = 1 + 4 + 2 + 6 + 1;

/// The CONNECT of a device, as far as it is there.
#[derive(Debug, Default)]
pub(super) struct Head(Vec<u8>);

/// Why a connection ends before its CONNECT is read, and what is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) answer: &'static [u8],
}

impl Head {
    /// Takes what belongs to it off the front of `bytes`; says how much that was, and gives the packet once it is whole.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(usize, Option<Vec<u8>>), Refusal> {
        let mut rest = bytes;
        // A CONNECT is never shorter than what is judged.
        while self.0.len() < BYTES {
            let Some((byte, behind)) = rest.split_first() else { return Ok((bytes.len(), None)) };
            self.0.push(*byte);
            rest = behind;
            judge(&self.0)?;
        }
        let missing = packet_length(&self.0).unwrap_or_default().saturating_sub(self.0.len());
        let here = missing.min(rest.len());
        self.0.extend_from_slice(&rest[..here]);
        let taken = bytes.len() - rest.len() + here;
        if here < missing {
            return Ok((taken, None));
        }
        let mut packet = std::mem::take(&mut self.0);
        allow_an_alias(&mut packet);
        Ok((taken, Some(packet)))
    }
}

/// "Topic Alias Maximum 0" of MQTT 5 says that we must not send aliases, which the library takes for a mistake of its
/// caller, and panics. We send no publishes at all, so whatever stands there means the same to us.
fn allow_an_alias(packet: &mut [u8]) {
    const LEVEL_AT: usize = 6;
    const PROPERTIES_AT: usize = 10;
    let Some((_, taken)) = packet.get(1..).and_then(length) else { return };
    let Some(body) = packet.get_mut(1 + taken..) else { return };
    if body.get(LEVEL_AT) != Some(&5) {
        return;
    }
    let Some((mut left, taken)) = body.get(PROPERTIES_AT..).and_then(length) else { return };
    let mut at = PROPERTIES_AT + taken;
    while 0 < left {
        let text = |at: usize| Some(2 + usize::from(u16::from_be_bytes(*body.get(at..)?.first_chunk()?)));
        let value = at + 1;
        let size = match body.get(at) {
            Some(0x17 | 0x19) => Some(1),
            Some(0x21 | 0x22) => Some(2),
            Some(0x11 | 0x27) => Some(4),
            Some(0x15 | 0x16) => text(value),
            Some(0x26) => text(value).and_then(|name| Some(name + text(value + name)?)),
            // No property of CONNECT; the library says so.
            _ => None,
        };
        let Some(size) = size else { return };
        if body[at] == 0x22
            && let Some(maximum) = body.get_mut(value..value + 2)
            && maximum == [0, 0]
        {
            maximum[1] = 1;
        }
        at = value + size;
        left = left.saturating_sub(1 + size);
    }
}

fn judge(head: &[u8]) -> Result<(), Refusal> {
    let refuse = |fault, answer| Err(Refusal { fault, answer });
    let Some((first, rest)) = head.split_first() else { return Ok(()) };
    if *first != 0x10 {
        return refuse(Fault::NotConnect, &[]);
    }
    let Some((length, taken)) = length(rest) else { return Ok(()) };
    if CONNECT_BYTES_MAX < length {
        return refuse(Fault::TooLarge, &[]);
    }
    if length < SHORTEST {
        return refuse(Fault::Garbage, &[]);
    }
    match rest.get(taken..).unwrap_or_default() {
        // [MQTT-3.1.2-3]: the lowest flag is reserved, and must be 0.
        [0, 4, b'M', b'Q', b'T', b'T', 4 | 5, flags, ..] if flags & 1 == 1 => refuse(Fault::Garbage, &[]),
        [0, 4, b'M', b'Q', b'T', b'T', 4 | 5, ..] => Ok(()),
        [0, 4, b'M', b'Q', b'T', b'T', 6..=255, ..] => refuse(Fault::Version, WRONG_LATER_VERSION),
        [0, 4, b'M', b'Q', b'T', b'T', 0..=3, ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => {
            refuse(Fault::Version, WRONG_VERSION)
        }
        // Not yet whole.
        begun if [0, 4, b'M', b'Q', b'T', b'T'].starts_with(&begun[..begun.len().min(6)]) => Ok(()),
        begun if [0, 6, b'M', b'Q', b'I', b's', b'd', b'p'].starts_with(begun) => Ok(()),
        _ => refuse(Fault::NotConnect, &[]),
    }
}

/// A variable length and the bytes it takes; `None` until it is whole. One that is longer than MQTT has it counts as
/// too large.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((length, at + 1));
        }
    }
    (4 <= bytes.len()).then_some((usize::MAX, 4))
}

/// How long the packet at the start of `bytes` is, all in all; `None` until its head is whole. A head that MQTT does
/// not have is said to be two bytes long: whoever reads it will see.
pub(in crate::intake::listener) fn packet_length(bytes: &[u8]) -> Option<usize> {
    let (_, rest) = bytes.split_first()?;
    match length(rest)? {
        (usize::MAX, _) => Some(2),
        (length, taken) => Some(1 + taken + length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_connect_of_a_version_spoken_here_is_refused_byte_by_byte_and_at_once() {
        let later: &[u8] = &[0x20, 3, 0, 0x84, 0];
        let sooner: &[u8] = &[0x20, 2, 0, 1];
        for (bytes, is) in [
            (&b"\x10\x0d\0\x04MQTT\x04"[..], Ok(())),
            (b"\x10\x0d\0\x04MQTT\x05", Ok(())),
            (b"\x10\x8d\x80\x01\0\x04MQTT", Err((Fault::TooLarge, &[][..]))),
            (b"\x10\xff\x7f", Ok(())),
            (b"\x10\x81\x80\x01", Err((Fault::TooLarge, &[]))),
            (b"\x10\xff\xff\xff\xff", Err((Fault::TooLarge, &[]))),
            (b"\x10\x0d\0\x04MQTT\x03", Err((Fault::Version, sooner))),
            (b"\x10\x0d\0\x04MQTT\x84", Err((Fault::Version, later))),
            (b"\x10\x0d\0\x06MQIsdp\x03", Err((Fault::Version, sooner))),
            (b"\x10\x0d\0\x04mqtt\x04", Err((Fault::NotConnect, &[]))),
            (b"\x10\x0d\0\x07", Err((Fault::NotConnect, &[]))),
            (b"\x10\x0d\0\x04MQTT\x04\xc2", Ok(())),
            (b"\x10\x0d\0\x04MQTT\x04\x03", Err((Fault::Garbage, &[]))),
            (b"\x10\x8d\x80\x00\0\x04MQTT\x05\x01", Err((Fault::Garbage, &[]))),
            (b"\x10\x0b\0\x04MQTT\x04", Err((Fault::Garbage, &[]))),
            (b"GET / HTTP/1.1", Err((Fault::NotConnect, &[]))),
            (b"\x16\x03\x01", Err((Fault::NotConnect, &[]))),
            (b"\x12\x0d", Err((Fault::NotConnect, &[]))),
        ] {
            let is = is.map_err(|(fault, answer)| Refusal { fault, answer });
            assert_eq!(Head::default().take(bytes).map(|_| ()), is, "{bytes:?} at once");
            let mut head = Head::default();
            let slowly = bytes.iter().try_for_each(|byte| head.take(&[*byte]).map(|_| ()));
            assert_eq!(slowly, is, "{bytes:?} byte by byte");
        }
    }

    #[test]
    fn a_connect_is_given_whole_and_what_follows_it_is_left() {
        let whole = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01d";
        let both = [&whole[..], &[0xc0, 0]].concat();
        for piece in [1, 2, 14, 15, 17] {
            let (mut head, mut got, mut left) = (Head::default(), None, both.as_slice());
            while got.is_none() {
                let (taken, packet) = head.take(&left[..piece.min(left.len())]).expect("a good beginning");
                (left, got) = (&left[taken..], packet);
            }
            assert_eq!((got.as_deref(), left), (Some(&whole[..]), &[0xc0, 0][..]), "in pieces of {piece}");
        }
    }

    #[test]
    fn no_aliases_is_no_panic() {
        let connect = |properties: &[u8]| {
            let body = [&b"\0\x04MQTT\x05\x02\0\x3c"[..], &[properties.len() as u8], properties, b"\0\x01d"].concat();
            [&[0x10, body.len() as u8][..], &body].concat()
        };
        for (properties, is) in [
            (&[0x22, 0, 0][..], &[0x22, 0, 1][..]),
            (&[0x22, 0, 7], &[0x22, 0, 7]),
            (b"\x11\0\0\0\0\x26\0\x02\x22\0\0\x01v\x22\0\0", b"\x11\0\0\0\0\x26\0\x02\x22\0\0\x01v\x22\0\x01"),
            (b"\x77\x22\0\0", b"\x77\x22\0\0"),
        ] {
            let (_, packet) = Head::default().take(&connect(properties)).expect("a good beginning");
            assert_eq!(packet, Some(connect(is)));
        }
        for cut in 0..12 {
            let mut packet = connect(b"\x26\0\x02\x22\0\0\x01v")[..12 + cut.min(8)].to_vec();
            allow_an_alias(&mut packet);
        }
    }

    #[test]
    fn the_length_of_a_packet_is_known_once_its_head_is_there() {
        for (bytes, is) in [
            (&[][..], None),
            (&[0x30], None),
            (&[0x30, 0x80], None),
            (&[0x30, 0], Some(2)),
            (&[0x30, 5, 1, 2], Some(7)),
            (&[0x30, 0x80, 1], Some(131)),
            (&[0x30, 0xff, 0xff, 0xff, 0x7f], Some(268_435_460)),
            (&[0x30, 0xff, 0xff, 0xff, 0xff], Some(2)),
        ] {
            assert_eq!(packet_length(bytes), is, "{bytes:?}");
        }
    }
}
