//! Which Events are new, and when enough of them have come for a commit. Pure.

use std::collections::HashMap;
use std::time::Duration;

use shared::time::Timestamp;

use crate::source::{Event, Stream};

/// A cut is made at whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events in a cut.
    pub rows_max: usize,
    /// Bytes of Events in a cut; the last one may go beyond.
    pub bytes_max: usize,
    /// How long the first Event of a cut waits.
    pub age_max: Duration,
}

/// What a stream's numbers in a cut span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which stream.
    pub stream: Stream,
    /// The number committed before; `None` if there was none.
    pub after: Option<i64>,
    /// The last number in the cut.
    pub upto: i64,
}

/// Events for one commit, with what they span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// In the order they came.
    pub events: Vec<Event>,
    /// One per stream, by stream.
    pub spans: Vec<Span>,
}

impl Cut {
    /// Takes out what somebody else committed meanwhile: `stream` stands at `committed`. Returns how many Events that
    /// were.
    pub fn trim(&mut self, stream: &Stream, committed: Option<i64>) -> usize {
        let before = self.events.len();
        self.events.retain(|event| event.stream != *stream || committed.is_none_or(|at| at < event.sequence_number));
        self.spans.retain_mut(|span| {
            if span.stream == *stream {
                span.after = committed;
            }
            span.stream != *stream || committed.is_none_or(|at| at < span.upto)
        });
        before - self.events.len()
    }
}

/// What became of an Event that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is part of the next cut.
    Taken,
    /// It is in bronze or in a cut already.
    Repeat,
}

/// Collects Events until a limit is met. Knows the committed number of every stream it has met.
#[derive(Debug)]
pub struct Cutter {
    limits: Limits,
    events: Vec<Event>,
    bytes: usize,
    since: Option<Timestamp>,
    at: HashMap<Stream, At>,
}

#[derive(Clone, Copy, Debug)]
struct At {
    committed: Option<i64>,
    taken: Option<i64>,
}

impl Cutter {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, events: vec![], bytes: 0, since: None, at: HashMap::new() }
    }

    /// Lets go of a stream that another reads now, with what is held of it. How many Events that were.
    pub fn forget(&mut self, stream: &Stream) -> usize {
        self.at.remove(stream);
        let before = self.events.len();
        self.events.retain(|event| event.stream != *stream);
        self.bytes = self.events.iter().map(Event::bytes).sum();
        if self.events.is_empty() {
            self.since = None;
        }
        before - self.events.len()
    }

    /// Whether the stream's committed number is known.
    #[must_use]
    pub fn knows(&self, stream: &Stream) -> bool {
        self.at.contains_key(stream)
    }

    /// Learns what bronze holds of a stream. Must be called before its first Event is pushed.
    pub fn learn(&mut self, stream: &Stream, committed: Option<i64>) {
        let taken = committed;
        self.at.insert(stream.clone(), At { committed, taken });
    }

    /// Takes an Event, unless it is a repeat.
    ///
    /// | number against the last one taken | so      |
    /// |-----------------------------------|---------|
    /// | above it, or none was taken       | taken   |
    /// | at or below                       | repeat  |
    pub fn push(&mut self, now: Timestamp, event: Event) -> Pushed {
        let at = self.at.entry(event.stream.clone()).or_insert(At { committed: None, taken: None });
        if at.taken.is_some_and(|taken| event.sequence_number <= taken) {
            return Pushed::Repeat;
        }
        at.taken = Some(event.sequence_number);
        self.bytes += event.bytes();
        self.since.get_or_insert(now);
        self.events.push(event);
        Pushed::Taken
    }

    /// The cut, if a limit is met.
    pub fn tick(&mut self, now: Timestamp) -> Option<Cut> {
        let due = self.limits.rows_max <= self.events.len()
            || self.limits.bytes_max <= self.bytes
            || self.deadline().is_some_and(|deadline| deadline <= now);
        due.then(|| self.cut()).flatten()
    }

    /// When the age limit will be met.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.since.map(|since| since.plus(self.limits.age_max))
    }

    /// What is held, however little.
    pub fn cut(&mut self) -> Option<Cut> {
        let events = std::mem::take(&mut self.events);
        self.bytes = 0;
        self.since = None;
        if events.is_empty() {
            return None;
        }
        let mut spans: Vec<Span> = self
            .at
            .iter_mut()
            .filter(|(_, at)| at.taken != at.committed)
            .filter_map(|(stream, at)| {
                let span = Span { stream: stream.clone(), after: at.committed, upto: at.taken? };
                at.committed = at.taken;
                Some(span)
            })
            .collect();
        spans.sort_by(|a, b| a.stream.cmp(&b.stream));
        Some(Cut { events, spans })
    }

    /// How many Events are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.events.len()
    }

    /// About how many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn stream(partition: i32) -> Stream {
        Stream { hub: "h".into(), incarnation: 7, partition }
    }

    pub(crate) fn event(partition: i32, number: i64) -> Event {
        Event {
            stream: stream(partition),
            sequence_number: number,
            offset: Some(format!("{}", number * 100)),
            enqueued_time: Some(Timestamp::from_millis(1_790_000_000_000 + number)),
            device_id: Some("gw-01".to_owned()),
            message_id: None,
            content_type: Some("application/json".to_owned()),
            properties: vec![],
            system_properties: vec![],
            body: "{}".into(),
            body_encoding: None,
        }
    }

    fn cutter() -> Cutter {
        let mut cutter = Cutter::new(Limits { rows_max: 3, bytes_max: 1 << 20, age_max: Duration::from_secs(1) });
        cutter.learn(&stream(0), None);
        cutter.learn(&stream(1), Some(4));
        cutter
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_cut_is_made_by_rows_bytes_or_age_and_spans_what_it_holds() {
        let mut by_rows = cutter();
        for number in [0, 1] {
            by_rows.push(at(0), event(0, number));
        }
        assert_eq!(by_rows.tick(at(0)), None);
        by_rows.push(at(0), event(1, 5));
        let cut = by_rows.tick(at(0)).expect("three rows");
        let span = |partition, after, upto| Span { stream: stream(partition), after, upto };
        assert_eq!(cut.spans, [span(0, None, 1), span(1, Some(4), 5)]);
        assert_eq!(by_rows.deadline(), None);

        by_rows.push(at(2), event(0, 2));
        assert_eq!(by_rows.deadline(), Some(at(3)));
        assert_eq!(by_rows.tick(at(2)), None);
        let cut = by_rows.tick(at(3)).expect("one second old");
        assert_eq!(cut.spans, [span(0, Some(1), 2)]);

        let mut large = event(0, 3);
        large.body = vec![0; 2 << 20].into();
        by_rows.push(at(4), large);
        assert!(by_rows.tick(at(4)).is_some());
        assert_eq!(by_rows.cut(), None);
    }

    #[test]
    fn a_repeat_is_taken_once_whether_committed_cut_or_held() {
        let mut cutter = cutter();
        assert_eq!(cutter.push(at(0), event(1, 4)), Pushed::Repeat);
        assert_eq!(cutter.push(at(0), event(1, 5)), Pushed::Taken);
        assert_eq!(cutter.push(at(0), event(1, 5)), Pushed::Repeat);
        cutter.cut();
        assert_eq!(cutter.push(at(0), event(1, 5)), Pushed::Repeat);
        assert_eq!(cutter.push(at(0), event(1, 6)), Pushed::Taken);
    }

    #[test]
    fn what_is_let_go_is_in_no_cut_and_must_be_learned_again() {
        let mut cutter = cutter();
        cutter.push(at(0), event(0, 0));
        cutter.push(at(0), event(1, 5));
        assert_eq!((cutter.forget(&stream(1)), cutter.knows(&stream(1))), (1, false));
        let cut = cutter.cut().expect("one event");
        assert_eq!((cut.events.len(), cut.spans.len()), (1, 1));
        cutter.push(at(0), event(0, 1));
        cutter.forget(&stream(0));
        assert_eq!((cutter.held(), cutter.bytes(), cutter.deadline()), (0, 0, None));
        cutter.learn(&stream(1), Some(3));
        assert_eq!(cutter.push(at(1), event(1, 4)), Pushed::Taken);
    }

    #[test]
    fn an_overlap_is_trimmed_to_what_is_new() {
        let mut cutter = cutter();
        for number in 0..3 {
            cutter.push(at(0), event(0, number));
        }
        cutter.push(at(0), event(1, 5));
        let mut cut = cutter.cut().expect("four events");
        assert_eq!(cut.trim(&stream(0), Some(1)), 2);
        let numbers: Vec<_> = cut.events.iter().map(|event| event.sequence_number).collect();
        assert_eq!(numbers, [2, 5]);
        assert_eq!(cut.spans[0].after, Some(1));
        assert_eq!(cut.trim(&stream(0), Some(9)), 1);
        assert_eq!(cut.spans.len(), 1);
    }
}
