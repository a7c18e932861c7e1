//! Documents of a twin: read within bounds, merged, compared (RFC 7396).

use serde_json::{Map, Value as Json};

/// A section of a twin: names and values. `null` stands for "not there".
pub type Section = Map<String, Json>;

/// IoT Hub's limit of desired and of reported properties, each.
pub const SECTION_BYTES_MAX: usize = 32 * 1024;
/// The hub allows ten levels.
const DEPTH_MAX: usize = 16;

/// Why a document is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Larger than the hub's own limit.
    #[error("it has {0} bytes")]
    TooLarge(usize),
    /// No JSON, or no object.
    #[error("it is no JSON object")]
    NoObject,
    /// Nested too deep.
    #[error("it is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
}

/// Reads an object of at most `bytes_max`.
///
/// # Errors
/// It is larger, deeper, or none.
pub fn read(bytes: &[u8], bytes_max: usize) -> Result<Section, Unreadable> {
    if bytes_max < bytes.len() {
        return Err(Unreadable::TooLarge(bytes.len()));
    }
    // serde_json itself stops at 128 levels: no text overflows the stack.
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(section)) if section.values().all(|value| depth(value) < DEPTH_MAX) => Ok(section),
        Ok(Json::Object(_)) => Err(Unreadable::TooDeep),
        _ => Err(Unreadable::NoObject),
    }
}

/// Levels below a value.
pub fn depth(value: &Json) -> usize {
    match value {
        Json::Object(inner) => 1 + inner.values().map(depth).max().unwrap_or(0),
        Json::Array(inner) => 1 + inner.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Merges a patch into a section.
pub fn merge(section: &mut Section, patch: &Section) {
    for (name, change) in patch {
        match (section.get_mut(name), change) {
            (_, Json::Null) => drop(section.remove(name)),
            (Some(Json::Object(inner)), Json::Object(change)) => merge(inner, change),
            (_, Json::Object(change)) => {
                let mut inner = Section::new();
                merge(&mut inner, change);
                section.insert(name.clone(), Json::Object(inner));
            }
            _ => drop(section.insert(name.clone(), change.clone())),
        }
    }
}

/// The smallest patch after which `had` agrees with `wanted` on every name that `wanted` has.
pub fn difference(had: &Section, wanted: &Section) -> Section {
    let mut patch = Section::new();
    for (name, want) in wanted {
        match (had.get(name), want) {
            (None, Json::Null) => {}
            (Some(_), Json::Null) => drop(patch.insert(name.clone(), Json::Null)),
            (Some(Json::Object(had)), Json::Object(want)) => {
                let mut inner = difference(had, want);
                // What is there and not wanted goes.
                let gone = had.keys().filter(|name| !want.contains_key(*name));
                inner.extend(gone.map(|name| (name.clone(), Json::Null)));
                if !inner.is_empty() {
                    patch.insert(name.clone(), Json::Object(inner));
                }
            }
            (Some(had), want) if had == want => {}
            (_, want) => drop(patch.insert(name.clone(), want.clone())),
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn section(value: Json) -> Section {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn documents_are_bounded() {
        let nested = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(nested(15).as_bytes(), 1_000).is_ok());
        assert_eq!(read(nested(16).as_bytes(), 1_000), Err(Unreadable::TooDeep));
        assert_eq!(read(nested(20_000).as_bytes(), 100_000), Err(Unreadable::NoObject));
        assert_eq!(read(b"{}", 1), Err(Unreadable::TooLarge(2)));
        for text in ["", "1", "[]", "null", "{\"a\":", "\u{0}"] {
            assert_eq!(read(text.as_bytes(), 100), Err(Unreadable::NoObject), "{text}");
        }
    }

    #[test]
    fn a_patch_merges_and_null_removes() {
        let mut had = section(json!({ "a": { "b": 1, "c": 2 }, "d": 3, "e": [1] }));
        merge(
            &mut had,
            &section(json!({ "a": { "b": null, "x": { "y": null, "z": 1 } }, "d": null, "e": { "f": 1 } })),
        );
        assert_eq!(Json::Object(had), json!({ "a": { "c": 2, "x": { "z": 1 } }, "e": { "f": 1 } }));
    }

    fn value() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![Just(Json::Null), any::<bool>().prop_map(Json::from), (0..3).prop_map(Json::from)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
                proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn any_section() -> impl Strategy<Value = Section> {
        proptest::collection::btree_map("[a-c]", value(), 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn after_the_difference_is_merged_there_is_none(before in any_section(), wanted in any_section()) {
            // A twin holds no nulls.
            let mut had = Section::new();
            merge(&mut had, &before);
            let patch = difference(&had, &wanted);
            merge(&mut had, &patch);
            prop_assert_eq!(difference(&had, &wanted), Section::new());
            for (name, want) in &wanted {
                prop_assert_eq!(had.contains_key(name), !want.is_null());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), like in "[\\[{\"a:,1}\\]n]{0,40}") {
            let _ = read(&bytes, 50);
            let _ = read(like.as_bytes(), 50);
        }
    }
}
