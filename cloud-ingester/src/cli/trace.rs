//! `trace`: from a row of gold to the readings it was made of, and to where the hub had them.

use clap::Args;
use shared::cli::Exit;

use super::say;
use crate::config::Config;
use crate::gold::model::Model;
use crate::gold::{models, trace};
use crate::run::RunError;

/// What to trace.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// The table, e.g. gold.metric_1m
    table: String,
    /// What the row is told apart by, e.g. --key device_id=press-3 --key metric=temperature; `unit=` for none
    #[arg(long = "key", value_name = "COLUMN=VALUE")]
    keys: Vec<String>,
    /// Where its window begins, e.g. 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME")]
    window: Option<String>,
    /// For scripts
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn trace(config: &Config, asked: Trace) -> Result<Exit, RunError> {
    let folder = config.gold.models.as_deref();
    let (lake, own) = models::open(config.location()?, folder).await?;
    let all: Vec<Model> = models::embedded().await?.into_iter().chain(own.models).collect();
    let row = trace::Asked { table: asked.table, keys: asked.keys, window: asked.window };
    match trace::find(&lake, &all, config.limits(), &row).await? {
        Ok(found) if asked.json => {
            let text = serde_json::to_string_pretty(&found.origin).expect("plain data");
            say(&format!("{text}\n"));
            Ok(Exit::Ok)
        }
        Ok(found) => {
            say(&found.text()?);
            Ok(Exit::Ok)
        }
        Err(why) => {
            say(&format!("{why}\n"));
            Ok(Exit::No)
        }
    }
}
