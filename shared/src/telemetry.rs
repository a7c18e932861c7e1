//! Logs on stderr, panics in the log, and the metrics registry's type.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::Once;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

pub use prometheus_client::registry::Registry;

/// How a program logs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace`, or by module: `info,edge_agent::uplink=debug`.
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

impl Config {
    /// Whether `level` can be read.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        let readable = EnvFilter::try_new(&self.level).map(|_| ());
        readable.map_err(|error| format!("`{}` cannot be read ({error}); write e.g. \"info\"", self.level))
    }
}

/// Starts logging to stderr and sends panics to the log. Only the first call in a process counts.
///
/// # Errors
/// `level` cannot be read as a filter; the text says why.
pub fn init(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| format!("log level `{}`: {error}", config.level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // An error says that the process logs already, as in tests that start several programs.
    let _ = match config.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().try_init(),
    };
    log_panics();
    Ok(())
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
