//! Configuration in layers: the embedded default, then a TOML file, then the environment.
//!
//! A program's `default.toml` is embedded and is the documentation; a file overrides it key by key, and
//! `EDGE__OUTBOX__BYTES_MAX=64MiB` overrides `outbox.bytes-max`. Arrays are replaced whole. Unknown keys are
//! refused, and every mistake is reported at once with its file, its line and what to write: a value that does not
//! fit is recorded, put back to its default, and reading goes on. Of a file that is no TOML only that is reported.
//!
//! Never prints a value of the environment or of a [`Secret`].

mod mistakes;
mod secret;
#[cfg(test)]
mod tests;
mod tree;
mod units;

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use self::mistakes::{ConfigErrors, Mistake, Mistakes, Place};
pub use self::secret::{Secret, SecretError, SecretSource};
pub use self::units::{Size, Span};

use self::tree::{Mark, Node, Step};

/// Where a program's configuration comes from, lowest layer first.
#[derive(Debug, Clone, Copy)]
pub struct Layers {
    /// The text of the embedded `default.toml`.
    pub default: &'static str,
    /// `EDGE` makes `EDGE__OUTBOX__BYTES_MAX` override `outbox.bytes-max`.
    pub env_prefix: &'static str,
}

/// What types cannot say: limits between settings, names that must agree.
pub trait Check {
    /// Adds a mistake for every setting that cannot be used as it stands. Called with all types already right;
    /// mistakes about a setting that was refused before are left out of the report.
    fn check(&self, mistakes: &mut Mistakes);
}

/// Loads the configuration of this process: `layers.default`, then `file`, then the environment.
///
/// # Errors
/// Every mistake found, each with its place and what to write.
pub fn load<T: DeserializeOwned + Check>(layers: &Layers, file: Option<&Path>) -> Result<T, ConfigErrors> {
    let text = match file {
        None => None,
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some((path.display().to_string(), text)),
            Err(error) => return Err(ConfigErrors::unreadable(path, &error)),
        },
    };
    let file = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    let marker = format!("{}__", layers.env_prefix);
    let environment: Vec<(String, Option<String>)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
        .filter(|(name, _)| name.starts_with(&marker))
        .collect();
    load_from(layers, file, &environment)
}

/// The pure core of [`load`]: `file` is (name, text), `environment` the variables that begin with the prefix
/// (`None`: the value is not UTF-8).
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned + Check>(
    layers: &Layers,
    file: Option<(&str, &str)>,
    environment: &[(String, Option<String>)],
) -> Result<T, ConfigErrors> {
    let mut found = Vec::new();
    let pristine = tree::parse(layers.default, "embedded default", &mut found);
    let mut tree = pristine.clone();
    if let Some((name, text)) = file {
        let over = tree::parse(text, name, &mut found);
        if !found.is_empty() {
            // What stands behind a slip may be read as something else, or not at all: nothing that follows can be sure.
            return Err(ConfigErrors::new(found));
        }
        tree::merge(&mut tree, over);
    }
    for (name, value) in environment {
        if let Err(mistake) = tree::set_from_environment(&mut tree, layers.env_prefix, name, value.as_deref()) {
            found.push(mistake);
        }
    }
    let mut repair = Repair { pristine: &pristine, replaced: BTreeSet::new(), refused: Vec::new() };
    let parsed: Option<T> = repair.until_it_fits(&mut tree, &mut found);
    if let Some(parsed) = &parsed {
        let mut mistakes = Mistakes::default();
        parsed.check(&mut mistakes);
        for (path, message) in mistakes {
            let (path, place) = tree::locate(&tree, &path);
            if !repair.touches(&path) {
                found.push(place.mistake(path, message));
            }
        }
    }
    match parsed {
        Some(parsed) if found.is_empty() => Ok(parsed),
        _ => Err(ConfigErrors::new(found)),
    }
}

/// Takes out of a tree what does not fit a type, one mistake after the other.
struct Repair<'p, 'i> {
    pristine: &'p Node<'i>,
    replaced: BTreeSet<Vec<Step>>,
    refused: Vec<String>,
}

impl<'i> Repair<'_, 'i> {
    /// Deserializes; on a mistake records it, puts the default in its place (or nothing), and tries again.
    fn until_it_fits<T: DeserializeOwned>(&mut self, tree: &mut Node<'i>, found: &mut Vec<Mistake>) -> Option<T> {
        loop {
            let (value, marks) = tree::to_de(tree);
            let error = match T::deserialize(toml::de::ValueDeserializer::from(value)) {
                Ok(parsed) => return Some(parsed),
                Err(error) => error,
            };
            let mark = error.span().and_then(|span| marks.get(span.start).cloned()).unwrap_or_default();
            if tree::environment_as_text(tree, &mark.path) {
                continue; // a number was meant as text, as in HOST=10
            }
            if !self.is_an_echo(&mark, error.message()) {
                found.push(mistakes::explain(tree, self.pristine, &mark, error.message()));
            }
            if mark.path.is_empty() {
                return None; // nothing smaller than the whole can be taken out
            }
            self.take_out(tree, &mark);
        }
    }

    /// True for "missing field x" where x is missing only because it was taken out before.
    fn is_an_echo(&self, mark: &Mark, message: &str) -> bool {
        let Some(field) = mistakes::missing_field(message) else { return false };
        let mut path = mark.path.clone();
        path.push(Step::Key(field.to_owned()));
        self.refused.contains(&tree::print_path(&path))
    }

    fn take_out(&mut self, tree: &mut Node<'i>, mark: &Mark) {
        self.refused.push(tree::print_path(&mark.path));
        let default = if self.replaced.insert(mark.path.clone()) { self.pristine.at(&mark.path) } else { None };
        match (default, tree.at_mut(&mark.path)) {
            (Some(default), Some(node)) => *node = default.clone(),
            _ => tree.remove(&mark.path),
        }
    }

    /// True if `path` lies in, or holds, something that was refused.
    fn touches(&self, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.refused.iter().any(|refused| within(path, refused) || within(refused, path))
    }
}
