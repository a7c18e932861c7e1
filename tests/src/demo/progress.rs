//! What the demo says while it runs: one line that changes on a terminal, plain lines elsewhere.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value as Json;

use crate::stack::{Part, Stack};

/// How often a plain line is printed.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);
/// How often the changing line is looked up anew.
const BAR_PERIOD: Duration = Duration::from_secs(1);

/// Where the demo says what happens.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    shown: Option<Instant>,
}

impl Progress {
    pub(super) fn new(terminal: bool) -> Self {
        let bar = terminal.then(|| {
            let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("the template is well-formed");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, shown: None }
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => {
                let _ = writeln!(std::io::stderr(), "{line}"); // a closed terminal hears nothing
            }
        }
    }

    /// How far each stage is, if it is time to say so again.
    pub(super) fn show(&mut self, stack: &Stack, elapsed: Duration, limit: Option<Duration>) {
        let period = if self.bar.is_some() { BAR_PERIOD } else { PLAIN_PERIOD };
        if self.shown.is_some_and(|at| at.elapsed() < period) {
            return;
        }
        self.shown = Some(Instant::now());
        let line = line(stack, elapsed, limit);
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None => self.say(&line),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn line(stack: &Stack, elapsed: Duration, limit: Option<Duration>) -> String {
    let agent = stack.status(Part::Agent).unwrap_or(Json::Null);
    let hub = stack.status(Part::Hub).unwrap_or(Json::Null);
    let ingester = stack.status(Part::Ingester).unwrap_or(Json::Null);
    let clock = match limit {
        Some(limit) => format!("{:>3} of {} s", elapsed.as_secs(), limit.as_secs()),
        None => format!("{:>3} s", elapsed.as_secs()),
    };
    format!("{clock}  {}", stages(&agent, &hub, &ingester))
}

/// One entry for each stage, in the order in which data walks.
fn stages(agent: &Json, hub: &Json, ingester: &Json) -> String {
    let number = |from: &Json, pointer: &str| match from.pointer(pointer) {
        Some(Json::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    };
    format!(
        "agent: {} stored, {} held | hub: {} events | bronze: {} | silver: {} readings, {} quarantined | gold: {} windows",
        number(agent, "/outbox/stored"),
        number(agent, "/outbox/held"),
        number(hub, "/events/stored"),
        rows(ingester, "bronze.messages"),
        rows(ingester, "silver.readings"),
        rows(ingester, "silver.quarantine"),
        rows(ingester, "gold.metric_1m"),
    )
}

/// The rows of a table, as the ingester's status tells.
fn rows(ingester: &Json, table: &str) -> String {
    let tables = ingester.get("tables").and_then(Json::as_array);
    let entry = tables.and_then(|tables| tables.iter().find(|entry| entry["table"] == table));
    entry.and_then(|entry| entry["rows"].as_u64()).map_or("-".to_owned(), |rows| rows.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stage_that_does_not_answer_shows_a_dash() {
        let line = stages(
            &json!({"outbox": {"stored": 7, "held": 2}}),
            &Json::Null,
            &json!({"tables": [{"table": "bronze.messages", "rows": 3}]}),
        );
        assert_eq!(
            line,
            "agent: 7 stored, 2 held | hub: - events | bronze: 3 | silver: - readings, - quarantined | gold: - windows"
        );
    }
}
