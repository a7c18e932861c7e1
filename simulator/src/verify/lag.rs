//! What one table has not read of another yet: late while the ingester runs, lost once everything has had its time.

use super::VerifyError;
use super::lake::{Lake, Table};
use super::silver::Silver;

/// Silver has not read all of bronze.
pub(super) const SILVER: &str = "silver-behind";
/// A table of gold has not read all of silver.
const GOLD: &str = "gold-behind";
/// A table does not exist.
const ABSENT: &str = "table-absent";

/// The tables of gold: path, name, and whether it reads quarantine and gaps beside readings.
const TABLES: [(&str, &str, bool); 3] = [
    ("gold/metric_1m", "gold.metric_1m", false),
    ("gold/device_latest", "gold.device_latest", false),
    ("gold/gateway_health", "gold.gateway_health", true),
];

/// A table that is not up to its source.
pub(super) struct Lag {
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// Every table that is not up to its source, in the order in which data walks.
pub(super) async fn lags(lake: &Lake, silver: &Silver) -> Result<Vec<Lag>, VerifyError> {
    let mut lags = Vec::new();
    match &silver.bronze {
        Some(bronze) => {
            lags.extend(unread(SILVER, &silver.readings, "silver.readings", bronze, "bronze.messages").await?)
        }
        None => lags.push(absent("bronze.messages")),
    }
    for (path, name, all) in TABLES {
        let Some(table) = lake.open(path).await? else {
            lags.push(absent(name));
            continue;
        };
        let sources = silver.all();
        let sources = if all { &sources[..] } else { &sources[..1] };
        for (source, source_name) in sources {
            lags.extend(unread(GOLD, &table, name, source, source_name).await?);
        }
    }
    Ok(lags)
}

/// True if `table` has not read one of its sources up to the version that was read here.
pub(super) async fn is_behind(table: &Table, name: &str, sources: &[(&Table, &str)]) -> Result<bool, VerifyError> {
    for (source, source_name) in sources {
        if unread(GOLD, table, name, source, source_name).await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn absent(name: &str) -> Lag {
    Lag { kind: ABSENT, text: format!("{name} does not exist yet: wait for the ingester, or run a hop") }
}

async fn unread(
    kind: &'static str,
    table: &Table,
    name: &str,
    source: &Table,
    source_name: &str,
) -> Result<Option<Lag>, VerifyError> {
    let done = table.progress(&format!("{name}<-{}", source.id()?)).await?.filter(|done| 0 <= *done);
    if done.is_some_and(|done| source.version() <= done) {
        return Ok(None);
    }
    let newest = source.version();
    let text = match done {
        Some(done) => format!(
            "{name} has read {source_name} up to version {done} of {newest}: wait for the ingester, or run a hop"
        ),
        None => format!(
            "{name} has read nothing of {source_name}, which is at version {newest}: wait for the ingester, or run a hop"
        ),
    };
    Ok(Some(Lag { kind, text }))
}
