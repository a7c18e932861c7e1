//! Keys of gold rows, exact: a unit that is null is a key of its own, and no text needs escaping. Pure.

use std::collections::HashMap;

use arrow::array::{Array as _, AsArray as _, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use foldhash::quality::RandomState;

/// Columns of a batch, read as one key per row.
pub struct KeyReader {
    columns: Vec<StringArray>,
    key: Vec<u8>,
}

impl KeyReader {
    /// The key made of `columns`, which the batch has to have. What is not text is read as text.
    ///
    /// # Panics
    /// When a column is missing, or is of a kind that has no text: models with such keys are refused.
    #[must_use]
    pub fn new<N: AsRef<str>>(batch: &RecordBatch, columns: &[N]) -> Self {
        let column = |name: &N| {
            let column = batch.column_by_name(name.as_ref()).expect("asked for");
            match column.data_type() {
                DataType::Utf8 => column.as_string::<i32>().clone(),
                _ => cast(column, &DataType::Utf8).expect("keys have texts").as_string::<i32>().clone(),
            }
        };
        Self { columns: columns.iter().map(column).collect(), key: vec![] }
    }

    /// The key of row `at`: each part with its length before it, so that no two rows with different parts share one.
    pub fn at(&mut self, at: usize) -> &[u8] {
        self.key.clear();
        for column in &self.columns {
            if column.is_null(at) {
                self.key.extend(u32::MAX.to_le_bytes());
            } else {
                let text = column.value(at).as_bytes();
                let length = u32::try_from(text.len()).expect("Arrow's text columns hold less than 2 GiB");
                self.key.extend(length.to_le_bytes());
                self.key.extend(text);
            }
        }
        &self.key
    }
}

/// The parts of a key, as a [`KeyReader`] made it.
pub fn parts(mut key: &[u8]) -> impl Iterator<Item = Option<&str>> {
    std::iter::from_fn(move || {
        let (length, rest) = key.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        if length == u32::MAX {
            key = rest;
            return Some(None);
        }
        let (part, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        key = rest;
        Some(std::str::from_utf8(part).ok())
    })
}

/// Keys, numbered as they are met.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    numbers: HashMap<Vec<u8>, u32, RandomState>,
}

impl Keys {
    /// The number of a key, a new one if it has none.
    pub fn number(&mut self, key: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).expect("memory ends before four billion keys");
        self.numbers.insert(key.to_vec(), number);
        number
    }

    /// The number of a key, if it has one.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.numbers.get(key).copied()
    }

    /// All keys with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.numbers.iter().map(|(key, number)| (key.as_slice(), *number))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::ArrayRef;

    use super::*;

    #[test]
    fn rows_share_a_key_only_if_all_parts_are_the_same() {
        let rows = [
            (Some("a"), Some("b")),
            (Some("ab"), Some("")),
            (Some("a"), None),
            (None, Some("a")),
            (Some("a"), Some("")),
            (Some("a'b"), Some("\"")),
            (Some("\u{0}"), Some("a")),
        ];
        let column = |values: Vec<Option<&str>>| -> ArrayRef { Arc::new(StringArray::from(values)) };
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("x", column(rows.iter().map(|row| row.0).collect()), true),
            ("y", column(rows.iter().map(|row| row.1).collect()), true),
        ])
        .expect("a batch");
        let mut keys = Keys::default();
        let mut reader = KeyReader::new(&batch, &["x", "y"]);
        for at in 0..rows.len() {
            keys.number(reader.at(at));
        }
        assert_eq!(keys.len(), rows.len());
        for (at, (x, y)) in rows.into_iter().enumerate() {
            assert_eq!(parts(reader.at(at)).collect::<Vec<_>>(), [x, y]);
        }
        assert_eq!(keys.find(reader.at(2)), Some(2));
    }
}
