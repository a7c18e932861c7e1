//! Logs on stderr, panics in the log, the last warnings for people, and the metrics registry's type.

mod discreet; // what is never logged

pub mod journal; // lines for systemd's journal

pub mod recent; // the last warnings and errors

use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::{Arc, Once};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt as lines};

use self::discreet::Discreet;

pub use prometheus_client::registry::Registry;
pub use recent::Recent;

/// How a program logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, `off`, or by module: `info,edge_agent::uplink=debug`.
    #[serde(deserialize_with = "level")]
    pub level: String,
    /// How a line looks.
    pub format: Format,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Text }
    }
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let level = String::deserialize(deserializer)?;
    check_level(&level).map(|()| level).map_err(D::Error::custom)
}

/// One of these, alone, says what holds for everything not named.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Whether `level` can be read as a filter and says what holds for everything it does not name: a word that is no level
/// names a module, and would silence all else.
///
/// # Errors
/// Why not.
pub fn check_level(level: &str) -> Result<(), String> {
    if level.chars().any(char::is_control) {
        return Err("it has control characters; write e.g. \"info\"".to_owned());
    }
    EnvFilter::try_new(level).map_err(|error| format!("`{level}` cannot be read ({error}); write e.g. \"info\""))?;
    let general = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part.trim()));
    if level.split(',').any(general) {
        return Ok(());
    }
    let known = LEVELS.join(", ");
    Err(format!(
        "`{level}` has no level for everything ({known}); write e.g. \"info\" or \"info,edge_agent::uplink=debug\""
    ))
}

type Turn = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// Changes what a running process logs. Cheap to clone.
#[derive(Clone)]
pub struct LevelSwitch {
    turn: Arc<Turn>,
}

impl LevelSwitch {
    /// A switch that does what it is told with a level.
    pub fn new(turn: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { turn: Arc::new(turn) }
    }

    /// From now on this is logged.
    ///
    /// # Errors
    /// `level` cannot be read, or nobody listens to this switch any more.
    pub fn set(&self, level: &str) -> Result<(), String> {
        (self.turn)(level)
    }

    fn of<S: 'static>(filter: Handle<EnvFilter, S>) -> Self {
        Self::new(move |level| {
            check_level(level)?;
            filter.reload(EnvFilter::new(level)).map_err(|error| format!("change what is logged: {error}"))?;
            // Libraries that log through `log` are held to the level of the start otherwise.
            log::set_max_level(ceiling(LevelFilter::current()));
            Ok(())
        })
    }
}

impl fmt::Debug for LevelSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LevelSwitch")
    }
}

fn ceiling(level: LevelFilter) -> log::LevelFilter {
    match level.into_level() {
        None => log::LevelFilter::Off,
        Some(Level::ERROR) => log::LevelFilter::Error,
        Some(Level::WARN) => log::LevelFilter::Warn,
        Some(Level::INFO) => log::LevelFilter::Info,
        Some(Level::DEBUG) => log::LevelFilter::Debug,
        Some(Level::TRACE) => log::LevelFilter::Trace,
    }
}

/// The log of a running process.
#[derive(Debug, Clone)]
pub struct Log {
    /// Changes what is logged.
    pub switch: LevelSwitch,
    /// The last warnings and errors among that.
    pub recent: Recent,
}

/// Starts logging to stderr and sends panics to the log. Only the first call in a process counts. Under systemd, where
/// stderr is the journal, each line has its priority, and neither time nor colour. Frames that libraries print are left out at
/// any level: tokens stand in them.
///
/// # Errors
/// `level` cannot be read as a filter; the text says why.
pub fn init(config: &Config) -> Result<(), String> {
    start(config).map(|_| ())
}

/// As [`init`], for a program whose level can be changed while it runs and whose last warnings are shown.
///
/// # Errors
/// As [`init`].
pub fn start(config: &Config) -> Result<Log, String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| format!("log level `{}`: {error}", config.level))?;
    let (filter, handle) = reload::Layer::new(filter);
    let log = Log { switch: LevelSwitch::of(handle), recent: Recent::default() };
    let base = tracing_subscriber::registry().with(filter).with(Discreet).with(log.recent.clone());
    let (layer, colour) = (lines::layer().with_writer(std::io::stderr), std::io::stderr().is_terminal());
    // An error of `try_init` says that the process logs already, as in tests that start several programs.
    let _ = match (config.format, journal::is_stderr()) {
        (Format::Text, false) => base.with(layer.with_ansi(colour)).try_init(),
        (Format::Json, false) => base.with(layer.json()).try_init(),
        (Format::Text, true) => {
            let format = journal::Marked(lines::format().with_ansi(false).without_time());
            base.with(layer.with_ansi(false).event_format(format)).try_init()
        }
        (Format::Json, true) => {
            let format = journal::Marked(lines::format().json().without_time());
            base.with(layer.json().event_format(format)).try_init()
        }
    };
    log_panics();
    Ok(log)
}

fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            tracing::error!(place = info.location().map(tracing::field::display), "panic: {}", panic_text(info));
            earlier(info);
        }));
    });
}

fn panic_text<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_configuration_silences_a_program_by_a_mistyped_level() {
        let read = |level: &str| toml::from_str::<Config>(&format!("level = {level:?}"));
        for good in ["info", "DEBUG", "off", "info,edge_agent::uplink=debug", "rumqttc=warn, trace"] {
            assert_eq!(read(good).expect(good).level, good);
        }
        for bad in ["", "verbose", "infoo", "edge_agent=debug", "info,=", "info,a=b=c", "info,a=verbose", "in\nfo"] {
            let fault = read(bad).expect_err(bad).to_string();
            assert!(fault.contains("write e.g. \"info\""), "{fault}");
        }
    }
}
