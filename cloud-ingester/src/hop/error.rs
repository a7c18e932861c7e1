//! What can go wrong in a hop.

use shared::blame::Blame;

use crate::lake::LakeError;
use crate::silver::RulesError;

/// A hop that failed. Nothing of it was committed, or everything.
#[derive(Debug, thiserror::Error)]
pub enum HopError {
    /// The lake refused.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The source went back to a version before what was read.
    #[error(
        "fill {target} from {source_table}: its newest version is {newest}, but {done} was read; it was restored from a copy: \
         restore {target} from the same copy, or run `hop --full-refresh {target}`"
    )]
    Ahead {
        /// The target.
        target: &'static str,
        /// The source.
        source_table: &'static str,
        /// What was read.
        done: i64,
        /// What there is.
        newest: i64,
    },
    /// A commit that was left half done names rules that are not kept or not known.
    #[error("finish the commit of {target} that was left half done: {why}")]
    Rules {
        /// The target.
        target: &'static str,
        /// What is wrong with its rules.
        why: String,
    },
    /// Work on a thread of its own ended without an answer.
    #[error("work on a batch: {0}")]
    Worker(#[from] tokio::task::JoinError),
    /// A table that is not filled by a hop was asked for.
    #[error(
        "hop {0}: no hop fills it; one of silver.readings, gold.metric_1m, gold.metric_1h, gold.metric_1d, gold.device_latest, gold.device_health, gold.gateway_health, gold.watermarks, or the table of a model of your own"
    )]
    NoTarget(String),
    /// A table that does not exist was asked for.
    #[error("keep {0}: there is no such table; write e.g. silver.readings")]
    NoTable(String),
    /// A test ends the hop here.
    #[cfg(test)]
    #[error("a test ended the hop")]
    Ended,
}

impl HopError {
    /// Who must act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Lake(error) => error.blame(),
            Self::Ahead { .. } | Self::Rules { .. } | Self::NoTarget(_) | Self::NoTable(_) => Blame::Config,
            Self::Worker(_) => Blame::Bug,
            #[cfg(test)]
            Self::Ended => Blame::Bug,
        }
    }

    /// Whether a file that had to be read is gone, so that only a full refresh helps.
    pub(super) const fn is_file_gone(&self) -> bool {
        matches!(self, Self::Lake(LakeError::FileGone { .. }))
    }

    /// Whether a version that had to be looked at is gone from a log: again, only a full refresh helps.
    pub(super) const fn is_log_gone(&self) -> bool {
        matches!(self, Self::Lake(LakeError::Gone { .. }))
    }

    pub(super) fn rules(target: &'static str) -> impl Fn(RulesError) -> Self {
        move |error| Self::Rules { target, why: error.to_string() }
    }
}
