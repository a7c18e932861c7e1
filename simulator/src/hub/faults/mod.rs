//! Scripted misfortune, for tests: by file (`[[hub.faults]]`) and at run time (`POST /faults`).
//!
//! ```text
//! rule --(counts, seeds)--> script --> what befalls this message, connection, fsync, moment
//! ```
//!
//! Invariant: the same rules and the same occasions in the same order give the same misfortune.

mod rule; // one line of the script

mod script; // which rule strikes when

mod moments; // what happens by itself

mod face; // rules over HTTP

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

pub(super) use self::face::router;
pub(super) use self::moments::{Hands, run};
pub use self::rule::{Fault, Occasion, Rule};
use self::script::Script;
pub use self::script::{Action, Armed, CommandLuck};

const WATCHED: [Occasion; 5] =
    [Occasion::Message, Occasion::Connect, Occasion::Command, Occasion::MethodAnswer, Occasion::Fsync];

/// The script of a hub; clones are the same.
#[derive(Debug, Clone)]
pub struct Faults {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    script: Mutex<Script>,
    started: Instant,
    /// Whether there is a rule for each of [`WATCHED`]: nobody waits for a lock where there is none.
    watches: [AtomicBool; WATCHED.len()],
    changed: Notify,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                script: Mutex::default(),
                started: Instant::now(),
                watches: Default::default(),
                changed: Notify::new(),
            }),
        }
    }
}

impl Faults {
    /// A script of these rules.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let faults = Self::default();
        for rule in rules {
            faults.add(rule);
        }
        faults
    }

    /// Adds a rule that was checked; gives its id.
    pub fn add(&self, rule: Rule) -> u64 {
        tracing::warn!(rule = %serde_json::to_string(&rule).unwrap_or_default(), "a fault was scripted");
        self.change(|script, now| script.add(rule, now))
    }

    /// Takes a rule back; false if there is none with this id.
    pub fn remove(&self, id: u64) -> bool {
        self.change(|script, _| script.remove(id))
    }

    /// Takes all rules back.
    pub fn clear(&self) {
        self.change(|script, _| script.clear());
    }

    /// The rules with their counts.
    pub fn rules(&self) -> Vec<Armed> {
        self.script().rules().to_vec()
    }

    /// What befalls a message of `device`.
    pub fn message(&self, device: &str) -> Vec<Action> {
        if !self.watches(Occasion::Message) {
            return vec![];
        }
        self.script().message(device)
    }

    /// True if a CONNECT of `device` is to be refused.
    pub fn connect(&self, device: &str) -> bool {
        self.watches(Occasion::Connect) && self.script().connect(device)
    }

    /// What befalls a command on its way to `device`.
    pub fn command(&self, device: &str) -> CommandLuck {
        if !self.watches(Occasion::Command) {
            return CommandLuck::default();
        }
        self.script().command(device)
    }

    /// True if `device`'s answer to a direct method is to be lost.
    pub fn method_answer(&self, device: &str) -> bool {
        self.watches(Occasion::MethodAnswer) && self.script().method_answer(device)
    }

    /// How much longer an fsync of `partition` takes.
    pub fn fsync(&self, partition: u32) -> Duration {
        if !self.watches(Occasion::Fsync) {
            return Duration::ZERO;
        }
        self.script().fsync(partition)
    }

    /// Takes as much longer as the rules say an fsync of `partition` does; no longer once they are taken back.
    pub fn slow_fsync(&self, partition: u32) {
        let until = Instant::now() + self.fsync(partition);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.watches(Occasion::Fsync) {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Script, Duration) -> T) -> T {
        let mut script = self.script();
        let done = change(&mut script, self.inner.started.elapsed());
        for (flag, occasion) in self.inner.watches.iter().zip(WATCHED) {
            flag.store(script.watches(occasion), Ordering::Release);
        }
        drop(script);
        self.inner.changed.notify_one();
        done
    }

    fn watches(&self, occasion: Occasion) -> bool {
        match WATCHED.iter().position(|watched| *watched == occasion) {
            Some(at) => self.inner.watches[at].load(Ordering::Acquire),
            None => true,
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.inner.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
