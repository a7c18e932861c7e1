//! `export`: files for the services where the numbers are read.

use std::path::{Path, PathBuf};

use shared::blame::Blame;

use super::say;
use crate::config::Config;
use crate::export::{self, Place, Target, Wishes};
use crate::run::RunError;

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whom for
    target: Target,
    /// The folder to write into; made if it is not there, its files of the same names replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where services find the lake, if not at `lake.url`: abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, s3://…, gs://…
    #[arg(long)]
    url: Option<String>,
    /// Name of the database, bundle or catalogue that shows the lake
    #[arg(long, default_value = "iot")]
    name: String,
    /// For Power BI: the SQL endpoint of Synapse or Fabric
    #[arg(long, value_name = "HOST")]
    sql_endpoint: Option<String>,
    /// For Fabric: the id of its connection to the storage
    #[arg(long, value_name = "GUID")]
    connection: Option<String>,
}

/// Writes the files and says which.
///
/// # Errors
/// No service reaches the lake, this one does not read from there, or a file cannot be written.
pub(super) async fn run(args: Args, config: &Config) -> Result<(), RunError> {
    let refuse = |why: String| RunError::Stopped(why, Blame::Config);
    let location = config.location()?;
    let account = location.options().get("azure_storage_account_name").map(String::as_str);
    let url = args.url.as_deref().unwrap_or(&config.lake.url);
    let place = Place::parse(url, account).map_err(|error| refuse(error.to_string()))?;
    let (tables, models) = export::everything(config.gold.models.as_deref()).await?;
    let wishes =
        Wishes { place, tables, models, name: args.name, sql_endpoint: args.sql_endpoint, connection: args.connection };
    for file in export::files(args.target, &wishes).map_err(|error| refuse(error.to_string()))? {
        let path = args.out.join(&file.path);
        write(&path, &file.text).map_err(|error| refuse(format!("write {}: {error}", path.display())))?;
        say(&format!("{}\n", path.display()));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
