//! CBOR (RFC 8949) -> tree.
//!
//! Maps may have texts or whole numbers as keys (a number is its figures). Tags: 0 and 1 are times, 4 is a decimal
//! fraction, 55799 says "this is CBOR"; another tag refuses the one value it stands before. Lengths are believed only as
//! far as there are bytes.

use shared::time::Timestamp;

use super::tree::{Budget, DEPTH_MAX, Node, clip};
use super::when::micros_of;

/// Deepest nesting that is stepped over.
const SKIP_DEPTH_MAX: usize = 1_000;
/// The code at which an indefinite length ends.
const BREAK: u8 = 0xff;

/// Reads one CBOR value.
///
/// # Errors
/// Why it cannot be read as a whole.
pub fn read(bytes: &[u8]) -> Result<Node, String> {
    let mut reader = Reader { bytes, at: 0, budget: Budget::default() };
    let node = reader.node(0)?;
    match reader.at < bytes.len() {
        true => Err(format!("payload: something follows the CBOR value, from byte {}", reader.at)),
        false => Ok(node),
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    budget: Budget,
}

/// What stands before a value: its kind, and its number or length (`None`: indefinite).
struct Head {
    major: u8,
    info: u8,
    number: Option<u64>,
}

impl<'b> Reader<'b> {
    fn torn(&self) -> String {
        format!("payload: not CBOR (it ends within a value, at byte {})", self.bytes.len())
    }

    fn wrong(&self, what: &str) -> String {
        format!("payload: not CBOR ({what}, before byte {})", self.at)
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], String> {
        let length = usize::try_from(length).map_err(|_| self.torn())?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or_else(|| self.torn())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn big_endian(&mut self, length: u64) -> Result<u64, String> {
        Ok(self.take(length)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn head(&mut self) -> Result<Head, String> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let number = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => Some(self.big_endian(1 << (info - 24))?),
            31 if matches!(major, 2..=5 | 7) => None,
            _ => return Err(self.wrong("a length of no known kind")),
        };
        Ok(Head { major, info, number })
    }

    /// True, and a step over it, where an indefinite length ends.
    fn ends(&mut self) -> Result<bool, String> {
        let next = *self.bytes.get(self.at).ok_or_else(|| self.torn())?;
        self.at += usize::from(next == BREAK);
        Ok(next == BREAK)
    }

    fn node(&mut self, depth: usize) -> Result<Node, String> {
        self.budget.take()?;
        let head = self.head()?;
        if DEPTH_MAX <= depth && matches!(head.major, 4..=6) {
            self.skip(&head)?;
            return Ok(Node::Bad(format!("depth: nested deeper than {DEPTH_MAX} levels")));
        }
        match (head.major, head.number) {
            (0, Some(number)) => Ok(Node::whole(i128::from(number))),
            (1, Some(number)) => Ok(Node::whole(-1 - i128::from(number))),
            (2, length) => {
                self.string(2, length)?;
                Ok(Node::Bad("type: bytes, which are neither number, boolean nor text".to_owned()))
            }
            (3, length) => Ok(match String::from_utf8(self.string(3, length)?) {
                Ok(text) => Node::Text(text),
                Err(_) => Node::Bad("type: a text that is not UTF-8".to_owned()),
            }),
            (4, length) => {
                let mut elements = Vec::new();
                let mut left = length;
                while self.goes_on(&mut left)? {
                    elements.push(self.node(depth + 1)?);
                }
                Ok(Node::List(elements))
            }
            (5, length) => {
                let mut members = Vec::new();
                let mut left = length;
                while self.goes_on(&mut left)? {
                    let key = self.node(depth + 1)?;
                    let node = self.node(depth + 1)?;
                    members.push(match key {
                        Node::Text(name) => (name, node),
                        Node::Int(number) => (number.to_string(), node),
                        key => (key.shown(), Node::Bad("name: a key that is neither text nor whole number".to_owned())),
                    });
                }
                Ok(Node::Map(members))
            }
            (6, Some(tag)) => {
                let node = self.node(depth + 1)?;
                Ok(tagged(tag, node))
            }
            (7, Some(number)) => self.simple(head.info, number),
            _ => Err(self.wrong("an end where nothing was begun")),
        }
    }

    /// True if a list or map has one more.
    fn goes_on(&mut self, left: &mut Option<u64>) -> Result<bool, String> {
        match left {
            None => Ok(!self.ends()?),
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
        }
    }

    /// A string in one piece, or of pieces of its own kind.
    fn string(&mut self, major: u8, length: Option<u64>) -> Result<Vec<u8>, String> {
        let Some(length) = length else {
            let mut whole = Vec::new();
            while !self.ends()? {
                let head = self.head()?;
                match (head.major == major, head.number) {
                    (true, Some(length)) => whole.extend_from_slice(self.take(length)?),
                    _ => return Err(self.wrong("a piece of another kind in a string")),
                }
            }
            return Ok(whole);
        };
        Ok(self.take(length)?.to_vec())
    }

    fn simple(&mut self, info: u8, number: u64) -> Result<Node, String> {
        let low = |bits: u64| u32::try_from(bits).unwrap_or_default();
        Ok(match info {
            20 => Node::Bool(false),
            21 => Node::Bool(true),
            22 | 23 => Node::Null,
            25 => Node::double(half(u16::try_from(number).unwrap_or_default())),
            26 => Node::single(f32::from_bits(low(number))),
            27 => Node::double(f64::from_bits(number)),
            _ => Node::Bad(format!("type: simple value {number} is not known")),
        })
    }

    /// Steps over the rest of a value whose head was read, however deep it is.
    fn skip(&mut self, head: &Head) -> Result<(), String> {
        let mut open: Vec<Option<u64>> = Vec::new();
        self.step_in(head, &mut open)?;
        while let Some(left) = open.last_mut() {
            let mut remaining = *left;
            let goes_on = match remaining.as_mut() {
                None => !self.ends()?,
                Some(0) => false,
                Some(count) => {
                    *count -= 1;
                    true
                }
            };
            if let Some(left) = open.last_mut() {
                *left = remaining;
            }
            if goes_on {
                let head = self.head()?;
                self.step_in(&head, &mut open)?;
            } else {
                open.pop();
            }
            if SKIP_DEPTH_MAX < open.len() {
                return Err(format!("payload: nested deeper than {SKIP_DEPTH_MAX} levels"));
            }
        }
        Ok(())
    }

    fn step_in(&mut self, head: &Head, open: &mut Vec<Option<u64>>) -> Result<(), String> {
        match (head.major, head.number) {
            (2 | 3, length) => {
                self.string(head.major, length)?;
            }
            (4, length) => open.push(length),
            (5, length) => open.push(length.map(|pairs| pairs.saturating_mul(2))),
            (6, _) => open.push(Some(1)),
            (7, None) => return Err(self.wrong("an end where nothing was begun")),
            _ => {}
        }
        Ok(())
    }
}

fn tagged(tag: u64, node: Node) -> Node {
    let no_time = |node: &Node| Node::Bad(format!("time: not what its tag says: {}", node.shown()));
    let micros = |number: f64| micros_of(number * 1e6).map(|micros| Node::Time(Timestamp::from_micros(micros)));
    match (tag, node) {
        (0, Node::Text(text)) => match Timestamp::parse_rfc3339(&text) {
            Some(time) => Node::Time(time),
            None => no_time(&Node::Text(text)),
        },
        (1, Node::Int(seconds)) => match seconds.checked_mul(1_000_000) {
            Some(micros) => Node::Time(Timestamp::from_micros(micros)),
            None => no_time(&Node::Int(seconds)),
        },
        (1, Node::Float(seconds)) => micros(seconds).unwrap_or_else(|| no_time(&Node::Float(seconds))),
        (0 | 1, node) => no_time(&node),
        (4, Node::List(parts)) => match &parts[..] {
            [Node::Int(exponent), Node::Int(mantissa)] => match format!("{mantissa}e{exponent}").parse() {
                Ok(number) => Node::double(number),
                Err(_) => Node::Bad(format!("type: no decimal fraction: {}", clip(&format!("{mantissa}e{exponent}")))),
            },
            _ => Node::Bad("type: a decimal fraction is a list of two whole numbers".to_owned()),
        },
        (55_799, node) => node,
        (tag, _) => Node::Bad(format!("type: tag {tag} is not known")),
    }
}

/// A 16-bit float as a double: sign, five bits of exponent, ten of fraction.
fn half(bits: u16) -> f64 {
    let fraction = f64::from(bits & 0x3ff);
    let size = match bits >> 10 & 0x1f {
        0 => fraction * 2f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        exponent => (1024.0 + fraction) * 2f64.powi(i32::from(exponent) - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
#[path = "../../../examples/microcontroller/encoder.rs"]
#[expect(unreachable_pub, reason = "an example that others take over as it is")]
mod encoder;

#[cfg(test)]
mod tests {
    use super::*;

    fn show(hex: &str) -> String {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        match read(&bytes) {
            Ok(node) => shown(&node),
            Err(why) => format!("! {why}"),
        }
    }

    fn shown(node: &Node) -> String {
        match node {
            Node::List(elements) => format!("[{}]", elements.iter().map(shown).collect::<Vec<_>>().join(", ")),
            Node::Map(members) => {
                let members: Vec<_> = members.iter().map(|(name, node)| format!("{name}: {}", shown(node))).collect();
                format!("{{{}}}", members.join(", "))
            }
            Node::Bad(why) => format!("<{why}>"),
            Node::Null => "null".to_owned(),
            node => node.shown(),
        }
    }

    /// The examples of RFC 8949, appendix A.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (hex, value) in [
            ("00", "0"),
            ("1818", "24"),
            ("1b000000e8d4a51000", "1000000000000"),
            ("1bffffffffffffffff", "<type: no double is exactly the whole number 18446744073709551615>"),
            ("3bffffffffffffffff", "-18446744073709552000"),
            ("20", "-1"),
            ("3903e7", "-1000"),
            ("f90000", "0"),
            ("f93c00", "1"),
            ("fb3ff199999999999a", "1.1"),
            ("f93e00", "1.5"),
            ("f97bff", "65504"),
            ("fa47c35000", "100000"),
            ("fa7f7fffff", "3.4028235e38"),
            ("f90001", "0.00000005960464477539063"),
            ("f9c400", "-4"),
            ("fbc010666666666666", "-4.1"),
            ("f97c00", "<type: inf is no finite number>"),
            ("f97e00", "<type: NaN is no finite number>"),
            ("f4", "false"),
            ("f5", "true"),
            ("f6", "null"),
            ("f7", "null"),
            ("f0", "<type: simple value 16 is not known>"),
            ("f8ff", "<type: simple value 255 is not known>"),
            ("c074323031332d30332d32315432303a30343a30305a", "2013-03-21T20:04:00Z"),
            ("c11a514b67b0", "2013-03-21T20:04:00Z"),
            ("c1fb41d452d9ec200000", "2013-03-21T20:04:00.5Z"),
            ("4401020304", "<type: bytes, which are neither number, boolean nor text>"),
            ("6449455446", "\"IETF\""),
            ("62c3bc", "\"ü\""),
            ("83010203", "[1, 2, 3]"),
            ("8301820203820405", "[1, [2, 3], [4, 5]]"),
            ("a201020304", "{1: 2, 3: 4}"),
            ("a26161016162820203", "{a: 1, b: [2, 3]}"),
            ("5f42010243030405ff", "<type: bytes, which are neither number, boolean nor text>"),
            ("7f657374726561646d696e67ff", "\"streaming\""),
            ("9fff", "[]"),
            ("9f018202039f0405ffff", "[1, [2, 3], [4, 5]]"),
            ("bf6346756ef563416d7421ff", "{Fun: true, Amt: -2}"),
            ("c48221196ab3", "273.15"),
            ("d9d9f701", "1"),
            ("c249010000000000000000", "<type: tag 2 is not known>"),
        ] {
            assert_eq!(show(hex), value, "{hex}");
        }
    }

    #[test]
    fn what_the_microcontroller_of_the_example_writes_is_read() {
        for (n, celsius) in [(0, 21.5), (24, -0.1), (-1, 1e-10), (70_000, 1e20), (i64::MAX, 0.0), (i64::MIN, 85.0)] {
            let mut buffer = [0; 64];
            let payload = encoder::message(&mut buffer, n, celsius, true).expect("room");
            let read = shown(&read(payload).expect("CBOR"));
            assert_eq!(read, format!("{{n: {n}, temperature: {{v: {celsius}, u: \"Cel\"}}, door: true}}"));
        }
        assert_eq!(encoder::message(&mut [0; 20], 1, 21.5, false), Err(encoder::Full));
    }

    #[test]
    fn what_is_no_cbor_is_said_to_be_none_and_costs_nothing() {
        for (hex, part) in [
            ("", "ends within a value"),
            ("1b00", "ends within a value"),
            ("5bffffffffffffffff00", "ends within a value"),
            ("9bffffffffffffffff00", "ends within a value"),
            ("bbffffffffffffffff", "ends within a value"),
            ("ff", "an end where nothing was begun"),
            ("1f", "a length of no known kind"),
            ("1c", "a length of no known kind"),
            ("0000", "something follows"),
            ("5f01ff", "a piece of another kind"),
            ("7f5f4101ffff", "a piece of another kind"),
            ("81ff", "an end where nothing was begun"),
        ] {
            let said = show(hex);
            assert!(said.starts_with('!') && said.contains(part), "{hex}: {said}");
        }
        let deep = format!("{}01", "81".repeat(200));
        assert!(show(&deep).contains("depth: nested deeper"), "{}", show(&deep));
        assert!(show(&format!("82{deep}02")).ends_with(", 2]"), "what follows is read");
        assert!(show(&"9f".repeat(100_000)).contains("nested deeper than 1000"));
        assert!(show(&"c1".repeat(100_000)).starts_with('!'));
        let many = format!("9a000f4240{}", "00".repeat(1_000_000));
        assert!(show(&many).contains("more than 20000 values"));
    }
}
