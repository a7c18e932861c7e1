//! A configuration as a tree whose every value knows which layer and line it came from.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::mistakes::{Mistake, Place};

/// One step from a table or an array to what it holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Node<'i> {
    pub(super) place: Place,
    pub(super) kind: Kind<'i>,
    /// The text of the environment variable this was read from, where it was read as more than text.
    pub(super) raw: Option<&'i str>,
}

#[derive(Debug, Clone)]
pub(super) enum Kind<'i> {
    Leaf(DeValue<'i>),
    /// By the index as it was written, which stays when an element before it is taken out.
    Array(BTreeMap<usize, Node<'i>>),
    /// Each key with the place of the key itself.
    Table(BTreeMap<String, (Place, Node<'i>)>),
}

/// What the span of a value handed to the deserializer stands for.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark {
    pub(super) path: Vec<Step>,
}

impl<'i> Node<'i> {
    pub(super) fn at(&self, path: &[Step]) -> Option<&Node<'i>> {
        path.iter().try_fold(self, |node, step| match (step, &node.kind) {
            (Step::Key(key), Kind::Table(entries)) => entries.get(key).map(|(_, node)| node),
            (Step::Index(index), Kind::Array(items)) => items.get(index),
            _ => None,
        })
    }

    pub(super) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Node<'i>> {
        path.iter().try_fold(self, |node, step| match (step, &mut node.kind) {
            (Step::Key(key), Kind::Table(entries)) => entries.get_mut(key).map(|(_, node)| node),
            (Step::Index(index), Kind::Array(items)) => items.get_mut(index),
            _ => None,
        })
    }

    /// Where the key at `path` is written; for an element of an array, the element.
    pub(super) fn key_place(&self, path: &[Step]) -> Option<&Place> {
        let (last, parent) = path.split_last()?;
        match (last, &self.at(parent)?.kind) {
            (Step::Key(key), Kind::Table(entries)) => entries.get(key).map(|(place, _)| place),
            (Step::Index(index), Kind::Array(items)) => items.get(index).map(|node| &node.place),
            _ => None,
        }
    }

    pub(super) fn remove(&mut self, path: &[Step]) {
        let Some((last, parent)) = path.split_last() else { return };
        match (last, self.at_mut(parent).map(|node| &mut node.kind)) {
            (Step::Key(key), Some(Kind::Table(entries))) => {
                entries.remove(key);
            }
            (Step::Index(index), Some(Kind::Array(items))) => {
                items.remove(index);
            }
            _ => {}
        }
    }
}

/// Reads a TOML text; what cannot be read is recorded, the rest is used.
pub(super) fn parse<'i>(text: &'i str, name: &str, found: &mut Vec<Mistake>) -> Node<'i> {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place =
            Place::Line { file: name.to_owned(), line: line_of(text, error.span().map_or(0, |span| span.start)) };
        // One slip makes the reader stumble several times on the same line.
        if found.iter().all(|mistake| mistake.place != place) {
            found.push(place.mistake(String::new(), format!("not TOML: {}", error.message())));
        }
    }
    let span = table.span();
    convert(Spanned::new(span, DeValue::Table(table.into_inner())), text, name)
}

fn convert<'i>(value: Spanned<DeValue<'i>>, text: &str, name: &str) -> Node<'i> {
    let place_at = |at: usize| Place::Line { file: name.to_owned(), line: line_of(text, at) };
    let place = place_at(value.span().start);
    let kind = match value.into_inner() {
        DeValue::Table(table) => Kind::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let key_place = place_at(key.span().start);
                    (key.into_inner().into_owned(), (key_place, convert(value, text, name)))
                })
                .collect(),
        ),
        DeValue::Array(array) => {
            Kind::Array(array.into_iter().map(|item| convert(item, text, name)).enumerate().collect())
        }
        leaf => Kind::Leaf(leaf),
    };
    Node { place, kind, raw: None }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Lays `over` upon `base`: tables key by key, all else whole.
pub(super) fn merge<'i>(base: &mut Node<'i>, over: Node<'i>) {
    match (&mut base.kind, over) {
        (Kind::Table(entries), Node { place, kind: Kind::Table(overs), .. }) => {
            base.place = place;
            for (key, (key_place, over)) in overs {
                match entries.get_mut(&key) {
                    Some((old_place, node)) => {
                        *old_place = key_place;
                        merge(node, over);
                    }
                    None => {
                        entries.insert(key, (key_place, over));
                    }
                }
            }
        }
        (_, over) => *base = over,
    }
}

/// Sets what `EDGE__OUTBOX__BYTES_MAX` names. A value stays text where the layer below holds text, else it is read as
/// TOML (`8883`, `true`, `["a"]`) and is text if it is none.
pub(super) fn set_from_environment<'i>(
    root: &mut Node<'i>,
    prefix: &str,
    name: &str,
    value: Option<&'i str>,
) -> Result<(), Mistake> {
    let place = Place::Variable { name: name.to_owned() };
    let Some(value) = value else {
        return Err(place.mistake(String::new(), "not UTF-8".to_owned()));
    };
    let keys: Vec<String> =
        name[prefix.len()..].split("__").skip(1).map(|key| key.to_ascii_lowercase().replace('_', "-")).collect();
    let path: Vec<Step> = keys.iter().cloned().map(Step::Key).collect();
    let mut node = root;
    for (depth, key) in keys.iter().enumerate() {
        let Kind::Table(entries) = &mut node.kind else {
            let above = print_path(&path[..depth]);
            return Err(
                place.mistake(print_path(&path), format!("`{above}` holds no keys of its own; set it as a whole"))
            );
        };
        let fresh = || (place.clone(), Node { place: place.clone(), kind: Kind::Table(BTreeMap::new()), raw: None });
        let (key_place, below) = entries.entry(key.clone()).or_insert_with(fresh);
        if depth + 1 == keys.len() {
            *key_place = place.clone();
        }
        node = below;
    }
    let holds_text = matches!(&node.kind, Kind::Leaf(DeValue::String(_)));
    let parsed = if holds_text || value.is_empty() { None } else { DeValue::parse(value).ok() };
    *node = match parsed {
        None => text(place, value),
        Some(parsed) => {
            let mut node = convert(parsed, value, name);
            relocate(&mut node, &place);
            node.raw = Some(value);
            node
        }
    };
    Ok(())
}

fn text(place: Place, value: &str) -> Node<'_> {
    Node { place, kind: Kind::Leaf(DeValue::String(value.into())), raw: None }
}

fn relocate(node: &mut Node<'_>, place: &Place) {
    node.place = place.clone();
    match &mut node.kind {
        Kind::Leaf(_) => {}
        Kind::Array(items) => items.values_mut().for_each(|item| relocate(item, place)),
        Kind::Table(entries) => entries.values_mut().for_each(|(key_place, node)| {
            *key_place = place.clone();
            relocate(node, place);
        }),
    }
}

/// Takes a variable's value at `path` as text where it had been read as something else. False if there is none.
pub(super) fn environment_as_text(root: &mut Node<'_>, path: &[Step]) -> bool {
    let Some(node) = root.at_mut(path) else { return false };
    let Some(raw) = node.raw.take() else { return false };
    *node = text(node.place.clone(), raw);
    true
}

/// The tree as the deserializer takes it. Each value's and each key's span begins at the index of its mark.
pub(super) fn to_de<'i>(root: &Node<'i>) -> (Spanned<DeValue<'i>>, Vec<Mark>) {
    let mut marks = Vec::new();
    let value = numbered(root, &mut Vec::new(), &mut marks);
    (value, marks)
}

fn numbered<'i>(node: &Node<'i>, path: &mut Vec<Step>, marks: &mut Vec<Mark>) -> Spanned<DeValue<'i>> {
    let own = marks.len();
    marks.push(Mark { path: path.clone() });
    let value = match &node.kind {
        Kind::Leaf(leaf) => leaf.clone(),
        Kind::Array(items) => {
            let mut array = DeArray::new();
            for (index, item) in items {
                path.push(Step::Index(*index));
                array.push(numbered(item, path, marks));
                path.pop();
            }
            DeValue::Array(array)
        }
        Kind::Table(entries) => {
            let mut table = DeTable::new();
            for (key, (_, below)) in entries {
                path.push(Step::Key(key.clone()));
                let mark = marks.len();
                marks.push(Mark { path: path.clone() });
                table.insert(Spanned::new(mark..mark, key.clone().into()), numbered(below, path, marks));
                path.pop();
            }
            DeValue::Table(table)
        }
    };
    Spanned::new(own..own, value)
}

/// `intake.mapping[2].topic`
pub(super) fn print_path(path: &[Step]) -> String {
    let mut printed = String::new();
    for step in path {
        match step {
            Step::Index(index) => printed.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                if !printed.is_empty() {
                    printed.push('.');
                }
                printed.push_str(key);
            }
        }
    }
    printed
}

/// What a checker's path names: the path as it was written, and the place of it or of the nearest thing above it that
/// exists. A checker counts the elements of an array that are left; the path counts those that were written.
pub(super) fn locate(root: &Node<'_>, path: &str) -> (String, Place) {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut pieces = part.split('[');
        let key = pieces.next().unwrap_or_default();
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        for index in pieces.filter_map(|piece| piece.trim_end_matches(']').parse::<usize>().ok()) {
            let written = match root.at(&steps).map(|node| &node.kind) {
                Some(Kind::Array(items)) => items.keys().nth(index).copied(),
                _ => None,
            };
            steps.push(Step::Index(written.unwrap_or(index)));
        }
    }
    let printed = print_path(&steps);
    while !steps.is_empty() {
        if let Some(place) = root.key_place(&steps) {
            return (printed, place.clone());
        }
        steps.pop();
    }
    (printed, root.place.clone())
}
