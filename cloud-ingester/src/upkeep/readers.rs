//! Who has yet to read a table, and for how long upkeep waits for them.
//!
//! The product's own hops are waited for whatever happens: what they have not read stays. A user's model may fail for ever,
//! and nobody but the user can mend it. Once the oldest version it has not read is older than
//! [`Settings::model_patience`](super::Settings), nothing waits for it any more: it is put off. Nothing wrong comes of that.
//! Its table stays as it is, and a model that finds an entry of the log or a file gone fills its table anew.

use shared::time::Timestamp;

use crate::lake::{Lake, LakeError, Logged, Table, View};

/// How far the readers of a table are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Readers {
    /// The version up to which the slowest of those that are waited for has read, if that is not the newest.
    pub(super) slowest: Option<i64>,
    /// Models that nothing waits for any more.
    pub(super) put_off: Vec<PutOff>,
}

/// A model that nothing waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOff {
    /// The table it fills.
    pub target: Table,
    /// The table it has not read for so long.
    pub source: Table,
    /// The version up to which it has.
    pub read: i64,
    /// When the version after that was written; `None`: so long ago that its entry of the log is gone.
    pub since: Option<Timestamp>,
}

impl PutOff {
    /// Of what, as `status` names it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} behind {}", self.target.full_name(), self.source.full_name())
    }
}

impl std::fmt::Display for PutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, since, .. } = self;
        write!(f, "it has read up to version {read}")?;
        if let Some(since) = since {
            write!(f, ", and nothing since {since}")?;
        }
        f.write_str("; upkeep does not wait for it any more: once it works it is filled anew")
    }
}

/// Which table's progress tells how far the readers of `source` are. A side table of silver commits its progress only
/// where it has rows: silver.readings, which comes last and always, tells how far all three are. What is half done is done
/// again from there.
fn telling(lake: &Lake, source: Table) -> Vec<Table> {
    match source {
        Table::BronzeMessages => vec![Table::SilverReadings],
        _ => lake.tables().iter().copied().filter(|table| *table != source).collect(),
    }
}

/// Looks how far the readers of `source` are; `log` is its log, `patient_since` when the oldest version was written for
/// which a user's model is waited for (ms).
///
/// # Errors
/// When a table can't be read.
pub(super) async fn readers(
    lake: &Lake,
    source: &View,
    log: &[Logged],
    patient_since: i64,
) -> Result<Readers, LakeError> {
    let mut readers = Readers::default();
    for table in telling(lake, source.table()) {
        if !lake.exists(table).await? {
            continue;
        }
        let done = lake.view(table).await?.txn(&table.app_id(&source.id())).await?;
        // What only a fence stands for has read nothing: it begins with the table as it is.
        let Some(read) = done.filter(|done| (0..source.version()).contains(done)) else { continue };
        let unread = log.iter().find(|entry| entry.version == read + 1 && !entry.checkpoint);
        let since = unread.map(|entry| entry.modified);
        match table {
            Table::Own(_) if since.is_none_or(|since| since < patient_since) => readers.put_off.push(PutOff {
                target: table,
                source: source.table(),
                read,
                since: since.map(Timestamp::from_millis),
            }),
            _ => readers.slowest = Some(readers.slowest.map_or(read, |slowest| slowest.min(read))),
        }
    }
    Ok(readers)
}
