//! One line of the script: what goes wrong, for whom, and how often.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::config::{Mistakes, Span};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A message is taken off the wire and lost: not stored, no PUBACK.
    Drop,
    /// A message's PUBACK comes `lasts` after the message, or when it is stored, if that is later.
    Delay,
    /// A message is stored twice.
    Duplicate,
    /// From this message on the hub neither reads nor writes for `lasts`, then resets the connection.
    BlackHole,
    /// The connection ends before the message is stored.
    Disconnect,
    /// The message is stored, then the connection ends without its PUBACK.
    LosePuback,
    /// The device's token ends now, and is not taken again.
    ExpireToken,
    /// The hub's throttle is exceeded for `lasts`.
    Throttle,
    /// A CONNECT is answered with "server unavailable".
    Refuse,
    /// A command is lost on its way to the device: it stays the device's until its lock ends.
    DropCommand,
    /// A command reaches its device `lasts` later.
    DelayCommand,
    /// A device's answer to a direct method is lost.
    LoseMethodAnswer,
    /// An fsync takes `lasts` longer.
    SlowFsync,
    /// Receivers of services are detached.
    DetachReceivers,
    /// A partition moves: the connections that read it are closed.
    MovePartition,
    /// The tokens of services end now, and are not taken again.
    ExpireServiceTokens,
    /// Connections of services break.
    ResetServices,
    /// Connections of services are neither read nor written for `lasts`; then they go on, if the peer is still there.
    BlackHoleServices,
    /// Everything a partition holds is given up, as if retention had passed.
    TrimLog,
    /// The hub's clock is set `by` off the machine's.
    ShiftClock,
}

/// When a fault has its chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// A message of a device.
    Message,
    /// A CONNECT of a device.
    Connect,
    /// A command on its way to a device.
    Command,
    /// A device's answer to a direct method.
    MethodAnswer,
    /// An fsync of a partition.
    Fsync,
    /// A moment: `after` the rule was given, then each `again`.
    Moment,
}

impl Fault {
    /// When it has its chance.
    pub const fn occasion(self) -> Occasion {
        match self {
            Fault::Drop
            | Fault::Delay
            | Fault::Duplicate
            | Fault::BlackHole
            | Fault::Disconnect
            | Fault::LosePuback
            | Fault::ExpireToken
            | Fault::Throttle => Occasion::Message,
            Fault::Refuse => Occasion::Connect,
            Fault::DropCommand | Fault::DelayCommand => Occasion::Command,
            Fault::LoseMethodAnswer => Occasion::MethodAnswer,
            Fault::SlowFsync => Occasion::Fsync,
            Fault::DetachReceivers
            | Fault::MovePartition
            | Fault::ExpireServiceTokens
            | Fault::ResetServices
            | Fault::BlackHoleServices
            | Fault::TrimLog
            | Fault::ShiftClock => Occasion::Moment,
        }
    }

    const fn needs_lasts(self) -> bool {
        matches!(
            self,
            Fault::Delay
                | Fault::BlackHole
                | Fault::Throttle
                | Fault::DelayCommand
                | Fault::SlowFsync
                | Fault::BlackHoleServices
        )
    }

    const fn has_partition(self) -> bool {
        matches!(self, Fault::DetachReceivers | Fault::MovePartition | Fault::TrimLog | Fault::SlowFsync)
    }
}

/// One line of the script: an entry of `[[hub.faults]]`, or the body of `POST /faults`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rule {
    /// What.
    pub fault: Fault,
    /// Devices it befalls, `*` and `?` as in a shell; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The partition it befalls; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Occasions left alone at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<u64>,
    /// Then every so many-th occasion; each without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Instead of `every`: how likely, from 0 to 1, drawn from `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chance: Option<f64>,
    /// Of `chance`; 1 without it. The same seed, the same occasions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// At most so often; without end without it, and once where it happens at a moment without `again`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// How long it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// How far the clock is off, e.g. `"2h"` or `"-2h"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// At a moment: so long from now; at once without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// At a moment: again so long after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Span>,
}

impl Rule {
    /// A rule that befalls everybody at every occasion.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            device: None,
            partition: None,
            skip: None,
            every: None,
            chance: None,
            seed: None,
            times: None,
            lasts: None,
            by: None,
            after: None,
            again: None,
        }
    }

    /// How long it lasts; nothing where that was not said.
    pub fn lasts(&self) -> Duration {
        self.lasts.map_or(Duration::ZERO, Span::duration)
    }

    /// How far the clock is off, in microseconds; `None` if that was not said or cannot be read.
    pub fn shift_micros(&self) -> Option<i64> {
        let text = self.by.as_deref()?.trim();
        let (sign, span) = match text.strip_prefix('-') {
            Some(span) => (-1, span),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let span: Span = span.parse().ok()?;
        i64::try_from(span.duration().as_micros()).ok().map(|micros| sign * micros)
    }

    /// Adds what cannot be used as it stands; `partitions` is how many there are.
    pub fn check(&self, partitions: u32, mistakes: &mut Mistakes) {
        let fault = self.fault;
        let occasion = fault.occasion();
        let moment = occasion == Occasion::Moment;
        let devices = !matches!(occasion, Occasion::Fsync | Occasion::Moment);
        let mut only = |given: bool, fits: bool, key: &str, whom: &str| {
            mistakes.ensure(!given || fits, key, format!("says nothing here: it is for {whom}"));
        };
        only(self.device.is_some(), devices, "device", "faults of devices");
        only(self.partition.is_some(), fault.has_partition(), "partition", "faults of partitions and receivers");
        only(self.skip.is_some(), !moment, "skip", "faults that do not happen at a moment");
        only(self.every.is_some(), !moment, "every", "faults that do not happen at a moment");
        only(self.chance.is_some(), !moment, "chance", "faults that do not happen at a moment");
        only(self.seed.is_some(), self.chance.is_some(), "seed", "`chance`");
        only(self.lasts.is_some(), fault.needs_lasts(), "lasts", "faults that last");
        only(self.by.is_some(), fault == Fault::ShiftClock, "by", "shift-clock");
        only(self.after.is_some(), moment, "after", "faults that happen at a moment");
        only(self.again.is_some(), moment, "again", "faults that happen at a moment");
        mistakes.ensure(
            !fault.needs_lasts() || self.lasts.is_some(),
            "lasts",
            "must say how long this fault lasts, write e.g. \"2s\"",
        );
        let shift = fault != Fault::ShiftClock || self.shift_micros().is_some();
        mistakes.ensure(shift, "by", "must say how far the clock is off, write e.g. \"2h\" or \"-90s\"");
        mistakes.ensure(self.times != Some(0), "times", "must be at least 1, write e.g. 3");
        mistakes.ensure(self.every != Some(0), "every", "must be at least 1, write e.g. 100");
        let one = self.every.is_none() || self.chance.is_none();
        mistakes.ensure(one, "chance", "and `every` exclude each other");
        let likely = self.chance.is_none_or(|chance| (0.0..=1.0).contains(&chance));
        mistakes.ensure(likely, "chance", "must be between 0 and 1, write e.g. 0.01");
        let there = self.partition.is_none_or(|partition| partition < partitions);
        mistakes.ensure(there, "partition", format!("must be less than {partitions}, the number of partitions"));
        let pause = self.again.is_none_or(|again| Duration::from_millis(10) <= again.duration());
        mistakes.ensure(pause, "again", "must be at least 10 ms, write e.g. \"5s\"");
        let long = [self.lasts, self.after, self.again].into_iter().flatten();
        let long = long.map(Span::duration).all(|span| span <= Duration::from_secs(7 * 86_400));
        mistakes.ensure(long, "lasts", "and `after`, `again` must be at most 7 days");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let rule: Rule = toml::from_str(text).expect(text);
        let mut mistakes = Mistakes::default();
        rule.check(4, &mut mistakes);
        mistakes.into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn a_rule_that_says_something_odd_is_refused_by_its_key() {
        for (text, keys) in [
            ("fault = \"drop\"\ndevice = \"gw-*\"\nevery = 100\ntimes = 3", &[][..]),
            ("fault = \"lose-puback\"\nchance = 0.01\nseed = 7", &[]),
            ("fault = \"delay\"\nlasts = \"2s\"", &[]),
            ("fault = \"slow-fsync\"\nlasts = \"2s\"\npartition = 3", &[]),
            ("fault = \"shift-clock\"\nby = \"-2h\"\nafter = \"5s\"\nagain = \"1m\"", &[]),
            ("fault = \"trim-log\"\npartition = 0", &[]),
            ("fault = \"drop-command\"\ndevice = \"d\"\nevery = 2", &[]),
            ("fault = \"lose-method-answer\"\ntimes = 1", &[]),
            ("fault = \"delay-command\"", &["lasts"]),
            ("fault = \"delay\"", &["lasts"]),
            ("fault = \"drop\"\nlasts = \"2s\"", &["lasts"]),
            ("fault = \"drop\"\npartition = 1", &["partition"]),
            ("fault = \"black-hole-services\"\nlasts = \"2s\"", &[]),
            ("fault = \"black-hole-services\"\nlasts = \"2s\"\npartition = 1", &["partition"]),
            ("fault = \"reset-services\"\npartition = 1", &["partition"]),
            ("fault = \"trim-log\"\npartition = 4", &["partition"]),
            ("fault = \"trim-log\"\ndevice = \"x\"\nevery = 2", &["device", "every"]),
            ("fault = \"shift-clock\"\nby = \"tomorrow\"", &["by"]),
            ("fault = \"drop\"\nchance = 1.5\nevery = 0", &["every", "chance", "chance"]),
            ("fault = \"trim-log\"\ntimes = 0", &["times"]),
            ("fault = \"drop\"\nafter = \"1s\"\nseed = 1", &["seed", "after"]),
            ("fault = \"trim-log\"\nagain = \"1ms\"", &["again"]),
        ] {
            assert_eq!(mistakes(text), keys, "{text}");
        }
        toml::from_str::<Rule>("fault = \"earthquake\"").expect_err("not one of ours");
        toml::from_str::<Rule>("fault = \"drop\"\nevry = 2").expect_err("a misspelt key");
    }

    #[test]
    fn the_clock_goes_both_ways() {
        for (by, micros) in [
            ("2s", Some(2_000_000)),
            ("+2s", Some(2_000_000)),
            ("-1h", Some(-3_600_000_000)),
            ("", None),
            ("-", None),
            ("1", None),
        ] {
            let rule = Rule { by: Some(by.to_owned()), ..Rule::new(Fault::ShiftClock) };
            assert_eq!(rule.shift_micros(), micros, "{by}");
        }
    }
}
