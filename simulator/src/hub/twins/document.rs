//! One twin: sections of JSON that patches change, with versions, and when each value was set. A pure core.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::time::Timestamp;

use super::patch::{SECTION_BYTES_MAX, Stamp, TAGS_BYTES_MAX, TwinFault, fits, merge, patch_of};

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

#[cfg(test)]
mod tests;
