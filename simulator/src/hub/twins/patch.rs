//! [p] What a patch may hold, and what becomes of a section that takes one.
//!
//! Limits are those of "Understand and use device twins in IoT Hub" (Microsoft): 32 KB for desired and reported
//! properties each, 8 KB for tags, ten objects within each other, names of 1 KB without dots, spaces, dollars and control characters,
//! texts of 4 KB, whole numbers of 53 bits.

use serde_json::{Map, Value};
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

/// The properties of a patch. `$version` and `$metadata` are what services send back as they got them: left out.
pub(super) fn patch_of(patch: &Value, section: &'static str) -> Result<Map<String, Value>, TwinFault> {
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

/// When something is set.
pub(super) struct Stamp {
    pub(super) now: String,
    /// Only desired properties have one.
    pub(super) version: Option<i64>,
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
pub(super) fn merge(
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

pub(super) fn fits(values: &Map<String, Value>, section: &'static str, bytes_max: usize) -> Result<(), TwinFault> {
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
