//! Every model there is: those of the product, and users' own out of a folder.

use std::path::{Path, PathBuf};

use super::model::{Draft, Mistake, Model};
use super::planned::Planner;
use crate::lake::session::{Limits, session};
use crate::lake::{Lake, LakeError, Location, Table};

/// The models that come with the product, in the order in which they are run.
pub const EMBEDDED: [(&str, &str); 5] = [
    ("metric_1m.sql", include_str!("models/metric_1m.sql")),
    ("device_latest.sql", include_str!("models/device_latest.sql")),
    ("metric_1h.sql", include_str!("models/metric_1h.sql")),
    ("metric_1d.sql", include_str!("models/metric_1d.sql")),
    ("device_health.sql", include_str!("models/device_health.sql")),
];

/// Users' models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnModels {
    /// Those that fit.
    pub models: Vec<Model>,
    /// What is wrong with the others.
    pub mistakes: Vec<Mistake>,
}

impl OwnModels {
    /// The tables they fill.
    #[must_use]
    pub fn tables(&self) -> Vec<Table> {
        self.models.iter().map(|model| model.target).collect()
    }
}

/// A planning session needs next to nothing: it never reads a row.
const PLANNING: Limits = Limits { memory_bytes: 16 << 20 };

fn planner() -> Result<Planner, LakeError> {
    let failed = |source| LakeError::Query { act: "plan models", source: Box::new(source) };
    Planner::new(session(PLANNING)?).map_err(failed)
}

/// The models that come with the product.
///
/// # Errors
/// When no session can be made.
///
/// # Panics
/// Never: a test plans them all.
pub async fn embedded() -> Result<Vec<Model>, LakeError> {
    let planner = planner()?;
    let mut models = vec![];
    for (file, text) in EMBEDDED {
        let draft = Draft::parse(file, text, None).expect("a test reads every embedded model");
        models.push(planner.plan(draft, false).await.expect("a test plans every embedded model"));
    }
    Ok(models)
}

/// Reads users' models: each `*.sql` of `folder`, in the order of their names; `NAME.toml` beside `NAME.sql` is its
/// header. What is wrong with one says nothing of the others.
///
/// # Errors
/// When no session can be made.
pub async fn own(folder: &Path) -> Result<OwnModels, LakeError> {
    let planner = planner()?;
    let mut found = OwnModels::default();
    let unreadable = |path: &Path, error: &std::io::Error| Mistake {
        file: path.display().to_string(),
        line: 1,
        what: format!("can't be read: {error}"),
    };
    let files = match sql_files(folder) {
        Ok(files) => files,
        Err(error) => {
            found.mistakes.push(unreadable(folder, &error));
            return Ok(found);
        }
    };
    for path in files {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                found.mistakes.push(unreadable(&path, &error));
                continue;
            }
        };
        let header = path.with_extension("toml");
        let beside = match std::fs::read_to_string(&header) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                found.mistakes.push(unreadable(&header, &error));
                continue;
            }
        };
        let (file, header) = (path.display().to_string(), header.display().to_string());
        let beside = beside.as_deref().map(|text| (header.as_str(), text));
        let planned = match Draft::parse(&file, &text, beside) {
            Ok(draft) => planner.plan(draft, true).await,
            Err(mistakes) => Err(mistakes),
        };
        match planned {
            Ok(model) => match found.models.iter().find(|other| other.target == model.target) {
                Some(other) => found.mistakes.push(Mistake {
                    file,
                    line: 1,
                    what: format!("target {}: {} fills it", model.target.full_name(), other.draft.file),
                }),
                None => found.models.push(model),
            },
            Err(mistakes) => found.mistakes.extend(mistakes),
        }
    }
    Ok(found)
}

fn sql_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A lake with the tables of users' models, and these models. What is wrong with others is kept with the lake.
///
/// # Errors
/// As [`Lake::open`].
pub async fn open(location: Location, folder: Option<&Path>) -> Result<(Lake, OwnModels), LakeError> {
    let own = match folder {
        Some(folder) => own(folder).await?,
        None => OwnModels::default(),
    };
    let lake = Lake::open_with(location, &own.tables())?;
    for mistake in &own.mistakes {
        lake.trouble(&mistake.file, Some(format!("line {}: {}", mistake.line, mistake.what)));
    }
    Ok((lake, own))
}

#[cfg(test)]
#[path = "models_tests.rs"]
mod tests;
