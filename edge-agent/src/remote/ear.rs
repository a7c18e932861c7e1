//! The ear: what to do about what the hub says, given what happened. No socket, no clock.
//!
//! ```text
//! away --connected--> asking (SUBSCRIBE) --SUBACK--> hearing --lost--> away
//!           |
//!           +--> deaf, for a while: a hub closed several connections rather than hear of twins
//! ```
//!
//! Nothing here holds telemetry up: what is said goes beside the Envelopes, at QoS 0 and without a place in their window,
//! and a hub that answers nothing is just not heard.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shared::backoff::Backoff;

use super::document::Section;
use super::kept::Good;
use super::level::Levels;
use super::method::{self, Call};
use super::settings::{self, Devices, Fault, LOG_LEVEL, Settings};
use super::topic::{self, Heard};
use super::twin::{Changes, Outcome, Twin};

mod words; // what it is told, and what it says is to be done

pub use self::words::{Count, Do, Note, Notice};

/// The reported property with what the agent is.
const AGENT: &str = "agent";
/// Messages handed to the client and not yet written. The client has room for them beside the window.
pub const SAID_MAX: usize = 16;
/// Calls that wait for that room; more are not answered, and their callers time out.
const CALLS_MAX: usize = 256;
/// Flushes under way; more are refused.
const FLUSHES_MAX: usize = 8;
/// Unknown desired properties that are answered; more are only logged.
const UNKNOWN_MAX: usize = 32;
/// A value up to this size is repeated in its acknowledgement.
const ECHO_BYTES_MAX: usize = 256;
/// So many connections in a row the hub may close before it has answered about the twin…
const CLOSED_MAX: u32 = 3;
/// …before it is spared for so long: a tier without twins closes instead of saying no, and telemetry comes first.
const DEAF: Duration = Duration::from_secs(600);
/// SUBACK should have come by then.
const SUBACK: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Away,
    Asking { until: Option<Instant> },
    Hearing,
    Refused,
    Deaf,
}

/// The ear.
#[derive(Debug)]
pub struct Ear {
    link: Link,
    twin: Twin,
    levels: Levels,
    /// Of the sensors here.
    devices: Devices,
    /// The last good set.
    good: Good,
    /// Why what is desired now is not in force.
    refused: Option<String>,
    calls: VecDeque<(String, Call)>,
    /// Handed over and not yet written.
    said: usize,
    /// Under way.
    flushes: usize,
    closed: u32,
    deaf_until: Option<Instant>,
    dropping: bool,
}

impl Ear {
    /// An ear of an agent with this level and sensors of these devices in its configuration, and this set in force from an
    /// earlier run.
    pub fn new(level: &str, devices: Devices, good: Good, backoff: Backoff) -> Self {
        let mut levels = Levels::new(level);
        levels.desire(good.settings.level.clone());
        Self {
            link: Link::Away,
            twin: Twin::new(backoff),
            levels,
            devices,
            good,
            refused: None,
            calls: VecDeque::new(),
            said: 0,
            flushes: 0,
            closed: 0,
            deaf_until: None,
            dropping: false,
        }
    }

    /// For the status.
    pub fn state(&self) -> &'static str {
        match self.link {
            Link::Away => "away",
            Link::Asking { .. } => "asking",
            Link::Hearing => "hearing",
            Link::Refused => "refused",
            Link::Deaf => "deaf",
        }
    }

    /// The twin.
    pub fn twin(&self) -> &Twin {
        &self.twin
    }

    /// The set in force.
    pub fn good(&self) -> &Good {
        &self.good
    }

    /// Why what is desired now is not in force; `None` where it is.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// What is logged.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// When [`Notice::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let link = match self.link {
            Link::Asking { until } => until,
            Link::Deaf => self.deaf_until,
            Link::Hearing if self.said < SAID_MAX => self.twin.deadline(),
            Link::Hearing | Link::Away | Link::Refused => None,
        };
        [link, self.levels.until()].into_iter().flatten().min()
    }

    /// One edge.
    pub fn step(&mut self, notice: Notice<'_>, now: Instant) -> Vec<Do> {
        let mut todo = vec![];
        match notice {
            Notice::Connected => self.connected(now, &mut todo),
            Notice::Subscribed { granted } => self.subscribed(granted, &mut todo),
            Notice::Heard { topic, payload } => self.heard(topic, payload, now, &mut todo),
            Notice::Said => self.said = self.said.saturating_sub(1),
            Notice::Flushed { rid, status, body } => {
                self.flushes = self.flushes.saturating_sub(1);
                self.calls.push_back((rid, Call::Flushed { status, body }));
            }
            Notice::Agent(facts) => self.twin.want(AGENT, facts, now),
            Notice::Lost { closed } => self.lost(closed, now, &mut todo),
            Notice::Tick => {}
        }
        self.go_on(now, &mut todo);
        todo
    }

    fn connected(&mut self, now: Instant, todo: &mut Vec<Do>) {
        self.twin.end();
        self.calls.clear();
        (self.said, self.flushes) = (0, 0);
        if self.deaf_until.is_some_and(|until| now < until) {
            self.link = Link::Deaf;
            return;
        }
        self.deaf_until = None;
        self.subscribe(now, todo);
    }

    fn subscribe(&mut self, now: Instant, todo: &mut Vec<Do>) {
        self.link = Link::Asking { until: Some(now + SUBACK) };
        todo.push(Do::Subscribe);
    }

    fn subscribed(&mut self, granted: bool, todo: &mut Vec<Do>) {
        match (self.link, granted) {
            (Link::Asking { .. }, true) => {
                self.link = Link::Hearing;
                self.twin.begin();
            }
            (Link::Asking { .. }, false) => {
                self.link = Link::Refused;
                todo.push(Do::Note(Note::NotGranted));
            }
            _ => {}
        }
    }

    fn lost(&mut self, closed: bool, now: Instant, todo: &mut Vec<Do>) {
        let early = match self.link {
            Link::Asking { .. } => true,
            Link::Hearing => !self.twin.is_read(),
            Link::Away | Link::Refused | Link::Deaf => false,
        };
        if closed && early {
            self.closed += 1;
            if CLOSED_MAX <= self.closed {
                (self.closed, self.deaf_until) = (0, Some(now + DEAF));
                todo.push(Do::Note(Note::Deaf));
            }
        }
        self.link = Link::Away;
        self.twin.end();
        self.calls.clear();
        (self.said, self.flushes) = (0, 0);
    }

    fn heard(&mut self, topic: &str, payload: &[u8], now: Instant, todo: &mut Vec<Do>) {
        match topic::parse(topic) {
            Some(Heard::Answer { status, rid }) => {
                let outcome = self.twin.answered(status, rid, payload, now);
                if self.twin.is_read() {
                    self.closed = 0;
                }
                self.follow(outcome, now, todo);
            }
            Some(Heard::Desired { version }) => {
                let outcome = self.twin.patched(version, payload);
                self.follow(outcome, now, todo);
            }
            Some(Heard::Call { method, rid }) => {
                if self.calls.len() < CALLS_MAX {
                    self.calls.push_back((rid.to_owned(), method::read(method, payload)));
                } else {
                    todo.push(Do::Count(Count::CallDropped));
                    if !std::mem::replace(&mut self.dropping, true) {
                        todo.push(Do::Note(Note::CallsDropped));
                    }
                }
            }
            None => {}
        }
    }

    fn follow(&mut self, outcome: Outcome, now: Instant, todo: &mut Vec<Do>) {
        todo.extend(outcome.note.map(|note| Do::Note(Note::Twin(note))));
        todo.extend(outcome.written.map(|status| Do::Count(Count::Write(status))));
        if let Some(changes) = outcome.changes {
            self.apply(changes, now, todo);
            self.tidy(now);
        }
    }

    fn apply(&mut self, changes: Changes, now: Instant, todo: &mut Vec<Do>) {
        let version = self.twin.version().unwrap_or_default();
        let mut touched = vec![];
        for (name, value) in changes {
            match (settings::NAMES.into_iter().find(|known| *known == name), value) {
                (Some(known), _) => touched.push(known),
                (None, Some(value)) => self.unknown(name, &value, version, now, todo),
                (None, None) => {
                    if is_unknown_ack(self.twin.reported().get(&name)) {
                        self.twin.want(&name, Json::Null, now);
                    }
                }
            }
        }
        match settings::read(self.twin.desired(), &self.devices) {
            Ok(settings) => self.put_in_force(settings, version, &touched, now, todo),
            Err(faults) => self.keep_the_last(&faults, version, &touched, now, todo),
        }
    }

    fn put_in_force(
        &mut self,
        settings: Settings,
        version: i64,
        touched: &[&'static str],
        now: Instant,
        todo: &mut Vec<Do>,
    ) {
        self.refused = None;
        if settings.level != self.good.settings.level || touched.contains(&LOG_LEVEL) {
            let before = self.levels.in_force().to_owned();
            self.levels.desire(settings.level.clone());
            if self.levels.in_force() != before {
                let desired = settings.level.is_some();
                self.turn(if desired { "the twin desires it" } else { "the twin desires none any more" }, todo);
            }
        }
        // Versions are counted also where nothing of ours is desired; that is not worth a file.
        if settings != self.good.settings || self.good.is_cut {
            let desired = settings::known(self.twin.desired());
            todo.push(Do::Apply { settings: settings.clone(), version, desired });
            self.good = Good { settings, version: Some(version), is_cut: false };
        }
        for name in settings::NAMES {
            let is_touched = touched.contains(&name);
            match self.twin.desired().get(name).cloned() {
                // Also what waited for another property of its set to be put right.
                Some(value) if is_touched || self.reported_code(name) != Some(200) => {
                    todo.push(Do::Count(Count::Desired("applied")));
                    self.twin.want(name, ack(&value, 200, version, "applied"), now);
                }
                None if is_touched => self.twin.want(name, Json::Null, now),
                _ => {}
            }
        }
    }

    fn keep_the_last(
        &mut self,
        faults: &[Fault],
        version: i64,
        touched: &[&'static str],
        now: Instant,
        todo: &mut Vec<Do>,
    ) {
        let why = faults.iter().map(|fault| format!("`{}`: {}", fault.name, fault.why)).collect::<Vec<_>>().join("; ");
        self.refused = Some(format!("version {version} is not in force: {why}"));
        let last = match self.good.version {
            Some(version) if self.good.is_cut => {
                format!("the set of version {version} stays in force as far as it can be")
            }
            Some(version) => format!("the set of version {version} stays in force"),
            None => "all stays as configured".to_owned(),
        };
        for name in settings::NAMES {
            let Some(value) = self.twin.desired().get(name).cloned() else {
                if touched.contains(&name) {
                    self.twin.want(name, Json::Null, now);
                }
                continue;
            };
            let (code, said) = match faults.iter().find(|fault| fault.name == name) {
                Some(fault) if name == LOG_LEVEL => {
                    (400, format!("{}; `{}` stays in force", fault.why, self.levels.in_force()))
                }
                Some(fault) => (400, format!("{}; {last}", fault.why)),
                None => {
                    let others = faults.iter().map(|fault| format!("`{}`", fault.name)).collect::<Vec<_>>().join(", ");
                    (409, format!("not applied, for {others} of the same set cannot be; {last}"))
                }
            };
            if touched.contains(&name) {
                todo.push(Do::Count(Count::Desired("refused")));
                self.twin.want(name, ack(&value, code, version, &said), now);
                todo.push(Do::Note(Note::NotApplied { name: name.to_owned(), why: said }));
            } else if self.reported_code(name) != Some(u64::from(code)) && code == 400 {
                self.twin.want(name, ack(&value, code, version, &said), now);
            }
        }
    }

    /// Of an acknowledgement, as it is reported.
    fn reported_code(&self, name: &str) -> Option<u64> {
        self.twin.reported().get(name)?.get("ac")?.as_u64()
    }

    fn unknown(&mut self, name: String, value: &Json, version: i64, now: Instant, todo: &mut Vec<Do>) {
        let known = self.twin.desired().keys().filter(|other| !settings::NAMES.contains(&other.as_str()));
        // The hub's own rule for names; in its order, so that it is always the same ones.
        let fits = name.len() <= 128 && !name.contains(|letter: char| letter.is_control() || ".$# ".contains(letter));
        let answered = name != AGENT && fits && known.take(UNKNOWN_MAX).any(|other| *other == name);
        if answered {
            let words = "this version of the agent has no such property";
            self.twin.want(&name, ack(value, 404, version, words), now);
        }
        todo.push(Do::Count(Count::Desired("unknown")));
        let name = name.chars().filter(|letter| !letter.is_control()).take(128).collect();
        todo.push(Do::Note(Note::NotApplied { name, why: "there is no such property".to_owned() }));
    }

    /// Acknowledgements of an earlier run, about what is desired no more.
    fn tidy(&mut self, now: Instant) {
        let twin = &self.twin;
        let stale = |(name, value): &(&String, &Json)| {
            !twin.desired().contains_key(*name)
                && (settings::NAMES.contains(&name.as_str()) || is_unknown_ack(Some(*value)))
        };
        let gone: Vec<String> = twin.reported().iter().filter(stale).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.twin.want(&name, Json::Null, now);
        }
    }

    /// Brings the level that is in force now into force.
    fn turn(&self, why: &'static str, todo: &mut Vec<Do>) {
        todo.push(Do::SetLevel { level: self.levels.in_force().to_owned(), why });
    }

    /// What time, room or an answer made possible.
    fn go_on(&mut self, now: Instant, todo: &mut Vec<Do>) {
        if self.levels.tick(now) {
            self.turn("what a call asked for is over", todo);
        }
        match self.link {
            Link::Asking { until: Some(until) } if until <= now => {
                self.link = Link::Asking { until: None };
                todo.push(Do::Note(Note::NoSuback));
            }
            Link::Deaf if self.deaf_until.is_none_or(|until| until <= now) => {
                self.deaf_until = None;
                self.subscribe(now, todo);
            }
            Link::Hearing => {
                todo.extend(self.twin.tick(now).map(|note| Do::Note(Note::Twin(note))));
                if self.said < SAID_MAX
                    && let Some((topic, payload)) = self.twin.next(now)
                {
                    self.said += 1;
                    todo.push(Do::Say { topic, payload });
                }
                while self.said < SAID_MAX
                    && let Some((rid, call)) = self.calls.pop_front()
                {
                    self.said += 1;
                    self.dropping = false;
                    self.answer(rid, call, now, todo);
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, rid: String, call: Call, now: Instant, todo: &mut Vec<Do>) {
        let (name, restart) = (call.name(), call == Call::RestartUplink);
        let (status, body) = match call {
            Call::Status => {
                todo.push(Do::Count(Count::Call { name, status: 200 }));
                todo.push(Do::SayStatus { rid });
                return;
            }
            Call::LogLevel { level, span } => {
                let before = self.levels.in_force().to_owned();
                match level {
                    Some(level) => self.levels.ask(level, span, now),
                    None => self.levels.withdraw(),
                }
                self.turn("a call asked for it", todo);
                let span = span.map(|span| shared::config::Span::new(span).to_string());
                (200, json!({ "level": self.levels.in_force(), "before": before, "for": span }))
            }
            Call::Flush { within } if self.flushes < FLUSHES_MAX => {
                self.flushes += 1;
                // Its answer takes a place once it is there.
                self.said = self.said.saturating_sub(1);
                todo.push(Do::Flush { rid, within });
                return;
            }
            Call::Flush { .. } => (429, method::refusal("as many flushes as may be are under way")),
            Call::Flushed { status, body } => (status, body),
            Call::RestartUplink => (200, json!({ "restarting": true })),
            Call::Refused { status, message } => (status, method::refusal(&message)),
        };
        todo.push(Do::Count(Count::Call { name, status }));
        let payload = method::fit(body, method::ANSWER_BYTES_MAX);
        todo.push(Do::Say { topic: topic::answer(status, &rid), payload });
        if restart {
            todo.push(Do::Restart);
        }
    }
}

/// Plug and Play's form of an acknowledgement.
fn ack(value: &Json, code: u16, version: i64, words: &str) -> Json {
    let short = serde_json::to_vec(value).is_ok_and(|bytes| bytes.len() <= ECHO_BYTES_MAX);
    let mut ack = Section::new();
    if short {
        ack.insert("value".to_owned(), value.clone());
    }
    ack.extend([("ac".to_owned(), json!(code)), ("av".to_owned(), json!(version)), ("ad".to_owned(), json!(words))]);
    Json::Object(ack)
}

/// One of ours, about a property that no version of the agent has, or none that ran here.
fn is_unknown_ack(value: Option<&Json>) -> bool {
    value.is_some_and(|value| value["ac"] == 404 && value["av"].is_i64())
}

#[cfg(test)]
mod tests;
