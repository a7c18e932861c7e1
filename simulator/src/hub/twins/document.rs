//! One twin: sections of JSON that patches change, with versions, and when each value was set. A pure core.
//!
//! Limits are those of "Understand and use device twins in IoT Hub" (Microsoft): 32 KB for desired and reported
//! properties each, 8 KB for tags, ten objects within each other, names of 1 KB without dots, spaces, dollars and control characters,
//! texts of 4 KB, whole numbers of 53 bits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::time::Timestamp;

/// Of desired or reported properties.
pub const SECTION_BYTES_MAX: usize = 32 * 1024;
/// Of tags.
pub const TAGS_BYTES_MAX: usize = 8 * 1024;
/// Objects within each other, below a section; the innermost may still hold values.
const DEPTH_MAX: usize = 10;
const NAME_BYTES_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 4 * 1024;
const WHOLE_MAX: i64 = 4_503_599_627_370_495;
/// Of a twin nobody has written to.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A twin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Twin {
    /// What services say about the device; devices do not see them.
    pub tags: Map<String, Value>,
    /// What services wish.
    pub desired: Section,
    /// What the device says.
    pub reported: Section,
    /// Grows by one with every change.
    pub version: i64,
    /// Another one after each change of tags or desired properties.
    pub etag: String,
}

/// Desired or reported properties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// The properties.
    pub values: Map<String, Value>,
    /// `$metadata`: when each was set.
    pub metadata: Map<String, Value>,
    /// `$version`: grows by one with every change.
    pub version: i64,
}

/// What a service changes. `None` leaves a section as it is; `null` empties it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Of the tags.
    pub tags: Option<Value>,
    /// Of the desired properties.
    pub desired: Option<Value>,
    /// The new whole, rather than what changes.
    pub replace: bool,
}

/// Why a twin stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum TwinFault {
    /// Not what a twin can hold.
    #[error("{0}")]
    Malformed(String),
    /// More than a twin can hold.
    #[error("the {section} would have {bytes} bytes; {bytes_max} are allowed")]
    TooLarge {
        /// `tags`, `desired properties` or `reported properties`.
        section: &'static str,
        /// As the service counts.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Somebody else was faster.
    #[error("the twin has another etag by now")]
    Conflict,
    /// The disk said no.
    #[error("the twin cannot be stored: {0}")]
    Disk(#[from] std::io::Error),
}

impl TwinFault {
    /// As HTTP and the response topic say it.
    pub const fn status(&self) -> u16 {
        match self {
            TwinFault::Malformed(_) => 400,
            TwinFault::Conflict => 412,
            TwinFault::TooLarge { .. } => 413,
            TwinFault::Disk(_) => 500,
        }
    }
}

impl Default for Twin {
    /// That of an identity nobody has written to.
    fn default() -> Self {
        let untouched = |version| {
            let metadata = Map::from_iter([("$lastUpdated".to_owned(), json!(NEVER))]);
            Section { values: Map::new(), metadata, version }
        };
        Self { tags: Map::new(), desired: untouched(1), reported: untouched(1), version: 1, etag: etag(1) }
    }
}

impl Section {
    /// As devices see it: the properties and `$version`.
    pub fn to_json(&self) -> Value {
        let mut values = self.values.clone();
        values.insert("$version".to_owned(), self.version.into());
        Value::Object(values)
    }

    /// As services see it: with `$metadata`.
    pub fn to_json_with_metadata(&self) -> Value {
        let mut values = self.values.clone();
        values.insert("$metadata".to_owned(), Value::Object(self.metadata.clone()));
        values.insert("$version".to_owned(), self.version.into());
        Value::Object(values)
    }
}

impl Twin {
    /// As a device gets it.
    pub fn to_device_json(&self) -> Value {
        json!({ "desired": self.desired.to_json(), "reported": self.reported.to_json() })
    }

    /// Takes a device's patch of its reported properties; gives their new version.
    ///
    /// # Errors
    /// If it is not one, or would make them too large; then nothing has changed.
    pub fn report(&mut self, patch: &Value, now: Timestamp) -> Result<i64, TwinFault> {
        let patch = patch_of(patch, "reported properties")?;
        let mut reported = self.reported.clone();
        reported.version += 1;
        merge(&mut reported.values, &mut reported.metadata, &patch, &Stamp { now: now.to_string(), version: None });
        fits(&reported.values, "reported properties", SECTION_BYTES_MAX)?;
        self.reported = reported;
        self.version += 1;
        Ok(self.reported.version)
    }

    /// Takes a service's change. Gives what is to be told to the device about its desired properties, with their new
    /// `$version`, unless they stay as they are.
    ///
    /// # Errors
    /// If it is not one, comes too late for `if_match`, or would make a section too large; then nothing has changed.
    pub fn change(
        &mut self,
        change: &Change,
        if_match: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Value>, TwinFault> {
        let wanted = if_match.map(|etag| etag.trim().trim_start_matches("W/").trim_matches('"'));
        if wanted.is_some_and(|wanted| wanted != "*" && wanted != self.etag) {
            return Err(TwinFault::Conflict);
        }
        let mut next = self.clone();
        let mut changed = false;
        if let Some(tags) = &change.tags {
            let patch = patch_of(tags, "tags")?;
            if change.replace || tags.is_null() {
                next.tags.clear();
            }
            let stamp = Stamp { now: String::new(), version: None };
            merge(&mut next.tags, &mut Map::new(), &patch, &stamp);
            fits(&next.tags, "tags", TAGS_BYTES_MAX)?;
            changed = true;
        }
        let mut told = None;
        if let Some(desired) = &change.desired {
            let patch = patch_of(desired, "desired properties")?;
            let whole = change.replace || desired.is_null();
            if whole || !patch.is_empty() {
                let section = &mut next.desired;
                let before = if whole { std::mem::take(&mut section.values) } else { Map::new() };
                if whole {
                    section.metadata.clear();
                }
                section.version += 1;
                let stamp = Stamp { now: now.to_string(), version: Some(section.version) };
                merge(&mut section.values, &mut section.metadata, &patch, &stamp);
                fits(&section.values, "desired properties", SECTION_BYTES_MAX)?;
                // Of a replacement the device is told what is there, and that the rest is gone.
                let mut tell = if whole { section.values.clone() } else { patch };
                for gone in before.into_iter().map(|(name, _)| name).filter(|name| !section.values.contains_key(name)) {
                    tell.insert(gone, Value::Null);
                }
                tell.insert("$version".to_owned(), section.version.into());
                told = Some(Value::Object(tell));
                changed = true;
            }
        }
        if changed {
            next.version += 1;
            next.etag = etag(etag_number(&self.etag) + 1);
            *self = next;
        }
        Ok(told)
    }
}

/// The service's etags are numbers in base64.
fn etag(number: u64) -> String {
    STANDARD.encode(number.to_be_bytes())
}

fn etag_number(etag: &str) -> u64 {
    let bytes = STANDARD.decode(etag).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

/// The properties of a patch. `$version` and `$metadata` are what services send back as they got them: left out.
fn patch_of(patch: &Value, section: &'static str) -> Result<Map<String, Value>, TwinFault> {
    let malformed = || TwinFault::Malformed(format!("the {section} must be a JSON object"));
    let patch = match patch {
        Value::Null if section != "reported properties" => return Ok(Map::new()),
        Value::Object(patch) => patch,
        _ => return Err(malformed()),
    };
    let patch: Map<String, Value> = patch
        .iter()
        .filter(|(name, _)| !["$version", "$metadata"].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (name, value) in &patch {
        check_name(name, section)?;
        check(value, section, 1)?;
    }
    Ok(patch)
}

fn check_name(name: &str, section: &str) -> Result<(), TwinFault> {
    let fault = if name.is_empty() {
        "is empty"
    } else if NAME_BYTES_MAX < name.len() {
        "is longer than 1 KB"
    } else if name.chars().any(|char| char.is_control() || ['.', '$', ' '].contains(&char)) {
        "holds a dot, a space, a dollar or a control character"
    } else {
        return Ok(());
    };
    let name: String = name.chars().take(64).collect();
    Err(TwinFault::Malformed(format!("a name in the {section} {fault}: `{}`", name.escape_debug())))
}

/// Goes no deeper than is allowed.
fn check(value: &Value, section: &str, depth: usize) -> Result<(), TwinFault> {
    let malformed = |what: &str| Err(TwinFault::Malformed(format!("the {section} hold {what}")));
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if !(-WHOLE_MAX - 1..=WHOLE_MAX).contains(&whole) => malformed("a number of more than 53 bits"),
            None if number.is_u64() => malformed("a number of more than 53 bits"),
            _ => Ok(()),
        },
        Value::String(text) if TEXT_BYTES_MAX < text.len() => malformed("a text longer than 4 KB"),
        Value::String(_) => Ok(()),
        Value::Array(_) | Value::Object(_) if DEPTH_MAX < depth => malformed("more than ten levels"),
        Value::Array(items) => items.iter().try_for_each(|item| check(item, section, depth + 1)),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            check_name(name, section)?;
            check(value, section, depth + 1)
        }),
    }
}

/// `$metadata` of what a patch sets, as readers of events are told it.
pub(in crate::hub) fn metadata_of(patch: &Map<String, Value>, at: Timestamp, version: Option<i64>) -> Value {
    let mut metadata = Map::new();
    merge(&mut Map::new(), &mut metadata, patch, &Stamp { now: at.to_string(), version });
    Value::Object(metadata)
}

struct Stamp {
    now: String,
    /// Only desired properties have one.
    version: Option<i64>,
}

impl Stamp {
    fn put(&self, metadata: &mut Map<String, Value>) {
        metadata.insert("$lastUpdated".to_owned(), self.now.clone().into());
        if let Some(version) = self.version {
            metadata.insert("$lastUpdatedVersion".to_owned(), version.into());
        }
    }
}

/// Objects merge, `null` takes away, everything else takes the place of what was there. Never deeper than a checked
/// patch is.
fn merge(
    values: &mut Map<String, Value>,
    metadata: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    stamp: &Stamp,
) {
    stamp.put(metadata);
    for (name, new) in patch {
        match new {
            Value::Null => {
                values.remove(name);
                metadata.remove(name);
            }
            Value::Object(patch) => {
                let value = object(values, name);
                // What took the place of a text or a number has no history.
                let known = object(metadata, name);
                merge(value, known, patch, stamp);
            }
            other => {
                values.insert(name.clone(), other.clone());
                let mut known = Map::new();
                stamp.put(&mut known);
                metadata.insert(name.clone(), Value::Object(known));
            }
        }
    }
}

/// The object of this name, made in place of whatever else there is.
fn object<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made one")
}

fn fits(values: &Map<String, Value>, section: &'static str, bytes_max: usize) -> Result<(), TwinFault> {
    let bytes = bytes_of_map(values);
    if bytes_max < bytes {
        return Err(TwinFault::TooLarge { section, bytes, bytes_max });
    }
    Ok(())
}

/// As the service counts: texts without control characters, 8 bytes for a number, 4 for a truth value.
fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => bytes_of_text(text),
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(fields) => bytes_of_map(fields),
    }
}

fn bytes_of_map(values: &Map<String, Value>) -> usize {
    values.iter().map(|(name, value)| bytes_of_text(name) + bytes_of(value)).sum()
}

fn bytes_of_text(text: &str) -> usize {
    text.chars().filter(|char| !char.is_control()).map(char::len_utf8).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn desired(desired: Value) -> Change {
        Change { desired: Some(desired), ..Change::default() }
    }

    #[test]
    fn a_patch_merges_and_null_takes_away() {
        for (before, patch, after) in [
            (json!({}), json!({"a": 1, "b": {"c": "x"}}), json!({"a": 1, "b": {"c": "x"}})),
            (json!({"a": 1, "b": {"c": 1, "d": 2}}), json!({"b": {"c": null}}), json!({"a": 1, "b": {"d": 2}})),
            (json!({"a": {"b": 1}}), json!({"a": 5}), json!({"a": 5})),
            (json!({"a": 5}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"a": 1}), json!({"a": null, "x": null, "$version": 9, "$metadata": {}}), json!({})),
        ] {
            let mut twin = Twin::default();
            twin.report(&before, NOW).expect("taken");
            assert_eq!(twin.report(&patch, NOW).expect("taken"), 3, "{patch}");
            assert_eq!(Value::Object(twin.reported.values), after, "{before} {patch}");
        }
    }

    #[test]
    fn every_change_counts_once_and_the_device_is_told_what_services_wish() {
        let mut twin = Twin::default();
        assert_eq!((twin.version, twin.etag.as_str()), (1, "AAAAAAAAAAE="));
        let told = twin.change(&desired(json!({"a": {"b": 1, "c": 2}})), None, NOW).expect("taken");
        assert_eq!(told, Some(json!({"a": {"b": 1, "c": 2}, "$version": 2})));
        let tags = Change { tags: Some(json!({"site": "x"})), ..Change::default() };
        assert_eq!(twin.change(&tags, None, NOW).expect("taken"), None);
        assert_eq!(twin.change(&desired(json!({})), None, NOW).expect("nothing to do"), None);
        let told = twin.change(&desired(json!({"a": {"b": null}})), None, NOW).expect("taken");
        assert_eq!(told, Some(json!({"a": {"b": null}, "$version": 3})));
        let whole = Change { replace: true, ..desired(json!({"d": 1})) };
        assert_eq!(twin.change(&whole, None, NOW).expect("taken"), Some(json!({"a": null, "d": 1, "$version": 4})));
        assert_eq!((twin.version, twin.desired.version, twin.reported.version), (5, 4, 1));
        assert_eq!(twin.tags, *json!({"site": "x"}).as_object().expect("an object"));
        assert_eq!(
            twin.desired.to_json_with_metadata(),
            json!({"d": 1, "$version": 4, "$metadata": {
                "$lastUpdated": "1970-01-01T00:00:01Z", "$lastUpdatedVersion": 4,
                "d": {"$lastUpdated": "1970-01-01T00:00:01Z", "$lastUpdatedVersion": 4},
            }})
        );
    }

    #[test]
    fn a_change_for_another_etag_is_refused() {
        let mut twin = Twin::default();
        let old = twin.etag.clone();
        twin.change(&desired(json!({"a": 1})), Some("*"), NOW).expect("any");
        twin.report(&json!({"x": 1}), NOW).expect("no matter for etags");
        twin.change(&desired(json!({"a": 2})), Some(&format!("\"{}\"", twin.etag.clone())), NOW).expect("the same");
        let late = twin.change(&desired(json!({"a": 3})), Some(&old), NOW);
        assert!(matches!(&late, Err(fault @ TwinFault::Conflict) if fault.status() == 412), "{late:?}");
        assert_eq!(twin.desired.values["a"], 2);
    }

    #[test]
    fn what_a_twin_cannot_hold_is_refused_and_leaves_it_as_it_was() {
        let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        for (patch, status) in [
            (json!(1), 400),
            (json!([]), 400),
            (json!(null), 400),
            (json!({"a.b": 1}), 400),
            (json!({"a b": 1}), 400),
            (json!({"a": {"$b": 1}}), 400),
            (json!({"": 1}), 400),
            (json!({"a\u{7}": 1}), 400),
            (json!({"a": u64::MAX}), 400),
            (json!({"a": 4_503_599_627_370_496i64}), 400),
            (json!({"a": "x".repeat(4097)}), 400),
            (json!({"x".repeat(1025): 1}), 400),
            (deep(12), 400),
            (deep(120), 400),
            (json!({"a": vec!["x".repeat(3300); 10]}), 413),
        ] {
            let mut twin = Twin::default();
            let refused = twin.report(&patch, NOW).expect_err("refused").status();
            assert_eq!((refused, &twin), (status, &Twin::default()), "{patch}");
        }
        let mut twin = Twin::default();
        // The example of Microsoft's page: a value within ten objects.
        twin.report(&deep(11), NOW).expect("ten levels");
        twin.report(&json!({"b": vec!["x".repeat(3200); 10]}), NOW).expect("32 KB");
        let more = twin.report(&json!({"c": vec!["x".repeat(1000); 1]}), NOW);
        assert!(matches!(more, Err(TwinFault::TooLarge { .. })), "patch upon patch");
        let tags = Change { tags: Some(json!({"a": vec!["x".repeat(3000); 3]})), ..Change::default() };
        assert_eq!(twin.change(&tags, None, NOW).expect_err("8 KB").status(), 413);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from)];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::btree_map("[a-d$. ]{0,2}", inner.clone(), 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
                proptest::collection::vec(inner, 0..3).prop_map(Value::Array),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_and_metadata_have_the_same_names_whatever_is_patched(patches in proptest::collection::vec(value(), 0..5)) {
            fn same(values: &Map<String, Value>, metadata: &Map<String, Value>) -> bool {
                let names = metadata.keys().filter(|name| !name.starts_with('$'));
                names.count() == values.len()
                    && values.iter().all(|(name, value)| match (value, metadata.get(name)) {
                        (Value::Object(value), Some(Value::Object(metadata))) => same(value, metadata),
                        (_, Some(Value::Object(_))) => true,
                        _ => false,
                    })
            }
            let mut twin = Twin::default();
            for patch in patches {
                let before = twin.clone();
                match twin.change(&Change { desired: Some(patch), ..Change::default() }, None, NOW) {
                    Ok(told) => prop_assert_eq!(twin.desired.version, before.desired.version + i64::from(told.is_some())),
                    Err(_) => prop_assert_eq!(&twin, &before),
                }
                prop_assert!(same(&twin.desired.values, &twin.desired.metadata), "{:?}", twin);
            }
        }
    }
}
