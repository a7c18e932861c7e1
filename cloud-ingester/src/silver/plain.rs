//! An Envelope exactly as gateways of ours write it: its members in their order, readings and nothing else, every text
//! without escapes, everything as it should be. It is read in one walk and without copies.
//!
//! Whatever differs in any way is left to [`super::envelope`], which reads the same rows out of it, and all else: this
//! reader never refuses anything.

use std::borrow::Cow;

use shared::envelope::VERSION;
use shared::reading::{DeviceId, Epoch, MetricName, Value};
use shared::time::Timestamp;

use super::decode::{DIRECT, High};
use super::envelope::UNIT_BYTES_MAX;
use super::rows::{Name, Numbered, ReadingRow, Row};

/// Adds the rows of a body that a hub says came from `device`, and says how far its gateway is; `None`: it has to be read
/// with more care, and nothing was added.
pub(super) fn rows<'a>(body: &'a str, device: &str, rows: &mut Vec<Row<'a>>) -> Option<High<'a>> {
    let before = rows.len();
    let read = read(body, device, rows);
    if read.is_none() {
        rows.truncate(before);
    }
    read
}

fn read<'a>(body: &'a str, device: &str, rows: &mut Vec<Row<'a>>) -> Option<High<'a>> {
    let mut scan = Scan { text: body, at: 0 };
    scan.expect("{\"v\":")?;
    if scan.whole()? != i64::from(VERSION) {
        return None;
    }
    scan.expect(",\"gw\":")?;
    let gateway = scan.text()?;
    scan.expect(",\"epoch\":")?;
    let epoch = scan.text()?;
    scan.expect(",\"high\":")?;
    let high = scan.whole()?;
    let rules = scan.after(",\"rules\":", Scan::text)?;
    if gateway != device || gateway == DIRECT || epoch.parse::<Epoch>().is_err() {
        return None;
    }
    let sender = Sender { gateway, epoch, high, rules };
    scan.expect(",\"readings\":[")?;
    for index in 0_i32.. {
        rows.push(Row::Reading(scan.reading(&sender, index)?));
        match scan.next()? {
            b',' => {}
            b']' => break,
            _ => return None,
        }
    }
    scan.expect("}")?;
    if scan.at != body.len() {
        return None;
    }
    Some(High { gateway: Name::Read(gateway), epoch: Name::Read(epoch), seq: high })
}

struct Sender<'a> {
    gateway: &'a str,
    epoch: &'a str,
    high: i64,
    rules: Option<&'a str>,
}

/// A place in a body. Its steps fail where something else stands there.
struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn next(&mut self) -> Option<u8> {
        let byte = *self.rest().first()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, wanted: &str) -> Option<()> {
        self.rest().starts_with(wanted.as_bytes()).then(|| self.at += wanted.len())
    }

    /// What stands after `name`, if that stands here.
    fn after<T>(&mut self, name: &str, read: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.expect(name) {
            Some(()) => read(self).map(Some),
            None => Some(None),
        }
    }

    /// A text without escapes.
    fn text(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let length = self.rest().iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < 0x20)?;
        let found = self.text.get(self.at..self.at + length)?;
        self.at += length;
        self.expect("\"")?;
        Some(found)
    }

    /// Some digits; how many.
    fn digits(&mut self) -> usize {
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    /// What JSON has before the point: no zero before other digits.
    fn integer(&mut self) -> Option<()> {
        let _ = self.expect("-");
        let zero = self.rest().first() == Some(&b'0');
        let digits = self.digits();
        (digits == 1 || (!zero && 1 < digits)).then_some(())
    }

    fn whole(&mut self) -> Option<i64> {
        let from = self.at;
        self.integer()?;
        self.text[from..self.at].parse().ok()
    }

    fn number(&mut self) -> Option<f64> {
        let from = self.at;
        self.integer()?;
        if self.expect(".").is_some() && self.digits() == 0 {
            return None;
        }
        if matches!(self.rest().first(), Some(b'e' | b'E')) {
            self.at += 1;
            if self.expect("-").is_none() {
                let _ = self.expect("+");
            }
            if self.digits() == 0 {
                return None;
            }
        }
        self.text[from..self.at].parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn value(&mut self) -> Option<Value> {
        if self.expect(",\"v\":").is_some() {
            return self.number().map(Value::Number);
        }
        if self.expect(",\"vs\":").is_some() {
            return self.text().map(|text| Value::Text(text.to_owned()));
        }
        self.expect(",\"vb\":")?;
        match (self.expect("true"), self.expect("false")) {
            (Some(()), _) => Some(Value::Bool(true)),
            (None, Some(())) => Some(Value::Bool(false)),
            (None, None) => None,
        }
    }

    fn reading(&mut self, sender: &Sender<'a>, index: i32) -> Option<ReadingRow<'a>> {
        let from = self.at;
        self.expect("{\"s\":")?;
        let seq = self.whole().filter(|seq| 1 <= *seq)?;
        self.expect(",\"d\":")?;
        let device = self.text()?;
        self.expect(",\"m\":")?;
        let metric = self.text()?;
        let value = self.value()?;
        let unit = self.after(",\"u\":", Self::text)?;
        self.expect(",\"t\":")?;
        let event_time = self.whole()?;
        let received = self.after(",\"r\":", Self::whole)?;
        let time_quality = self.after(",\"q\":", Self::text)?;
        let source_seq = self.after(",\"n\":", Self::whole)?;
        self.expect("}")?;
        let odd = |unit: &str| UNIT_BYTES_MAX < unit.len() || unit.chars().any(char::is_control);
        if DeviceId::fault(device).is_some() || MetricName::fault(metric).is_some() || unit.is_some_and(odd) {
            return None;
        }
        Some(ReadingRow {
            numbered: Some(Numbered {
                gateway: Name::Read(sender.gateway),
                epoch: Name::Read(sender.epoch),
                seq,
                high: sender.high.max(seq),
            }),
            named: None,
            source_seq,
            device: Cow::Borrowed(device),
            metric: Cow::Borrowed(metric),
            value,
            unit: unit.map(Cow::Borrowed),
            event_time: Timestamp::from_micros(event_time),
            received_time: received.map(Timestamp::from_micros).filter(|time| time.is_printable()),
            time_quality: time_quality.map(Cow::Borrowed),
            index,
            rules: sender.rules.map(Name::Read),
            rescued: None,
            raw: &self.text.as_bytes()[from..self.at],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::silver::decode::Decoded;
    use crate::silver::decode::tests::event;
    use crate::silver::envelope::{self, Word};

    const GOOD: &str = r#"{"v":1,"gw":"gw-1","epoch":"00000000abcd0000","high":9,"rules":"d2","readings":[{"s":8,"d":"press-3","m":"temperature","v":-21.50e-1,"u":"Cel","t":1790813192160000,"r":1790813192280000,"q":"device","n":49020},{"s":9,"d":"prés","m":"door","vb":true,"t":0},{"s":10,"d":"p","m":"state","vs":"","t":-5,"q":"gateway"}]}"#;

    /// What the reader that takes everything makes of a body.
    fn with_care(body: &str) -> Option<Result<Decoded<'_>, String>> {
        let event = event("gw-1", body.as_bytes());
        Some(envelope::rows(&event, body, envelope::parts(body)?, Word::Gateway("gw-1")))
    }

    /// Whether it is plain; then both readers have to find the same.
    fn is_plain(body: &str) -> bool {
        let mut found = vec![];
        let Some(high) = rows(body, "gw-1", &mut found) else {
            assert_eq!(found, [], "{body}");
            return false;
        };
        assert_eq!(with_care(body), Some(Ok(Decoded { rows: found, gaps: vec![], high: Some(high) })), "{body}");
        true
    }

    #[test]
    fn what_a_gateway_writes_is_plain() {
        assert!(is_plain(GOOD));
        for (from, to) in
            [(r#""rules":"d2","#, ""), ("-21.50e-1", "0"), ("-21.50e-1", "-0.0"), ("49020", "-1"), ("prés", "p.q/r s")]
        {
            let body = GOOD.replacen(from, to, 1);
            assert!(is_plain(&body), "{body}");
        }
    }

    #[test]
    fn what_is_odd_in_any_way_is_left_to_the_other_reader() {
        for (from, to) in [
            (r#""v":1"#, r#""v":2"#),
            ("gw-1", "gw-2"),
            ("gw-1", "-"),
            ("00000000abcd0000", "abcd"),
            (r#""high":9"#, r#""high":"9""#),
            (r#""high":9"#, r#""high":9.0"#),
            (r#""readings":["#, r#""more":1,"readings":["#),
            ("]}", r#"],"gaps":[]}"#),
            ("]}", "]} "),
            ("]}", "],}"),
            ("]}", ",]}"),
            (r#""s":8"#, r#""s":0"#),
            (r#""s":8"#, r#""s":08"#),
            (r#""s":8"#, r#""s":9223372036854775808"#),
            (r#""s":8"#, r#""s": 8"#),
            ("press-3", ""),
            ("press-3", "press\\u002d3"),
            ("press-3", "press\u{7f}"),
            ("-21.50e-1", "01"),
            ("-21.50e-1", "1."),
            ("-21.50e-1", ".5"),
            ("-21.50e-1", "1e"),
            ("-21.50e-1", "1e999"),
            ("-21.50e-1", "NaN"),
            ("-21.50e-1", "null"),
            ("true", "truex"),
            (r#""vb":true"#, r#""vb":true,"v":1"#),
            (r#""u":"Cel""#, r#""u":null"#),
            (r#","t":0"#, ""),
            (r#""n":49020"#, r#""n":49020,"x":1"#),
            (r#""n":49020"#, r#""n":1,"n":2"#),
        ] {
            let body = GOOD.replacen(from, to, 1);
            assert_ne!(body, GOOD, "{from}");
            assert!(!is_plain(&body), "{body}");
        }
    }

    proptest! {
        #[test]
        fn both_readers_find_the_same_whatever_was_changed(
            at in 0..GOOD.len(),
            cut in 0_usize..12,
            put in prop_oneof![
                "[0-9eE.+\\-]{0,4}",
                "[\"{}\\[\\]:,\\\\ ntv]{0,3}",
                Just(r#","u":"x""#.to_owned()),
                Just(r#""n":3,"#.to_owned()),
            ],
        ) {
            if let (Some(before), Some(after)) = (GOOD.get(..at), GOOD.get((at + cut).min(GOOD.len())..)) {
                is_plain(&format!("{before}{put}{after}"));
            }
        }
    }
}
