//! Lines for systemd's journal: a priority before each (`<3>` is an error), and neither time nor colour, which the
//! journal has itself.

use std::fmt;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error goes to the journal. `JOURNAL_STREAM` says so only if it names this very stream: a program
/// whose output was sent elsewhere inherits the variable all the same.
pub fn is_stderr() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let known = stderr.and_then(|stderr| stderr.metadata());
    known.is_ok_and(|known| names(&stream, known.dev(), known.ino()))
}

fn names(stream: &str, device: u64, inode: u64) -> bool {
    let parts = stream.split_once(':').map(|(device, inode)| (device.parse(), inode.parse()));
    parts == Some((Ok(device), Ok(inode)))
}

/// `text` as an error in the journal, if that is where standard error goes; else as it is.
pub fn error(text: &str) -> String {
    if is_stderr() { marked(Level::ERROR, text).trim_end().to_owned() } else { text.to_owned() }
}

/// Every line of `text` behind its priority.
fn marked(level: Level, text: &str) -> String {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

/// What another format writes, for the journal.
pub(super) struct Marked<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Marked<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        to.write_str(&marked(*event.metadata().level(), &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_stream_is_the_journal() {
        assert!(names("9:4711", 9, 4711));
        for other in ["9:4712", "8:4711", "9", "", ":", "9:4711:", "9:-1"] {
            assert!(!names(other, 9, 4711), "{other}");
        }
    }

    /// A second line without a priority would be one of a level of its own.
    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(marked(Level::ERROR, "one\ntwo\n"), "<3>one\n<3>two\n");
        assert_eq!(marked(Level::WARN, "one"), "<4>one\n");
        assert_eq!(marked(Level::INFO, "<0>one"), "<6><0>one\n");
        assert_eq!(marked(Level::TRACE, ""), "");
    }
}
