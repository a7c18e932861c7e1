//! Progress for whoever watches: a bar on a terminal, lines elsewhere, JSON for scripts.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::counters::{Counters, Progress};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// A JSON line on stdout, every second and at the end.
    Json,
    /// A bar where stderr is a terminal, else a line on stderr every few seconds.
    People,
}

/// What the numbers are held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Devices that should be connected.
    pub(crate) devices: u64,
    /// Sends there will be, where that is known.
    pub(crate) sends: Option<u64>,
}

/// Lines of plain progress come this far apart.
const PLAIN_EVERY: u32 = 5;

/// Shows the counters until dropped.
pub(crate) async fn show(counters: &Counters, scale: Scale, face: Face) {
    let bar = match (face, std::io::stderr().is_terminal()) {
        (Face::People, true) => Some(bar(scale)),
        _ => None,
    };
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await; // the first is at once, and there is nothing to say yet
    let mut seconds = 0;
    loop {
        tick.tick().await;
        seconds += 1;
        let progress = counters.progress();
        match (face, &bar) {
            (Face::Json, _) => json(&progress),
            (Face::People, Some(bar)) => {
                bar.set_position(progress.sends);
                bar.set_message(sentence(&progress, scale));
            }
            (Face::People, None) if seconds % PLAIN_EVERY == 0 => {
                let _ = writeln!(std::io::stderr(), "{}", sentence(&progress, scale));
            }
            (Face::People, None) => {}
        }
    }
}

/// Writes one line of JSON to stdout.
pub(crate) fn json(value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("plain data");
    say(&text);
}

/// Writes a line to stdout. Nobody reads it where that fails.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn bar(scale: Scale) -> ProgressBar {
    let (bar, template) = match scale.sends {
        Some(sends) => (ProgressBar::new(sends), "{elapsed_precise} {wide_bar} {msg}"),
        None => (ProgressBar::new_spinner(), "{elapsed_precise} {spinner} {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
    bar
}

/// The counters in words, while it runs.
pub(crate) fn sentence(progress: &Progress, scale: Scale) -> String {
    let text = format!("{}/{} connected, {}", progress.connected, scale.devices, total(progress));
    match &progress.trouble {
        Some(trouble) if progress.connected < scale.devices => format!("{text} ({trouble})"),
        _ => text,
    }
}

/// The counters in words, at the end.
pub(crate) fn total(progress: &Progress) -> String {
    let Progress { sends, values, acked, again, unacked, skipped, failed, .. } = progress;
    let mut text = format!("{sends} sends with {values} values, {acked} acknowledged, {unacked} under way");
    for (count, what) in [(again, "published again"), (skipped, "samples skipped"), (failed, "failed")] {
        if *count != 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}
