//! Where the parts of a direct device's message stand: which of its members are device, time, number and metrics.
//!
//! A pointer is RFC 6901's: `/climate/temperature`, with `~1` for a slash and `~0` for a tilde in a name. It is looked
//! for in the message first, and where the message is one of several in a body, in the body around it next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::payload::{Fields, members_of};
use shared::rules::glob;

/// How messages of some direct devices are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Mapping {
    /// Devices it fits, by the name the hub authenticated; `*` stands for any run of characters.
    pub device: String,
    /// Message properties that must be there, and what their values must look like.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Values that must be in the message, by pointer, and what their text must look like.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub content: BTreeMap<String, String>,
    /// What message ids of such devices are worth. Goes by the device alone.
    pub message_id: MessageId,
    /// Array of messages in the body; empty: the body is one message, or an array of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub messages: String,
    /// Whom the message is about; empty: whom the hub authenticated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_name: String,
    /// Event time; empty: none.
    pub time: String,
    /// What a time that is a number counts.
    pub time_unit: TimeUnit,
    /// The device's own number; empty: none.
    pub n: String,
    /// Object whose members are metrics; empty: the message itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metrics: String,
    /// Members that are no metrics, kept in `_rescued`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Name of the one metric of a message; with `value`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metric: String,
    /// Value of the one metric of a message; with `metric`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Unit of the one metric of a message.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Units of metrics that come without one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, String>,
}

/// What a time that is a number counts, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Microseconds.
    #[default]
    #[serde(rename = "us")]
    Micros,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Millis,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
}

impl TimeUnit {
    /// Microseconds in one.
    #[must_use]
    pub const fn micros(self) -> i64 {
        match self {
            Self::Micros => 1,
            Self::Millis => 1_000,
            Self::Seconds => 1_000_000,
        }
    }
}

/// What message ids are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MessageId {
    /// Nothing: a message that comes twice is there twice.
    #[default]
    Any,
    /// A message that comes again with the same id and bytes is a duplicate.
    Unique,
}

impl Default for Mapping {
    fn default() -> Self {
        let fields = Fields::default();
        Self {
            device: String::new(),
            properties: BTreeMap::new(),
            content: BTreeMap::new(),
            message_id: MessageId::default(),
            messages: String::new(),
            device_name: String::new(),
            time: format!("/{}", fields.time),
            time_unit: TimeUnit::default(),
            n: format!("/{}", fields.n),
            metrics: String::new(),
            ignore: vec![],
            metric: String::new(),
            value: String::new(),
            unit: String::new(),
            units: BTreeMap::new(),
        }
    }
}

/// The members of an object, as they were written.
pub type Members<'a> = Vec<(String, &'a RawValue)>;

impl Mapping {
    /// Whether it reads messages as they are read without any mapping.
    #[must_use]
    pub fn reads_as_none(&self) -> bool {
        let none = Self { device: self.device.clone(), message_id: self.message_id, ..Self::default() };
        *self == none
    }

    /// Whether a message of `device` is to be read so.
    pub fn fits<'p>(&self, device: &str, property: impl Fn(&str) -> Option<&'p str>, members: &Members<'_>) -> bool {
        let looks = |pattern: &str, raw: &RawValue| match text(raw) {
            Some(text) => glob(pattern, &text),
            None => glob(pattern, raw.get()),
        };
        glob(&self.device, device)
            && self.properties.iter().all(|(name, pattern)| property(name).is_some_and(|value| glob(pattern, value)))
            && self
                .content
                .iter()
                .all(|(pointer, pattern)| find(members, pointer).is_some_and(|raw| looks(pattern, raw)))
    }

    /// What is wrong with it, each as the key it stands under and what to write.
    #[must_use]
    pub fn faults(&self) -> Vec<(String, String)> {
        let mut faults = vec![];
        if self.device.is_empty() {
            faults.push(("device".to_owned(), "must not be empty, write e.g. \"press-*\"".to_owned()));
        }
        let named = [
            ("messages", &self.messages),
            ("device-name", &self.device_name),
            ("time", &self.time),
            ("n", &self.n),
            ("metrics", &self.metrics),
            ("metric", &self.metric),
            ("value", &self.value),
            ("unit", &self.unit),
        ];
        let lists = self.ignore.iter().map(|pointer| ("ignore", pointer));
        let contents = self.content.keys().map(|pointer| ("content", pointer));
        for (key, pointer) in named.into_iter().filter(|(_, pointer)| !pointer.is_empty()).chain(lists).chain(contents)
        {
            if !pointer.starts_with('/') {
                faults.push((key.to_owned(), format!("{pointer:?} is no JSON pointer; write \"/{pointer}\"")));
            }
        }
        if self.metric.is_empty() != self.value.is_empty() {
            let (there, missing) = if self.metric.is_empty() { ("value", "metric") } else { ("metric", "value") };
            faults.push((there.to_owned(), format!("needs `{missing}` beside it; write {missing} = \"/{missing}\"")));
        }
        if !self.metric.is_empty() && !self.metrics.is_empty() {
            faults.push((
                "metrics".to_owned(),
                "is not for messages of one `metric`; leave one of the two out".to_owned(),
            ));
        }
        if !self.unit.is_empty() && self.metric.is_empty() {
            faults.push((
                "unit".to_owned(),
                "is for messages of one `metric`; write units = { temperature = \"Cel\" }".to_owned(),
            ));
        }
        faults
    }
}

/// The names a pointer goes through.
fn names(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|name| name.replace("~1", "/").replace("~0", "~"))
}

/// What stands at `pointer`; of a name that stands there twice, the first.
#[must_use]
pub fn find<'a>(members: &Members<'a>, pointer: &str) -> Option<&'a RawValue> {
    let mut names = names(pointer);
    let first = names.next()?;
    let mut found = members.iter().find(|(name, _)| *name == first)?.1;
    for name in names {
        found = match found.get().as_bytes().first()? {
            b'{' => members_of(found.get().as_bytes()).ok()?.into_iter().find(|(member, _)| *member == name)?.1,
            b'[' => *serde_json::from_str::<Vec<&RawValue>>(found.get()).ok()?.get(name.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(found)
}

/// How a member of the object at `base` stands to a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meets {
    /// The pointer ends there.
    Ends,
    /// The pointer goes on within it.
    GoesOn,
    /// It has nothing to do with it.
    Not,
}

/// How the member `name` of the object at `base` stands to `pointer`.
#[must_use]
pub fn meets(pointer: &str, base: &str, name: &str) -> Meets {
    let Some(rest) = pointer.strip_prefix(base).filter(|rest| rest.starts_with('/')) else {
        return Meets::Not;
    };
    let mut names = names(rest);
    match (names.next(), names.next()) {
        (Some(first), None) if first == name => Meets::Ends,
        (Some(first), Some(_)) if first == name => Meets::GoesOn,
        _ => Meets::Not,
    }
}

/// The text a value is, if it is one.
#[must_use]
pub fn text(raw: &RawValue) -> Option<String> {
    raw.get().starts_with('"').then(|| serde_json::from_str(raw.get()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_finds_what_it_names_and_nothing_else() {
        let body = br#"{"a":{"b/c":[10,{"~":1.50}]},"d":"x","d":"y"}"#;
        let members = members_of(body).expect("an object");
        for (pointer, found) in [
            ("/a/b~1c/0", Some("10")),
            ("/a/b~1c/1/~0", Some("1.50")),
            ("/d", Some("\"x\"")),
            ("/d/e", None),
            ("/a/b~1c/9", None),
            ("/nope", None),
            ("", None),
        ] {
            assert_eq!(find(&members, pointer).map(RawValue::get), found, "{pointer}");
        }
    }

    #[test]
    fn a_member_meets_a_pointer_that_ends_or_goes_on_there() {
        for (pointer, base, name, expected) in [
            ("/a", "", "a", Meets::Ends),
            ("/a/b", "", "a", Meets::GoesOn),
            ("/a/b", "/a", "b", Meets::Ends),
            ("/ab", "/a", "b", Meets::Not),
            ("/a", "", "b", Meets::Not),
            ("", "", "a", Meets::Not),
        ] {
            assert_eq!(meets(pointer, base, name), expected, "{pointer} {base} {name}");
        }
    }
}
