//! Sample messages, one a line (topic, a blank, payload), and what would become of them.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;

use serde_json::json;
use shared::cli::Exit;
use shared::clock::Clock;
use shared::reading::Value;

use crate::config::Config;
use crate::outbox::HeldItem;
use crate::presilver::gateway::Gateway;
use crate::presilver::{Judge, Publish, Verdict};

/// Prints the verdicts. The answer is no if any value would be refused.
pub(super) fn judge(config: &Config, file: &Path, json: bool) -> std::io::Result<Exit> {
    let judge = Judge::new(&config.presilver);
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
    let mut out = std::io::stdout().lock();
    let (mut readings, mut rejected, mut keyless) = (0, 0, 0);
    for (index, line) in input.split(b'\n').enumerate() {
        let mut line = line?;
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.is_empty() {
            continue;
        }
        let (topic, payload) = match line.iter().position(|byte| *byte == b' ') {
            Some(blank) => (&line[..blank], &line[blank + 1..]),
            None => (&line[..], &[][..]),
        };
        let topic = String::from_utf8_lossy(topic);
        let publish = Publish { topic: &topic, payload, received, clock_known_good };
        for verdict in judge.judge(&publish) {
            match &verdict.item {
                HeldItem::Reading(_) => readings += 1,
                HeldItem::Rejected { .. } => rejected += 1,
            }
            keyless += usize::from(verdict.key.is_none());
            match json {
                true => writeln!(out, "{}", as_json(index + 1, &verdict))?,
                false => writeln!(out, "{:>4}  {}", index + 1, as_text(&verdict))?,
            }
        }
    }
    if !json {
        writeln!(out, "{readings} readings, {rejected} refused; rules {}", judge.digest())?;
        if 0 < keyless {
            writeln!(out, "{keyless} with neither number nor time: a repeat of them is not recognised")?;
        }
    }
    Ok(if rejected == 0 { Exit::Ok } else { Exit::No })
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
