//! The lake as it was: tables at earlier versions.

use std::collections::BTreeMap;

use datafusion::common::TableReference;
use datafusion::prelude::SessionContext;
use shared::time::Timestamp;

use super::error::LakeError;
use super::session::{Limits, session};
use super::store::Lake;

/// Which versions a query sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Travel {
    /// Every table as of this moment; those made later are not there.
    pub as_of: Option<Timestamp>,
    /// These tables, by their full names, at these versions.
    pub versions: BTreeMap<String, i64>,
}

/// A session with every table at the version wished for, at its newest otherwise. Tables that do not exist are left out.
///
/// # Errors
/// [`LakeError::NoVersion`] or [`LakeError::Gone`] when there never was such a version, or the log does not reach back so
/// far; otherwise when a table can't be read.
pub async fn lake_session_at(lake: &Lake, limits: Limits, travel: &Travel) -> Result<SessionContext, LakeError> {
    let session = session(limits)?;
    for &table in lake.tables() {
        if !lake.exists(table).await? {
            continue;
        }
        let newest = lake.view(table).await?;
        let view = match (travel.versions.get(table.full_name()), travel.as_of) {
            (Some(version), _) if !(0..=newest.version()).contains(version) => {
                return Err(LakeError::NoVersion {
                    table: table.full_name(),
                    version: *version,
                    newest: newest.version(),
                });
            }
            (Some(version), _) => newest.at(*version).await?,
            (None, Some(at)) => match newest.as_of(at).await? {
                Some(view) => view,
                None => continue,
            },
            (None, None) => newest,
        };
        let name = TableReference::partial(table.layer().name(), table.name());
        let registered = session.register_table(name, view.provider().await?);
        registered.map_err(|source| LakeError::Query { act: "name the tables", source: Box::new(source) })?;
    }
    Ok(session)
}
