//! A gold model: a header (TOML in the leading SQL comment, or in a file beside it) and one SELECT. Reads the file;
//! [`super::planned`] makes sure that the SELECT fits.

use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;
use shared::config::Span;
use shared::rules::digest;

use super::window::Grid;
use crate::lake::Table;

/// How a model's table follows its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One row per key and window; the windows that new rows fall into are computed again.
    Window(Windows),
    /// Each reading by itself; rows are only added.
    Append,
    /// One row per key: the newest.
    Latest,
    /// Everything, each time.
    Full,
}

/// Where windows lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windows {
    /// In fixed places.
    Grid(Grid),
    /// Wherever readings come closer together than this many microseconds.
    Session {
        /// The gap.
        gap: i64,
    },
}

/// When a model is brought up to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// With every hop.
    EachHop,
    /// This often; with `at_final` also as soon as a window is final.
    Every {
        /// How often.
        every: Duration,
        /// And when a window is final.
        at_final: bool,
    },
    /// A window is there once it is final.
    Final,
}

impl Refresh {
    /// Whether its turn comes by the clock.
    #[must_use]
    pub const fn is_scheduled(self) -> bool {
        matches!(self, Self::Every { .. })
    }
}

/// What the rows of the relation are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// silver.readings.
    Readings,
    /// silver.quarantine, at the time it was enqueued.
    Rejected,
}

impl Source {
    /// The table.
    #[must_use]
    pub const fn table(self) -> Table {
        match self {
            Self::Readings => Table::SilverReadings,
            Self::Rejected => Table::SilverQuarantine,
        }
    }
}

/// A model as its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The file, as people are told.
    pub file: String,
    /// The name of its table within gold.
    pub target: String,
    /// How it follows its sources.
    pub mode: Mode,
    /// What a row is told apart by, beside its window.
    pub keys: Vec<String>,
    /// When.
    pub refresh: Refresh,
    /// From what.
    pub sources: Vec<Source>,
    /// The SELECT with its comments.
    pub sql: String,
    /// Digest of header and SELECT.
    pub digest: String,
}

/// A model that fits: ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The table it fills.
    pub target: Table,
    /// As its file says.
    pub draft: Draft,
    /// Columns of the relation that the SELECT and the engine read.
    pub columns: Vec<String>,
    /// Whether the relation holds what is known of devices.
    pub catalogue: bool,
    /// How the SELECT goes through the relation.
    pub pass: Pass,
}

/// How a SELECT goes through its relation, and so what is held of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Once, and what it holds is what its groups have come to.
    Folds,
    /// Once, but it sorts rows or puts them beside each other.
    Once,
    /// More than once: the rows have to be there for each time.
    Again,
}

impl Model {
    /// Digest of header and SELECT.
    #[must_use]
    pub fn digest(&self) -> String {
        self.draft.digest.clone()
    }
}

impl Draft {
    /// The name the SELECT knows its rows by.
    #[must_use]
    pub const fn relation(&self) -> &'static str {
        match self.mode {
            Mode::Window(_) => "windowed",
            Mode::Append | Mode::Latest | Mode::Full => "readings",
        }
    }
}

/// Something wrong with a model, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong, and what to write.
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Header {
    target: toml::Spanned<String>,
    mode: toml::Spanned<String>,
    #[serde(default)]
    keys: Option<toml::Spanned<Vec<String>>>,
    #[serde(default)]
    refresh: Option<toml::Spanned<Several>>,
    #[serde(default)]
    source: Option<toml::Spanned<Several>>,
    #[serde(default)]
    window: Option<toml::Spanned<Window>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a text in quotes nor a list of them, [\"…\", \"…\"]")]
enum Several {
    One(String),
    Some(Vec<String>),
}

impl Several {
    fn texts(&self) -> Vec<&str> {
        match self {
            Self::One(text) => vec![text],
            Self::Some(texts) => texts.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Window {
    kind: Kind,
    #[serde(default)]
    size: Option<Span>,
    #[serde(default)]
    slide: Option<Span>,
    #[serde(default)]
    gap: Option<Span>,
    #[serde(default)]
    timezone: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Tumbling,
    Sliding,
    Session,
}

/// A line of the leading comment that is part of the header; the others are for people.
fn is_header(line: &str) -> bool {
    let key = |key: &str| !key.is_empty() && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
    line.starts_with('[') && line.ends_with(']') || line.split_once('=').is_some_and(|(left, _)| key(left.trim()))
}

/// The header within a model's text, on the same lines.
fn header_of(text: &str) -> String {
    let comment = text.lines().map_while(|line| line.trim().strip_prefix("--"));
    comment.map(str::trim).flat_map(|line| [if is_header(line) { line } else { "" }, "\n"]).collect()
}

/// The line of a place in a text, counted from 1.
fn line_of(text: &str, at: usize) -> u64 {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() as u64 + 1
}

impl Draft {
    /// Reads a model file; `beside` is the name and text of its header, where that lies in a file of its own.
    ///
    /// # Errors
    /// Every mistake of the header.
    pub fn parse(file: &str, text: &str, beside: Option<(&str, &str)>) -> Result<Self, Vec<Mistake>> {
        let (header_file, header) = match beside {
            Some((name, text)) => (name, text.to_owned()),
            None => (file, header_of(text)),
        };
        let fault =
            |at: usize, what: String| Mistake { file: header_file.to_owned(), line: line_of(&header, at), what };
        let read: Header = toml::from_str(&header).map_err(|error| {
            vec![fault(error.span().map_or(0, |span| span.start), format!("header: {}", error.message()))]
        })?;
        let mut mistakes = vec![];
        let (target, target_at) = (read.target.get_ref(), read.target.span().start);
        let name = target.strip_prefix("gold.").unwrap_or_default();
        if !is_name(name) {
            let what = format!("target {target:?}: write \"gold.NAME\", NAME of small letters, digits and `_`");
            mistakes.push(fault(target_at, what));
        }
        let mode = mode(&read).unwrap_or_else(|(at, what)| {
            mistakes.push(fault(at, what));
            Mode::Full
        });
        let keys = read.keys.as_ref().map(|keys| keys.get_ref().clone()).unwrap_or_default();
        let keys_at = read.keys.as_ref().map_or(target_at, |keys| keys.span().start);
        if !keys.is_empty() && matches!(mode, Mode::Full | Mode::Append) {
            mistakes.push(fault(
                keys_at,
                "keys: only modes \"window\" and \"latest\" have them; leave them out".to_owned(),
            ));
        }
        if keys.is_empty() && matches!(mode, Mode::Window(_) | Mode::Latest) {
            mistakes.push(fault(keys_at, "keys: missing; write e.g. keys = [\"device_id\", \"metric\"]".to_owned()));
        }
        if let Some(key) = keys.iter().find(|key| matches!(key.as_str(), "window_start" | "window_end" | "window_date"))
        {
            mistakes.push(fault(keys_at, format!("keys: {key} is there anyway; leave it out")));
        }
        let refresh = refresh(&read, mode).unwrap_or_else(|(at, what)| {
            mistakes.push(fault(at, what));
            Refresh::EachHop
        });
        let sources = sources(&read, mode).unwrap_or_else(|(at, what)| {
            mistakes.push(fault(at, what));
            vec![]
        });
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let digest = digest(&match beside {
            Some((_, header)) => format!("{header}\n{text}"),
            None => text.to_owned(),
        });
        let (file, target, sql) = (file.to_owned(), name.to_owned(), text.to_owned());
        Ok(Self { file, target, mode, keys, refresh, sources, sql, digest })
    }
}

/// Names that no engine has to quote.
pub(super) fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_lowercase())
        && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

type Fault = (usize, String);

fn mode(header: &Header) -> Result<Mode, Fault> {
    let at = header.mode.span().start;
    match (header.mode.get_ref().as_str(), &header.window) {
        ("window", Some(window)) => {
            windows(window.get_ref()).map(Mode::Window).map_err(|what| (window.span().start, format!("window: {what}")))
        }
        ("window", None) => Err((at, "mode \"window\" wants a [window] with kind and size, or gap".to_owned())),
        ("append" | "latest" | "full", Some(window)) => {
            Err((window.span().start, format!("mode {:?} has no windows", header.mode.get_ref())))
        }
        ("append", None) => Ok(Mode::Append),
        ("latest", None) => Ok(Mode::Latest),
        ("full", None) => Ok(Mode::Full),
        (other, _) => Err((at, format!("mode {other:?}: write \"window\", \"append\", \"latest\" or \"full\""))),
    }
}

fn windows(window: &Window) -> Result<Windows, String> {
    let zone = match &window.timezone {
        None => None,
        Some(name) => {
            let zone: Tz = name
                .parse()
                .map_err(|_| format!("timezone {name:?} is not known; write a name as \"Europe/Berlin\""))?;
            Some(zone)
        }
    };
    let (size, slide, gap) = (window.size.is_some(), window.slide.is_some(), window.gap.is_some());
    match window.kind {
        Kind::Tumbling if (size, slide, gap) != (true, false, false) => {
            Err("tumbling windows have a `size`, no `slide` and no `gap`".to_owned())
        }
        Kind::Sliding if (size, slide, gap) != (true, true, false) => {
            Err("sliding windows have a `size` and a `slide`, no `gap`".to_owned())
        }
        Kind::Session if (size, slide, gap) != (false, false, true) || zone.is_some() => {
            Err("sessions have a `gap` and nothing else".to_owned())
        }
        Kind::Session => {
            let gap = window.gap.map_or(0, |gap| gap.duration().as_micros());
            match i64::try_from(gap).ok().filter(|gap| (1_000_000..=super::window::DAY).contains(gap)) {
                Some(gap) => Ok(Windows::Session { gap }),
                None => Err("`gap` must be from \"1s\" to \"1d\"".to_owned()),
            }
        }
        Kind::Tumbling | Kind::Sliding => {
            let size = window.size.map(Span::duration).unwrap_or_default();
            let slide = window.slide.map_or(size, Span::duration);
            Grid::new(size, slide, zone).map(Windows::Grid).map_err(|error| error.to_string())
        }
    }
}

fn refresh(header: &Header, mode: Mode) -> Result<Refresh, Fault> {
    let Some(refresh) = &header.refresh else {
        return Ok(Refresh::EachHop);
    };
    let fault = |what: &str| Err((refresh.span().start, format!("refresh: {what}")));
    let texts = refresh.get_ref().texts();
    let found = match texts[..] {
        ["each-hop"] => Refresh::EachHop,
        ["final"] => Refresh::Final,
        [every] | [every, "final"] | ["final", every] => match every.parse::<Span>() {
            Ok(every) if Duration::from_secs(1) <= every.duration() => {
                Refresh::Every { every: every.duration(), at_final: 1 < texts.len() }
            }
            Ok(_) => return fault("must be at least \"1s\""),
            Err(_) => return fault("write \"each-hop\", \"final\", a span as \"5m\", or [\"1h\", \"final\"]"),
        },
        _ => return fault("write \"each-hop\", \"final\", a span as \"5m\", or [\"1h\", \"final\"]"),
    };
    match (found, mode) {
        (Refresh::Final | Refresh::Every { at_final: true, .. }, Mode::Window(Windows::Grid(_)))
        | (Refresh::EachHop | Refresh::Every { at_final: false, .. }, _) => Ok(found),
        _ => fault("only windows of fixed places can be final"),
    }
}

fn sources(header: &Header, mode: Mode) -> Result<Vec<Source>, Fault> {
    let Some(source) = &header.source else {
        return Ok(vec![Source::Readings]);
    };
    let mut found = vec![];
    for text in source.get_ref().texts() {
        match text {
            "silver.readings" => found.push(Source::Readings),
            "silver.quarantine" => found.push(Source::Rejected),
            other => {
                let what = format!("source {other:?}: write \"silver.readings\" or \"silver.quarantine\"");
                return Err((source.span().start, what));
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    if found.contains(&Source::Rejected) && !matches!(mode, Mode::Window(Windows::Grid(_)) | Mode::Append) {
        let what = "source \"silver.quarantine\" goes with windows of fixed places, or with \"append\"".to_owned();
        return Err((source.span().start, what));
    }
    if found.is_empty() {
        return Err((source.span().start, "source: write \"silver.readings\"".to_owned()));
    }
    Ok(found)
}
