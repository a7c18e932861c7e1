//! What other services need to read this lake: pure generators, from the same tables and models that the hops use.
//!
//! ```text
//! lake/tables.rs, gold/models/*.sql, the lake's URL -> synapse | fabric | powerbi | databricks -> files
//! ```
//!
//! Nothing here talks to a service. Each export says what of it was checked without one, and what was not.

mod databricks; // asset bundle: catalogue DDL, a pipeline of the gold models
mod fabric; // OneLake shortcuts, views for the SQL endpoint
mod place; // [p] where the lake lies, as each service writes it
mod powerbi; // .pbids, semantic model with measures
mod synapse; // serverless views and external tables
mod tsql; // [p] columns and names as SQL Server writes them

pub use place::{Place, PlaceError};

use crate::gold::model::Model;
use crate::gold::models;
use crate::lake::{LakeError, Table};

/// Whom an export is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Azure Synapse serverless SQL: views and external tables
    Synapse,
    /// Microsoft Fabric: OneLake shortcuts, views for the SQL analytics endpoint
    Fabric,
    /// Power BI: connection file, semantic model with measures
    Powerbi,
    /// Databricks: asset bundle with catalogue and pipeline
    Databricks,
}

/// What an export is about.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Where the lake lies.
    pub place: Place,
    /// The lake's tables, in order.
    pub tables: Vec<Table>,
    /// The models of gold.
    pub models: Vec<Model>,
    /// Name of the database, lakehouse schema or catalogue that shows the lake: letters, digits, `_`.
    pub name: String,
    /// The SQL endpoint Power BI asks: `WORKSPACE-ondemand.sql.azuresynapse.net`; without it, a placeholder.
    pub sql_endpoint: Option<String>,
    /// The connection (a GUID) with which Fabric reads the storage; without it, a placeholder.
    pub connection: Option<String>,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where, below the folder of the export; `/` between its parts.
    pub path: String,
    /// What.
    pub text: String,
}

/// An export that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The service does not read from such a place.
    #[error("{service} does not read {scheme} URLs; it reads {reads}")]
    Unreachable {
        /// Which.
        service: &'static str,
        /// What the lake's URL begins with.
        scheme: &'static str,
        /// What it could be.
        reads: &'static str,
    },
    /// The lake is already there.
    #[error("the lake lies in OneLake: {service} sees it without a shortcut")]
    AlreadyThere {
        /// Which.
        service: &'static str,
    },
    /// The name does not fit everywhere.
    #[error("`--name {0}`: write letters, digits and `_`, a letter first, at most 60")]
    Name(String),
}

/// The files of an export.
///
/// # Errors
/// The service cannot read a lake there, or the name does not fit.
pub fn files(target: Target, wishes: &Wishes) -> Result<Vec<File>, ExportError> {
    let name = &wishes.name;
    let fits = name.len() <= 60
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !fits {
        return Err(ExportError::Name(name.clone()));
    }
    match target {
        Target::Synapse => synapse::files(wishes),
        Target::Fabric => fabric::files(wishes),
        Target::Powerbi => powerbi::files(wishes),
        Target::Databricks => databricks::files(wishes),
    }
}

/// All tables and models there are to export: those of every lake, and those of users' models in this folder. What is
/// wrong with one of them is logged, and it is left out.
///
/// # Errors
/// When no session can be made.
pub async fn everything(folder: Option<&std::path::Path>) -> Result<(Vec<Table>, Vec<Model>), LakeError> {
    let own = match folder {
        Some(folder) => models::own(folder).await?,
        None => models::OwnModels::default(),
    };
    for mistake in &own.mistakes {
        tracing::error!(%mistake, "a model is left out; the others are exported");
    }
    let mut tables = Table::ALL.to_vec();
    tables.extend(own.tables());
    let mut models = models::embedded().await?;
    models.extend(own.models);
    Ok((tables, models))
}

/// `lines` as a comment, each begun with `begin`.
fn comment(begin: &str, lines: &str) -> String {
    lines.lines().map(|line| format!("{begin} {line}").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests;
