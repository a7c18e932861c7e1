//! A model whose turn comes by the clock has hours of rows to read: it is computed beside the other hops, one model at a
//! time, and committed between two rounds, so that silver and whatever goes with each hop wait for one commit at most.

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::error::HopError;
use super::gold::{GoldReport, Made};
use super::runner::Hops;
use crate::gold::Model;
use crate::lake::session::sibling;
use crate::lake::{LakeError, Table};

/// The model that is being computed.
#[derive(Default)]
pub(super) struct Beside {
    task: Option<Task>,
}

struct Task {
    target: Table,
    begun: Instant,
    handle: JoinHandle<Result<Made, HopError>>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Beside {
    /// Whether one is computed.
    pub(super) fn is_busy(&self) -> bool {
        self.task.is_some()
    }

    /// Drops what is being made of a table.
    pub(super) fn forget(&mut self, target: Table) {
        if self.task.as_ref().is_some_and(|task| task.target == target) {
            self.task = None;
        }
    }
}

/// What became of it.
pub(super) struct Finished {
    pub(super) model: Model,
    /// When it began.
    pub(super) begun: Instant,
    /// `None`: there was nothing to commit, or it has to be made again.
    pub(super) done: Result<Option<GoldReport>, HopError>,
}

impl Hops {
    /// Begins to compute a model beside the other hops.
    pub(super) fn begin_beside(&mut self, model: &Model, begun: Instant) -> Result<(), HopError> {
        // Tables of SQL have names in their session: this one has names of its own.
        let maker = self.maker(model, sibling(&self.session)?);
        let model = model.clone();
        let target = model.target;
        let handle = tokio::spawn(async move { maker.make(&model, None).await });
        self.beside.task = Some(Task { target, begun, handle });
        Ok(())
    }

    /// Commits what was computed beside, if it is done.
    pub(super) async fn finish_beside(&mut self, models: &[Model]) -> Option<Finished> {
        let task = self.beside.task.take_if(|task| task.handle.is_finished())?;
        let model = models.iter().find(|model| model.target == task.target)?.clone();
        let mut task = task;
        let made = match (&mut task.handle).await {
            Ok(made) => made,
            Err(error) => Err(error.into()),
        };
        let done = match made {
            Ok(made) => match self.land(&model, made).await {
                // Upkeep put its files together meanwhile; it is made again at once.
                Err(HopError::Lake(error @ LakeError::Overtaken { .. })) => {
                    tracing::debug!(%error, target = model.target.full_name(), "made again");
                    self.turn(model.target).due_now();
                    return None;
                }
                landed => landed,
            },
            Err(error) => Err(error),
        };
        Some(Finished { model, begun: task.begun, done })
    }
}
