//! What a range of source versions added.

use futures::StreamExt as _;

use crate::lake::{Change, LakeError, Table, View};

use super::error::HopError;
use super::plan::{Plan, Range, Stand, Step, Take, Why, stand};

/// Entries of the log that are asked for at once.
const ENTRIES_AHEAD: usize = 16;

/// How a commit of silver.quarantine counts that marks refusals as replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// As new files: who reads them asks which of their rows were replayed, and computes anew what those were part of.
    News,
    /// As any other that replaces rows.
    Replaced,
}

/// What is new in a source.
#[derive(Debug)]
pub(super) enum News {
    /// Nothing.
    Nothing,
    /// These versions, in order; the last is at the end of the range.
    Some {
        /// First version.
        from: i64,
        /// Last version.
        to: i64,
        /// What each did.
        changes: Vec<Change>,
    },
    /// The target has to be filled anew.
    Refresh(Why),
}

/// Looks for what is new in `source`, of which `target` has read up to `done`.
pub(super) async fn news(
    source: &View,
    target: &View,
    done: Option<i64>,
    bytes_max: u64,
    marks: Marks,
) -> Result<News, HopError> {
    let from = match stand(done, 0 < target.rows(), source.version()) {
        Stand::Level => return Ok(News::Nothing),
        Stand::Refresh(why) => return Ok(News::Refresh(why)),
        Stand::Ahead { done } => {
            return Err(HopError::Ahead {
                target: target.table().full_name(),
                source_table: source.table().full_name(),
                done,
                newest: source.version(),
            });
        }
        Stand::From(from) => from,
    };
    let mut range = Range::new(from, bytes_max);
    let mut changes = vec![];
    // One after the other they would take an object store's whole patience where a model has not run for an hour.
    let read = |version| async move { (version, source.change(version).await) };
    let mut entries = futures::stream::iter(from..=source.version()).map(read).buffered(ENTRIES_AHEAD);
    while let Some((version, change)) = entries.next().await {
        let change = match change {
            Ok(change) => change,
            Err(LakeError::Gone { .. }) => return Ok(News::Refresh(Why::LogGone)),
            Err(error) => return Err(error.into()),
        };
        let plan = Plan::of(&change.info);
        let full = plan.as_ref().is_some_and(|plan| plan.full);
        // Rows go from quarantine by our refreshes only; what else a hop of ours removes is there again, marked.
        let marked = marks == Marks::News && source.table() == Table::SilverQuarantine && plan.is_some();
        let bytes = change.adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
        match range.take(&Step { version, bytes, replaces: full || (change.removes && !marked) }) {
            Take::Yes => changes.push(change),
            Take::Full => break,
            Take::Refresh => return Ok(News::Refresh(Why::SourceReplaced)),
        }
    }
    Ok(News::Some { from: range.from(), to: range.to(), changes })
}
