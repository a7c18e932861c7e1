//! [p] A part of many: how many are given at once, and where the next part begins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::errors::Fault;

/// Items of one page, if the request does not say.
const ITEMS_DEFAULT: usize = 100;
/// More are not given at once.
const ITEMS_MAX: usize = 1_000;
/// Bytes of a continuation token. It holds a device's and a module's id at most.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Which part is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// Items of it.
    pub(super) max: usize,
    /// The key of the last item of the part before; keys are in order.
    pub(super) after: Option<(String, String)>,
    /// Items of all parts before.
    pub(super) given: usize,
    /// Tells what the parts are of.
    of: String,
}

#[derive(Serialize, Deserialize)]
struct Token {
    of: String,
    after: (String, String),
    given: usize,
}

impl Page {
    /// Reads `x-ms-max-item-count` and `x-ms-continuation`; a continuation is good for the same question only.
    pub(super) fn read(max: Option<&str>, continuation: Option<&str>, question: &str) -> Result<Self, Fault> {
        let max = match max.map(str::trim).filter(|max| !max.is_empty()) {
            None => ITEMS_DEFAULT,
            Some(max) => {
                let max = max.parse::<usize>().ok().filter(|max| 0 < *max);
                max.ok_or_else(|| Fault::argument("x-ms-max-item-count must be a number from 1 on"))?.min(ITEMS_MAX)
            }
        };
        let of = URL_SAFE_NO_PAD.encode(&digest(&SHA256, question.as_bytes()).as_ref()[..9]);
        let Some(text) = continuation.map(str::trim).filter(|text| !text.is_empty()) else {
            return Ok(Self { max, after: None, given: 0, of });
        };
        let token = Some(text).filter(|text| text.len() <= TOKEN_BYTES_MAX);
        let token = token.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let token = token.and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
        match token.filter(|token| token.of == of) {
            Some(token) => Ok(Self { max, after: Some(token.after), given: token.given, of }),
            None => Err(Fault::argument("x-ms-continuation is not one that was given for this")),
        }
    }

    /// True if this key is of an item that was not given yet.
    pub(super) fn is_new(&self, key: (&str, &str)) -> bool {
        self.after.as_ref().is_none_or(|(first, second)| (first.as_str(), second.as_str()) < key)
    }

    /// What the next part is asked for by, if the last item of this one has this key.
    pub(super) fn next(&self, last: (String, String), given: usize) -> String {
        let token = Token { of: self.of.clone(), after: last, given: self.given + given };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended_for_the_same_question_only() {
        let first = Page::read(Some("5000"), None, "q").expect("read");
        assert_eq!((first.max, first.is_new(("", ""))), (ITEMS_MAX, true));
        let next = first.next(("d".to_owned(), "m".to_owned()), 7);
        let second = Page::read(None, Some(&next), "q").expect("read");
        assert_eq!((second.max, second.given), (ITEMS_DEFAULT, 7));
        assert!(!second.is_new(("d", "")) && !second.is_new(("d", "m")));
        assert!(second.is_new(("d", "n")) && second.is_new(("e", "")));
        Page::read(None, Some(&next), "another").expect_err("another question");
        for bad in ["0", "-1", "x", "1.5"] {
            Page::read(Some(bad), None, "q").expect_err(bad);
        }
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(text in "[A-Za-z0-9_=+/-]{0,80}", any in ".{0,40}") {
            let _ = Page::read(Some(&any), Some(&text), "q");
            let _ = Page::read(None, Some(&any), "q");
        }
    }
}
