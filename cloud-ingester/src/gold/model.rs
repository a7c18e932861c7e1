//! A gold model: a header (TOML in the leading SQL comment) and one SELECT.

use serde::Deserialize;
use shared::config::Span;
use shared::rules::digest;

use super::window::Tumbling;
use crate::lake::Table;

/// How a model's table follows its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One row per key and window; the windows that new rows fall into are computed again.
    Window(Tumbling),
    /// One row per key: the newest.
    Latest,
}

/// A gold model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The table it fills.
    pub target: Table,
    /// How.
    pub mode: Mode,
    /// The SELECT.
    pub sql: String,
    /// Digest of header and SELECT.
    pub digest: String,
}

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("model {name}: {why}")]
pub struct ModelError {
    name: String,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Header {
    target: String,
    mode: String,
    keys: Vec<String>,
    refresh: String,
    window: Option<Window>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Window {
    kind: String,
    size: Span,
}

/// What a row of a metric is told apart by. The unit is one of them: degrees and kelvins are not averaged.
pub const KEYS: [&str; 4] = ["gateway_id", "device_id", "metric", "unit"];

impl Model {
    /// The models that come with the product, in the order in which they are run.
    ///
    /// # Panics
    /// Never: a test reads them all.
    #[must_use]
    pub fn embedded() -> Vec<Self> {
        [
            ("metric_1m", include_str!("models/metric_1m.sql")),
            ("device_latest", include_str!("models/device_latest.sql")),
        ]
        .into_iter()
        .map(|(name, text)| Self::parse(name, text).expect("a test reads every embedded model"))
        .collect()
    }

    /// Reads a model file. Comment lines before the SELECT that look like TOML are its header; the rest is for people.
    ///
    /// # Errors
    /// When the header cannot be read or asks for what this engine does not do.
    pub fn parse(name: &str, text: &str) -> Result<Self, ModelError> {
        let fault = |why: String| ModelError { name: name.to_owned(), why };
        let comment = text.lines().map_while(|line| line.trim().strip_prefix("--"));
        let header: String = comment
            .map(str::trim)
            .filter(|line| line.starts_with('[') || line.contains(" = "))
            .flat_map(|line| [line, "\n"])
            .collect();
        let header: Header =
            toml::from_str(&header).map_err(|error| fault(format!("its header: {}", error.message())))?;
        let target =
            Table::named(&header.target).ok_or_else(|| fault(format!("there is no table {}", header.target)))?;
        if header.keys != KEYS {
            return Err(fault(format!("its keys have to be {KEYS:?}")));
        }
        if header.refresh != "each-hop" {
            return Err(fault("its refresh has to be \"each-hop\"".to_owned()));
        }
        let mode = match (header.mode.as_str(), header.window) {
            ("window", Some(window)) if window.kind == "tumbling" => Mode::Window(
                Tumbling::new(window.size.duration())
                    .ok_or_else(|| fault("a day has to be a multiple of its window".to_owned()))?,
            ),
            ("window", _) => return Err(fault("a window has to be tumbling, with a size".to_owned())),
            ("latest", None) => Mode::Latest,
            (mode, _) => return Err(fault(format!("mode {mode:?} is not known, or has no window"))),
        };
        Ok(Self { target, mode, sql: text.to_owned(), digest: digest(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_model_is_read() {
        let models = Model::embedded();
        let targets: Vec<_> = models.iter().map(|model| model.target).collect();
        assert_eq!(targets, [Table::GoldMetric1m, Table::GoldDeviceLatest]);
        assert_eq!(models[0].mode, Mode::Window(Tumbling::new(std::time::Duration::from_secs(60)).expect("a minute")));
    }

    #[test]
    fn what_the_engine_does_not_do_is_refused_with_the_reason() {
        let good = include_str!("models/metric_1m.sql");
        for (from, to, expected) in [
            ("gold.metric_1m\"", "gold.nothing\"", "no table gold.nothing"),
            ("\"unit\"]", "\"colour\"]", "its keys have to be"),
            ("each-hop", "5m", "its refresh has to be"),
            ("tumbling", "sliding", "has to be tumbling"),
            ("\"1m\"", "\"7m\"", "a multiple of its window"),
            ("\"window\"", "\"full\"", "mode \"full\""),
        ] {
            let error = Model::parse("m", &good.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
