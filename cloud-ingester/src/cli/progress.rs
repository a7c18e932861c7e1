//! Long work shows how far it is: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines.
const LINES: Duration = Duration::from_secs(5);

/// How far something is; written to stderr.
pub(super) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    all: u64,
    done: u64,
    said: Instant,
}

impl Progress {
    /// Of so many bytes.
    pub(super) fn bytes(what: &'static str, all: u64) -> Self {
        let style = "{prefix} [{bar:30}] {bytes}/{total_bytes} {eta} {msg}";
        Self::new(what, ProgressBar::new(all), style, all)
    }

    /// Of nobody knows how much.
    pub(super) fn spinner(what: &'static str) -> Self {
        Self::new(what, ProgressBar::new_spinner(), "{prefix} {spinner} {elapsed} {msg}", 0)
    }

    fn new(what: &'static str, bar: ProgressBar, style: &str, all: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_prefix(what);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { what, bar, all, done: 0, said: Instant::now() }
    }

    /// So many bytes further.
    pub(super) fn advance(&mut self, by: u64) {
        self.done += by;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    /// What is being done.
    pub(super) fn say(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            return;
        }
        if LINES <= self.said.elapsed() {
            self.said = Instant::now();
            let of = match self.all {
                0 => String::new(),
                all => format!(" {} %,", self.done * 100 / all),
            };
            let _ = writeln!(std::io::stderr(), "{}:{of} {what}", self.what);
        }
    }

    /// Shows that `work` goes on until it is done.
    pub(super) async fn until<T>(&mut self, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(LINES);
        ticks.tick().await;
        self.say(what);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.done();
                    return done;
                }
                _ = ticks.tick() => self.say(&format!("{what}, {} s", begun.elapsed().as_secs())),
            }
        }
    }

    /// Takes the bar away.
    pub(super) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
