//! Looked after from afar: what the hub desires of this gateway, and what it calls.
//!
//! ```text
//! hub --twin, methods--> uplink --> Remote --> ear::Ear (twin::Twin, level::Levels) --> Remote --> log level, rules, intervals
//!                          ^                                                              |
//!                          +--------------- answers, reported properties -----------------+
//! ```
//!
//! [`topic`], [`document`], [`twin`], [`level`], [`method`] and [`ear`] are pure; [`Remote`] does what the ear asks for.
//! It never touches rows, and telemetry never waits for it.

pub mod topic; // $iothub/…

pub mod document; // JSON within bounds, merged and compared

pub mod twin; // desired and reported, one question at a time

pub mod settings; // what the twin can change, as one set

pub mod kept; // the last good set, on disk

pub mod level; // what is logged, on whose word

pub mod method; // calls and answers

pub mod ear; // all of it together

mod metrics;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value as Json, json};
use shared::backoff::Backoff;
use shared::clock::Clock;
use shared::reading::{Epoch, TimeQuality};
use shared::rules::Rule;
use shared::telemetry::LevelSwitch;
use tokio::sync::watch;
use tracing::{Level, error, info, warn};

pub use self::metrics::{Metrics, Status};

use self::ear::{Do, Ear, Notice};
use self::kept::{Good, Keeper, Kept};
use self::settings::{Devices, Settings};
use crate::presilver::gateway::Gateway;
use crate::sensors::Intervals;

/// Waits after the hub had no time grow between these.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// What the agent is may change in one thing: whether its clock is good. It is looked at this often.
const LOOK: Duration = Duration::from_secs(60);

/// `[remote]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Whether the hub is heard.
    pub enabled: bool,
}

/// Names rules.
pub type DigestOf = Arc<dyn Fn(Option<&[Rule]>) -> String + Send + Sync>;

/// The agent's status, as `edge-agent status --json` has it.
pub type StatusOf = Arc<dyn Fn() -> Json + Send + Sync>;

/// What is reported of this run, and what can be changed in it.
pub struct Agent {
    /// Of the run.
    pub epoch: Epoch,
    /// The set in force at its start.
    pub good: Good,
    /// Tells presilver by which rules to judge; `None`: by those that are configured.
    pub rules: watch::Sender<Option<Arc<[Rule]>>>,
    /// The devices as which its sensors count.
    pub devices: Devices,
    /// Tells sensors how often they are read, where that is not as configured.
    pub intervals: watch::Sender<Intervals>,
    /// The digest of such rules.
    pub digest: DigestOf,
    /// Where sets are kept.
    pub keeper: Keeper,
}

/// What the uplink is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// SUBSCRIBE to [`topic::FILTERS`].
    Subscribe,
    /// A publish at QoS 0.
    Say {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// Send what is held, and tell by [`ear::Notice::Flushed`].
    Flush {
        /// Of the call.
        rid: String,
        /// Tell after this long at the latest.
        within: Duration,
    },
    /// Connect anew once all that was said is written.
    Restart,
}

/// Does what the ear asks for.
pub struct Remote {
    /// `None` where the hub is not heard.
    ear: Option<Ear>,
    agent: Agent,
    machine: Gateway,
    look_at: Instant,
    clock: Clock,
    switch: LevelSwitch,
    status: StatusOf,
    metrics: Metrics,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("ear", &self.ear).finish_non_exhaustive()
    }
}

impl Remote {
    /// For an agent that logs at `level`, which `switch` changes.
    pub fn new(
        config: &Config,
        agent: Agent,
        machine: Gateway,
        clock: Clock,
        (level, switch): (&str, LevelSwitch),
        status: StatusOf,
        metrics: Metrics,
    ) -> Self {
        let seed = clock.now().micros().unsigned_abs() ^ u64::from(std::process::id()).rotate_left(16);
        let (good, devices) = (agent.good.clone(), agent.devices.clone());
        let backoff = Backoff::new(BACKOFF.0, BACKOFF.1, seed);
        let ear = config.enabled.then(|| Ear::new(level, devices, good, backoff));
        let remote = Self { ear, agent, machine, look_at: Instant::now(), clock, switch, status, metrics };
        if let Some(ear) = remote.ear.as_ref().filter(|ear| ear.levels().in_force() != level) {
            remote.set_level(ear.levels().in_force(), "the twin desired it before this start");
        }
        remote.show(Instant::now());
        remote
    }

    /// How long rows wait for company, where the twin has a word on that.
    pub fn linger(&self) -> Option<Duration> {
        self.ear.as_ref()?.good().settings.linger
    }

    /// When [`Notice::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let ear = self.ear.as_ref()?;
        let look = ear.twin().is_read().then_some(self.look_at);
        [ear.deadline(), look].into_iter().flatten().min()
    }

    /// One edge of the ear, and everything it asks for but what only the client can do.
    pub fn step(&mut self, notice: Notice<'_>, now: Instant) -> Vec<Out> {
        let Some(ear) = &mut self.ear else { return vec![] };
        let mut todo = vec![];
        if self.look_at <= now || matches!(notice, Notice::Connected) {
            self.look_at = now + LOOK;
            let good = self.machine.is_known_good(self.clock.now());
            let quality = if good { TimeQuality::Gateway } else { TimeQuality::GatewayUnsynced };
            let agent = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "epoch": self.agent.epoch,
                "rules": (self.agent.digest)(ear.good().settings.rules.as_deref()),
                "time-quality": quality,
            });
            todo.extend(ear.step(Notice::Agent(agent), now));
        }
        todo.extend(ear.step(notice, now));
        if todo.iter().any(|todo| matches!(todo, Do::Apply { .. })) {
            self.look_at = now; // what the agent is has changed
        }
        let out = todo.into_iter().filter_map(|todo| self.perform(todo)).collect();
        self.show(now);
        out
    }

    fn perform(&self, todo: Do) -> Option<Out> {
        match todo {
            Do::Subscribe => return Some(Out::Subscribe),
            Do::Say { topic, payload } => return Some(Out::Say { topic, payload }),
            Do::Flush { rid, within } => return Some(Out::Flush { rid, within }),
            Do::Restart => return Some(Out::Restart),
            Do::SayStatus { rid } => {
                let payload = method::fit((self.status)(), method::ANSWER_BYTES_MAX);
                return Some(Out::Say { topic: topic::answer(200, &rid), payload });
            }
            Do::SetLevel { level, why } => self.set_level(&level, why),
            Do::Apply { settings, version, desired } => self.apply(settings, Kept::new(version, desired)),
            Do::Count(count) => self.metrics.count(count),
            Do::Note(note) if note.is_warning() => warn!("{note}"),
            Do::Note(note) => info!("{note}"),
        }
        None
    }

    fn apply(&self, settings: Settings, kept: Kept) {
        let rules = settings.rules.map(Arc::from);
        info!(
            version = kept.version,
            rules = rules.as_ref().map(|rules: &Arc<[Rule]>| rules.len()),
            linger = settings.linger.map(tracing::field::debug),
            sensors = (!settings.sensors.is_empty()).then(|| tracing::field::debug(&settings.sensors)),
            "a set of the twin is in force"
        );
        self.agent.rules.send_if_modified(|now| {
            let changed = *now != rules;
            *now = rules;
            changed
        });
        let intervals = Intervals::new(settings.sensors);
        self.agent.intervals.send_if_modified(|now| {
            let changed = *now != intervals;
            *now = intervals;
            changed
        });
        self.agent.keeper.keep(kept);
    }

    /// Said before where it would not be heard after, and after where it would not have been heard before.
    fn set_level(&self, level: &str, why: &str) {
        let heard = tracing::enabled!(Level::INFO);
        if heard {
            info!(level, "another log level: {why}");
        }
        if let Err(fault) = self.switch.set(level) {
            error!(level, "the log level is not changed: {fault}");
        } else if !heard {
            info!(level, "another log level: {why}");
        }
    }

    fn show(&self, now: Instant) {
        let Some(ear) = &self.ear else { return };
        let levels = ear.levels();
        // To the second, so that it stays the same while nothing changes.
        let until = levels.until().map(|until| {
            let at = self.clock.now().plus(until.saturating_duration_since(now));
            shared::time::Timestamp::from_millis((at.millis() + 500).div_euclid(1_000) * 1_000).to_string()
        });
        self.metrics.show(Status {
            state: ear.state(),
            desired_version: ear.twin().version(),
            settings_version: ear.good().version,
            settings_refused: ear.refused().map(str::to_owned),
            log_level: levels.in_force().to_owned(),
            log_level_until: until,
        });
    }
}
