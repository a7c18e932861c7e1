//! What a person at a terminal sees, from the status of a running agent.

use std::io::Write;

use serde_json::Value as Json;

use super::words::{bytes, clean, count, cut, rate, span};

/// Cells of the last hour, low to high.
const CELLS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same where the terminal has no others.
const PLAIN_CELLS: [char; 8] = ['_', '.', '-', ':', '=', '+', '*', '#'];
/// Seconds the cells stand for.
const HOUR_S: u64 = 3_600;
/// Cells of a bar, and where there is little room.
const BAR: usize = 20;
const BAR_NARROW: usize = 10;
/// What is said of a curve beside it.
const TAIL: usize = 28;
/// Errors that are shown; the page and `--json` have all.
const ERRORS_SHOWN: usize = 5;
/// Before what a line says stands what it is about.
const MARGIN: usize = 10;

/// What the terminal can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) columns: usize,
    pub(super) rows: usize,
    pub(super) colour: bool,
    pub(super) utf8: bool,
}

/// How something is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Strong,
    Quiet,
    Good,
    Warn,
    Bad,
}

/// A status, looked into: what is missing, as from an agent of another version, is `-` or nothing.
struct Status<'s>(&'s Json);

impl Status<'_> {
    fn text(&self, pointer: &str) -> String {
        match self.0.pointer(pointer) {
            Some(Json::String(text)) => clean(text),
            Some(Json::Null) | None => "-".to_owned(),
            Some(other) => clean(&other.to_string()),
        }
    }

    fn said(&self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer).and_then(Json::as_str).map(clean)
    }

    fn count(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Json::as_u64).unwrap_or(0)
    }

    fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).and_then(Json::as_f64).unwrap_or(0.0)
    }

    fn numbers(&self, pointer: &str) -> Vec<f64> {
        let all = self.0.pointer(pointer).and_then(Json::as_array);
        all.into_iter().flatten().map(|number| number.as_f64().unwrap_or(0.0)).collect()
    }

    fn errors(&self) -> Vec<Status<'_>> {
        self.0.pointer("/errors").and_then(Json::as_array).into_iter().flatten().map(Status).collect()
    }

    /// In words, and how it is meant.
    fn outlook(&self) -> (String, Tone) {
        match self.text("/outlook/is").as_str() {
            "empty" => ("nothing waits".to_owned(), Tone::Good),
            "keeping-up" => ("on its way".to_owned(), Tone::Good),
            "draining" => (format!("empty in {}", span(self.count("/outlook/empty_in_s"))), Tone::Warn),
            "growing" => match self.0.pointer("/outlook/full_in_s").and_then(Json::as_u64) {
                Some(seconds) => (format!("growing, full in {}", span(seconds)), Tone::Bad),
                None => ("growing".to_owned(), Tone::Bad),
            },
            "full" => ("full".to_owned(), Tone::Bad),
            "waiting" => ("waits for the hub".to_owned(), Tone::Warn),
            other => (other.to_owned(), Tone::Quiet),
        }
    }

    fn link(&self) -> (String, Tone) {
        let link = self.text("/uplink/link");
        let tone = match link.as_str() {
            "live" | "renewing" => Tone::Good,
            "catching-up" | "dialing" => Tone::Warn,
            _ => Tone::Bad,
        };
        (link.replace('-', " "), tone)
    }
}

/// The whole view.
pub(super) fn view(status: &Json, style: &Style) -> String {
    let status = Status(status);
    let mut page = Page { style, text: String::new() };
    page.head(&status);
    page.alarms(&status);
    page.hub(&status);
    page.flow(&status);
    page.room(&status);
    page.books(&status);
    page.rest(&status);
    page.errors(&status);
    page.text
}

/// One line, for a log that is watched.
pub(super) fn line(status: &Json) -> String {
    let status = Status(status);
    format!(
        "{} {}: {}, in {}/s, out {}/s, {} held, {}{}",
        status.text("/now"),
        status.text("/gateway"),
        status.link().0,
        rate(status.number("/rates/stored")),
        rate(status.number("/rates/sent")),
        status.count("/outbox/held"),
        status.outlook().0,
        status.said("/outbox/full").map(|full| format!("; FULL: {full}")).unwrap_or_default(),
    )
}

/// For plain lines: what goes through now, the disk, the last errors.
pub(super) fn print_now(out: &mut impl Write, status: &Json) -> std::io::Result<()> {
    let status = Status(status);
    if status.0.get("rates").is_none() {
        return Ok(()); // an agent of an earlier version
    }
    writeln!(
        out,
        "rates     {} rows/s in, {} rows/s out, {} messages/s, {} refused/s, over {} s",
        rate(status.number("/rates/stored")),
        rate(status.number("/rates/sent")),
        rate(status.number("/rates/messages")),
        rate(status.number("/rates/refused")),
        status.number("/rates/over_s").round(),
    )?;
    writeln!(out, "backlog   {} rows, {}", status.count("/outbox/held"), status.outlook().0)?;
    writeln!(out, "disk      {} free of {}", bytes(status.count("/disk/free")), bytes(status.count("/disk/total")))?;
    for error in status.errors().iter().take(ERRORS_SHOWN) {
        writeln!(
            out,
            "{:9} {} ago, {}: {}",
            error.text("/level"),
            span(error.count("/ago_s")),
            times(error),
            error.text("/text")
        )?;
    }
    Ok(())
}

fn times(error: &Status<'_>) -> String {
    match error.count("/times") {
        1 => "once".to_owned(),
        times => format!("{} times", count(times)),
    }
}

struct Page<'s> {
    style: &'s Style,
    text: String,
}

impl Page<'_> {
    fn head(&mut self, status: &Status<'_>) {
        let (link, tone) = status.link();
        let gateway = status.text("/gateway");
        let dot = if self.style.utf8 { "●" } else { "*" };
        let right = format!("edge-agent {}, up {}", status.text("/version"), span(status.count("/uptime_s")));
        let left = gateway.chars().count() + link.chars().count() + 5;
        self.text.push(' ');
        self.say(Tone::Strong, &gateway);
        self.text.push_str("  ");
        self.say(tone, &format!("{dot} {link}"));
        if left + 2 + right.chars().count() <= self.width() {
            self.text.push_str(&" ".repeat(self.width() - left - right.chars().count()));
            self.say(Tone::Quiet, &right);
        }
        self.text.push('\n');
        let rule = if self.style.utf8 { "─" } else { "-" };
        self.say(Tone::Quiet, &format!(" {}", rule.repeat(self.width().saturating_sub(1))));
        self.text.push('\n');
    }

    fn alarms(&mut self, status: &Status<'_>) {
        if let Some(full) = status.said("/outbox/full") {
            self.row("FULL", Tone::Bad, &format!("devices are not acknowledged: {full}"));
        }
        if status.0.get("clock_plausible").and_then(Json::as_bool) == Some(false) {
            self.row("CLOCK", Tone::Bad, &format!("it says {}, which cannot be: set it", status.text("/now")));
        }
    }

    fn hub(&mut self, status: &Status<'_>) {
        match (status.said("/hub/name"), status.said("/hub/last_error")) {
            (_, Some(error)) => self.row("hub", Tone::Bad, &format!("none yet: {error}")),
            (None, None) => self.row("hub", Tone::Warn, "none yet"),
            (Some(hub), None) => self.row("hub", Tone::Strong, &hub),
        }
        if let Some(error) = status.said("/uplink/last_error") {
            self.row("", Tone::Bad, &error);
        }
        let connected = status.0.pointer("/broker/connected").and_then(Json::as_bool) == Some(true);
        match (status.said("/broker/broker"), status.said("/broker/last_error")) {
            (None, _) => {}
            (Some(broker), _) if connected => self.row("broker", Tone::Strong, &broker),
            (Some(broker), None) => self.row("broker", Tone::Warn, &format!("{broker}: not connected yet")),
            (Some(broker), Some(error)) => self.row("broker", Tone::Bad, &format!("{broker}: {error}")),
        }
    }

    fn flow(&mut self, status: &Status<'_>) {
        let ago = status.numbers("/hour/ago_s");
        let curve = |page: &mut Self, name: &str, said: String, of: &str, tail: &dyn Fn(f64) -> (String, Tone)| {
            let values = status.numbers(of);
            let (tail, tone) = tail(values.iter().copied().fold(0.0, f64::max));
            let cells = if values.is_empty() { 0 } else { page.cells_max() };
            page.label(name);
            page.say(Tone::Strong, &format!("{:<16}", page.cut(&said, 15)));
            if 0 < cells {
                page.text.push_str(&cells_of(&ago, &values, cells, page.style.utf8));
                page.text.push_str("  ");
            }
            let room = page.width().saturating_sub(MARGIN + 17 + cells + 2);
            page.say(tone, &page.cut(&tail, room));
            page.text.push('\n');
        };
        let most =
            |most: f64| (if 0.0 < most { format!("at most {}", rate(most)) } else { String::new() }, Tone::Quiet);
        let speed = |pointer| format!("{} rows/s", rate(status.number(pointer)));
        curve(self, "in", speed("/rates/stored"), "/hour/stored", &most);
        curve(self, "out", speed("/rates/sent"), "/hour/sent", &most);
        let held = format!("{} rows", count(status.count("/outbox/held")));
        curve(self, "backlog", held, "/hour/held", &|_| status.outlook());
    }

    fn room(&mut self, status: &Status<'_>) {
        let (used, max) = (status.count("/outbox/bytes"), status.count("/outbox/bytes_max"));
        self.bar("outbox", used as f64 / max.max(1) as f64, 0.8, &format!("{} of {}", bytes(used), bytes(max)));
        let (free, total) = (status.count("/disk/free"), status.count("/disk/total"));
        if 0 < total {
            let used = total.saturating_sub(free) as f64 / total as f64;
            self.bar("disk", used, 0.9, &format!("{} free of {}", bytes(free), bytes(total)));
        }
    }

    fn books(&mut self, status: &Status<'_>) {
        let of = |name: &str| count(status.count(&format!("/outbox/{name}")));
        let (stored, acked, given_up, held) = (of("stored"), of("acked"), of("given_up"), of("held"));
        let sum = format!("{stored} stored = {acked} acknowledged + {given_up} given up + {held} held");
        self.row("books", Tone::Strong, &sum);
        let (gaps, closings) = (of("gaps_held"), of("closings_held"));
        let rest = format!("{} duplicates; {gaps} gaps and {closings} closings wait", of("duplicates"));
        self.row("", Tone::Quiet, &rest);
    }

    fn rest(&mut self, status: &Status<'_>) {
        let of = |name: &str| status.count(&format!("/presilver/{name}"));
        let (received, readings, refused) = (of("received"), of("readings"), of("rejected"));
        let share = 100.0 * refused as f64 / (readings + refused).max(1) as f64;
        let (received, readings) = (count(received), count(readings));
        let text = format!("{received} messages: {readings} readings, {} refused ({share:.1} %)", count(refused));
        self.row("judged", Tone::Strong, &text);
        let until = status.said("/remote/log_level_until").map(|at| format!(" until {at}")).unwrap_or_default();
        let (state, level) = (status.text("/remote/state"), status.text("/remote/log_level"));
        self.row("remote", Tone::Strong, &format!("{state}, log level {level}{until}"));
        for sensor in status.0.pointer("/sensors").and_then(Json::as_array).into_iter().flatten().map(Status) {
            let (name, state) = (sensor.text("/sensor"), sensor.text("/state"));
            match sensor.said("/last_error").filter(|_| state == "failing") {
                Some(error) => self.row("sensor", Tone::Bad, &format!("{name}: {error}")),
                None => self.row("sensor", Tone::Strong, &format!("{name}: {state}")),
            }
        }
    }

    fn errors(&mut self, status: &Status<'_>) {
        let errors = status.errors();
        if errors.is_empty() {
            return;
        }
        self.text.push('\n');
        self.say(Tone::Quiet, " Last warnings and errors");
        self.text.push('\n');
        for error in errors.iter().take(ERRORS_SHOWN) {
            let tone = if error.text("/level") == "error" { Tone::Bad } else { Tone::Warn };
            let when = format!(" {:>12} ago  ", span(error.count("/ago_s")));
            let often = if error.count("/times") < 2 { String::new() } else { format!("{}: ", times(error)) };
            let room = self.width().saturating_sub(when.chars().count());
            self.say(Tone::Quiet, &when);
            self.say(tone, &self.cut(&(often + &error.text("/text")), room));
            self.text.push('\n');
        }
    }

    fn bar(&mut self, name: &str, share: f64, much: f64, note: &str) {
        let tone = if share < much {
            Tone::Good
        } else if share < 0.97 {
            Tone::Warn
        } else {
            Tone::Bad
        };
        let cells = if self.width() < 60 { BAR_NARROW } else { BAR };
        let full = (share.clamp(0.0, 1.0) * cells as f64).round() as usize;
        let (on, off) = if self.style.utf8 { ("█", "░") } else { ("#", ".") };
        self.label(name);
        self.say(tone, &on.repeat(full));
        self.say(Tone::Quiet, &off.repeat(cells - full));
        self.text.push_str(&format!(" {:>5.1} %  ", (100.0 * share).min(999.9)));
        let room = self.width().saturating_sub(MARGIN + 1 + cells + 10);
        self.say(Tone::Strong, &self.cut(note, room));
        self.text.push('\n');
    }

    /// What it is about, and what is said of it, as long as the terminal is wide.
    fn row(&mut self, name: &str, tone: Tone, said: &str) {
        let said = self.cut(said, self.width().saturating_sub(MARGIN + 1));
        self.label(name);
        self.say(tone, &said);
        self.text.push('\n');
    }

    fn label(&mut self, name: &str) {
        self.say(Tone::Quiet, &format!(" {name:<MARGIN$}"));
    }

    fn say(&mut self, tone: Tone, text: &str) {
        let code = match tone {
            Tone::Strong => "",
            Tone::Quiet => "2",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "1;31",
        };
        match self.style.colour && !code.is_empty() && !text.is_empty() {
            true => self.text.push_str(&format!("\x1b[{code}m{text}\x1b[0m")),
            false => self.text.push_str(text),
        }
    }

    fn cut(&self, text: &str, columns: usize) -> String {
        cut(text, columns, if self.style.utf8 { '…' } else { '~' })
    }

    /// Lines longer than this are hard to read.
    fn width(&self) -> usize {
        self.style.columns.min(110)
    }

    /// Cells of the last hour there is room for.
    fn cells_max(&self) -> usize {
        let room = self.width().saturating_sub(MARGIN + 17 + 2 + TAIL);
        if room < 12 { 0 } else { room.min(60) }
    }
}

/// The last hour, the newest at the right; blank where nothing is known.
fn cells_of(ago_s: &[f64], values: &[f64], cells: usize, utf8: bool) -> String {
    let mut means = vec![(0.0, 0u32); cells];
    for (ago, value) in ago_s.iter().zip(values) {
        let back = (ago / HOUR_S as f64 * cells as f64) as usize;
        if let Some(mean) = cells.checked_sub(back + 1).and_then(|at| means.get_mut(at)) {
            *mean = (mean.0 + value, mean.1 + 1);
        }
    }
    let means: Vec<_> = means.into_iter().map(|(sum, of)| (0 < of).then(|| sum / f64::from(of))).collect();
    let most = means.iter().flatten().copied().fold(0.0, f64::max);
    let glyphs = if utf8 { CELLS } else { PLAIN_CELLS };
    let cell = |mean: &Option<f64>| match mean {
        None => ' ',
        Some(mean) if *mean <= 0.0 => glyphs[0],
        // What is not nothing is not drawn as nothing.
        Some(mean) => glyphs[((mean / most * 7.0).round() as usize).clamp(1, 7)],
    };
    means.iter().map(cell).collect()
}

#[cfg(test)]
mod tests;
