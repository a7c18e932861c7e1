//! The last hour, in memory: what rates, the outlook and the plots are made of.
//!
//! Counts are looked at once a second. The last minute of these gives the rates of now; every ten seconds one sample goes
//! into a ring of 360. Both have all their places from the start and never more: 19 KiB, whatever happens. Time goes by a
//! clock that is never set, so that an hour is an hour on a gateway that has just learnt what time it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

/// One sample is this long, or longer where nobody looked.
const SAMPLE: Duration = Duration::from_secs(10);
/// Samples of an hour.
const SAMPLES_MAX: usize = 360;
/// The rates of now.
const NOW: Duration = Duration::from_secs(10);
/// What the outlook goes by: long enough not to jump with every Envelope.
const MINUTE: Duration = Duration::from_secs(60);
/// Looks of a minute, and the one before it.
const LOOKS_MAX: usize = 61;
/// The size of the database grows in leaps: what it needs is told by so many samples.
const GROWTH_SAMPLES: usize = 60;

/// What is counted, as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Messages judged.
    pub(crate) messages: u64,
    /// Refusals made of them.
    pub(crate) refused: u64,
    /// Rows stored.
    pub(crate) stored: u64,
    /// Rows the hub has acknowledged.
    pub(crate) sent: u64,
    /// Rows to be sent or in flight.
    pub(crate) held: u64,
    /// Bytes of the outbox.
    pub(crate) bytes: u64,
    /// Whether there is a connection to the hub.
    pub(crate) up: bool,
}

/// Ten seconds.
#[derive(Debug, Clone, Copy)]
struct Sample {
    span_ms: u32,
    up_ms: u32,
    messages: u32,
    refused: u32,
    stored: u32,
    sent: u32,
    held: u64,
    bytes: u64,
}

/// The sample that is being made.
#[derive(Debug)]
struct Open {
    since: Instant,
    before: Counts,
    up: Duration,
}

/// The last hour.
#[derive(Debug)]
pub(crate) struct History {
    looks: VecDeque<(Instant, Counts)>,
    samples: VecDeque<Sample>,
    open: Option<Open>,
}

/// What goes through, each second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Rates {
    /// The mean of so many seconds.
    pub(crate) over_s: f64,
    /// Messages judged.
    pub(crate) messages: f64,
    /// Refusals made of them.
    pub(crate) refused: f64,
    /// Rows stored.
    pub(crate) stored: f64,
    /// Rows the hub has acknowledged.
    pub(crate) sent: f64,
}

/// What becomes of the backlog if all goes on as it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(crate) enum Outlook {
    /// Nothing waits.
    Empty,
    /// What waits is on its way.
    KeepingUp,
    /// More leaves than comes.
    Draining {
        /// Seconds until nothing waits.
        empty_in_s: u64,
    },
    /// More comes than leaves.
    Growing {
        /// Seconds until the outbox is full; `None` where the database did not grow yet.
        full_in_s: Option<u64>,
    },
    /// Nothing is taken in any more.
    Full,
    /// Something waits, nothing comes, nothing leaves.
    Waiting,
}

/// The hour for plots, oldest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Hour {
    /// Seconds from the end of each sample to the end of the last.
    pub(crate) ago_s: Vec<u64>,
    /// Messages judged, each second.
    pub(crate) messages: Vec<f64>,
    /// Refusals, each second.
    pub(crate) refused: Vec<f64>,
    /// Rows stored, each second.
    pub(crate) stored: Vec<f64>,
    /// Rows acknowledged by the hub, each second.
    pub(crate) sent: Vec<f64>,
    /// Rows held at the end.
    pub(crate) held: Vec<u64>,
    /// Bytes of the outbox at the end.
    pub(crate) bytes: Vec<u64>,
    /// Share of the time in which there was a connection to the hub.
    pub(crate) up: Vec<f64>,
}

impl Default for History {
    fn default() -> Self {
        let (looks, samples) = (VecDeque::with_capacity(LOOKS_MAX), VecDeque::with_capacity(SAMPLES_MAX));
        Self { looks, samples, open: None }
    }
}

impl History {
    /// Takes in what is counted as of `now`.
    pub(crate) fn look(&mut self, now: Instant, counts: Counts) {
        let since_last = self.looks.back().map_or(Duration::ZERO, |(at, _)| now.saturating_duration_since(*at));
        if self.looks.len() == LOOKS_MAX {
            self.looks.pop_front();
        }
        self.looks.push_back((now, counts));
        let open = self.open.get_or_insert(Open { since: now, before: counts, up: Duration::ZERO });
        if counts.up {
            open.up += since_last;
        }
        let span = now.saturating_duration_since(open.since);
        if span < SAMPLE {
            return;
        }
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let more = |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
        let before = open.before;
        let sample = Sample {
            span_ms: millis(span),
            up_ms: millis(open.up.min(span)),
            messages: more(counts.messages, before.messages),
            refused: more(counts.refused, before.refused),
            stored: more(counts.stored, before.stored),
            sent: more(counts.sent, before.sent),
            held: counts.held,
            bytes: counts.bytes,
        };
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.open = Some(Open { since: now, before: counts, up: Duration::ZERO });
    }

    /// The rates of now.
    pub(crate) fn rates(&self) -> Rates {
        self.rates_over(NOW)
    }

    /// What becomes of the backlog, which is `held` rows by now, with a link of this name (as the uplink's status has it), in
    /// an outbox that is `full` or can grow to so many bytes.
    pub(crate) fn outlook(&self, held: u64, link: &str, full: bool, bytes_max: u64) -> Outlook {
        let not_moving = if full { Outlook::Full } else { Outlook::Waiting };
        if held == 0 && !full {
            return Outlook::Empty;
        }
        let Some((_, now)) = self.looks.back() else { return not_moving };
        if link == "live" && !full {
            return Outlook::KeepingUp;
        }
        // What was before the connection says nothing about what it can carry.
        let rates = self.rates_over(self.up_for().unwrap_or(MINUTE));
        let net = rates.sent - rates.stored;
        if now.up && 0.0 < net {
            return Outlook::Draining { empty_in_s: whole(held as f64 / net) };
        }
        // What came in over the last minute came before it was full.
        if 0.0 < rates.stored && !full {
            let growth = self.bytes_growth();
            let room = bytes_max.saturating_sub(now.bytes) as f64;
            return Outlook::Growing { full_in_s: (0.0 < growth).then(|| whole(room / growth)) };
        }
        not_moving
    }

    /// The hour, for plots.
    pub(crate) fn hour(&self) -> Hour {
        let mut hour = Hour::default();
        let mut ago_ms: u64 = self.samples.iter().skip(1).map(|sample| u64::from(sample.span_ms)).sum();
        for (at, sample) in self.samples.iter().enumerate() {
            if 0 < at {
                ago_ms -= u64::from(sample.span_ms);
            }
            let seconds = f64::from(sample.span_ms) / 1_000.0;
            let per_second = |count: u32| rounded(f64::from(count) / seconds);
            hour.ago_s.push(ago_ms / 1_000);
            hour.messages.push(per_second(sample.messages));
            hour.refused.push(per_second(sample.refused));
            hour.stored.push(per_second(sample.stored));
            hour.sent.push(per_second(sample.sent));
            hour.held.push(sample.held);
            hour.bytes.push(sample.bytes);
            hour.up.push(rounded(f64::from(sample.up_ms) / f64::from(sample.span_ms)));
        }
        hour
    }

    fn rates_over(&self, window: Duration) -> Rates {
        let Some((now, last)) = self.looks.back() else { return Rates::default() };
        let within = |(at, _): &&(Instant, Counts)| now.saturating_duration_since(*at) <= window;
        let Some((at, first)) = self.looks.iter().find(within) else { return Rates::default() };
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| rounded(now.saturating_sub(before) as f64 / seconds);
        Rates {
            over_s: rounded(seconds),
            messages: rate(last.messages, first.messages),
            refused: rate(last.refused, first.refused),
            stored: rate(last.stored, first.stored),
            sent: rate(last.sent, first.sent),
        }
    }

    /// How long there has been a connection, at most a minute; `None` without one.
    fn up_for(&self) -> Option<Duration> {
        let (now, _) = self.looks.back().filter(|(_, counts)| counts.up)?;
        let (since, _) = self.looks.iter().rev().take_while(|(_, counts)| counts.up).last()?;
        Some(now.saturating_duration_since(*since).min(MINUTE))
    }

    /// Bytes a second.
    fn bytes_growth(&self) -> f64 {
        let begin = self.samples.len().saturating_sub(GROWTH_SAMPLES);
        let (Some(first), Some(last)) = (self.samples.get(begin), self.samples.back()) else { return 0.0 };
        let millis: u64 = self.samples.range(begin + 1..).map(|sample| u64::from(sample.span_ms)).sum();
        if millis == 0 { 0.0 } else { (last.bytes as f64 - first.bytes as f64) / (millis as f64 / 1_000.0) }
    }
}

/// Hundredths are enough for people, and keep the document small.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Whole seconds; a number that says nothing any more is an hour's worth of a century at most.
fn whole(seconds: f64) -> u64 {
    seconds.ceil().clamp(0.0, 1e9) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A history looked at once a second, with the counts as of each second.
    fn watched(seconds: u64, counts: impl Fn(u64) -> Counts) -> History {
        let (mut history, begin) = (History::default(), Instant::now());
        for second in 0..=seconds {
            history.look(begin + Duration::from_secs(second), counts(second));
        }
        history
    }

    #[test]
    fn ten_seconds_are_one_sample_and_an_hour_is_all_there_is() {
        let history =
            watched(10, |s| Counts { stored: 7 * s, sent: 5 * s, held: 2 * s, up: s <= 4, ..Counts::default() });
        let hour = history.hour();
        assert_eq!((&hour.stored[..], &hour.sent[..], &hour.held[..]), (&[7.0][..], &[5.0][..], &[20][..]));
        assert_eq!((&hour.up[..], &hour.ago_s[..]), (&[0.4][..], &[0][..]));
        let hour = watched(4_000, |s| Counts { stored: s, ..Counts::default() }).hour();
        assert_eq!((hour.stored.len(), hour.ago_s[0], hour.ago_s[359]), (360, 3_590, 0));
    }

    #[test]
    fn it_never_needs_more_than_it_says() {
        let history = watched(10_000, |s| Counts { messages: s, ..Counts::default() });
        let bytes = history.looks.capacity() * size_of::<(Instant, Counts)>()
            + history.samples.capacity() * size_of::<Sample>();
        assert!(bytes <= 19 * 1024, "{bytes}");
    }

    #[test]
    fn rates_are_those_of_now() {
        let history =
            watched(100, |s| Counts { messages: if s < 90 { 0 } else { (s - 90) * 40 }, ..Counts::default() });
        assert_eq!(history.rates(), Rates { over_s: 10.0, messages: 40.0, ..Rates::default() });
        assert_eq!(watched(0, |_| Counts::default()).rates(), Rates::default());
        assert_eq!(History::default().rates(), Rates::default());
    }

    #[test]
    fn a_process_that_slept_has_a_long_sample_not_a_high_rate() {
        let (mut history, begin) = (History::default(), Instant::now());
        history.look(begin, Counts::default());
        history.look(begin + Duration::from_secs(100), Counts { stored: 1_000, ..Counts::default() });
        history.look(begin + Duration::from_secs(110), Counts { stored: 1_000, ..Counts::default() });
        let hour = history.hour();
        assert_eq!((&hour.stored[..], &hour.ago_s[..]), (&[10.0, 0.0][..], &[10, 0][..]));
    }

    #[test]
    fn the_outlook_says_what_becomes_of_the_backlog() {
        let outlook = |link, history: &History| {
            let held = history.looks.back().map_or(0, |(_, counts)| counts.held);
            history.outlook(held, link, false, 1_000_000)
        };
        assert_eq!(outlook("offline", &History::default()), Outlook::Empty);
        assert_eq!(History::default().outlook(1, "offline", false, 1_000_000), Outlook::Waiting);
        let sent = |s: u64| Counts { stored: 10 * s, sent: 10 * s, up: true, ..Counts::default() };
        assert_eq!(outlook("live", &watched(20, sent)), Outlook::Empty);
        let on_its_way = |s| Counts { held: 12, ..sent(s) };
        assert_eq!(outlook("live", &watched(20, on_its_way)), Outlook::KeepingUp);
        // Away for 40 s, then 60 rows a second leave and 10 come.
        let back = |s: u64| {
            let gone = 60 * s.saturating_sub(40);
            Counts { stored: 10 * s, sent: gone, held: 5_000, up: 40 <= s, ..Counts::default() }
        };
        assert_eq!(outlook("catching-up", &watched(60, back)), Outlook::Draining { empty_in_s: 100 });
        let away = |s: u64| Counts { stored: 10 * s, held: 10 * s, bytes: 1_000 * s, ..Counts::default() };
        assert_eq!(outlook("offline", &watched(100, away)), Outlook::Growing { full_in_s: Some(900) });
        assert_eq!(outlook("offline", &watched(8, away)), Outlook::Growing { full_in_s: None });
        let idle = |_| Counts { held: 3, ..Counts::default() };
        assert_eq!(outlook("offline", &watched(100, idle)), Outlook::Waiting);
    }

    #[test]
    fn of_a_full_outbox_it_is_not_said_when_it_will_be_full() {
        let away = |s: u64| Counts { stored: 10 * s, held: 10 * s, bytes: 1_000 * s, ..Counts::default() };
        assert_eq!(watched(100, away).outlook(1_000, "offline", true, 1_000_000), Outlook::Full);
        assert_eq!(History::default().outlook(0, "live", true, 1_000_000), Outlook::Full);
        let leaving = |s: u64| Counts { stored: 5_000, sent: 50 * s, held: 5_000, up: true, ..Counts::default() };
        let outlook = watched(60, leaving).outlook(5_000, "catching-up", true, 1_000_000);
        assert!(matches!(outlook, Outlook::Draining { .. }), "{outlook:?}");
    }

    #[test]
    fn as_json_the_outlook_names_itself() {
        let json = |outlook: Outlook| serde_json::to_string(&outlook).expect("json");
        assert_eq!(json(Outlook::KeepingUp), r#"{"is":"keeping-up"}"#);
        assert_eq!(json(Outlook::Full), r#"{"is":"full"}"#);
        assert_eq!(json(Outlook::Draining { empty_in_s: 7 }), r#"{"is":"draining","empty_in_s":7}"#);
    }

    proptest! {
        /// Counts that fall back, leaps in time, and everything at its largest: no panic, and numbers that JSON has.
        #[test]
        fn nothing_makes_it_panic(looks in proptest::collection::vec((0u64..30_000, any::<[u64; 6]>(), any::<bool>()), 0..500)) {
            let (mut history, mut now) = (History::default(), Instant::now());
            for (step_ms, [messages, refused, stored, sent, held, bytes], up) in looks {
                now += Duration::from_millis(step_ms);
                history.look(now, Counts { messages, refused, stored, sent, held, bytes, up });
            }
            let hour = history.hour();
            prop_assert!(hour.stored.iter().chain(&hour.up).all(|number| number.is_finite()));
            prop_assert!(hour.up.iter().all(|share| (0.0..=1.0).contains(share)));
            let rates = history.rates();
            prop_assert!(rates.stored.is_finite() && rates.over_s.is_finite());
            for link in ["live", "offline", "catching-up"] {
                let _ = history.outlook(hour.held.last().copied().unwrap_or(1), link, hour.held.len().is_multiple_of(2), bytes_max_of(&hour));
            }
        }
    }

    fn bytes_max_of(hour: &Hour) -> u64 {
        hour.bytes.last().copied().unwrap_or(1)
    }
}
