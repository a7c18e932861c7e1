//! AMQP frames seen as bytes: where one ends, which performative it carries, and two edits on the performative's list.
//!
//! A peer may leave out trailing null fields, and the acceptor does. Microsoft's Python SDK looks fields up by position
//! and fails on a short list, so what leaves is padded to its full length. And the acceptor sends its heartbeats at the
//! whole of the peer's idle timeout, and closes at the whole of what it announced itself: in both directions the number
//! in `open` is halved, so that a heartbeat is never a race.
//!
//! Never: a change to a frame that is not understood. It passes as it came.

use std::ops::Range;

use bytes::BytesMut;

pub(super) const OPEN: u8 = 0x10;
pub(super) const BEGIN: u8 = 0x11;
pub(super) const ATTACH: u8 = 0x12;
pub(super) const FLOW: u8 = 0x13;
pub(super) const TRANSFER: u8 = 0x14;
pub(super) const DISPOSITION: u8 = 0x15;
pub(super) const DETACH: u8 = 0x16;
pub(super) const END: u8 = 0x17;
pub(super) const CLOSE: u8 = 0x18;

/// Size, data offset, type and channel.
const HEADER: usize = 8;
const NULL: u8 = 0x40;
const LIST_0: u8 = 0x45;
const USHORT: u8 = 0x60;
const UINT_0: u8 = 0x43;
const UINT_SMALL: u8 = 0x52;
const UINT: u8 = 0x70;
const LIST_8: u8 = 0xc0;
const LIST_32: u8 = 0xd0;
/// `idle-time-out` is the fifth field of `open`.
const IDLE_TIME_OUT: usize = 4;
/// Fields of `transfer`; of `detach` the handle is the first one too, of `attach` the second.
const HANDLE: usize = 0;
const DELIVERY_ID: usize = 1;
const MORE: usize = 5;
const STATE: usize = 7;
const RESUME: usize = 8;
const ABORTED: usize = 9;
/// `first` and `last` are the second and third field of `disposition`.
const FIRST: usize = 1;
const LAST: usize = 2;

/// How many fields a performative has.
const fn fields_of(code: u8) -> Option<u32> {
    match code {
        0x10 => Some(10),        // open
        0x11 => Some(8),         // begin
        0x12 => Some(14),        // attach
        0x13 | 0x14 => Some(11), // flow, transfer
        0x15 => Some(6),         // disposition
        0x16 => Some(3),         // detach
        0x17 | 0x18 => Some(1),  // end, close
        _ => None,
    }
}

/// The first thing in some bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// A protocol header or a frame of this many bytes.
    Whole(usize),
    /// The beginning of one.
    Part,
    /// Neither: the connection speaks something else.
    Broken,
}

/// What stands at the start of `bytes`, if no frame is longer than `frame_max`.
pub(super) fn unit(bytes: &[u8], frame_max: usize) -> Unit {
    let Some(word) = bytes.first_chunk::<4>() else { return Unit::Part };
    let length = if word == b"AMQP" { HEADER } else { u32::from_be_bytes(*word) as usize };
    if !(HEADER..=frame_max).contains(&length) {
        Unit::Broken
    } else if bytes.len() < length {
        Unit::Part
    } else {
        Unit::Whole(length)
    }
}

/// The performative of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Performative {
    pub(super) code: u8,
    pub(super) channel: u16,
    /// From its start to the code of its list.
    list: usize,
    count: u32,
    /// The bytes of its fields; the payload begins after them.
    fields: Range<usize>,
}

impl Performative {
    /// Where the payload begins.
    pub(super) fn end(&self) -> usize {
        self.fields.end
    }
}

/// What a transfer says about the delivery it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) handle: u32,
    pub(super) delivery_id: Option<u32>,
    /// The delivery goes on in the next transfer of the link.
    pub(super) more: bool,
    /// Neither with a state, nor resumed, nor aborted: what comes is appended to what came.
    pub(super) plain: bool,
}

/// What is in a whole frame after its header; `None` for protocol headers.
pub(super) fn body(frame: &[u8]) -> Option<&[u8]> {
    let header: &[u8; HEADER] = frame.first_chunk()?;
    if header.starts_with(b"AMQP") {
        return None;
    }
    frame.get(usize::from(header[4]) * 4..)
}

/// Reads the performative of a whole frame; `None` for protocol headers, SASL, heartbeats and what is not understood.
pub(super) fn performative(frame: &[u8]) -> Option<Performative> {
    let header: &[u8; HEADER] = frame.first_chunk()?;
    if header.starts_with(b"AMQP") || header[5] != 0 {
        return None;
    }
    let body = usize::from(header[4]) * 4;
    let channel = u16::from_be_bytes([header[6], header[7]]);
    let (code, list) = match frame.get(body..)? {
        [0x00, 0x53, code, ..] => (*code, body + 3),
        [0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, code, ..] => (*code, body + 10),
        _ => return None,
    };
    let (count, fields) = match frame.get(list..)? {
        [LIST_0, ..] => (0, list + 1..list + 1),
        [LIST_8, size, count, ..] => (u32::from(*count), list + 3..list + 2 + usize::from(*size)),
        [LIST_32, s0, s1, s2, s3, c0, c1, c2, c3, ..] => {
            let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize;
            (u32::from_be_bytes([*c0, *c1, *c2, *c3]), list + 9..(list + 5).checked_add(size)?)
        }
        _ => return None,
    };
    (fields.start <= fields.end && fields.end <= frame.len()).then_some(Performative {
        code,
        channel,
        list,
        count,
        fields,
    })
}

/// Appends a whole frame to `out`, its performative padded to its full number of fields.
pub(super) fn push_padded(out: &mut BytesMut, frame: &[u8], performative: Option<&Performative>) {
    let padding = performative.and_then(|p| Some((p, fields_of(p.code)?))).filter(|(p, full)| p.count < *full);
    let Some((performative, full)) = padding else {
        out.extend_from_slice(frame);
        return;
    };
    let fields = &frame[performative.fields.clone()];
    let missing = (full - performative.count) as usize;
    let payload = &frame[performative.fields.end..];
    let length = performative.list + 9 + fields.len() + missing + payload.len();
    let word = |number: usize| u32::try_from(number).expect("a frame is far below 4 GiB").to_be_bytes();

    out.reserve(length);
    out.extend_from_slice(&word(length));
    out.extend_from_slice(&frame[4..performative.list]);
    out.extend_from_slice(&[LIST_32]);
    out.extend_from_slice(&word(4 + fields.len() + missing));
    out.extend_from_slice(&full.to_be_bytes());
    out.extend_from_slice(fields);
    out.resize(out.len() + missing, NULL);
    out.extend_from_slice(payload);
}

/// Halves the `idle-time-out` of an `open` where it stands.
pub(super) fn halve_idle_time_out(frame: &mut [u8], performative: &Performative) {
    if performative.code != OPEN {
        return;
    }
    let Some(at) = field(frame, performative, IDLE_TIME_OUT) else { return };
    if let Some([UINT, value @ ..]) = frame.get_mut(at..)
        && let Some(value) = value.first_chunk_mut::<4>()
    {
        *value = (u32::from_be_bytes(*value) / 2).to_be_bytes();
    }
}

/// Reads a transfer; `None` if its fields cannot be told apart.
pub(super) fn transfer(frame: &[u8], performative: &Performative) -> Option<Transfer> {
    let is = |number| match field(frame, performative, number) {
        Some(at) => is_true(frame.get(at..)?),
        None if performative.count as usize <= number => Some(false),
        None => None,
    };
    let handle = uint(frame, performative, HANDLE)??;
    let delivery_id = uint(frame, performative, DELIVERY_ID)?;
    let more = is(MORE)?;
    let stateless = match field(frame, performative, STATE) {
        Some(at) => *frame.get(at)? == NULL,
        None if performative.count as usize <= STATE => true,
        None => return None,
    };
    // Behind a state nothing is told apart, and need not be.
    let plain = stateless && !is(RESUME)? && !is(ABORTED)?;
    Some(Transfer { handle, delivery_id, more, plain })
}

/// Whether a frame is a transfer whose delivery goes on in the next one.
pub(super) fn goes_on(frame: &[u8], performative: &Performative) -> bool {
    performative.code == TRANSFER && transfer(frame, performative).is_some_and(|transfer| transfer.more)
}

/// The handle that an `attach` or `detach` names.
pub(super) fn handle(frame: &[u8], performative: &Performative) -> Option<u32> {
    uint(frame, performative, if performative.code == ATTACH { HANDLE + 1 } else { HANDLE })?
}

fn is_true(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0x41, ..] | [0x56, 1, ..] => Some(true),
        [0x42 | NULL, ..] | [0x56, 0, ..] => Some(false),
        _ => None,
    }
}

/// How many deliveries a disposition speaks of; none of any other frame, and `None` if its numbers cannot be read or run
/// backwards.
pub(super) fn deliveries(frame: &[u8], performative: &Performative) -> Option<u64> {
    if performative.code != DISPOSITION {
        return Some(0);
    }
    let first = uint(frame, performative, FIRST)??;
    let last = uint(frame, performative, LAST)?.unwrap_or(first);
    Some(u64::from(last.checked_sub(first)?) + 1)
}

/// A field that is text.
pub(super) fn text<'a>(frame: &'a [u8], performative: &Performative, number: usize) -> Option<&'a [u8]> {
    let bytes = frame.get(field(frame, performative, number)?..performative.fields.end)?;
    match bytes {
        [0xa1 | 0xa3, ..] => bytes.get(2..value_length(bytes)?),
        [0xb1 | 0xb3, ..] => bytes.get(5..value_length(bytes)?),
        _ => None,
    }
}

/// A field that is true or false.
pub(super) fn truth(frame: &[u8], performative: &Performative, number: usize) -> Option<bool> {
    match frame.get(field(frame, performative, number)?..performative.fields.end)? {
        [0x41, ..] | [0x56, 1, ..] => Some(true),
        [0x42, ..] | [0x56, 0, ..] => Some(false),
        _ => None,
    }
}

/// Lowers a field that is a `uint` to at most `max`, which fits a byte, where it stands.
pub(super) fn lower(frame: &mut [u8], performative: &Performative, number: usize, max: u32) {
    let Some(at) = field(frame, performative, number) else { return };
    match frame.get_mut(at..performative.fields.end) {
        Some([UINT_SMALL, value, ..]) => *value = u8::try_from(max.min(u32::from(*value))).unwrap_or(*value),
        Some([UINT, value @ ..]) => {
            if let Some(value) = value.first_chunk_mut::<4>() {
                *value = u32::from_be_bytes(*value).min(max).to_be_bytes();
            }
        }
        _ => {}
    }
}

/// A field that is a `uint` or a `ushort`: `Some(None)` if it is left out, `None` if it is something else.
pub(super) fn uint(frame: &[u8], performative: &Performative, number: usize) -> Option<Option<u32>> {
    let Some(at) = field(frame, performative, number) else {
        return (performative.count as usize <= number).then_some(None);
    };
    match frame.get(at..performative.fields.end)? {
        [NULL, ..] => Some(None),
        [UINT_0, ..] => Some(Some(0)),
        [UINT_SMALL, value, ..] => Some(Some(u32::from(*value))),
        [UINT, value @ ..] => Some(Some(u32::from_be_bytes(*value.first_chunk()?))),
        [USHORT, high, low, ..] => Some(Some(u32::from(u16::from_be_bytes([*high, *low])))),
        _ => None,
    }
}

/// Where a field of a performative stands; `None` if it is left out.
fn field(frame: &[u8], performative: &Performative, number: usize) -> Option<usize> {
    if performative.count as usize <= number {
        return None;
    }
    let fields = frame.get(performative.fields.clone())?;
    let mut at = 0;
    for _ in 0..number {
        at += fields.get(at..).and_then(value_length)?;
    }
    Some(performative.fields.start + at)
}

/// How many bytes the value at the start of `bytes` takes; its code says.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let code = *bytes.first()?;
    let long = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?) as usize);
    Some(match code >> 4 {
        0x4 => 1,
        0x5 => 2,
        0x6 => 3,
        0x7 => 5,
        0x8 => 9,
        0x9 => 17,
        0xa | 0xc | 0xe => 2 + usize::from(*bytes.get(1)?),
        0xb | 0xd | 0xf => long(1)?.checked_add(5)?,
        // A described value would have to be walked; none stands before the field looked for.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame on channel 7 around a body.
    fn frame(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).expect("short");
        [&length.to_be_bytes()[..], &[2, 0, 0, 7], body].concat()
    }

    fn padded(frame: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        push_padded(&mut out, frame, performative(frame).as_ref());
        out.to_vec()
    }

    #[test]
    fn every_performative_leaves_with_all_its_fields() {
        for (name, code, full) in
            [("open", 0x10, 10), ("begin", 0x11, 8), ("attach", 0x12, 14), ("flow", 0x13, 11), ("transfer", 0x14, 11)]
                .into_iter()
                .chain([("disposition", 0x15, 6), ("detach", 0x16, 3), ("end", 0x17, 1), ("close", 0x18, 1)])
        {
            for body in [
                vec![0, 0x53, code, LIST_0],
                vec![0, 0x53, code, LIST_8, 1, 0],
                vec![0, 0x80, 0, 0, 0, 0, 0, 0, 0, code, LIST_32, 0, 0, 0, 4, 0, 0, 0, 0],
            ] {
                let out = padded(&frame(&body));
                assert_eq!(unit(&out, 1 << 20), Unit::Whole(out.len()), "{name}");
                let p = performative(&out).expect(name);
                assert_eq!((p.code, p.channel, p.count), (code, 7, full), "{name}");
                assert_eq!(out[p.fields.clone()], vec![NULL; full as usize], "{name}");
                assert_eq!(p.fields.end, out.len(), "{name}");
                assert_eq!(padded(&out), out, "{name}: once is enough");
            }
        }
    }

    #[test]
    fn fields_and_payload_are_kept() {
        // transfer(handle 0, delivery-id 1) and "payload".
        let body = [&[0, 0x53, 0x14, LIST_8, 4, 2, 0x43, 0x52, 1][..], b"payload"].concat();
        let out = padded(&frame(&body));
        let p = performative(&out).expect("a transfer");
        assert_eq!(out[p.fields.clone()], [&[0x43, 0x52, 1][..], &[NULL; 9]].concat());
        assert_eq!(&out[p.fields.end..], b"payload");
    }

    #[test]
    fn what_is_no_performative_passes_as_it_came() {
        let sasl = [0, 0, 0, 16, 2, 1, 0, 0, 0, 0x53, 0x44, LIST_8, 3, 1, 0x50, 0];
        let heartbeat = frame(&[]);
        let cut = frame(&[0, 0x53, 0x10, LIST_8, 200, 3, 1, 2]);
        let unknown = frame(&[0, 0x53, 0x77, LIST_0]);
        for bytes in [&b"AMQP\0\x01\0\0"[..], &sasl, &heartbeat, &cut, &unknown] {
            assert_eq!(padded(bytes), bytes);
        }
    }

    #[test]
    fn the_idle_timeout_of_an_open_is_halved_where_it_stands() {
        for (name, field, halved) in [
            ("uint", vec![0x70, 0, 1, 0xd4, 0xc0], vec![0x70, 0, 0, 0xea, 0x60]),
            ("small", vec![0x52, 200], vec![0x52, 200]),
            ("null", vec![NULL], vec![NULL]),
        ] {
            // container-id, hostname, max-frame-size, channel-max, idle-time-out
            let fields = |last: &[u8]| {
                let fields =
                    [&[0xa1, 2, b'm', b'e', 0xb1, 0, 0, 0, 1, b'h', 0x70, 0, 1, 0, 0, 0x60, 1, 2], last].concat();
                let size = u8::try_from(fields.len() + 1).expect("short");
                frame(&[&[0, 0x53, OPEN, LIST_8, size, 5], &fields[..]].concat())
            };
            let mut open = fields(&field);
            let p = performative(&open).expect(name);
            halve_idle_time_out(&mut open, &p);
            assert_eq!(open, fields(&halved), "{name}");
        }
    }

    #[test]
    fn a_transfer_says_what_it_is_a_part_of() {
        let read = |fields: &[u8], count: u8| {
            let size = u8::try_from(fields.len() + 1).expect("short");
            let frame = frame(&[&[0, 0x53, TRANSFER, LIST_8, size, count], fields].concat());
            transfer(&frame, &performative(&frame).expect("a performative"))
        };
        let is = |handle, delivery_id, more, plain| Some(Transfer { handle, delivery_id, more, plain });
        for (what, fields, count, wanted) in [
            ("only a handle", &[0x43][..], 1, is(0, None, false, true)),
            ("the first of some", &[0x52, 3, 0x52, 9, 0xa0, 1, 7, 0x43, 0x42, 0x41], 6, is(3, Some(9), true, true)),
            ("the last of some", &[0x52, 3, 0x40, 0x40, 0x40, 0x40, 0x42], 6, is(3, None, false, true)),
            (
                "in long",
                &[0x70, 0, 0, 1, 0, 0x70, 0, 0, 0, 1, 0x40, 0x40, 0x40, 0x56, 1],
                6,
                is(256, Some(1), true, true),
            ),
            (
                "with a state",
                &[0x43, 0x43, 0x40, 0x40, 0x40, 0x41, 0x40, 0, 0x53, 0x24, 0x45],
                8,
                is(0, Some(0), true, false),
            ),
            ("resumed", &[0x43, 0x43, 0x40, 0x40, 0x40, 0x41, 0x40, 0x40, 0x41], 9, is(0, Some(0), true, false)),
            (
                "aborted",
                &[0x43, 0x43, 0x40, 0x40, 0x40, 0x42, 0x40, 0x40, 0x40, 0x41],
                10,
                is(0, Some(0), false, false),
            ),
            ("without a handle", &[0x40], 1, None),
            ("`more` that is no truth", &[0x43, 0x43, 0x40, 0x40, 0x40, 0x52, 1], 6, None),
            ("fields that cannot be told apart", &[0x43, 0, 0x53, 1, 0x41, 0x40, 0x40, 0x41], 6, None),
            ("fewer fields than said", &[0x43], 6, None),
        ] {
            assert_eq!(read(fields, count), wanted, "{what}");
        }
    }

    #[test]
    fn a_disposition_says_how_many_deliveries_it_is_about() {
        let at = |numbers: &[u8], count: u8| {
            let size = u8::try_from(numbers.len() + 2).expect("short");
            frame(&[&[0, 0x53, DISPOSITION, LIST_8, size, count, 0x41], numbers].concat())
        };
        for (name, bytes, is) in [
            ("one", at(&[0x43], 2), Some(1)),
            ("one, and nothing last", at(&[0x52, 7, NULL], 3), Some(1)),
            ("some", at(&[0x52, 7, 0x70, 0, 0, 1, 0], 3), Some(250)),
            ("all there can be", at(&[0x43, 0x70, 255, 255, 255, 255], 3), Some(1 << 32)),
            ("backwards", at(&[0x52, 7, 0x52, 6], 3), None),
            ("nothing first", at(&[NULL, 0x52, 6], 3), None),
            ("no numbers", at(&[], 1), None),
            ("a text", at(&[0xa1, 1, b'x'], 2), None),
            ("cut off", at(&[0x70, 0], 2), None),
            ("another frame", frame(&[0, 0x53, TRANSFER, LIST_0]), Some(0)),
        ] {
            let performative = performative(&bytes).expect(name);
            assert_eq!(deliveries(&bytes, &performative), is, "{name}");
        }
    }

    #[test]
    fn what_is_not_amqp_is_known_by_its_first_four_bytes() {
        for (bytes, is) in [
            (&b"AMQ"[..], Unit::Part),
            (b"AMQP\0\x01", Unit::Part),
            (b"AMQP\x03\x01\0\0\0", Unit::Whole(8)),
            (b"GET / HTTP/1.1\r\n", Unit::Broken),
            (b"\x16\x03\x01\x02\0\x01", Unit::Broken),
            (b"\0\0\0\x07", Unit::Broken),
            (b"\0\0\0\x08\x02\0\0\0", Unit::Whole(8)),
        ] {
            assert_eq!(unit(bytes, 64 * 1024), is, "{bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), code in 0x10..0x19u8) {
            if bytes.len() > 11 {
                bytes[4] = 2;
                bytes[5] = 0;
                bytes[8..11].copy_from_slice(&[0, 0x53, code]);
            }
            let _ = unit(&bytes, 64 * 1024);
            if let Some(p) = performative(&bytes) {
                let _ = (transfer(&bytes, &p), handle(&bytes, &p), deliveries(&bytes, &p));
                halve_idle_time_out(&mut bytes, &p);
            }
            let _ = body(&bytes);
            let _ = padded(&bytes);
        }
    }
}
