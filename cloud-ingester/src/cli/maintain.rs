//! `cloud-ingester maintain`.

use shared::cli::Exit;

use super::{hand_over, open, say};
use crate::config::Config;
use crate::lake::LakeError;
use crate::run::{self, HopRequest, Maintain, RunError};
use crate::upkeep;

/// What `maintain` can be told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Only this table (bronze.messages, silver.readings, gold.metric_1m, …)
    table: Option<String>,
}

/// Keeps the tables here, or hands the request to whoever holds the lease.
pub(super) async fn maintain(config: Config, args: Args) -> Result<Exit, RunError> {
    let asked = args.table.map_or(Maintain::All, Maintain::Table);
    let lake = open(&config).await?;
    // Before anybody is asked: who holds the lease changes nothing about a wrong name.
    let tables = asked.tables(&lake)?;
    if args.dry_run {
        let mut would = vec![];
        for table in tables {
            if lake.exists(table).await? {
                would.extend(upkeep::would(&lake, table, &config.upkeep()).await?);
            }
        }
        say(&format!("{}\n", run::tell_upkeep(&would)));
        return Ok(Exit::Ok);
    }
    match Box::pin(run::take_over(&config, "cloud-ingester maintain", None)).await {
        Ok((_, mut hops)) => {
            let done = hops.maintain(&tables).await?;
            say(&format!("{}\n", run::tell_upkeep(&done)));
            hops.into_lease().release().await;
            Ok(if upkeep::is_whole(&done) { Exit::Ok } else { Exit::No })
        }
        Err(RunError::Lake(held @ LakeError::LeaseHeld { .. })) => {
            let request = HopRequest { maintain: Some(asked), ..HopRequest::default() };
            hand_over(&config, &request, held).await
        }
        Err(error) => Err(error),
    }
}
