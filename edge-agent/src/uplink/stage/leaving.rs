//! When the stage may end, and what has to be on disk before it does.

use std::time::Instant;

use tracing::{error, info};

use super::super::UplinkError;
use super::super::link::State;
use super::{More, Stage};
use crate::outbox::OutboxError;

/// Attempts in a row that come to nothing before an assigned hub is doubted.
const FAILURES_MAX: u32 = 10;

/// Why the uplink has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// A call asked for a restart: with credentials read anew.
    Restart,
    /// The assigned hub does not take us: ask again which one is ours.
    Doubted {
        /// It had taken us before, in this run.
        was_up: bool,
    },
}

impl Ended {
    const fn as_str(self) -> &'static str {
        match self {
            Ended::Stopped => "stopped",
            Ended::Restart => "a call asked for a restart",
            Ended::Doubted { .. } => "the assigned hub does not take us",
        }
    }
}

impl Stage<'_> {
    pub(super) fn after_marking(&mut self, marked: Result<(), OutboxError>) -> Result<(), UplinkError> {
        match marked {
            Ok(()) => {}
            Err(OutboxError::Gone) => return Err(OutboxError::Gone.into()),
            // They stay held; `look_back` finds them, and what goes twice is recognised in the cloud.
            Err(error) => error!("failed to mark acknowledged rows: {error}"),
        }
        if self.more == More::No {
            self.look_back();
        }
        // Rows that are gone may let an epoch close.
        self.notes_stale = true;
        if self.stopping.is_some() {
            self.notes_at = Instant::now();
        }
        Ok(())
    }

    /// On stop: once everything is acknowledged and marked, or it makes no sense to wait. Else once somebody else has to
    /// go on from here.
    pub(super) async fn may_leave(&mut self) -> Result<Option<Ended>, UplinkError> {
        let Some(deadline) = self.stopping else { return self.may_hand_over().await };
        let idle = self.cutter.is_empty()
            && self.link.window().is_empty()
            && !self.taken.is_marking()
            && self.more == More::No
            && !self.notes_stale
            && !self.changed.has_changed().map_err(|_| OutboxError::Gone)?;
        let offline = matches!(self.link.state(), State::Offline { .. });
        if !idle && !offline && Instant::now() < deadline {
            return Ok(None);
        }
        self.finish_marking().await?;
        let held = self.outbox.view().books.held;
        info!(held, drained = idle, "uplink stops");
        Ok(Some(Ended::Stopped))
    }

    /// What is in flight and what waits here stays held in the outbox, from where it is taken anew.
    async fn may_hand_over(&mut self) -> Result<Option<Ended>, UplinkError> {
        let now = Instant::now();
        let offline = matches!(self.link.state(), State::Offline { .. });
        let doubtful = self.refused || FAILURES_MAX <= self.failures;
        let ended = match (self.restarting, self.dialer.target.ask_again_at) {
            (Some(deadline), _) if offline || deadline <= now || self.link.window().is_empty() => Ended::Restart,
            (None, Some(at)) if offline && doubtful && at <= now => Ended::Doubted { was_up: self.was_up },
            _ => return Ok(None),
        };
        self.finish_marking().await?;
        info!(held = self.outbox.view().books.held, "uplink hands over: {}", ended.as_str());
        Ok(Some(ended))
    }

    /// What the hub has acknowledged must not go again for want of a mark.
    async fn finish_marking(&mut self) -> Result<(), UplinkError> {
        while self.taken.is_marking() {
            let marked = self.taken.marked().await;
            self.after_marking(marked)?;
            self.taken.mark(&self.outbox);
        }
        Ok(())
    }
}
