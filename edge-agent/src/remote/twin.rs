//! Our twin, as far as it is known here: what was desired, what is reported, and what to ask the hub next.
//!
//! ```text
//! connected: GET -> desired, reported, $version <- patches, one version after the other
//!                          |                            | a version left out: GET again
//!                          v
//! wanted reported properties - reported = the patch to send; one question at a time, and a pause after each
//! ```

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use shared::backoff::Backoff;

use super::document::{self, SECTION_BYTES_MAX, Section};
use super::topic;

/// Both sections, and what the hub writes around them.
const DOCUMENT_BYTES_MAX: usize = 4 * SECTION_BYTES_MAX;
/// An answer that takes longer is not waited for.
const ANSWER: Duration = Duration::from_secs(60);
/// Changes of what is wanted wait this long for company.
const COALESCE: Duration = Duration::from_millis(250);
/// Writes are at least this far apart.
const PAUSE: Duration = Duration::from_secs(1);

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// The twin was changed while we were away.
    #[error("desired properties were changed while this gateway was away: version {from} to {to}")]
    ChangedMeanwhile {
        /// Known here.
        from: i64,
        /// Now.
        to: i64,
    },
    /// A patch did not reach us.
    #[error("a change of desired properties was missed (version {had}, then {came}): reading the twin again")]
    Missed {
        /// Known here.
        had: i64,
        /// Came next.
        came: i64,
    },
    /// What came is no document.
    #[error("desired properties cannot be read: {0}")]
    Unreadable(String),
    /// The hub does not give us our twin.
    #[error("the hub does not give the twin (status {0}): asking again later")]
    NotGiven(u16),
    /// The hub does not take what is reported.
    #[error("the hub does not take reported properties (status {0})")]
    NotTaken(u16),
    /// The hub is throttling.
    #[error("the hub has no time for the twin (status {0}): trying again later")]
    Busy(u16),
    /// The hub does not answer.
    #[error("the hub does not answer about the twin: asking again later")]
    NoAnswer,
}

/// What changed of the desired properties: names with their whole new value, `None` where they went.
pub type Changes = Vec<(String, Option<Json>)>;

/// What hearing something led to.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// For the log.
    pub note: Option<Note>,
    /// `Some` where the desired properties are known now, be it that nothing changed.
    pub changes: Option<Changes>,
    /// The status of a write that was answered.
    pub written: Option<u16>,
}

#[derive(Debug)]
enum Question {
    Get,
    Patch(Section),
}

#[derive(Debug)]
struct Asked {
    rid: u64,
    question: Question,
    until: Instant,
}

/// The twin.
#[derive(Debug)]
pub struct Twin {
    /// True between SUBACK and the end of the connection.
    hearing: bool,
    /// The document is to be read.
    get: bool,
    asked: Option<Asked>,
    /// Nothing is asked before: the hub had no time.
    not_before: Option<Instant>,
    /// Nothing is written before: more may come.
    write_at: Option<Instant>,
    rid: u64,
    backoff: Backoff,
    version: Option<i64>,
    /// The highest version of a patch that could not be merged.
    heard: i64,
    desired: Section,
    reported: Section,
    wanted: Section,
    /// Something that is wanted is not reported.
    differs: bool,
    /// The hub has refused what is wanted: not again on this connection.
    refused: bool,
}

impl Twin {
    /// A twin nothing is known of.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            hearing: false,
            get: true,
            asked: None,
            not_before: None,
            write_at: None,
            rid: 0,
            backoff,
            version: None,
            heard: 0,
            desired: Section::new(),
            reported: Section::new(),
            wanted: Section::new(),
            differs: false,
            refused: false,
        }
    }

    /// Version of the desired properties; `None` until they were read.
    pub fn version(&self) -> Option<i64> {
        self.version
    }

    /// What is reported, as far as it is known.
    pub fn reported(&self) -> &Section {
        &self.reported
    }

    /// What is desired.
    pub fn desired(&self) -> &Section {
        &self.desired
    }

    /// True once the hub has given the document on this connection.
    pub fn is_read(&self) -> bool {
        self.hearing && !self.get
    }

    /// Subscribed: questions can be asked.
    pub fn begin(&mut self) {
        (self.hearing, self.get, self.refused) = (true, true, false);
    }

    /// The connection is gone, and with it every answer.
    pub fn end(&mut self) {
        (self.hearing, self.get, self.asked, self.heard) = (false, true, None, 0);
    }

    /// From now on `name` is to be reported so; `null`: not at all.
    pub fn want(&mut self, name: &str, value: Json, now: Instant) {
        if self.wanted.get(name) == Some(&value) {
            return;
        }
        self.wanted.insert(name.to_owned(), value);
        self.refused = false;
        self.compare();
        self.pause(now, COALESCE);
    }

    /// When [`Twin::next`] should be asked.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.asked {
            Some(asked) => Some(asked.until),
            None if self.hearing && self.is_due() => self.due_at(),
            None => None,
        }
    }

    /// What to ask now: topic and payload.
    pub fn next(&mut self, now: Instant) -> Option<(String, Vec<u8>)> {
        let early = self.due_at().is_some_and(|at| now < at);
        if !self.hearing || self.asked.is_some() || early || !self.is_due() {
            return None;
        }
        let (question, topic, payload) = if self.get {
            (Question::Get, topic::get_twin(self.rid + 1), b" ".to_vec())
        } else {
            let patch = document::difference(&self.reported, &self.wanted);
            let payload = serde_json::to_vec(&patch).expect("a section is plain data");
            (Question::Patch(patch), topic::patch_reported(self.rid + 1), payload)
        };
        self.rid += 1;
        (self.not_before, self.write_at) = (None, self.write_at.filter(|at| now < *at));
        self.asked = Some(Asked { rid: self.rid, question, until: now + ANSWER });
        Some((topic, payload))
    }

    /// Time went by.
    pub fn tick(&mut self, now: Instant) -> Option<Note> {
        let overdue = self.asked.as_ref().is_some_and(|asked| asked.until <= now);
        overdue.then(|| {
            self.asked = None;
            self.later(now);
            Note::NoAnswer
        })
    }

    /// An answer to a question of ours; nothing for any other.
    pub fn answered(&mut self, status: u16, rid: u64, payload: &[u8], now: Instant) -> Outcome {
        let Some(asked) = self.asked.take_if(|asked| asked.rid == rid) else { return Outcome::default() };
        match asked.question {
            Question::Get => self.given(status, payload, now),
            Question::Patch(patch) => {
                let note = match status {
                    200..300 => {
                        document::merge(&mut self.reported, &patch);
                        self.compare();
                        self.backoff.reset();
                        self.pause(now, PAUSE);
                        None
                    }
                    429 | 500.. => {
                        self.later(now);
                        Some(Note::Busy(status))
                    }
                    _ => {
                        self.refused = true;
                        Some(Note::NotTaken(status))
                    }
                };
                Outcome { note, written: Some(status), changes: None }
            }
        }
    }

    fn given(&mut self, status: u16, payload: &[u8], now: Instant) -> Outcome {
        let wrong = |twin: &mut Self, note| {
            twin.later(now);
            Outcome { note: Some(note), ..Outcome::default() }
        };
        if !(200..300).contains(&status) {
            let note = if status == 429 || 500 <= status { Note::Busy(status) } else { Note::NotGiven(status) };
            return wrong(self, note);
        }
        let mut document = match document::read(payload, DOCUMENT_BYTES_MAX) {
            Ok(document) => document,
            Err(error) => return wrong(self, Note::Unreadable(error.to_string())),
        };
        let mut section = |name: &str| match document.remove(name) {
            Some(Json::Object(section)) => section,
            _ => Section::new(),
        };
        let (mut desired, mut reported) = (section("desired"), section("reported"));
        let Some(version) = desired.get("$version").and_then(Json::as_i64) else {
            return wrong(self, Note::Unreadable("its desired properties have no $version".to_owned()));
        };
        without_system(&mut desired);
        without_system(&mut reported);
        if version < self.heard {
            // Read before a change we have heard of already.
            self.heard = 0;
            self.later(now);
            return Outcome::default();
        }
        let note =
            self.version.filter(|from| *from != version).map(|from| Note::ChangedMeanwhile { from, to: version });
        let changes = changes(&self.desired, &desired);
        (self.desired, self.reported) = (desired, reported);
        (self.version, self.get, self.heard) = (Some(version), false, 0);
        self.compare();
        self.backoff.reset();
        Outcome { note, changes: Some(changes), written: None }
    }

    /// Desired properties were changed.
    pub fn patched(&mut self, version: Option<i64>, payload: &[u8]) -> Outcome {
        let mut patch = match document::read(payload, SECTION_BYTES_MAX + 1024) {
            Ok(patch) => patch,
            Err(error) => {
                self.get = true;
                return Outcome { note: Some(Note::Unreadable(error.to_string())), ..Outcome::default() };
            }
        };
        let version = patch.get("$version").and_then(Json::as_i64).or(version);
        without_system(&mut patch);
        let (Some(version), Some(had), false) = (version, self.version, self.get) else {
            // The document that is asked for, or is about to be, holds it.
            self.heard = self.heard.max(version.unwrap_or(0));
            self.get = true;
            return Outcome::default();
        };
        if version <= had {
            return Outcome::default();
        }
        if had + 1 < version {
            (self.heard, self.get) = (version, true);
            return Outcome { note: Some(Note::Missed { had, came: version }), ..Outcome::default() };
        }
        let mut desired = self.desired.clone();
        document::merge(&mut desired, &patch);
        let changes = changes(&self.desired, &desired);
        (self.desired, self.version) = (desired, Some(version));
        Outcome { changes: Some(changes), ..Outcome::default() }
    }

    fn due_at(&self) -> Option<Instant> {
        let write_at = self.write_at.filter(|_| !self.get);
        self.not_before.into_iter().chain(write_at).max()
    }

    fn is_due(&self) -> bool {
        self.get || self.differs && !self.refused
    }

    fn compare(&mut self) {
        // What is gone need not be remembered.
        self.wanted.retain(|name, value| !value.is_null() || self.reported.contains_key(name));
        self.differs = !document::difference(&self.reported, &self.wanted).is_empty();
    }

    fn later(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next_wait().max(PAUSE));
    }

    fn pause(&mut self, now: Instant, pause: Duration) {
        let at = now + pause;
        self.write_at = Some(self.write_at.map_or(at, |before| before.max(at)));
    }
}

/// `$version`, `$metadata`: not ours to compare.
fn without_system(section: &mut Section) {
    section.retain(|name, _| !name.starts_with('$'));
}

fn changes(had: &Section, has: &Section) -> Changes {
    let changed = has.iter().filter(|(name, value)| had.get(*name) != Some(*value));
    let gone = had.keys().filter(|name| !has.contains_key(*name));
    let changed = changed.map(|(name, value)| (name.clone(), Some(value.clone())));
    changed.chain(gone.map(|name| (name.clone(), None))).collect()
}

#[cfg(test)]
mod tests;
