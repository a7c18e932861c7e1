//! What a device publishes, in the default mapping: an object of metrics, or one bare value.
//!
//! ```text
//! telemetry/press-3              {"ts": …, "n": 17, "temperature": {"v": 21.5, "u": "Cel"}, "door": true}
//! telemetry/press-3/temperature  21.5
//! ```
//!
//! A value that cannot be read costs only itself; a payload that cannot be read as a whole is one [`Unreadable`].

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::reading::{MetricName, Value};
use crate::time::Timestamp;

/// Longest text value, in bytes.
pub const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Most metrics in one payload.
pub const METRICS_MAX: usize = 1_000;

/// The topic level under which the default mapping expects devices.
pub const TOPIC_ROOT: &str = "telemetry";

/// Where an object keeps its time and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Field of the event time: RFC 3339, or an integer of microseconds.
    pub time: String,
    /// Field of the device's own number.
    pub n: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self { time: "ts".into(), n: "n".into() }
    }
}

/// A payload, taken apart.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Payload {
    /// The payload's own time.
    pub time: Option<Timestamp>,
    /// The device's own number.
    pub n: Option<i64>,
    /// What speaks against every value in it, such as a time that cannot be read.
    pub faults: Vec<String>,
    /// The values, in the order sent.
    pub measured: Vec<Measured>,
}

/// One metric of a payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// As sent; may break the rules for names, then `value` says so.
    pub metric: String,
    /// The value and its unit, or why there is none.
    pub value: Result<(Value, Option<String>), String>,
}

impl Measured {
    /// The payload holds the metric once more: which value is meant, nobody can tell. Both are one refusal.
    pub fn stands_twice(&mut self) {
        if MetricName::fault(&self.metric).is_none() {
            self.value = Err("name: the metric stands twice".to_owned());
        }
    }
}

/// A payload that cannot be read as a whole, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unreadable {
    /// What is wrong with it.
    pub why: String,
    /// The payload's own time, where it stands before what is wrong.
    pub time: Option<Timestamp>,
    /// The device's own number, where it stands before what is wrong.
    pub n: Option<i64>,
}

impl Unreadable {
    fn new(why: String) -> Self {
        Self { why, time: None, n: None }
    }

    /// The same, with what the members before the fault tell.
    fn knowing(mut self, entries: &[(String, &RawValue)], fields: &Fields) -> Self {
        let known = |name| once(entries, name).ok().flatten();
        self.time = known(&fields.time).and_then(|raw| time_of(raw.get()).ok());
        self.n = known(&fields.n).and_then(|raw| serde_json::from_str(raw.get()).ok());
        self
    }
}

/// Device and, for a bare value, metric of a topic of the default mapping.
pub fn device_of_topic(topic: &str) -> Option<(&str, Option<&str>)> {
    let rest = topic.strip_prefix(TOPIC_ROOT)?.strip_prefix('/')?;
    let (device, metric) = match rest.split_once('/') {
        Some((device, metric)) => (device, Some(metric)),
        None => (rest, None),
    };
    let well_formed = !device.is_empty() && metric.is_none_or(|m| !m.is_empty() && !m.contains('/'));
    well_formed.then_some((device, metric))
}

/// Reads `{"ts": …, "n": …, "<metric>": value, …}`.
pub fn object(bytes: &[u8], fields: &Fields) -> Result<Payload, Unreadable> {
    let mut entries = Vec::new();
    if let Err(unreadable) = members(bytes, &mut entries) {
        return Err(unreadable.knowing(&entries, fields));
    }
    let mut payload = Payload::default();
    match once(&entries, &fields.time) {
        Ok(raw) => match raw.map(|raw| time_of(raw.get())).transpose() {
            Ok(time) => payload.time = time,
            Err(fault) => payload.faults.push(fault),
        },
        Err(Twice) => payload.faults.push(format!("time: `{}` stands twice in the payload", fields.time)),
    }
    match once(&entries, &fields.n) {
        Ok(raw) => match raw.map(|raw| serde_json::from_str::<i64>(raw.get()).map_err(|_| raw)).transpose() {
            Ok(n) => payload.n = n,
            Err(raw) => payload.faults.push(format!("number: `{}` is no whole number: {}", fields.n, clip(raw.get()))),
        },
        Err(Twice) => payload.faults.push(format!("number: `{}` stands twice in the payload", fields.n)),
    }
    let mut seen = HashMap::new();
    let metrics = entries.iter().filter(|(name, _)| *name != fields.time && *name != fields.n);
    for (count, (name, raw)) in metrics.enumerate() {
        if METRICS_MAX <= count {
            let why = format!("payload: more than {METRICS_MAX} metrics");
            return Err(Unreadable::new(why).knowing(&entries, fields));
        }
        let at = *seen.entry(name).or_insert(payload.measured.len());
        if let Some(before) = payload.measured.get_mut(at) {
            before.stands_twice();
            continue;
        }
        let value = match MetricName::fault(name) {
            Some(fault) => Err(fault),
            None => value_of(raw.get()),
        };
        payload.measured.push(Measured { metric: name.clone(), value });
    }
    if payload.measured.is_empty() {
        return Err(Unreadable::new("payload: holds no metric".to_owned()).knowing(&entries, fields));
    }
    Ok(payload)
}

/// Reads the members of an object into `entries`; where it cannot be read to its end, those before the fault.
fn members<'b>(bytes: &'b [u8], entries: &mut Vec<(String, &'b RawValue)>) -> Result<(), Unreadable> {
    let (text, fault) = match utf8(bytes) {
        Ok(text) => (text, None),
        Err((before, fault)) => (before, Some(fault)),
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Entries(entries));
    let torn = read.err().map(|e| Unreadable::new(format!("payload: not a JSON object ({e})")));
    if let Some(fault) = fault.or(torn) {
        // What stands at the very end may be half of what it was.
        if entries.last().is_some_and(|(_, raw)| text.trim_end().ends_with(raw.get())) {
            entries.pop();
        }
        return Err(fault);
    }
    json.end().map_err(|e| Unreadable::new(format!("payload: something follows the JSON object ({e})")))
}

/// The members of a JSON object in their order, repeats included, values as they were written.
///
/// # Errors
/// It is no JSON object, not UTF-8, or something follows it.
pub fn members_of(bytes: &[u8]) -> Result<Vec<(String, &RawValue)>, Unreadable> {
    let mut entries = Vec::new();
    members(bytes, &mut entries)?;
    Ok(entries)
}

/// Reads a bare value of `metric`: a number, `true`, `false`, a JSON text, or `{"v": …, "u": …}`.
pub fn bare(metric: &str, bytes: &[u8]) -> Result<Payload, Unreadable> {
    let text = utf8(bytes).map_err(|(_, fault)| fault)?.trim();
    let raw: &RawValue =
        serde_json::from_str(text).map_err(|e| Unreadable::new(format!("payload: not a bare value ({e})")))?;
    let value = match MetricName::fault(metric) {
        Some(fault) => Err(fault),
        None => value_of(raw.get()),
    };
    Ok(Payload { measured: vec![Measured { metric: metric.to_owned(), value }], ..Payload::default() })
}

/// Reads one value: a number, a boolean, a text, or an object of `v` and `u`.
pub fn value_of(json: &str) -> Result<(Value, Option<String>), String> {
    let json = json.trim();
    match json.as_bytes().first() {
        Some(b'{') => measurement(json),
        _ => Ok((scalar(json)?, None)),
    }
}

/// Reads a JSON number as the double nearest to it; `None` if it is none, or too large. serde_json alone may miss the
/// nearest by one in the last place, and again at every stage that reads it anew.
pub fn number_of(json: &str) -> Option<f64> {
    // Rust's own reader is exact, but takes `inf` and `+1` too: JSON's grammar goes before it.
    let raw: &RawValue = serde_json::from_str(json.trim()).ok()?;
    raw.get().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Reads a time: RFC 3339 text, or a whole number of microseconds since the Unix epoch.
pub fn time_of(json: &str) -> Result<Timestamp, String> {
    let read = match serde_json::from_str::<i64>(json) {
        Ok(micros) => Some(Timestamp::from_micros(micros)),
        Err(_) => serde_json::from_str::<String>(json).ok().and_then(|text| Timestamp::parse_rfc3339(&text)),
    };
    match read {
        Some(time) if time.is_printable() => Ok(time),
        Some(_) => Err(format!("time: outside the years 1 to 9999: {}", clip(json))),
        None => Err(format!("time: neither RFC 3339 nor whole microseconds: {}", clip(json))),
    }
}

/// A member of an object stands there more than once: which one is meant, nobody can tell.
struct Twice;

/// The member called `name`, if there is one.
fn once<'j>(entries: &[(String, &'j RawValue)], name: &str) -> Result<Option<&'j RawValue>, Twice> {
    let mut found = entries.iter().filter(|(member, _)| member == name).map(|(_, raw)| *raw);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Twice),
        (first, None) => Ok(first),
    }
}

fn measurement(json: &str) -> Result<(Value, Option<String>), String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let mut entries = Vec::new();
    reader.deserialize_map(Entries(&mut entries)).map_err(|e| format!("type: {e}"))?;
    let value = once(&entries, "v").map_err(|Twice| "type: `v` stands twice in the object".to_owned())?;
    let unit = once(&entries, "u").map_err(|Twice| "unit: `u` stands twice in the object".to_owned())?;
    let value = value.map(|raw| scalar(raw.get())).transpose()?;
    let unit = match unit {
        Some(raw) => {
            serde_json::from_str::<Option<String>>(raw.get()).map_err(|_| "unit: `u` is no text".to_owned())?
        }
        None => None,
    };
    if let Some(unit) = &unit
        && (64 < unit.len() || unit.chars().any(char::is_control))
    {
        return Err("unit: longer than 64 bytes, or holds a control character".to_owned());
    }
    value.map(|v| (v, unit)).ok_or_else(|| "type: an object without `v`".to_owned())
}

fn scalar(json: &str) -> Result<Value, String> {
    let json = json.trim();
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: String = serde_json::from_str(json).map_err(|e| format!("type: {e}"))?;
            if TEXT_BYTES_MAX < text.len() {
                return Err(format!("type: a text of {} bytes, {TEXT_BYTES_MAX} are allowed", text.len()));
            }
            Ok(Value::Text(text))
        }
        Some(b't' | b'f') => serde_json::from_str(json).map(Value::Bool).map_err(|e| format!("type: {e}")),
        Some(b'n') => Err("type: null".to_owned()),
        Some(b'[' | b'{') => Err("type: neither number, boolean nor text".to_owned()),
        _ => match number_of(json) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(format!("type: no number that a double can hold: {}", clip(json))),
        },
    }
}

/// The text; where it is none, what stands before the fault, and the fault.
fn utf8(bytes: &[u8]) -> Result<&str, (&str, Unreadable)> {
    std::str::from_utf8(bytes).map_err(|e| {
        let before = std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
        (before, Unreadable::new(format!("payload: not UTF-8 from byte {}", e.valid_up_to())))
    })
}

fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

/// The members of an object in their order, repeats included, values unread; also those before a fault.
struct Entries<'e, 'de>(&'e mut Vec<(String, &'de RawValue)>);

impl<'de> Visitor<'de> for Entries<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some(entry) = map.next_entry()? {
            self.0.push(entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(payload: &str, expected: Expect) {
        expected.assert_eq(&show(object(payload.as_bytes(), &Fields::default())));
    }

    fn show(read: Result<Payload, Unreadable>) -> String {
        let payload = match read {
            Ok(payload) => payload,
            Err(unreadable) => return format!("unreadable: {unreadable}"),
        };
        let mut text = String::new();
        if let Some(time) = payload.time {
            text += &format!("t={time} ");
        }
        if let Some(n) = payload.n {
            text += &format!("n={n} ");
        }
        for fault in payload.faults {
            text += &format!("fault[{fault}] ");
        }
        for m in payload.measured {
            text += &match m.value {
                Ok((value, unit)) => format!("{}={value}{} ", m.metric, unit.unwrap_or_default()),
                Err(fault) => format!("{}![{fault}] ", m.metric),
            };
        }
        text.trim_end().to_owned()
    }

    #[test]
    fn an_object_gives_its_metrics_one_by_one() {
        check(
            r#"{"ts":"2026-11-23T10:00:00Z","n":7,"temperature":{"v":21.5,"u":"Cel"},"door":true,"state":"idle","rpm":3}"#,
            expect![[r#"t=2026-11-23T10:00:00Z n=7 temperature=21.5Cel door=true state="idle" rpm=3"#]],
        );
        check(r#"{"ts":1790000000000000,"a":1}"#, expect!["t=2026-09-21T14:13:20Z a=1"]);
    }

    #[test]
    fn a_value_that_cannot_be_read_costs_only_itself() {
        check(
            r#"{"a":1,"b":null,"c":[1],"d":1e400,"e":{"u":"m"},"f":{"v":{"v":1}},"a":2,"g":-0.5}"#,
            expect![
                "a![name: the metric stands twice] b![type: null] c![type: neither number, boolean nor text] d![type: no number that a double can hold: 1e400] e![type: an object without `v`] f![type: neither number, boolean nor text] g=-0.5"
            ],
        );
        check(
            r#"{"ts":"yesterday","n":1.5,"a":1}"#,
            expect![[
                r#"fault[time: neither RFC 3339 nor whole microseconds: "yesterday"] fault[number: `n` is no whole number: 1.5] a=1"#
            ]],
        );
        check(
            r#"{"ts":9223372036854775807,"a":1}"#,
            expect!["fault[time: outside the years 1 to 9999: 9223372036854775807] a=1"],
        );
    }

    #[test]
    fn a_time_or_number_that_stands_twice_is_believed_in_neither_place() {
        check(
            r#"{"n":1,"n":2,"ts":1790000000000000,"a":1}"#,
            expect!["t=2026-09-21T14:13:20Z fault[number: `n` stands twice in the payload] a=1"],
        );
        check(
            r#"{"ts":1790000000000000,"a":1,"n":7,"ts":1790000000000000,"b":2,"ts":3}"#,
            expect!["n=7 fault[time: `ts` stands twice in the payload] a=1 b=2"],
        );
        check(r#"{"n":"x","n":2,"a":1}"#, expect!["fault[number: `n` stands twice in the payload] a=1"]);
        check(
            r#"{"a":{"v":1,"v":2},"b":{"v":1,"u":"m","u":"s"}}"#,
            expect![["a![type: `v` stands twice in the object] b![unit: `u` stands twice in the object]"]],
        );
    }

    #[test]
    fn a_number_is_read_as_the_nearest_double() {
        for text in ["92.27798059999999", "74.93588199999998", "0.1", "-0", "1e-7", "123456789012345678901", "5e-324"] {
            let wanted: f64 = text.parse().expect("a double");
            assert_eq!(number_of(text).map(f64::to_bits), Some(wanted.to_bits()), "{text}");
        }
        for bad in ["", "1e400", "NaN", "inf", "+1", "01", "1.", "0x1", "null", "1 2"] {
            assert_eq!(number_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_object_of_metrics_is_unreadable_as_a_whole() {
        check("", expect!["unreadable: payload: not a JSON object (EOF while parsing a value at line 1 column 0)"]);
        check("{}", expect!["unreadable: payload: holds no metric"]);
        check(
            r#"{"a":1"#,
            expect!["unreadable: payload: not a JSON object (EOF while parsing an object at line 1 column 6)"],
        );
        check(
            "[1]",
            expect![
                "unreadable: payload: not a JSON object (invalid type: sequence, expected a JSON object at line 1 column 0)"
            ],
        );
        assert!(object(b"{\"a\":\xff}", &Fields::default()).is_err());
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        check(&deep, expect!["a![type: neither number, boolean nor text]"]);
    }

    #[test]
    fn what_stands_before_the_fault_is_known_of_an_unreadable_payload() {
        let t5 = Some(Timestamp::from_micros(5));
        for (payload, time, n) in [
            (&b"{\"ts\":5,\"n\":12,\"a\":{\"v\":1"[..], t5, Some(12)),
            (b"{\"ts\":5,\"n\":12,", t5, Some(12)),
            (b"{\"ts\":5,\"n\":12", t5, None),
            (b"{\"ts\":5,\"n\":\"x\",", t5, None),
            (b"{\"ts\":5,\"n\":12,\"a\":\xff}", t5, Some(12)),
            (b"{\"ts\":5,\"n\":12\xff}", t5, None),
            (b"{\"ts\":5,\"n\":12}", t5, Some(12)),
            (b"{\"ts\":5,\"n\":12,\"a\":1} and more", t5, Some(12)),
            (b"{\"a\":1,\"n\"", None, None),
            (b"[12]", None, None),
        ] {
            let shown = String::from_utf8_lossy(payload);
            let unreadable = object(payload, &Fields::default()).expect_err(&shown);
            assert_eq!((unreadable.time, unreadable.n), (time, n), "{shown}");
        }
    }

    #[test]
    fn a_bare_value_is_named_by_its_topic() {
        assert_eq!(device_of_topic("telemetry/press-3/temperature"), Some(("press-3", Some("temperature"))));
        assert_eq!(device_of_topic("telemetry/press-3"), Some(("press-3", None)));
        for other in ["telemetry", "telemetry/", "telemetry//a", "telemetry/a/", "telemetry/a/b/c", "other/a"] {
            assert_eq!(device_of_topic(other), None, "{other}");
        }
        assert_eq!(show(bare("t", b" 21.5\n")), "t=21.5");
        assert_eq!(
            show(bare("t", b"NaN")),
            "unreadable: payload: not a bare value (expected value at line 1 column 1)"
        );
    }
}
