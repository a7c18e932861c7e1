//! The last warnings and errors, for whoever comes to look after they were said.
//!
//! Where there are more than are kept, the oldest goes of what one place in the code said most of: names that devices
//! choose make many lines of one kind, and those must not push out the one that matters.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::clock::Clock;
use crate::time::Timestamp;

/// So many different ones are kept.
pub const KEPT: usize = 16;
/// Longer ones are cut: all in all less than 8 KiB are kept.
pub const TEXT_BYTES_MAX: usize = 400;

/// A warning or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `warn` or `error`.
    pub level: &'static str,
    /// One line, without control characters.
    pub text: String,
    /// How often, without anything else in between or with.
    pub times: u64,
    /// When last.
    pub at: Timestamp,
}

/// The last ones. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    said: Arc<Mutex<VecDeque<(Identifier, Said)>>>,
}

impl Recent {
    /// The newest first.
    pub fn newest_first(&self) -> Vec<Said> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().rev().map(|(_, one)| one.clone()).collect()
    }

    /// Keeps one more; what was said before moves to the end and is counted.
    fn keep(&self, place: Identifier, level: &'static str, text: String, at: Timestamp) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let known = said.iter().position(|(_, one)| one.level == level && one.text == text);
        let times = known.and_then(|known| said.remove(known)).map_or(0, |(_, known)| known.times);
        if said.len() == KEPT {
            let leaves = first_to_leave(&said);
            said.remove(leaves);
        }
        said.push_back((place, Said { level, text, times: times.saturating_add(1), at }));
    }
}

/// The oldest of the place that said most; of several such a warning before an error, then the oldest.
fn first_to_leave(said: &VecDeque<(Identifier, Said)>) -> usize {
    let of_its_place = |place: &Identifier| said.iter().filter(|(other, _)| other == place).count();
    let rank =
        |(at, (place, one)): &(usize, &(Identifier, Said))| (of_its_place(place), one.level == "warn", Reverse(*at));
    said.iter().enumerate().max_by_key(rank).map_or(0, |(at, _)| at)
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO | Level::DEBUG | Level::TRACE => return,
        };
        let mut line = Line::default();
        event.record(&mut line);
        self.keep(event.metadata().callsite(), level, line.whole(), Clock::Real.now());
    }
}

/// The message, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, name: &str, value: fmt::Arguments<'_>) {
        use fmt::Write as _;
        // Texts take whatever is written to them.
        let _ = match name {
            "message" => write!(self.message, "{value}"),
            // What libraries that log through `log` say of themselves.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value}"),
        };
    }

    fn whole(self) -> String {
        let text = self.message + &self.fields;
        let mut text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if TEXT_BYTES_MAX < text.len() {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX - '…'.len_utf8()));
            text.push('…');
        }
        text
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    fn told(act: impl FnOnce()) -> Vec<Said> {
        let recent = Recent::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(recent.clone()), act);
        recent.newest_first()
    }

    #[test]
    fn warnings_and_errors_are_kept_newest_first_with_their_fields() {
        let said = told(|| {
            tracing::warn!(host = "hub", port = 8883, "no connection: {}", "refused");
            tracing::info!("connected");
            tracing::error!("disk full");
        });
        let said: Vec<_> = said.iter().map(|one| (one.level, one.text.as_str(), one.times)).collect();
        assert_eq!(said, [("error", "disk full", 1), ("warn", "no connection: refused host=hub port=8883", 1)]);
    }

    #[test]
    fn what_is_said_again_is_counted_and_moves_to_the_front() {
        let said = told(|| {
            for text in ["a", "b", "a", "a"] {
                tracing::warn!("{text}");
            }
        });
        let said: Vec<_> = said.iter().map(|one| (one.text.as_str(), one.times)).collect();
        assert_eq!(said, [("a", 3), ("b", 1)]);
    }

    #[test]
    fn many_of_one_kind_push_out_none_of_another() {
        let said = told(|| {
            tracing::error!("disk full");
            tracing::warn!("no connection to the broker");
            for node in 0..100 {
                tracing::warn!("edge node {node} was not born");
            }
        });
        assert_eq!(said.len(), KEPT);
        let texts: Vec<_> = said.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts[0], "edge node 99 was not born");
        assert_eq!(texts[KEPT - 3..], ["edge node 86 was not born", "no connection to the broker", "disk full"]);
    }

    #[test]
    fn of_kinds_that_say_the_same_much_a_warning_leaves_before_an_error() {
        let said = told(|| {
            tracing::error!("disk full");
            macro_rules! each_its_own_place {
                ($($text:literal)*) => { $(tracing::warn!($text);)* };
            }
            each_its_own_place!("a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r");
        });
        let texts: Vec<_> = said.iter().map(|one| one.text.as_str()).collect();
        assert_eq!((texts.len(), texts[0], texts[KEPT - 2], texts[KEPT - 1]), (KEPT, "r", "d", "disk full"));
    }

    #[test]
    fn neither_number_nor_length_grows_and_no_line_holds_control_characters() {
        let said = told(|| {
            for number in 0..100 {
                tracing::error!("{number}\u{1b}[31m\n{}", "ü".repeat(1_000));
            }
        });
        assert_eq!(said.len(), KEPT);
        assert!(said[0].text.starts_with("99 [31m ü") && said[0].text.ends_with("ü…"), "{}", said[0].text);
        assert!(said.iter().all(|one| one.text.len() <= TEXT_BYTES_MAX && !one.text.contains(char::is_control)));
    }
}
