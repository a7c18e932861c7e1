//! A quote that is never closed swallows the rest of a recording; the CSV reader says nothing of it. This reads along.

use std::io::{self, Read};

/// Passes bytes on and keeps track of quoted cells, by the CSV reader's own rules.
#[derive(Debug)]
pub struct Quotes<R> {
    input: R,
    delimiter: u8,
    state: State,
    line: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A quote here opens a quoted cell.
    CellBegins,
    /// A quote here is a sign as any other.
    Plain,
    /// Since this line.
    Quoted(u64),
    /// Behind a quote in a quoted cell that began in this line: the end, or the first of two that mean one.
    Closing(u64),
}

/// A quote that is never closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclosed {
    /// The line it stands in, from 1.
    pub line: u64,
    /// How many lines behind that one it swallows.
    pub lines: u64,
}

impl<R> Quotes<R> {
    /// Reads along with a reader of cells parted by `delimiter`.
    pub fn new(input: R, delimiter: u8) -> Self {
        Self { input, delimiter, state: State::CellBegins, line: 1 }
    }

    /// After the last byte: the quote that is still open.
    pub fn unclosed(&self) -> Option<Unclosed> {
        match self.state {
            State::Quoted(line) => Some(Unclosed { line, lines: self.line.saturating_sub(line + 1) }),
            _ => None,
        }
    }

    fn see(&mut self, byte: u8) {
        let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
        self.state = match self.state {
            State::CellBegins if byte == b'"' => State::Quoted(self.line),
            State::Quoted(since) if byte == b'"' => State::Closing(since),
            State::Closing(since) if byte == b'"' => State::Quoted(since),
            State::Quoted(since) => State::Quoted(since),
            _ if ends => State::CellBegins,
            _ => State::Plain,
        };
        self.line += u64::from(byte == b'\n');
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        buffer[..length].iter().for_each(|byte| self.see(*byte));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quote_that_opens_a_cell_and_never_ends_is_unclosed() {
        for (text, expected) in [
            ("a,b\n1,2\n", None),
            ("a,b\n1,\"2\"\n3,\"4\nlines\",5\n", None),
            ("a,b\n1,\"say \"\"x\"\"\"\n", None),
            ("a,b\n1,5\" pipe\n2,3\n", None),
            ("a,b\n1,\"2\n3,4\n5,6\n", Some(Unclosed { line: 2, lines: 2 })),
            ("a,b\n1,\"2\n3,4\n5,6", Some(Unclosed { line: 2, lines: 1 })),
            ("a,b\n1,\"2", Some(Unclosed { line: 2, lines: 0 })),
            ("a,b\n1,\"2\"\"\n3,4\n", Some(Unclosed { line: 2, lines: 1 })),
        ] {
            let mut quotes = Quotes::new(text.as_bytes(), b',');
            let mut rows = csv::ReaderBuilder::new().flexible(true).from_reader(&mut quotes);
            let records = rows.records().count();
            drop(rows);
            let lines = text.lines().count();
            assert_eq!(quotes.unclosed(), expected, "{text:?}: {records} records of {lines} lines");
        }
    }
}
