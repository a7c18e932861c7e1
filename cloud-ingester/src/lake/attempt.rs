//! Whether a commit landed, and what to do until that is known. Pure: the shell in `store` loads, asks and writes.
//!
//! ```text
//!            .-------------------------- Rest <---------------------------.
//!            v                                                            |
//!          Load ---Next---> AskLease ---ours---> Build ---no answer, or no+
//!            |                 |                   |                      |
//!            |Before           |not ours           |landed                |TRIES_MAX
//!            v                 v                   v                      v
//!          Landed           LeaseLost            Landed                GiveUp
//! ```
//!
//! - An error says nothing about whether the commit landed: what the table says does. So every failed act leads back to
//!   `Load`, and only progress found in the table ends an attempt as landed before.
//! - The lease is asked after the table was loaded and before the commit is built on what was loaded: a holder that
//!   slept between the two is refused by the new holder's fence, which is a newer version.
//! - Nothing is ever deleted: files of a commit that seems to have failed may be part of the table.

use std::time::Duration;

use super::commit::Txn;

/// How many acts may fail before an attempt is given up.
pub(super) const TRIES_MAX: u32 = 6;

/// How the progress found in a table fits a commit to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The commit may be built on this version.
    Next,
    /// Its progress is there.
    Before,
    /// Somebody else moved the progress of this txn, counted in the commit's order.
    Fenced(usize),
}

/// | progress in the table       | fit                                   |
/// |-----------------------------|---------------------------------------|
/// | all at or above `version`   | Before: landed already, nothing to do |
/// | all as `expected`           | Next                                  |
/// | anything else               | Fenced                                |
///
/// A txn that stays where it was expected (a refresh at the same source version) tells nothing and fits either.
pub(super) fn fit(txns: &[Txn], found: &[Option<i64>]) -> Fit {
    let (mut landed, mut moved, mut still) = (vec![], None, 0);
    for (at, (txn, found)) in txns.iter().zip(found).enumerate() {
        if txn.expected == Some(txn.version) && *found == txn.expected {
            still += 1;
        } else if found.is_some_and(|found| found >= txn.version) {
            landed.push(at);
        } else if *found != txn.expected {
            moved = Some(at);
        }
    }
    if !landed.is_empty() && landed.len() + still == txns.len() {
        return Fit::Before;
    }
    moved.or(landed.first().copied()).map_or(Fit::Next, Fit::Fenced)
}

/// Whether another try can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The storage may answer otherwise the next time.
    Passing,
    /// Only a person can mend it: no rights, a wrong key.
    Lasting,
}

/// What the shell tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The newest version was loaded; this is how its progress fits.
    Loaded(Fit),
    /// The lease is ours.
    Ours,
    /// The lease is another's.
    NotOurs,
    /// The commit is a version of the table.
    Landed,
    /// Whatever was to be done failed, or its answer was lost.
    Failed(Trouble),
}

/// What the shell does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Do {
    /// Loads the newest version of the table and looks how the commit fits.
    Load,
    /// Asks whether the lease is still ours.
    AskLease,
    /// Builds the commit on what was loaded.
    Build,
    /// Waits, then loads.
    Rest(Duration),
    /// It is over.
    End(End),
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The commit is in the table, by this try.
    Landed,
    /// It was there already: by an earlier try whose answer was lost, or by a repeat.
    LandedBefore,
    /// Another writer moved the progress of this txn: the rows have to be cut again.
    Fenced(usize),
    /// Another holds the lease: this process has to stop.
    LeaseLost,
    /// Storage failed too often, or for good; whether the commit landed is not known. The same commit may be attempted
    /// again later.
    GiveUp,
}

/// One commit under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    state: State,
    under_lease: bool,
    failed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Loading,
    Asking,
    Building,
}

impl Attempt {
    /// A new one, and what to do first. `under_lease`: only the lease's holder may commit.
    pub(super) fn begin(under_lease: bool) -> (Self, Do) {
        (Self { state: State::Loading, under_lease, failed: 0 }, Do::Load)
    }

    /// The next step.
    pub(super) fn step(&mut self, heard: Heard) -> Do {
        match (self.state, heard) {
            (State::Loading, Heard::Loaded(Fit::Next)) if self.under_lease => self.go(State::Asking, Do::AskLease),
            (State::Loading, Heard::Loaded(Fit::Next)) | (State::Asking, Heard::Ours) => {
                self.go(State::Building, Do::Build)
            }
            (State::Loading, Heard::Loaded(Fit::Before)) => Do::End(End::LandedBefore),
            (State::Loading, Heard::Loaded(Fit::Fenced(at))) => Do::End(End::Fenced(at)),
            (State::Asking, Heard::NotOurs) => Do::End(End::LeaseLost),
            (State::Building, Heard::Landed) => Do::End(End::Landed),
            (_, Heard::Failed(trouble)) => {
                self.failed += 1;
                // A build that was refused for good may follow one whose answer was lost: the table is asked once more.
                if self.failed == TRIES_MAX || (trouble == Trouble::Lasting && self.state == State::Loading) {
                    return Do::End(End::GiveUp);
                }
                if trouble == Trouble::Lasting {
                    self.failed = TRIES_MAX - 1;
                }
                self.go(State::Loading, Do::Rest(Duration::from_millis(50 << self.failed)))
            }
            (State::Loading, Heard::Ours | Heard::NotOurs | Heard::Landed)
            | (State::Asking, Heard::Loaded(_) | Heard::Landed)
            | (State::Building, Heard::Loaded(_) | Heard::Ours | Heard::NotOurs) => {
                unreachable!("the shell tells of what it was asked to do")
            }
        }
    }

    fn go(&mut self, state: State, next: Do) -> Do {
        self.state = state;
        next
    }

    /// How many acts failed so far.
    pub(super) const fn failed(&self) -> u32 {
        self.failed
    }
}

#[cfg(test)]
#[path = "attempt_tests.rs"]
mod tests;
