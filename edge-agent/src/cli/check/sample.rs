//! Sample messages, one a line (topic, a blank or a tab, payload), and what would become of them.
//!
//! Bytes that are no text are written `hex:…` or `base64:…`; what begins so and is none is read as text, and that is said.
//! A reading whose time silver would refuse is said to be one, too. Lines are read in their order: what a convention remembers
//! (a Sparkplug birth) holds for the lines below it.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use base64::Engine as _;
use serde_json::json;
use shared::cli::Exit;
use shared::clock::Clock;
use shared::reading::Value;
use shared::rules::TimeWindow;
use shared::time::Timestamp;

use crate::config::Config;
use crate::outbox::HeldItem;
use crate::presilver::gateway::Gateway;
use crate::presilver::judge::Judged;
use crate::presilver::{Judge, Publish, Verdict};

/// Prints the verdicts. The answer is no if any value would be refused.
pub(super) fn judge(config: &Config, file: &Path, json: bool) -> std::io::Result<Exit> {
    let received = Clock::Real.now();
    let clock_known_good = Gateway::new(config.presilver.clock).is_known_good(received);
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        let open = std::fs::File::open(file);
        Box::new(BufReader::new(
            open.map_err(|error| std::io::Error::new(error.kind(), format!("read {}: {error}", file.display())))?,
        ))
    };
    let mut samples = Samples { judge: Judge::new(&config.presilver), received, clock_known_good, json, sums: [0; 4] };
    let mut out = std::io::stdout().lock();
    for (index, line) in input.split(b'\n').enumerate() {
        samples.line(index + 1, &line?, &mut out)?;
    }
    samples.end(&mut out)?;
    Ok(if samples.sums[1] == 0 { Exit::Ok } else { Exit::No })
}

/// Samples on their way through the judge.
struct Samples {
    judge: Judge,
    received: Timestamp,
    clock_known_good: bool,
    json: bool,
    /// Readings, refusals, what is left out, verdicts without a key.
    sums: [usize; 4],
}

impl Samples {
    fn line(&mut self, number: usize, line: &[u8], out: &mut impl Write) -> std::io::Result<()> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        // A topic may hold blanks: then a tab stands behind it, or JSON.
        let parts = |text: &[u8]| line.windows(text.len()).position(|other| other == text);
        let json = ["{\"", "[{", "{}"].iter().filter_map(|begin| parts(format!(" {begin}").as_bytes())).min();
        let (topic, payload) = match parts(b"\t").or(json).or(parts(b" ")) {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let topic = String::from_utf8_lossy(topic);
        let payload = match bytes_of(payload) {
            Ok(payload) => payload,
            Err(why) => {
                self.beside(number, "note", &format!("sample: {why}; it is read as text"), out)?;
                Cow::Borrowed(payload)
            }
        };
        let judged = self.judge.judge(&Publish {
            topic: &topic,
            payload: &payload,
            cut: None,
            received: self.received,
            clock_known_good: self.clock_known_good,
            again: false,
        });
        self.sums[2] += judged.left_out.len();
        for (verdict, text) in beside(&judged) {
            self.beside(number, verdict, &text, out)?;
        }
        let mut far = None;
        for verdict in judged.verdicts {
            match &verdict.item {
                HeldItem::Reading(_) => self.sums[0] += 1,
                HeldItem::Rejected { .. } => self.sums[1] += 1,
            }
            self.sums[3] += usize::from(verdict.key.is_none());
            match self.json {
                true => writeln!(out, "{}", as_json(number, &verdict))?,
                false => writeln!(out, "{number:>4}  {}", as_text(&verdict))?,
            }
            if let HeldItem::Reading(reading) = &verdict.item
                && self.clock_known_good
            {
                far = far.or_else(|| too_far(reading.event_time, self.received));
            }
        }
        far.map_or(Ok(()), |why| self.beside(number, "note", &why, out))
    }

    fn beside(&self, number: usize, verdict: &str, text: &str, out: &mut impl Write) -> std::io::Result<()> {
        match self.json {
            true => writeln!(out, "{}", json!({"line": number, "verdict": verdict, "text": text})),
            false => writeln!(out, "{number:>4}  {verdict:9} {text}"),
        }
    }

    fn end(&self, out: &mut impl Write) -> std::io::Result<()> {
        let [readings, rejected, left_out, keyless] = self.sums;
        if self.json {
            return Ok(());
        }
        let rules = self.judge.digest();
        let left_out = if left_out == 0 { String::new() } else { format!(", {left_out} left out") };
        writeln!(out, "{readings} readings, {rejected} refused{left_out}; rules {rules}")?;
        if 0 < keyless {
            writeln!(out, "{keyless} with neither number nor time: a repeat of them is not recognised")?;
        }
        Ok(())
    }
}

/// The payload of a line.
///
/// # Errors
/// It is not what it says it is.
fn bytes_of(text: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    if let Some(hex) = text.strip_prefix(b"hex:") {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let figures: Option<Vec<u32>> = hex.iter().filter(|byte| **byte != b' ').map(|byte| digit(*byte)).collect();
        let pairs = figures.filter(|figures| figures.len() % 2 == 0);
        let bytes = pairs.map(|figures| figures.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect());
        bytes.map(Cow::Owned).ok_or("what follows `hex:` is not hex, two figures a byte")
    } else if let Some(text) = text.strip_prefix(b"base64:") {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        bytes.map(Cow::Owned).map_err(|_| "what follows `base64:` is not base64 with its padding")
    } else {
        Ok(Cow::Borrowed(text))
    }
}

/// Why silver would refuse a time, and what it may have been meant to be.
fn too_far(time: Timestamp, now: Timestamp) -> Option<String> {
    let why = TimeWindow::SILVER.judge(time, now)?;
    // Seconds or milliseconds, read as what counts more often.
    let meant = [1_000, 1_000_000].into_iter().find_map(|factor| {
        let meant = Timestamp::from_micros(time.micros().checked_mul(factor)?);
        let fits = TimeWindow::SILVER.judge(meant, now).is_none();
        fits.then(|| {
            format!("; {factor} times as much is {meant}: is it in seconds or milliseconds? Then write its `time-unit`")
        })
    });
    let meant = meant.unwrap_or_default();
    Some(format!("{why}: silver refuses that, with its `max-age` and `max-ahead` as they are by default{meant}"))
}

/// What a message holds beside values: the verdict and a line.
fn beside(judged: &Judged) -> Vec<(&'static str, String)> {
    let left_out = judged.left_out.iter().map(|left| ("left out", format!("{}: {}", left.what, left.why)));
    let notes = judged.notes.iter().map(|note| ("note", format!("{}: {}", note.kind, note.text)));
    let ask = judged.ask.iter().map(|ask| ("asks", format!("a rebirth, on {}", ask.topic)));
    left_out.chain(notes).chain(ask).collect()
}

fn as_text(verdict: &Verdict) -> String {
    match &verdict.item {
        HeldItem::Reading(reading) => format!(
            "reading   {} {} = {}{} at {} ({})",
            reading.device,
            reading.metric,
            reading.value,
            reading.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default(),
            reading.event_time,
            reading.time_quality.as_str()
        ),
        HeldItem::Rejected { rejected, .. } => format!(
            "rejected  {} {}: {}",
            rejected.device,
            rejected.metric.as_ref().map_or("(whole payload)", |metric| metric.as_str()),
            rejected.reasons.join("; ")
        ),
    }
}

fn as_json(line: usize, verdict: &Verdict) -> serde_json::Value {
    match &verdict.item {
        HeldItem::Reading(reading) => json!({
            "line": line, "verdict": "reading", "device": reading.device, "metric": reading.metric,
            "value": match &reading.value {
                Value::Number(number) => json!(number),
                Value::Bool(on) => json!(on),
                Value::Text(text) => json!(text),
            },
            "unit": reading.unit, "event_time": reading.event_time.to_string(),
            "time_quality": reading.time_quality, "source_seq": reading.source_seq,
        }),
        HeldItem::Rejected { rejected, .. } => json!({
            "line": line, "verdict": "rejected", "device": rejected.device, "metric": rejected.metric,
            "reasons": rejected.reasons,
        }),
    }
}

#[cfg(test)]
mod tests;
