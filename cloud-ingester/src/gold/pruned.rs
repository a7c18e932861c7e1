//! Which files can hold rows of the keys that are computed again, by the log's statistics: a late row of one device costs
//! the files of that device, once the rows of its day were sorted. Pure.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use serde_json::Value;

use super::keys::parts;
use crate::lake::Add;

/// Columns of keys that are sorted by, and of which the log tells the ends.
const COLUMNS: [&str; 3] = ["gateway_id", "device_id", "metric"];

/// What the keys say of the columns that files tell of.
#[derive(Debug)]
pub struct Wanted {
    columns: Vec<(&'static str, Values)>,
}

#[derive(Debug, Default)]
struct Values {
    texts: BTreeSet<String>,
    null: bool,
}

impl Wanted {
    /// What these keys, made of `columns`, say. `None`: all keys are wanted.
    #[must_use]
    pub fn of(columns: &[String], keys: Option<HashSet<&[u8]>>) -> Self {
        let Some(keys) = keys else { return Self { columns: vec![] } };
        let known = COLUMNS.into_iter().filter_map(|name| Some((name, columns.iter().position(|it| it == name)?)));
        let mut wanted: Vec<(&str, usize, Values)> = known.map(|(name, at)| (name, at, Values::default())).collect();
        for key in keys {
            let parts: Vec<Option<&str>> = parts(key).collect();
            for (_, at, values) in &mut wanted {
                match parts.get(*at).copied().flatten() {
                    Some(text) if values.texts.contains(text) => {}
                    Some(text) => {
                        values.texts.insert(text.to_owned());
                    }
                    None => values.null = true,
                }
            }
        }
        Self { columns: wanted.into_iter().map(|(name, _, values)| (name, values)).collect() }
    }

    /// Whether a file may hold rows of these keys.
    #[must_use]
    pub fn may_be_in(&self, add: &Add) -> bool {
        if self.columns.is_empty() {
            return true;
        }
        let stats = add.stats.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default();
        self.columns.iter().all(|(name, values)| {
            let end = |side: &str| stats.get(side)?.get(*name)?.as_str();
            let (Some(min), Some(max)) = (end("minValues"), end("maxValues")) else { return true };
            let nulls = stats.get("nullCount").and_then(|counts| counts.get(*name)?.as_i64()) != Some(0);
            // Writers may cut long texts: what begins with the greatest one may be there.
            let from = values.texts.range::<str, _>((Bound::Included(min), Bound::Unbounded)).next();
            let within = from.is_some_and(|text| text.as_str() <= max)
                || values
                    .texts
                    .range::<str, _>((Bound::Excluded(max), Bound::Unbounded))
                    .next()
                    .is_some_and(|text| text.starts_with(max));
            within || (values.null && nulls)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(parts: &[Option<&str>]) -> Vec<u8> {
        let mut key = vec![];
        for part in parts {
            match part {
                None => key.extend(u32::MAX.to_le_bytes()),
                Some(text) => {
                    key.extend(u32::try_from(text.len()).expect("short").to_le_bytes());
                    key.extend(text.as_bytes());
                }
            }
        }
        key
    }

    #[test]
    fn a_file_is_read_only_where_a_wanted_key_lies_between_its_ends() {
        let columns = ["gateway_id", "device_id", "unit"].map(str::to_owned);
        let file = |min: &str, max: &str, nulls: i64| {
            Add {
            stats: Some(json!({
                "minValues": { "gateway_id": "g", "device_id": min }, "maxValues": { "gateway_id": "g", "device_id": max },
                "nullCount": { "device_id": nulls },
            })
            .to_string()),
            ..Add::default()
        }
        };
        for (keys, add, expected) in [
            (vec![[Some("g"), Some("d5"), None]], file("d1", "d9", 0), true),
            (vec![[Some("g"), Some("d5"), None]], file("d1", "d4", 0), false),
            (vec![[Some("g"), Some("d5"), None]], file("d6", "d9", 0), false),
            (vec![[Some("g"), Some("d1"), None], [Some("g"), Some("d9"), None]], file("d2", "d8", 0), false),
            (vec![[Some("g"), Some("d1"), None], [Some("g"), Some("d9"), None]], file("d9", "d9", 0), true),
            (vec![[Some("h"), Some("d5"), None]], file("d1", "d9", 0), false),
            (vec![[Some("g"), None, None]], file("d1", "d9", 0), false),
            (vec![[Some("g"), None, None]], file("d1", "d9", 2), true),
            (vec![[Some("g"), Some("d55"), None]], file("d1", "d5", 0), true),
            (vec![[Some("g"), Some("d5"), None]], Add::default(), true),
        ] {
            let keys: Vec<Vec<u8>> = keys.iter().map(|parts| key(parts)).collect();
            let wanted = Wanted::of(&columns, Some(keys.iter().map(Vec::as_slice).collect()));
            assert_eq!(wanted.may_be_in(&add), expected, "{wanted:?} in {add:?}");
        }
        assert!(Wanted::of(&columns, None).may_be_in(&file("x", "y", 0)));
    }
}
