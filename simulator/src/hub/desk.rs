//! All that the hub knows and keeps about identities, for whoever serves them: MQTT, AMQP, HTTPS. And what nobody asks
//! for: telling devices of changes, giving up what is too old, noticing that an identity is gone.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use tokio_util::sync::CancellationToken;

use super::changes::{Changes, Happened};
use super::commands::{Command, CommandFault, Commands};
use super::devices::{Identities, Registry};
use super::faults::Faults;
use super::limits::{Operation, SharedLimits};
use super::methods::Methods;
use super::metrics::Metrics;
use super::mqtt::{Hears, Letter, Seats};
use super::twins::{TwinNews, Twins};
use super::who::Who;

/// How often it is looked whether a command is too old, or the registry's file was changed by somebody else.
const TICK: Duration = Duration::from_millis(500);

/// See the module; clones are the same.
#[derive(Clone)]
pub struct Desk {
    /// Who may connect.
    pub registry: Registry,
    /// What is wished of them, and what they report.
    pub twins: Twins,
    /// What waits for them.
    pub commands: Commands,
    /// What is asked of them now.
    pub methods: Methods,
    /// What is said about them on the Event-Hubs endpoint.
    pub changes: Changes,
    /// Who is connected.
    pub seats: Seats,
    /// What the tier lets through.
    pub limits: SharedLimits,
    /// Scripted misfortune.
    pub faults: Faults,
    /// What time it is.
    pub clock: Clock,
    /// Every name this hub goes by.
    pub hosts: Arc<[String]>,
    /// Rates.
    pub(super) metrics: Arc<Metrics>,
    /// The registry as it was heeded last.
    heeded: Arc<tokio::sync::Mutex<Heeded>>,
}

#[derive(Default)]
struct Heeded {
    identities: Option<Arc<Identities>>,
    /// With their generations.
    known: HashMap<Who, String>,
    /// Those that were known once, with theirs.
    aside: HashMap<Who, String>,
}

/// What [`Desk::new`] puts together.
pub(super) struct Parts {
    pub(super) registry: Registry,
    pub(super) twins: Twins,
    pub(super) commands: Commands,
    pub(super) changes: Changes,
    pub(super) seats: Seats,
    pub(super) limits: SharedLimits,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
    pub(super) hosts: Vec<String>,
    pub(super) metrics: Arc<Metrics>,
}

impl Desk {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { registry, twins, commands, changes, seats, limits, faults, clock, hosts, metrics } = parts;
        let methods = Methods::new(seats.clone());
        let (hosts, heeded) = (hosts.into(), Arc::default());
        Self { registry, twins, commands, methods, changes, seats, limits, faults, clock, hosts, metrics, heeded }
    }

    /// Does what nobody asks for until `stop` is cancelled.
    ///
    /// # Errors
    /// If the disk says no.
    pub(super) async fn run(&self, stop: CancellationToken) -> io::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                news = self.twins.next_news() => self.tell(&news?).await,
                _ = ticks.tick() => {
                    self.commands.sweep()?;
                    self.heed().await?;
                }
            }
        }
    }

    /// Sends a command, as far as the tier lets it through. It counts for the daily quota once it is taken.
    ///
    /// # Errors
    /// As [`Commands::send`], and beyond a limit.
    pub async fn send(&self, who: &Who, command: Command) -> Result<(), CommandFault> {
        let now = self.clock.now();
        let units = {
            let mut limits = self.limits.lock();
            let units = limits.metered_units(command.bytes());
            if !limits.operation(now, Operation::Command) {
                return Err(CommandFault::Throttled);
            }
            if !limits.has_quota(now, units) {
                return Err(CommandFault::Quota);
            }
            units
        };
        self.commands.send(who, command).await?;
        self.charge(units);
        Ok(())
    }

    /// Counts what is metered beside messages from devices.
    pub(super) fn charge(&self, metered_units: u64) {
        self.limits.lock().charge(self.clock.now(), metered_units);
        self.metrics.metered(metered_units);
    }

    async fn tell(&self, news: &TwinNews) {
        if let Some(told) = &news.told {
            let letter = Letter::Desired { version: news.versions.1, patch: told.to_string().into() };
            let hears = self.seats.hears(&news.who, Hears::Desired);
            if hears && !self.seats.post(&news.who, Hears::Desired, letter) {
                // It would go on with wishes of yesterday. When it comes back it asks for the twin.
                self.seats.disconnect(&news.who, "mailbox-full");
            }
        }
        self.changes.twin_changed(news).await;
    }

    /// Notices what has become of the registry: an identity that is gone, or another one of the same id, loses its
    /// connection, a disabled one does, too, and events tell of new ones and lost ones. Whoever changes the registry calls
    /// it before saying so; changes of the file by others are noticed within a second.
    ///
    /// Twins and commands go with an identity that a service deletes, and where another one takes its id. Those of one
    /// that is merely not in the file (any more) are kept aside: the file may be the wrong one, or half written, and
    /// comes back.
    ///
    /// # Errors
    /// If the disk says no.
    pub async fn heed(&self) -> io::Result<()> {
        let mut heeded = self.heeded.lock().await;
        let (identities, renewed) = self.registry.renewed();
        let same = heeded.identities.as_ref().is_some_and(|before| Arc::ptr_eq(before, &identities));
        if same && renewed.is_empty() {
            return Ok(());
        }
        let first = heeded.identities.is_none();
        let known = everybody(&identities);
        if first {
            let mut aside: HashSet<Who> = self.twins.whose().into_iter().chain(self.commands.whose()).collect();
            aside.retain(|who| !known.contains_key(who));
            if !aside.is_empty() {
                let identities = aside.len();
                tracing::warn!(identities, "twins and commands of identities that the registry lacks are kept aside");
            }
        }
        let gone = heeded.known.iter().filter(|(who, generation)| known.get(*who) != Some(*generation));
        let gone: Vec<(Who, String)> = gone.map(|(who, generation)| (who.clone(), generation.clone())).collect();
        for (who, generation) in gone {
            self.seats.disconnect(&who, "deleted-device");
            self.changes.lifecycle(&who, Happened::Deleted, &self.twins.get(&who)).await;
            heeded.known.remove(&who);
            heeded.aside.insert(who, generation);
        }
        for who in renewed {
            heeded.aside.remove(&who);
            self.forget(&who).await?;
        }
        let new: Vec<_> = known.iter().filter(|(who, _)| !heeded.known.contains_key(*who)).collect();
        for (who, generation) in new {
            if heeded.aside.remove(who).is_some_and(|before| before != *generation) {
                self.forget(who).await?;
            }
            if !first {
                self.changes.lifecycle(who, Happened::Created, &self.twins.get(who)).await;
            }
        }
        self.seats.forget_all_but(|who| known.contains_key(who))?;
        for (who, generation) in self.seats.everybody() {
            match who.known(&identities) {
                Some(known) if known.generation_id == generation && known.enabled => {}
                Some(known) if known.generation_id == generation => {
                    self.seats.disconnect(&who, "disabled-device");
                }
                _ => {
                    self.seats.disconnect(&who, "deleted-device");
                }
            }
        }
        (heeded.identities, heeded.known) = (Some(identities), known);
        Ok(())
    }

    /// What an identity leaves behind that is no more.
    async fn forget(&self, who: &Who) -> io::Result<()> {
        self.twins.forget_one(who).await?;
        self.commands.forget_one(who).await
    }

    /// What an earlier device of this id, and its modules, left behind, where there is none now: a new one begins without.
    ///
    /// # Errors
    /// If the disk says no.
    pub(crate) async fn clear(&self, device: &str) -> io::Result<()> {
        let mut heeded = self.heeded.lock().await;
        if self.registry.now().device(device).is_some() {
            return Ok(());
        }
        let left: HashSet<Who> = self.twins.whose().into_iter().chain(self.commands.whose()).collect();
        for who in left.into_iter().filter(|who| who.device == device) {
            self.forget(&who).await?;
        }
        heeded.aside.retain(|who, _| who.device != device);
        Ok(())
    }
}

/// What tests differ in.
#[cfg(test)]
pub(super) struct Stood<'a> {
    pub(super) directory: &'a std::path::Path,
    pub(super) registry: Registry,
    pub(super) log: super::log::Log,
    pub(super) limits: SharedLimits,
    pub(super) hosts: Vec<String>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sources: Vec<super::changes::Source>,
}

#[cfg(test)]
impl Desk {
    /// The desk of a hub that was started anew with this registry.
    pub(super) fn restarted(&self, registry: Registry) -> Self {
        Self { heeded: Arc::default(), registry, ..self.clone() }
    }

    /// A desk over a folder, with the real clock and the default limits.
    pub(super) fn stand(stood: Stood<'_>) -> Self {
        let Stood { directory, registry, log, limits, hosts, metrics, sources } = stood;
        let clock = Clock::Real;
        let seats = Seats::open(directory.join("seen.jsonl"), clock.clone()).expect("seats");
        let commands = crate::config::Config::load(None).expect("the default").hub.commands.limits();
        let path = directory.join("commands.jsonl");
        let commands = Commands::open(path, clock.clone(), commands, registry.clone(), seats.clone());
        Self::new(Parts {
            twins: Twins::open(directory.join("twins.jsonl"), clock.clone()).expect("twins"),
            commands: commands.expect("commands"),
            changes: Changes::new(log, "hub", &sources, clock.clone()),
            registry,
            seats,
            limits,
            faults: Faults::default(),
            clock,
            hosts,
            metrics,
        })
    }
}

fn everybody(identities: &Identities) -> HashMap<Who, String> {
    let mut known = HashMap::new();
    for device in identities.devices() {
        known.insert(Who::device(&device.id), device.generation_id.clone());
        for module in &device.modules {
            known.insert(Who::module(&device.id, &module.id), module.generation_id.clone());
        }
    }
    known
}
