//! A panic that is none: when the upload of a file fails, Delta's writer asks for it to be given up, which panics by design
//! once the last bytes were on their way, and catches that. The failure itself is told by whoever wrote.

use std::panic::{PanicHookInfo, set_hook, take_hook};
use std::sync::Once;

/// The file, in whichever folder and version, and the words.
const PLACE: (&str, &str) = ("object_store-", "buffered.rs");
const WORDS: &str = "Already shut down";

/// From now on it is not told any more; every other panic is told as before.
pub fn hush_what_is_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let file = info.location().map_or("", |place| place.file());
            match is_caught(file, info.payload_as_str()) {
                true => tracing::debug!("an upload that failed is not given up; the storage does that itself"),
                false => earlier(info),
            }
        }));
    });
}

fn is_caught(file: &str, words: Option<&str>) -> bool {
    words == Some(WORDS) && file.contains(PLACE.0) && file.ends_with(PLACE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_caught_is_hushed() {
        let file = "/home/me/.cargo/registry/src/index/object_store-0.13.2/src/buffered.rs";
        for (file, words, hushed) in [
            (file, Some(WORDS), true),
            (file, Some("index out of bounds"), false),
            (file, None, false),
            ("cloud-ingester/src/lake/store.rs", Some(WORDS), false),
        ] {
            assert_eq!(is_caught(file, words), hushed, "{file}: {words:?}");
        }
    }
}
