//! An object -> the members this code knows, and the text of all others exactly as they were written.
//!
//! Nothing is turned into a number or a text on the way: what is not known is kept to the last byte of its value, a
//! number with all its digits, a name that stands twice in both places.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use shared::payload;

/// What stands in an object.
#[derive(Debug)]
pub struct Split<'a, const N: usize> {
    /// The members asked for, in the order asked for.
    pub known: [Option<&'a RawValue>; N],
    /// Those of them that stand there more than once; of such a one the first is in `known`.
    pub twice: Vec<&'static str>,
    /// All others: `"name":value,"name":value`; empty if there are none.
    pub rest: String,
}

/// Takes the members `names` out of an object.
///
/// # Errors
/// It is no JSON object.
pub fn split<'a, const N: usize>(json: &'a str, names: &'static [&'static str; N]) -> Result<Split<'a, N>, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let split = Split { known: [None; N], twice: vec![], rest: String::new() };
    let split = reader.deserialize_map(Taker { names, split }).map_err(|error| error.to_string())?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(split)
}

/// Adds a member to a text of members.
pub fn keep(rest: &mut String, name: &str, value: &str) {
    if !rest.is_empty() {
        rest.push(',');
    }
    rest.push_str(&serde_json::to_string(name).expect("a text is JSON"));
    rest.push(':');
    rest.push_str(value);
}

/// The object of a text of members; `None` if there are none.
#[must_use]
pub fn object(rest: &str) -> Option<String> {
    (!rest.is_empty()).then(|| format!("{{{rest}}}"))
}

struct Taker<'a, const N: usize> {
    names: &'static [&'static str; N],
    split: Split<'a, N>,
}

impl<'a, const N: usize> Visitor<'a> for Taker<'a, N> {
    type Value = Split<'a, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        while let Some((Name(name), value)) = map.next_entry::<Name<'a>, &'a RawValue>()? {
            match self.names.iter().position(|known| *known == name) {
                Some(at) if self.split.known[at].is_none() => self.split.known[at] = Some(value),
                found => {
                    if let Some(at) = found {
                        self.split.twice.push(self.names[at]);
                    }
                    keep(&mut self.split.rest, &name, value.get());
                }
            }
        }
        Ok(self.split)
    }
}

/// A member's name, borrowed where it holds no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for Name<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'a> Visitor<'a> for Text {
            type Value = Name<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Text)
    }
}

/// Reads members one by one and collects what speaks against each; `null` is as good as absent.
#[derive(Debug, Default)]
pub struct Reader {
    /// Why not, each as `kind: detail`.
    pub reasons: Vec<String>,
}

impl Reader {
    /// A member that may be absent.
    pub fn maybe<'a, T>(
        &mut self,
        name: &str,
        raw: Option<&'a RawValue>,
        wanted: &str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Option<T> {
        let raw = raw.filter(|raw| raw.get() != "null")?;
        let read = read(raw.get());
        if read.is_none() {
            self.reasons.push(format!("type: `{name}` is no {wanted}: {}", clip(raw.get())));
        }
        read
    }

    /// A member that has to be there.
    pub fn must<'a, T>(
        &mut self,
        name: &str,
        raw: Option<&'a RawValue>,
        wanted: &str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Option<T> {
        if raw.is_none_or(|raw| raw.get() == "null") {
            self.reasons.push(format!("type: there is no `{name}`"));
            return None;
        }
        self.maybe(name, raw, wanted, read)
    }
}

/// A text, copied only where it holds escapes.
#[must_use]
pub fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// A whole number of 64 bits.
#[must_use]
pub fn whole(json: &str) -> Option<i64> {
    json.parse().ok()
}

/// A number, as the double nearest to it.
#[must_use]
pub fn number(json: &str) -> Option<f64> {
    payload::number_of(json)
}

/// `true` or `false`.
#[must_use]
pub fn truth(json: &str) -> Option<bool> {
    json.parse().ok()
}

/// The first characters of what may be long.
#[must_use]
pub fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(60).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_kept_to_the_last_digit() {
        let json = r#"{ "a" : 1, "z":1.50e+2, "b":"x", "y":{"k": [1,  2]}, "z":123456789012345678901234567890,"a":2,"\u0041":0}"#;
        let split = split(json, &["b", "a", "c"]).expect("an object");
        assert_eq!(split.known.map(|raw| raw.map(RawValue::get)), [Some("\"x\""), Some("1"), None]);
        assert_eq!(split.twice, ["a"]);
        assert_eq!(split.rest, r#""z":1.50e+2,"y":{"k": [1,  2]},"z":123456789012345678901234567890,"a":2,"A":0"#);
    }

    #[test]
    fn only_an_object_is_taken_apart() {
        for json in ["", "[]", "1", "{\"a\":1", "{} x", "{\"a\"}"] {
            assert!(split(json, &["a"]).is_err(), "{json}");
        }
    }
}
