//! The shape of a recording: which column is time, which are values, what the cells hold. Pure but for the reader.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use serde_json::{Value as Json, json};
use shared::reading::MetricName;
use shared::time::Timestamp;

use super::quotes::{Quotes, Unclosed};
use super::when;

/// What the caller says about the columns; what is empty is found out.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Columns of the time, to be joined.
    pub time: Vec<String>,
    /// Columns of values.
    pub values: Vec<String>,
}

/// How a column's cells are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Cells that are no number are counted and not sent.
    Number,
    /// Every cell that is not empty is sent as it is.
    Text,
}

/// A column of values; its name is the metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// As in the header.
    pub name: String,
    /// Where it stands.
    pub at: usize,
    /// How its cells are read.
    pub kind: Kind,
}

/// A recording, looked through once.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Between two cells.
    pub delimiter: u8,
    /// Where the time stands.
    pub time: Vec<usize>,
    /// The values sent.
    pub columns: Vec<Column>,
    /// How many columns the header names.
    pub width: usize,
    /// A quote that swallows the rest of the recording.
    pub unclosed: Option<Unclosed>,
    /// Columns that are not sent, because they hold no number.
    pub left_out: Vec<String>,
    /// Rows with a time.
    pub rows: u64,
    /// Time of the first row that has one.
    pub first: Timestamp,
    /// The latest time of all rows.
    pub latest: Timestamp,
}

/// Why a recording cannot be replayed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The CSV reader failed.
    #[error("read the recording: {0}")]
    Csv(String),
    /// There is nothing in it.
    #[error("find a header line; the recording is empty")]
    Empty,
    /// There is nothing behind its header.
    #[error("find a row; the recording holds nothing but its header, `{columns}`")]
    NothingButHeader {
        /// The header.
        columns: String,
    },
    /// A column that was asked for is not there.
    #[error("find the column `{name}`; the recording has: {columns}")]
    NoColumn {
        /// As asked for.
        name: String,
        /// What there is.
        columns: String,
    },
    /// No column looks like a time.
    #[error("find the time of the rows; name its column, e.g. --time {example}")]
    NoTime {
        /// A column there is.
        example: String,
    },
    /// No row has a time that can be read.
    #[error("find a row with a time in `{columns}`; the first row has `{cell}`")]
    NoRows {
        /// The columns of the time.
        columns: String,
        /// What stands there.
        cell: String,
    },
    /// Nothing to send.
    #[error("find a column of numbers; name the columns to send, e.g. --values a,b")]
    NoValues,
    /// A header cannot be a metric name.
    #[error("take the column `{name}` as a metric: {fault}")]
    Name {
        /// The header.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// Names under which a time usually stands, in lower case.
const TIME_NAMES: [&str; 6] = ["timestamp", "time", "ts", "datetime", "date_time", "date"];

/// The delimiter of a header: whichever of `,` `;` and tab it has most of.
pub fn delimiter(header: &str) -> u8 {
    let count = |byte: u8| header.bytes().filter(|b| *b == byte).count();
    [b',', b';', b'\t'].into_iter().rev().max_by_key(|byte| count(*byte)).unwrap_or(b',')
}

/// A CSV reader over a recording with this delimiter.
pub fn reader<R: Read>(input: R, delimiter: u8) -> csv::Reader<R> {
    csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).buffer_capacity(1 << 16).from_reader(input)
}

/// Looks a recording through, from its first byte to its last.
///
/// # Errors
/// See [`TableError`].
pub fn survey(mut input: impl BufRead, wanted: &Wanted) -> Result<Table, TableError> {
    let failed = |e: &dyn std::fmt::Display| TableError::Csv(e.to_string());
    let mut header = Vec::new();
    input.read_until(b'\n', &mut header).map_err(|e| failed(&e))?;
    let delimiter = delimiter(&String::from_utf8_lossy(&header));
    let mut rows = reader(Quotes::new(header.as_slice().chain(input), delimiter), delimiter);
    let headers: Vec<String> = rows.headers().map_err(|e| failed(&e))?.iter().map(clean).collect();
    if headers.iter().all(String::is_empty) {
        return Err(TableError::Empty);
    }
    let find = |name: &String| {
        let columns = || headers.join(", ");
        headers
            .iter()
            .position(|h| h == name)
            .ok_or_else(|| TableError::NoColumn { name: name.clone(), columns: columns() })
    };
    let time = match wanted.time.is_empty() {
        false => wanted.time.iter().map(find).collect::<Result<Vec<_>, _>>()?,
        true => guess_time(&headers)?,
    };
    let asked = !wanted.values.is_empty();
    let candidates: Vec<usize> = match asked {
        true => wanted.values.iter().map(find).collect::<Result<_, _>>()?,
        false => (0..headers.len()).filter(|at| !time.contains(at) && !headers[*at].is_empty()).collect(),
    };

    let mut numbers: BTreeMap<usize, u64> = BTreeMap::new();
    let mut found: Option<(Timestamp, Timestamp)> = None;
    let mut count = 0;
    let mut first_cell = None;
    let mut record = csv::StringRecord::new();
    while rows.read_record(&mut record).map_err(|e| failed(&e))? {
        let cells = time_cells(&record, &time);
        first_cell.get_or_insert_with(|| cells.join(" "));
        if let Some(at) = when::parse(&cells) {
            count += 1;
            found = found.map_or(Some((at, at)), |(first, latest)| Some((first, latest.max(at))));
        }
        for column in &candidates {
            if matches!(number(record.get(*column).unwrap_or(""), delimiter), Some(Ok(_))) {
                *numbers.entry(*column).or_default() += 1;
            }
        }
    }
    let names = |at: &[usize]| at.iter().map(|at| headers[*at].as_str()).collect::<Vec<_>>().join(",");
    let Some((first, latest)) = found else {
        return Err(match first_cell {
            Some(cell) => TableError::NoRows { columns: names(&time), cell },
            None => TableError::NothingButHeader { columns: headers.join(",") },
        });
    };
    let unclosed = rows.get_ref().unclosed();
    let (mut columns, mut left_out) = (Vec::new(), Vec::new());
    for at in candidates {
        let name = headers[at].clone();
        let kind = match (numbers.contains_key(&at), asked) {
            (true, _) => Kind::Number,
            (false, true) => Kind::Text,
            (false, false) => {
                left_out.push(name);
                continue;
            }
        };
        match MetricName::fault(&name) {
            Some(fault) => return Err(TableError::Name { name, fault }),
            None if ["ts", "n"].contains(&name.as_str()) => {
                let fault = "`ts` and `n` are the payload's own time and number; name the other columns with --values";
                return Err(TableError::Name { name, fault: fault.into() });
            }
            None => columns.push(Column { name, at, kind }),
        }
    }
    if columns.is_empty() {
        return Err(TableError::NoValues);
    }
    Ok(Table { delimiter, time, columns, width: headers.len(), unclosed, left_out, rows: count, first, latest })
}

/// A header without what editors put around it: a byte order mark, blanks.
fn clean(header: &str) -> String {
    header.trim_start_matches('\u{feff}').trim().to_owned()
}

fn guess_time(headers: &[String]) -> Result<Vec<usize>, TableError> {
    let at = |name: &str| headers.iter().position(|header| header.eq_ignore_ascii_case(name));
    match (at("date"), at("time")) {
        (Some(date), Some(time)) => Ok(vec![date, time]),
        _ => match TIME_NAMES.into_iter().find_map(at) {
            Some(column) => Ok(vec![column]),
            None => Err(TableError::NoTime { example: headers.first().cloned().unwrap_or_else(|| "COLUMN".into()) }),
        },
    }
}

/// The cells of the time; a row that is too short has empty ones.
pub fn time_cells<'r>(record: &'r csv::StringRecord, time: &[usize]) -> Vec<&'r str> {
    time.iter().map(|at| record.get(*at).unwrap_or("")).collect()
}

/// What a cell holds: `None` empty, `Err` no number.
pub fn number(cell: &str, delimiter: u8) -> Option<Result<f64, ()>> {
    let cell = cell.trim();
    if cell.is_empty() {
        return None;
    }
    // Where the comma does not part cells it is a decimal point.
    let read = match delimiter {
        b',' => cell.parse::<f64>(),
        _ => cell.replacen(',', ".", 1).parse::<f64>(),
    };
    Some(read.ok().filter(|number| number.is_finite()).ok_or(()))
}

/// The value of a cell as it is sent: `None` empty, `Err` no number in a column of numbers.
pub fn value(cell: &str, kind: Kind, delimiter: u8) -> Option<Result<Json, ()>> {
    match kind {
        Kind::Number => number(cell, delimiter).map(|read| read.map(|number| json!(number))),
        Kind::Text => Some(cell.trim()).filter(|text| !text.is_empty()).map(|text| Ok(json!(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected`: time columns, then value columns (a text column with a `"`), then rows.
    fn check(csv: &str, time: &[&str], values: &[&str], expected: Result<&str, TableError>) {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let table = survey(csv.as_bytes(), &Wanted { time: own(time), values: own(values) });
        let shown = table.map(|table| {
            let columns: Vec<String> = table
                .columns
                .iter()
                .map(|column| format!("{}{}", column.name, if column.kind == Kind::Text { "\"" } else { "" }))
                .collect();
            format!("{:?} {} {} rows", table.time, columns.join(" "), table.rows)
        });
        assert_eq!(shown, expected.map(str::to_owned), "{csv}");
    }

    #[test]
    fn columns_are_found_by_what_they_hold() {
        check("timestamp,value\n2013-12-02 21:15:00,73.9\n", &[], &[], Ok("[0] value 1 rows"));
        check(
            "Date,Time,CO(GT),PT08.S1(CO),note\n2004-03-10,18:00:00,2.6,1360,calm\n2004-03-10,19:00:00,-200,,\n",
            &[],
            &[],
            Ok("[0, 1] CO(GT) PT08.S1(CO) 2 rows"),
        );
        check("when;a;b\n2004-03-10;1,5;x\n", &["when"], &["b", "a"], Ok("[0] b\" a 1 rows"));
        check("\u{feff}ts,v\n1,NaN\n2,1\n", &[], &[], Ok("[0] v 2 rows"));
        check("time,v\n2020-01-01,1\n,2\nbad,3\n", &[], &[], Ok("[0] v 1 rows"));
    }

    #[test]
    fn what_cannot_be_replayed_says_what_to_write() {
        check("a,b\n1,2\n", &[], &[], Err(TableError::NoTime { example: "a".into() }));
        check("ts,b\n1,2\n", &[], &["c"], Err(TableError::NoColumn { name: "c".into(), columns: "ts, b".into() }));
        check("ts,b\nnever,2\n", &[], &[], Err(TableError::NoRows { columns: "ts".into(), cell: "never".into() }));
        check("ts,b\n1,x\n", &[], &[], Err(TableError::NoValues));
        for empty in ["", "\n\n", "\u{feff}"] {
            check(empty, &[], &[], Err(TableError::Empty));
        }
        check("ts,b\n", &[], &[], Err(TableError::NothingButHeader { columns: "ts,b".into() }));
    }

    #[test]
    fn a_cell_is_a_number_empty_or_bad() {
        for (cell, delimiter, expected) in [
            ("1.5", b',', Some(Ok(1.5))),
            (" -200 ", b',', Some(Ok(-200.0))),
            ("1e3", b',', Some(Ok(1_000.0))),
            ("", b',', None),
            ("  ", b',', None),
            ("n/a", b',', Some(Err(()))),
            ("NaN", b',', Some(Err(()))),
            ("inf", b',', Some(Err(()))),
            ("1,5", b';', Some(Ok(1.5))),
            ("1,5", b',', Some(Err(()))),
        ] {
            assert_eq!(number(cell, delimiter), expected, "{cell:?}");
        }
    }
}
