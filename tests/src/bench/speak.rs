//! What a child of the benchmark tells its parent, line by line: `begin`, `mark N`, `end COUNT SECONDS ALL`.
//!
//! The parent looks at clocks and processes when a line comes, so a child stays until its standard input ends.

use std::io::{self, Write as _};
use std::time::Duration;

/// A line of a child.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Line {
    /// It serves, or it measures from now on.
    Begin,
    /// A part of the work is done.
    Mark,
    /// All is done: so many, in so long.
    End {
        /// How many.
        count: u64,
        /// In so long.
        took: Duration,
        /// What came before measuring began counted too.
        all: u64,
    },
}

impl Line {
    /// Says it.
    ///
    /// # Errors
    /// Nobody listens.
    pub(super) fn say(self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Line::Begin => writeln!(out, "begin")?,
            Line::Mark => writeln!(out, "mark")?,
            Line::End { count, took, all } => writeln!(out, "end {count} {} {all}", took.as_secs_f64())?,
        }
        out.flush()
    }

    /// Reads what was said; `None` if it was something else.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        match words.next()? {
            "begin" => Some(Line::Begin),
            "mark" => Some(Line::Mark),
            "end" => Some(Line::End {
                count: words.next()?.parse().ok()?,
                took: Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok()?,
                all: words.next()?.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// Returns once standard input has ended.
pub(super) async fn until_told() {
    // An error ends it too.
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_said() {
        let end = Line::End { count: 7, took: Duration::from_millis(1500), all: 9 };
        for (line, is) in [("begin", Some(Line::Begin)), ("mark", Some(Line::Mark)), ("end 7 1.5 9", Some(end))] {
            assert_eq!(Line::parse(line), is, "{line}");
        }
        for line in ["", "end", "end 7", "end x 1", "end 7 -1 9", "end 7 1", "warning"] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }
}
