//! Whose turn it is: which models a round is for, how long one rests, and what becomes of one that failed.

use std::time::Duration;

use tokio::time::Instant;

use super::error::HopError;
use super::runner::{Hops, Report};
use crate::gold::{Mode, Model, Refresh, Windows};
use crate::lake::{LakeError, Table};

/// When a model's turn is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Turn {
    /// Until then it rests, while silver has news.
    resting: Option<Instant>,
    /// Then it is due, where it is not with every hop.
    due: Option<Instant>,
    /// The watermark up to which its windows were looked at.
    pub(super) seen: Option<i64>,
    /// Failed, and stops no other; tried again then.
    ailing: Option<Instant>,
}

impl Turn {
    /// It is due in the next round.
    pub(super) fn due_now(&mut self) {
        (self.resting, self.due) = (None, None);
    }

    /// As if so long had passed that what failed is tried again.
    #[cfg(test)]
    pub(super) fn a_minute_on(&mut self) {
        for until in [&mut self.resting, &mut self.due, &mut self.ailing] {
            *until = until.and_then(|until| until.checked_sub(AILING));
        }
    }
}

/// A model that failed and stops no other is tried again after so long.
const AILING: Duration = Duration::from_secs(60);

/// Whether models wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turns {
    /// Each when it is due.
    Due,
    /// All now.
    All,
}

impl Hops {
    pub(super) fn is_due(&mut self, model: &Model, now: Instant, news: bool) -> bool {
        let watermark = self.watermark();
        let turn = self.turn(model.target);
        if turn.ailing.is_some_and(|until| now < until) {
            return false;
        }
        match model.draft.refresh {
            // Where nothing is new in bronze none rests, so an idle round means that all tables are level.
            Refresh::EachHop | Refresh::Final => !(news && turn.resting.is_some_and(|until| now < until)),
            Refresh::Every { at_final, .. } => {
                let final_now = at_final
                    && match (model.draft.mode, watermark) {
                        (Mode::Window(Windows::Grid(grid)), Some(mark)) => {
                            let boundary = grid.boundary(mark);
                            let passed = turn.seen.is_some_and(|seen| seen < boundary);
                            turn.seen = Some(boundary.max(turn.seen.unwrap_or(boundary)));
                            passed
                        }
                        _ => false,
                    };
                final_now || turn.due.is_none_or(|due| due <= now)
            }
        }
    }

    /// Notes how a model's turn went. What its SELECT fails at, or the disk below it, stops no other: a user's model, or
    /// one that has hours of rows to read, is tried again in a minute; of one that the round is for, the error is given
    /// back, to be that of the round once the others had their turn.
    pub(super) fn went(
        &mut self,
        model: &Model,
        begun: Instant,
        done: Result<(), HopError>,
        report: &mut Report,
    ) -> Result<Option<LakeError>, HopError> {
        let rest = self.settings.rest;
        let name = model.target.full_name();
        let failed = match done {
            Ok(()) => None,
            Err(HopError::Lake(error @ (LakeError::Query { .. } | LakeError::Foreign { .. }))) => Some(error),
            Err(error) => return Err(error),
        };
        let why = failed.as_ref().map(|error| shared::cli::chain(error));
        if let Some(why) = &why {
            tracing::error!(target = name, file = model.draft.file, why, "a model failed; the others go on");
            report.ailing.push((model.target, why.clone()));
        }
        let waits = matches!(model.target, Table::Own(_)) || model.draft.refresh.is_scheduled();
        let now = Instant::now();
        let turn = self.turn(model.target);
        turn.ailing = (failed.is_some() && waits).then(|| now + AILING);
        turn.resting = failed.is_none().then(|| now + begun.elapsed() * rest);
        if let Refresh::Every { every, .. } = model.draft.refresh {
            // One that failed does not wait for its next turn.
            turn.due = failed.is_none().then(|| begun + every);
        }
        self.lake.trouble(name, why);
        Ok(failed.filter(|_| !waits))
    }

    pub(super) fn turn(&mut self, table: Table) -> &mut Turn {
        self.turns.entry(table).or_default()
    }

    /// The watermark up to which windows of a table were looked at.
    pub(super) fn seen(&self, table: Table) -> Option<i64> {
        self.turns.get(&table).and_then(|turn| turn.seen)
    }
}
