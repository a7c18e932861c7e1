//! Whether the values in some bytes may be decoded at all. The acceptor decodes a value in a value by calling itself, and
//! makes room for as many elements as a collection says it has: one frame of nothing but beginnings would end the
//! whole process, before anybody has shown a token.
//!
//! This walks over the same bytes without calling itself, and keeps nothing but where it is.

/// How deep values may lie in one another. What Microsoft's SDKs send lies less than ten deep.
const DEPTH_MAX: usize = 32;

/// A value that others lie in.
#[derive(Debug, Clone, Copy)]
enum Level {
    /// A list or map: values up to a place.
    Until(usize),
    /// So many more values: a descriptor, and what it describes.
    Values(u8),
    /// The beginning of an array, which says what its elements are.
    Elements { count: u32, described: bool },
    /// The elements of an array, all begun by one code.
    Alike { code: u8, left: u32 },
}

/// True if values lie at most `DEPTH_MAX` deep, and no collection says it has more elements than it has bytes.
/// What breaks off is no concern of this: whoever decodes it will say so.
pub(super) fn decodable(bytes: &[u8]) -> bool {
    let mut levels: Vec<Level> = Vec::with_capacity(DEPTH_MAX);
    let mut at = 0;
    loop {
        match levels.last() {
            Some(Level::Values(0) | Level::Alike { left: 0, .. }) => {
                levels.pop();
                continue;
            }
            Some(Level::Until(end)) if *end <= at => {
                levels.pop();
                continue;
            }
            _ => {}
        }
        let Some(code) = next_code(bytes, &mut at, levels.last_mut()) else { return true };
        let inner = match (code, levels.last_mut()) {
            // The acceptor would call itself for each descriptor in front of an array's elements; one is plenty.
            (0, Some(Level::Elements { described: true, .. })) => return false,
            (0, Some(Level::Elements { described, .. })) => {
                *described = true;
                Level::Values(1)
            }
            (0, _) => Level::Values(2),
            (code, Some(level @ Level::Elements { .. })) => {
                if let Level::Elements { count, .. } = *level {
                    // Elements without width are not worth a walk.
                    *level = Level::Alike { code, left: if width(code) == Some(0) { 0 } else { count } };
                }
                continue;
            }
            (0xa0..=0xbf, _) => match length(bytes, at, code < 0xb0) {
                Some((width, length)) => {
                    at = at.saturating_add(width).saturating_add(length);
                    continue;
                }
                None => return true,
            },
            (0xc0..=0xff, _) => {
                let short = code & 0x10 == 0;
                let Some((width, size)) = length(bytes, at, short) else { return true };
                let Some((_, count)) = length(bytes, at + width, short) else { return true };
                let (end, Ok(elements)) = ((at + width).saturating_add(size), u32::try_from(count)) else {
                    return false;
                };
                if size < count {
                    return false;
                }
                at += 2 * width;
                if code < 0xe0 { Level::Until(end) } else { Level::Elements { count: elements, described: false } }
            }
            (code, _) => match width(code) {
                Some(width) => {
                    at = at.saturating_add(width);
                    continue;
                }
                // No such code: nobody decodes further.
                None => return true,
            },
        };
        if levels.len() == DEPTH_MAX {
            return false;
        }
        levels.push(inner);
    }
}

/// The code of the next value: its own, or that of all elements of its array. `None` at the end.
fn next_code(bytes: &[u8], at: &mut usize, level: Option<&mut Level>) -> Option<u8> {
    if let Some(Level::Alike { code, left }) = level {
        *left -= 1;
        return (*at < bytes.len()).then_some(*code);
    }
    let code = *bytes.get(*at)?;
    *at += 1;
    if let Some(Level::Values(left)) = level {
        *left -= 1;
    }
    Some(code)
}

/// Bytes after the code of a value that always has as many.
fn width(code: u8) -> Option<usize> {
    matches!(code, 0x40..=0x9f).then(|| [0, 1, 2, 4, 8, 16][usize::from(code >> 4) - 4])
}

/// A length of one or four bytes: how many bytes it takes, and what it says.
fn length(bytes: &[u8], at: usize, short: bool) -> Option<(usize, usize)> {
    let rest = bytes.get(at..)?;
    match short {
        true => Some((1, usize::from(*rest.first()?))),
        false => Some((4, u32::from_be_bytes(*rest.first_chunk()?) as usize)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(number: usize) -> [u8; 4] {
        u32::try_from(number).expect("short").to_be_bytes()
    }

    /// A null in so many values.
    pub(in crate::hub::amqp) fn nested(kind: &str, depth: usize) -> Vec<u8> {
        // Sizes count what comes after, so it is written backwards.
        let mut back = vec![0x40];
        for _ in 0..depth {
            let inside = back.len();
            let mut front = match kind {
                "described" => vec![0x00, 0x53, 0x01],
                "list" => [&[0xd0][..], &word(4 + inside), &word(1)].concat(),
                "map" => [&[0xd1][..], &word(4 + 3 + inside), &word(2), &[0xa1, 0x01, b'k']].concat(),
                "array" => [&[0xf0][..], &word(4 + inside), &word(1)].concat(),
                "descriptors of an array" => {
                    [&[0xf0][..], &word(4 + 3 + inside), &word(1), &[0x00, 0x53, 0x01]].concat()
                }
                kind => panic!("no kind {kind}"),
            };
            front.reverse();
            back.extend_from_slice(&front);
        }
        back.reverse();
        back
    }

    #[test]
    fn values_may_lie_in_values_but_not_for_ever() {
        for kind in ["described", "list", "map", "array", "descriptors of an array"] {
            for (depth, is) in [(0, true), (10, true), (40, false), (5000, false)] {
                assert_eq!(decodable(&nested(kind, depth)), is, "{kind} {depth}");
            }
        }
        assert!(decodable(&nested("list", 3).repeat(500)), "beside one another there is room");
    }

    #[test]
    fn a_collection_has_at_most_an_element_a_byte() {
        for (bytes, is) in [
            (&[0xd0, 0, 0, 0, 4, 0, 0, 0, 0][..], true),
            (&[0xc0, 3, 2, 0x40, 0x40], true),
            (&[0xc0, 3, 200, 0x40, 0x40], false),
            (&[0xd0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x40, 0x40], false),
            (&[0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40], false),
            (&[0xe0, 4, 2, 0x50, 1, 2], true),
            (&[0xf0, 0, 0, 0, 9, 0, 0, 0, 2, 0x00, 0x53, 1, 0x00, 0x53, 1, 0x50], false),
            (&[0xe0, 8, 2, 0x00, 0x53, 1, 0x50, 1, 2], true),
            (&[0xd0, 0, 0], true),
            (&[0x01, 0x02], true),
            (&[], true),
        ] {
            assert_eq!(decodable(bytes), is, "{bytes:02x?}");
        }
    }

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn any_bytes_are_walked_to_an_end(
            bytes in proptest::collection::vec(prop_oneof![
                any::<u8>(),
                proptest::sample::select(&[0x00, 0x40, 0x45, 0x53, 0xc0, 0xd0, 0xd1, 0xe0, 0xf0, 0x01, 0x08][..]),
            ], 0..300),
        ) {
            let _ = decodable(&bytes);
        }
    }
}
