//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::path::Path;

use toml::de::DeValue;

use super::tree::{Kind, Mark, Node, print_path};

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line (from 1) of a file, or of the embedded default.
    Line {
        /// The file as it was named.
        file: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable {
        /// Its name; its value is never kept.
        name: String,
    },
    /// A file as a whole.
    File {
        /// The file as it was named.
        file: String,
    },
}

impl Place {
    pub(super) fn mistake(&self, path: String, message: String) -> Mistake {
        Mistake { place: self.clone(), path, message }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line { file, line } => write!(f, "{file}:{line}"),
            Place::Variable { name } => write!(f, "environment variable {name}"),
            Place::File { file } => f.write_str(file),
        }
    }
}

/// One thing to correct.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it was written.
    pub place: Place,
    /// The setting, as in `uplink.window`; empty where the text as a whole cannot be read.
    pub path: String,
    /// What is wrong and what to write.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Every mistake of a configuration, by place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    pub(super) fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort();
        mistakes.dedup();
        Self { mistakes }
    }

    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let place = Place::File { file: path.display().to_string() };
        Self::new(vec![place.mistake(String::new(), format!("cannot be read: {error}"))])
    }

    /// The mistakes, at least one, in order of their places.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => f.write_str("the configuration has a mistake:")?,
            count => write!(f, "the configuration has {count} mistakes:")?,
        }
        self.mistakes.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

/// Mistakes that [`super::Check`] finds, by the path of the setting.
#[derive(Debug, Default)]
pub struct Mistakes {
    prefix: String,
    found: Vec<(String, String)>,
}

impl Mistakes {
    /// Adds a mistake about `path` (`uplink.window`, `intake.mapping[2].topic`); `message` says what is wrong and what
    /// to write: "must be at least 1, write e.g. 100".
    pub fn add(&mut self, path: impl AsRef<str>, message: impl Into<String>) {
        let path = path.as_ref();
        let joint = if self.prefix.is_empty() || path.is_empty() || path.starts_with('[') { "" } else { "." };
        self.found.push((format!("{}{joint}{path}", self.prefix), message.into()));
    }

    /// Adds a mistake unless `holds`.
    pub fn ensure(&mut self, holds: bool, path: impl AsRef<str>, message: impl Into<String>) {
        if !holds {
            self.add(path, message);
        }
    }

    /// Runs the check of a section, whose paths then begin with `section`.
    pub fn within(&mut self, section: &str, check: impl FnOnce(&mut Mistakes)) {
        let joint = if self.prefix.is_empty() || section.starts_with('[') { "" } else { "." };
        let longer = format!("{}{joint}{section}", self.prefix);
        let outer = std::mem::replace(&mut self.prefix, longer);
        check(self);
        self.prefix = outer;
    }

    /// True while nothing was added.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl IntoIterator for Mistakes {
    type Item = (String, String);
    type IntoIter = std::vec::IntoIter<(String, String)>;

    /// The mistakes as (path, message), in the order they were added.
    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

/// The field of serde's "missing field `x`".
pub(super) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Turns the deserializer's words into ours.
pub(super) fn explain(tree: &Node<'_>, pristine: &Node<'_>, mark: &Mark, message: &str) -> Mistake {
    let place = tree.key_place(&mark.path).unwrap_or(&tree.place);
    let path = print_path(&mark.path);
    if let Some(field) = missing_field(message) {
        let path = if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
        return place.mistake(path, format!("missing; write `{field} = …` here"));
    }
    if message.starts_with("unknown field `") {
        return place.mistake(path, format!("unknown key{}", choices(message, "there are no keys here")));
    }
    if message.starts_with("unknown variant `") {
        return place.mistake(path, format!("unknown choice{}", choices(message, "")));
    }
    let default = match pristine.at(&mark.path).map(|node| &node.kind) {
        Some(Kind::Leaf(leaf)) => format!("; the default is {}", print_leaf(leaf)),
        _ => String::new(),
    };
    place.mistake(path, format!("{}{default}", in_plain_words(message.trim_end())))
}

/// Rust's names of number types, at the end of serde's "…, expected u16", mean nothing to an operator.
fn in_plain_words(message: &str) -> String {
    let words = [
        ("u8", "a whole number from 0 to 255"),
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number from 0"),
        ("usize", "a whole number from 0"),
        ("i32", "a whole number from -2147483648 to 2147483647"),
        ("i64", "a whole number"),
        ("f64", "a number"),
        ("a boolean", "true or false"),
        ("a string", "a text in quotes"),
        ("a sequence", "an array, [ … ]"),
    ];
    match message.rsplit_once("expected ") {
        Some((before, expected)) => {
            let plain = words.iter().find(|(word, _)| *word == expected).map_or(expected, |(_, plain)| plain);
            format!("{before}expected {plain}")
        }
        None => message.to_owned(),
    }
}

/// serde names what it knows in backticks: the first is what it met, the others what it expected.
fn choices(message: &str, none: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let met = quoted.next().unwrap_or_default();
    let known: Vec<&str> = quoted.collect();
    if known.is_empty() {
        return format!(" `{met}`; {none}").trim_end_matches([';', ' ']).to_owned();
    }
    let rank = |known: &str| if same_words(met, known) { 0 } else { distance(met, known) };
    let nearest = known.iter().copied().min_by_key(|known| rank(known)).unwrap_or_default();
    let hint = match rank(nearest) <= 1 + nearest.len() / 4 {
        true => format!("did you mean `{nearest}`? "),
        false => String::new(),
    };
    format!(" `{met}`; {hint}known here: {}", known.join(", "))
}

/// `max-bytes` and `bytes-max`, `bytes_max`.
fn same_words(a: &str, b: &str) -> bool {
    let words = |text: &str| {
        let mut words: Vec<String> = text.split(['-', '_']).map(str::to_ascii_lowercase).collect();
        words.sort();
        words
    };
    words(a) == words(b)
}

/// Levenshtein's: the least number of letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn print_leaf(leaf: &DeValue<'_>) -> String {
    match leaf {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => "in the embedded default".to_owned(),
    }
}
