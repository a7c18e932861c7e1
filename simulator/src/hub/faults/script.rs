//! Which rule strikes when: counts and seeds, no clock and no I/O.

use std::time::Duration;

use serde::Serialize;
use shared::rules::glob;

use super::rule::{Fault, Occasion, Rule};

/// What is to be done to a message, in the order of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// See [`Fault::Drop`].
    Drop,
    /// See [`Fault::Delay`].
    Delay(Duration),
    /// See [`Fault::Duplicate`].
    Duplicate,
    /// See [`Fault::BlackHole`].
    BlackHole(Duration),
    /// See [`Fault::Disconnect`].
    Disconnect,
    /// See [`Fault::LosePuback`].
    LosePuback,
    /// See [`Fault::ExpireToken`].
    ExpireToken,
    /// See [`Fault::Throttle`].
    Throttle(Duration),
}

/// What befalls a command on its way to its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandLuck {
    /// See [`Fault::DropCommand`].
    pub lost: bool,
    /// See [`Fault::DelayCommand`].
    pub delay: Duration,
}

/// A rule with its counts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Armed {
    /// To take it back by.
    pub id: u64,
    #[serde(flatten)]
    pub rule: Rule,
    /// Occasions it had.
    pub seen: u64,
    /// How often it struck.
    pub struck: u64,
    /// When it is due, from the script's start; only of rules that happen at a moment.
    #[serde(skip)]
    due: Option<Duration>,
}

/// The rules in force.
#[derive(Debug, Default)]
pub(super) struct Script {
    rules: Vec<Armed>,
    given: u64,
}

impl Script {
    /// Adds a rule and gives its id; `now` counts from the script's start.
    pub(super) fn add(&mut self, rule: Rule, now: Duration) -> u64 {
        self.given += 1;
        let moment = rule.fault.occasion() == Occasion::Moment;
        let due = moment.then(|| now.saturating_add(rule.after.map_or(Duration::ZERO, |after| after.duration())));
        self.rules.push(Armed { id: self.given, rule, seen: 0, struck: 0, due });
        self.given
    }

    /// Takes a rule back; false if there is none with this id.
    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.rules.len();
        self.rules.retain(|armed| armed.id != id);
        self.rules.len() < before
    }

    /// Takes all back.
    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// All rules with their counts.
    pub(super) fn rules(&self) -> &[Armed] {
        &self.rules
    }

    /// True if a rule may strike at this occasion.
    pub(super) fn watches(&self, occasion: Occasion) -> bool {
        self.rules.iter().any(|armed| armed.rule.fault.occasion() == occasion)
    }

    /// What befalls a message of `device`.
    pub(super) fn message(&mut self, device: &str) -> Vec<Action> {
        let struck = self.strike(Occasion::Message, |rule| befalls(rule, device));
        struck.map(|(fault, lasts)| action(fault, lasts)).collect()
    }

    /// True if a CONNECT of `device` is to be refused.
    pub(super) fn connect(&mut self, device: &str) -> bool {
        self.strike(Occasion::Connect, |rule| befalls(rule, device)).count() != 0
    }

    /// What befalls a command on its way to `device`.
    pub(super) fn command(&mut self, device: &str) -> CommandLuck {
        let mut luck = CommandLuck::default();
        for (fault, lasts) in self.strike(Occasion::Command, |rule| befalls(rule, device)) {
            match fault {
                Fault::DropCommand => luck.lost = true,
                _ => luck.delay += lasts,
            }
        }
        luck
    }

    /// True if `device`'s answer to a direct method is to be lost.
    pub(super) fn method_answer(&mut self, device: &str) -> bool {
        self.strike(Occasion::MethodAnswer, |rule| befalls(rule, device)).count() != 0
    }

    /// How much longer an fsync of `partition` takes.
    pub(super) fn fsync(&mut self, partition: u32) -> Duration {
        let struck = self.strike(Occasion::Fsync, |rule| rule.partition.is_none_or(|at| at == partition));
        struck.map(|(_, lasts)| lasts).sum()
    }

    /// The rules that are due at `now`, each at most once, and when the next one is.
    pub(super) fn moments(&mut self, now: Duration) -> (Vec<Rule>, Option<Duration>) {
        let mut due_now = vec![];
        for armed in &mut self.rules {
            let Some(due) = armed.due.filter(|due| *due <= now) else { continue };
            armed.seen += 1;
            armed.struck += 1;
            due_now.push(armed.rule.clone());
            let over = armed.rule.times.is_some_and(|times| times <= armed.struck);
            let again = armed.rule.again.filter(|_| !over).map(|again| again.duration());
            // A moment that was slept through is not made up for.
            armed.due = again.map(|again| (due + again).max(now));
        }
        let next = self.rules.iter().filter_map(|armed| armed.due).min();
        (due_now, next)
    }

    fn strike(
        &mut self,
        occasion: Occasion,
        befalls: impl Fn(&Rule) -> bool,
    ) -> impl Iterator<Item = (Fault, Duration)> {
        self.rules
            .iter_mut()
            .filter(move |armed| armed.rule.fault.occasion() == occasion && befalls(&armed.rule))
            .filter_map(|armed| armed.strike().then(|| (armed.rule.fault, armed.rule.lasts())))
    }
}

impl Armed {
    /// Counts an occasion; true if the fault strikes.
    fn strike(&mut self) -> bool {
        self.seen += 1;
        let rule = &self.rule;
        let Some(nth) = self.seen.checked_sub(rule.skip.unwrap_or(0)).filter(|nth| *nth != 0) else { return false };
        let over = rule.times.is_some_and(|times| times <= self.struck);
        let now = match rule.chance {
            Some(chance) => draw(rule.seed.unwrap_or(1), nth) < chance,
            None => nth.is_multiple_of(rule.every.unwrap_or(1).max(1)),
        };
        let strikes = now && !over;
        self.struck += u64::from(strikes);
        strikes
    }
}

fn befalls(rule: &Rule, device: &str) -> bool {
    rule.device.as_deref().is_none_or(|pattern| glob(pattern, device))
}

fn action(fault: Fault, lasts: Duration) -> Action {
    match fault {
        Fault::Drop => Action::Drop,
        Fault::Delay => Action::Delay(lasts),
        Fault::Duplicate => Action::Duplicate,
        Fault::BlackHole => Action::BlackHole(lasts),
        Fault::Disconnect => Action::Disconnect,
        Fault::LosePuback => Action::LosePuback,
        Fault::ExpireToken => Action::ExpireToken,
        Fault::Throttle => Action::Throttle(lasts),
        Fault::Refuse
        | Fault::DropCommand
        | Fault::DelayCommand
        | Fault::LoseMethodAnswer
        | Fault::SlowFsync
        | Fault::DetachReceivers
        | Fault::MovePartition
        | Fault::ExpireServiceTokens
        | Fault::ResetServices
        | Fault::BlackHoleServices
        | Fault::TrimLog
        | Fault::ShiftClock => unreachable!("not an occasion of messages"),
    }
}

/// A number in 0..1 that depends on both and on nothing else.
fn draw(seed: u64, nth: u64) -> f64 {
    crate::fleet::waveform::unit(crate::fleet::waveform::mix(&[seed, nth, 0x000b_ad1c]))
}

#[cfg(test)]
mod tests {
    use shared::config::Span;

    use super::*;

    fn script(rules: &[&str]) -> Script {
        let mut script = Script::default();
        for text in rules {
            script.add(toml::from_str(text).expect(text), Duration::ZERO);
        }
        script
    }

    #[test]
    fn a_rule_strikes_when_its_counts_say_so() {
        for (rule, struck) in [
            ("fault = \"drop\"", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10][..]),
            ("fault = \"drop\"\nevery = 4", &[4, 8]),
            ("fault = \"drop\"\nskip = 5\nevery = 2", &[7, 9]),
            ("fault = \"drop\"\nskip = 2\ntimes = 3", &[3, 4, 5]),
            ("fault = \"drop\"\nchance = 0.0", &[]),
            ("fault = \"drop\"\nchance = 1.0\ntimes = 2", &[1, 2]),
            ("fault = \"drop\"\ndevice = \"other\"", &[]),
            ("fault = \"drop\"\ndevice = \"gw-*\"\nskip = 9", &[10]),
            ("fault = \"refuse\"", &[]),
        ] {
            let mut script = script(&[rule]);
            let found: Vec<u64> = (1..=10).filter(|_| !script.message("gw-1").is_empty()).collect();
            assert_eq!(found, struck, "{rule}");
        }
    }

    #[test]
    fn the_same_seed_strikes_the_same_messages() {
        let struck = |seed: u64| {
            let mut script = script(&[&format!("fault = \"drop\"\nchance = 0.1\nseed = {seed}")]);
            (0..1_000).filter(|_| !script.message("d").is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(struck(1), struck(1));
        assert_ne!(struck(1), struck(2));
        assert!((60..140).contains(&struck(1).len()), "about a tenth");
    }

    #[test]
    fn rules_add_up_and_are_taken_back() {
        let mut script = script(&[
            "fault = \"duplicate\"\nevery = 2",
            "fault = \"delay\"\nlasts = \"2s\"",
            "fault = \"slow-fsync\"\nlasts = \"3ms\"",
            "fault = \"slow-fsync\"\nlasts = \"4ms\"\npartition = 1",
            "fault = \"refuse\"\ntimes = 1",
        ]);
        let delay = Action::Delay(Duration::from_secs(2));
        assert_eq!(script.message("d"), [delay]);
        assert_eq!(script.message("d"), [Action::Duplicate, delay]);
        assert_eq!((script.fsync(0), script.fsync(1)), (Duration::from_millis(3), Duration::from_millis(7)));
        assert_eq!((script.connect("d"), script.connect("d")), (true, false));
        assert_eq!(script.rules().iter().map(|armed| (armed.seen, armed.struck)).collect::<Vec<_>>()[4], (2, 1));
        assert!(script.remove(2) && !script.remove(2));
        assert!(script.watches(Occasion::Message) && !script.watches(Occasion::Moment));
        script.clear();
        assert!(!script.watches(Occasion::Message));
    }

    #[test]
    fn moments_come_when_they_are_due_and_again() {
        let seconds = Duration::from_secs;
        let rule = |fault, after, again, times| Rule {
            after: Some(Span::new(seconds(after))),
            again: Some(again).filter(|again| *again != 0).map(|again| Span::new(seconds(again))),
            times,
            ..Rule::new(fault)
        };
        let mut script = Script::default();
        script.add(rule(Fault::TrimLog, 5, 0, None), seconds(10));
        script.add(rule(Fault::ShiftClock, 0, 10, Some(2)), seconds(10));
        let mut at = |now| {
            let (rules, next) = script.moments(seconds(now));
            (rules.iter().map(|rule| rule.fault).collect::<Vec<_>>(), next)
        };
        assert_eq!(at(10), (vec![Fault::ShiftClock], Some(seconds(15))));
        assert_eq!(at(14), (vec![], Some(seconds(15))));
        assert_eq!(at(15), (vec![Fault::TrimLog], Some(seconds(20))));
        assert_eq!(at(33), (vec![Fault::ShiftClock], None));
        assert_eq!(at(99), (vec![], None));
    }
}
