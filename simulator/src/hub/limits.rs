//! What a tier lets through: rates with traffic shaping, and the daily quota. A pure core: time comes in, verdicts go
//! out.
//!
//! Numbers are those of "IoT Hub quotas and throttling" (Microsoft, read in November 2026). That page says that bursts
//! above the throttle are accepted for "the first minute or two", then queued at the rate of the throttle, then refused
//! when the queue is full; over MQTT the device is told nothing: its PUBACKs come later, not at all, and then the
//! connection is closed. How long the service accepts bursts and how much it queues is not published: the defaults of
//! `hub.limits` are ours.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::config::{Mistakes, Span};
use shared::time::Timestamp;

const DAY_MICROS: i64 = 86_400_000_000;
/// Direct methods are throttled by bytes, of which each counts as a multiple of so many.
const METHOD_METER_BYTES: usize = 4 * 1024;

/// The table `[hub.limits]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The tier.
    pub profile: Profile,
    /// Units of the tier.
    pub units: u32,
    /// How much more than the rate is let through at once: the messages of so long.
    pub burst: Span,
    /// How much more is queued: the messages of so long. Their PUBACKs are late.
    pub backlog: Span,
    /// A device beyond the backlog, or above the quota, gets no PUBACK, and is cut off after so long.
    pub patience: Span,
}

/// A tier of IoT Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// No limits.
    None,
    /// The free tier: one unit, metered in half kilobytes.
    Free,
    /// Standard S1 (and Basic B1).
    S1,
    /// Standard S2 (and Basic B2).
    S2,
}

impl Profile {
    /// Sends per second, and as many new connections; `None` where nothing is limited.
    fn rate(self, units: u32) -> Option<f64> {
        let units = f64::from(units);
        match self {
            Profile::None => None,
            Profile::Free | Profile::S1 => Some((12.0 * units).max(100.0)),
            Profile::S2 => Some(120.0 * units),
        }
    }

    /// Calls of direct methods per second, of one meter's size each.
    fn methods(self, units: u32) -> Option<f64> {
        let kilobytes = match self {
            Profile::None => return None,
            Profile::Free | Profile::S1 => 160.0,
            Profile::S2 => 480.0,
        };
        Some(kilobytes * 1024.0 / METHOD_METER_BYTES as f64 * f64::from(units))
    }

    /// Metered messages per day.
    fn quota(self, units: u32) -> Option<u64> {
        match self {
            Profile::None => None,
            Profile::Free => Some(8_000),
            Profile::S1 => Some(400_000 * u64::from(units)),
            Profile::S2 => Some(6_000_000 * u64::from(units)),
        }
    }

    /// Bytes of one metered message.
    pub fn metered_bytes(self) -> usize {
        match self {
            Profile::Free => 512,
            Profile::None | Profile::S1 | Profile::S2 => 4 * 1024,
        }
    }
}

impl Config {
    /// Metered messages in a message of so many bytes; an empty one counts too.
    pub fn metered_units(&self, bytes: usize) -> u64 {
        bytes.div_ceil(self.profile.metered_bytes()).max(1) as u64
    }

    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let units = 1..=if self.profile == Profile::Free { 1 } else { 200 };
        mistakes.ensure(
            units.contains(&self.units),
            "units",
            format!("must be 1 to {} with this profile, write e.g. 1", units.end()),
        );
        for (key, span) in [("burst", self.burst), ("backlog", self.backlog), ("patience", self.patience)] {
            let fits = span.duration() <= Duration::from_secs(3600);
            mistakes.ensure(fits, key, "must be at most an hour, write e.g. \"30s\"");
        }
    }
}

/// What else the service throttles: what is beyond is refused at once (429).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A twin is read, by a device or a service.
    TwinRead,
    /// A twin is changed, by a device or a service.
    TwinUpdate,
    /// A command is sent.
    Command,
    /// An identity is read or changed.
    Registry,
    /// A query is run.
    Query,
    /// A job is made or looked at.
    Job,
}

impl Operation {
    /// How many there are.
    const COUNT: usize = 6;

    /// Per second; `None` where nothing is limited.
    fn rate(self, profile: Profile, units: u32) -> Option<f64> {
        let units = f64::from(units);
        let per_unit = match profile {
            Profile::None => return None,
            Profile::Free | Profile::S1 => 0.0,
            Profile::S2 => 1.0,
        };
        Some(match self {
            Operation::TwinRead => (10.0 * units * per_unit).max(100.0),
            Operation::TwinUpdate => (5.0 * units * per_unit).max(50.0),
            Operation::Command | Operation::Registry | Operation::Job => 100.0 / 60.0 * units,
            Operation::Query => 20.0 / 60.0 * units,
        })
    }
}

/// What becomes of a send or of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At once.
    Now,
    /// Queued: so long from now.
    Later(Duration),
    /// Not at all: nothing is stored, no PUBACK is sent, and the connection is closed after this time.
    Never {
        /// Why, as it stands in metrics.
        reason: &'static str,
        /// Until the connection is closed.
        after: Duration,
    },
}

/// The state of a hub's limits.
#[derive(Debug)]
pub struct Limits {
    config: Config,
    sends: Option<Throttle>,
    connections: Option<Throttle>,
    operations: [Option<Throttle>; Operation::COUNT],
    methods: Option<Throttle>,
    meter: Metered,
    /// Everything is beyond the backlog from the one moment until the other.
    forced: Option<(Timestamp, Timestamp)>,
}

/// The limits of a running hub, for all its connections; clones are the same.
#[derive(Debug, Clone)]
pub struct SharedLimits(Arc<Mutex<Limits>>);

impl SharedLimits {
    /// Shares `limits`.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Mutex::new(limits)))
    }

    /// The limits, for a moment without waiting.
    pub fn lock(&self) -> MutexGuard<'_, Limits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was metered today; the part of the limits that outlives a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Metered {
    /// Days since 1970-01-01, UTC.
    pub day: i64,
    /// Metered messages of that day.
    pub used: u64,
}

/// The limits as of now, for `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Standing {
    /// The tier.
    pub profile: Profile,
    /// Its units.
    pub units: u32,
    /// Bytes of a metered message.
    pub metered_bytes: usize,
    /// Metered messages since UTC midnight.
    pub metered_today: u64,
    /// The daily quota, if there is one.
    pub quota: Option<u64>,
    /// How far the queue of sends is behind.
    pub backlog_ms: u64,
}

/// A rate with a burst and a queue: the generic cell rate algorithm, in microseconds.
#[derive(Debug)]
struct Throttle {
    interval: f64,
    burst: f64,
    backlog: f64,
    /// When the next one would be due if all came at the rate.
    due: f64,
}

/// What counts most is a direct method of 128 KB, as thirty-two.
const LARGE_MAX: f64 = 32.0;

impl Throttle {
    fn new(rate: f64, config: &Config) -> Self {
        let micros = |span: Span| span.duration().as_secs_f64() * 1e6;
        Self { interval: 1e6 / rate, burst: micros(config.burst), backlog: micros(config.backlog), due: f64::MIN }
    }

    /// `None` if the queue is full; then nothing was counted. What is `large` counts as so many.
    fn admit(&mut self, now: f64, large: f64) -> Option<Duration> {
        // Further ahead than the queue can reach it is only after the clock was set back: then all begins anew.
        let reach = self.burst + self.backlog + self.interval * large.max(LARGE_MAX);
        let due = if now + reach < self.due { now } else { self.due.max(now) };
        let wait = due - self.burst - now;
        if self.backlog < wait {
            return None;
        }
        self.due = due + self.interval * large;
        Some(Duration::from_micros(wait.max(0.0) as u64))
    }

    fn backlog(&self, now: f64) -> Duration {
        Duration::from_micros((self.due - self.burst - now).clamp(0.0, self.backlog) as u64)
    }
}

impl Limits {
    /// Limits of a hub that had metered `meter` when it stopped.
    pub fn new(config: Config, meter: Metered) -> Self {
        let throttle = || config.profile.rate(config.units).map(|rate| Throttle::new(rate, &config));
        // None of these is queued.
        let at_once = |rate: Option<f64>| rate.map(|rate| Throttle { backlog: 0.0, ..Throttle::new(rate, &config) });
        let operation = |operation: Operation| at_once(operation.rate(config.profile, config.units));
        let methods = at_once(config.profile.methods(config.units));
        let operations = [
            Operation::TwinRead,
            Operation::TwinUpdate,
            Operation::Command,
            Operation::Registry,
            Operation::Query,
            Operation::Job,
        ];
        let operations = operations.map(operation);
        Self { sends: throttle(), connections: throttle(), operations, methods, meter, forced: None, config }
    }

    /// Judges a message of so many metered units.
    pub fn send(&mut self, now: Timestamp, metered_units: u64) -> Verdict {
        if !self.has_quota(now, metered_units) {
            return self.never("quota");
        }
        let verdict = self.judge(now, 1.0, |limits| limits.sends.as_mut());
        if !matches!(verdict, Verdict::Never { .. }) {
            self.meter.used += metered_units;
        }
        verdict
    }

    /// Judges a new connection. A queued one is welcomed late.
    pub fn connect(&mut self, now: Timestamp) -> Verdict {
        self.judge(now, 1.0, |limits| limits.connections.as_mut())
    }

    /// False if it is to be refused, with 429.
    pub fn operation(&mut self, now: Timestamp, operation: Operation) -> bool {
        self.judge(now, 1.0, |limits| limits.operations[operation as usize].as_mut()) == Verdict::Now
    }

    /// The same of a direct method that is asked with so many bytes.
    pub fn method(&mut self, now: Timestamp, bytes: usize) -> bool {
        let large = bytes.div_ceil(METHOD_METER_BYTES).max(1) as f64;
        self.judge(now, large, |limits| limits.methods.as_mut()) == Verdict::Now
    }

    /// True if so many metered messages more are within the day's quota.
    pub fn has_quota(&mut self, now: Timestamp, metered_units: u64) -> bool {
        self.turn_day(now);
        self.quota().is_none_or(|quota| self.meter.used.saturating_add(metered_units) <= quota)
    }

    /// Counts what is metered once it has succeeded.
    pub fn charge(&mut self, now: Timestamp, metered_units: u64) {
        self.turn_day(now);
        self.meter.used = self.meter.used.saturating_add(metered_units);
    }

    /// Everything is refused for so long, as if the backlog were full.
    pub fn throttle(&mut self, now: Timestamp, lasts: Duration) {
        self.forced = Some((now, now.plus(lasts)));
    }

    /// What has to be kept.
    pub fn meter(&self) -> Metered {
        self.meter
    }

    /// For `/status`.
    pub fn standing(&mut self, now: Timestamp) -> Standing {
        self.turn_day(now);
        let backlog = self.sends.as_ref().map_or(Duration::ZERO, |sends| sends.backlog(now.micros() as f64));
        Standing {
            profile: self.config.profile,
            units: self.config.units,
            metered_bytes: self.config.profile.metered_bytes(),
            metered_today: self.meter.used,
            quota: self.quota(),
            backlog_ms: u64::try_from(backlog.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Metered messages in a message of so many bytes.
    pub fn metered_units(&self, bytes: usize) -> u64 {
        self.config.metered_units(bytes)
    }

    fn judge(
        &mut self,
        now: Timestamp,
        large: f64,
        throttle: impl FnOnce(&mut Self) -> Option<&mut Throttle>,
    ) -> Verdict {
        if self.forced.is_some_and(|(since, until)| (since..until).contains(&now)) {
            return self.never("throttled");
        }
        self.forced = None;
        match throttle(self).map(|throttle| throttle.admit(now.micros() as f64, large)) {
            None => Verdict::Now,
            Some(Some(Duration::ZERO)) => Verdict::Now,
            Some(Some(wait)) => Verdict::Later(wait),
            Some(None) => self.never("throttled"),
        }
    }

    fn never(&self, reason: &'static str) -> Verdict {
        Verdict::Never { reason, after: self.config.patience.duration() }
    }

    fn quota(&self) -> Option<u64> {
        self.config.profile.quota(self.config.units)
    }

    fn turn_day(&mut self, now: Timestamp) {
        let day = now.micros().div_euclid(DAY_MICROS);
        if self.meter.day != day {
            self.meter = Metered { day, used: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(profile: Profile, units: u32) -> Limits {
        let seconds = |seconds| Span::new(Duration::from_secs(seconds));
        let config = Config { profile, units, burst: seconds(60), backlog: seconds(30), patience: seconds(10) };
        Limits::new(config, Metered::default())
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(20_000 * 86_400_000 + millis)
    }

    #[test]
    fn a_burst_passes_then_pubacks_are_late_then_they_stop() {
        // 200 a second where 100 are allowed: 6,000 more than the rate pass at once, 3,000 more are queued.
        let mut limits = limits(Profile::S1, 1);
        let (mut now, mut later, mut never) = (0, 0, 0);
        let mut longest = Duration::ZERO;
        let mut refused_at = None;
        for message in 0..30_000 {
            let millis = message * 5;
            match limits.send(at(millis), 1) {
                Verdict::Now => {
                    now += 1;
                    assert_eq!((later, never), (0, 0), "no message passes at once while others are queued");
                }
                Verdict::Later(wait) => {
                    later += 1;
                    longest = longest.max(wait);
                }
                Verdict::Never { reason, after } => {
                    never += 1;
                    refused_at.get_or_insert(millis);
                    assert_eq!((reason, after), ("throttled", Duration::from_secs(10)));
                }
            }
        }
        assert!((11_990..=12_010).contains(&now), "{now} in the first minute");
        assert!((89_000..=91_000).contains(&refused_at.expect("refused")), "the queue is full after another half");
        assert_eq!(longest.as_secs(), 30);
        // From then on half of what comes is taken.
        assert!((5_900..=6_100).contains(&never), "{never}");
        assert_eq!(limits.standing(at(150_000)).backlog_ms / 1_000, 30);
        assert_eq!(limits.send(at(300_000), 1), Verdict::Now, "a quiet while, and all is well");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_throttle_for_as_long_as_it_was_ahead() {
        let mut limits = limits(Profile::S1, 1);
        let hour = 3_600_000;
        assert_eq!(limits.send(at(2 * hour), 1), Verdict::Now);
        limits.throttle(at(2 * hour), Duration::from_secs(2));
        assert_eq!(limits.send(at(0), 1), Verdict::Now);
        assert_eq!(limits.standing(at(0)).backlog_ms, 0);
    }

    #[test]
    fn rates_and_quotas_are_those_of_the_tiers() {
        for (profile, units, rate, quota, block) in [
            (Profile::None, 1, None, None, 4_096),
            (Profile::Free, 1, Some(100.0), Some(8_000), 512),
            (Profile::S1, 1, Some(100.0), Some(400_000), 4_096),
            (Profile::S1, 9, Some(108.0), Some(3_600_000), 4_096),
            (Profile::S2, 1, Some(120.0), Some(6_000_000), 4_096),
            (Profile::S2, 10, Some(1_200.0), Some(60_000_000), 4_096),
        ] {
            assert_eq!(profile.rate(units), rate, "{profile:?} {units}");
            assert_eq!(profile.quota(units), quota, "{profile:?} {units}");
            assert_eq!(profile.metered_bytes(), block, "{profile:?} {units}");
        }
    }

    #[test]
    fn operations_beyond_a_burst_are_refused_each_kind_by_itself() {
        let mut limits = limits(Profile::S1, 1);
        let passed = (0..10_000).filter(|_| limits.operation(at(0), Operation::TwinUpdate)).count();
        assert_eq!(passed, 3_001, "50 a second, a minute of it at once");
        assert!(limits.operation(at(0), Operation::TwinRead) && limits.operation(at(20), Operation::TwinUpdate));
        assert!(!limits.operation(at(20), Operation::TwinUpdate));
        for (operation, profile, units, rate) in [
            (Operation::TwinRead, Profile::Free, 1, Some(100.0)),
            (Operation::TwinRead, Profile::S2, 20, Some(200.0)),
            (Operation::TwinUpdate, Profile::S2, 20, Some(100.0)),
            (Operation::Query, Profile::S1, 3, Some(1.0)),
            (Operation::Query, Profile::None, 3, None),
        ] {
            assert_eq!(operation.rate(profile, units), rate, "{operation:?}");
        }
    }

    #[test]
    fn methods_are_throttled_by_their_bytes() {
        for (profile, units, bytes, at_once) in [
            // 40 a second of 4 KB, a minute of it at once.
            (Profile::S1, 1, 0, 2_401),
            (Profile::S1, 1, 4_096, 2_401),
            (Profile::S1, 1, 4_097, 1_201),
            (Profile::S1, 2, 4_096, 4_801),
            (Profile::S2, 1, 4_096, 7_201),
            (Profile::None, 1, 4_096, 10_000),
        ] {
            let mut limits = limits(profile, units);
            let passed = (0..10_000).filter(|_| limits.method(at(0), bytes)).count();
            assert_eq!(passed, at_once, "{profile:?} {units} {bytes}");
        }
    }

    #[test]
    fn the_quota_ends_the_day_and_midnight_begins_a_new_one() {
        let mut limits = limits(Profile::Free, 1);
        assert_eq!(limits.metered_units(0), 1);
        assert_eq!(limits.metered_units(513), 2);
        assert_eq!(limits.send(at(0), 7_999), Verdict::Now);
        assert!(matches!(limits.send(at(1), 2), Verdict::Never { reason: "quota", .. }), "it does not fit");
        assert_eq!(limits.send(at(2), 1), Verdict::Now, "this one does");
        assert!(matches!(limits.send(at(86_399_999), 1), Verdict::Never { reason: "quota", .. }));
        assert_eq!(limits.meter(), Metered { day: 20_000, used: 8_000 });
        assert_eq!(limits.send(at(86_400_000), 1), Verdict::Now);
        assert_eq!(limits.meter(), Metered { day: 20_001, used: 1 });
        // Commands and methods count once they have succeeded.
        limits.charge(at(86_400_000), 7_998);
        assert!(limits.has_quota(at(86_400_000), 1) && !limits.has_quota(at(86_400_000), 2));
    }

    #[test]
    fn connections_have_a_rate_of_their_own_and_a_forced_throttle_ends_by_itself() {
        let mut limits = limits(Profile::None, 1);
        for _ in 0..100_000 {
            assert_eq!(limits.connect(at(0)), Verdict::Now);
        }
        limits.throttle(at(0), Duration::from_secs(2));
        assert!(matches!(limits.send(at(1_999), 1), Verdict::Never { reason: "throttled", .. }));
        assert_eq!(limits.send(at(2_000), 1), Verdict::Now);
        assert_eq!(limits.meter().used, 1, "what was refused is not metered");
    }
}
