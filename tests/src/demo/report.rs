//! What the demo ends with: the books, the proof, ten rows of gold, and how to open the tables.

use std::io::Write as _;

use serde_json::Value as Json;
use simulator::verify::{Options, verify};

use crate::program::Name;
use crate::stack::Stack;

/// Ten rows, of the busiest windows' newest.
const GOLD: &str = "SELECT device_id, metric, unit, window_start, readings, round(value_avg, 3) AS value_avg, \
                    round(value_min, 3) AS value_min, round(value_max, 3) AS value_max \
                    FROM gold.metric_1m ORDER BY window_start DESC, device_id, metric LIMIT 10";

/// The outbox's books, from its database: the agent has stopped.
pub(super) fn outbox_books(stack: &Stack) -> Option<Json> {
    let output = stack.run(Name::EdgeAgent, &["status", "--json"]).ok()?;
    let status: Json = serde_json::from_slice(&output.stdout).ok()?;
    status.get("outbox").cloned()
}

/// Prints all of it; true if the proof holds and the outbox's books balance.
pub(super) fn print(stack: &Stack, outbox: Option<&Json>) -> Result<bool, String> {
    let count = |name: &str| outbox.and_then(|books| books.get(name)?.as_i64());
    let (stored, acked, given_up, held) = (count("stored"), count("acked"), count("given_up"), count("held"));
    let options = Options {
        lake: stack.layout.lake().display().to_string(),
        ledgers: vec![stack.layout.ledger()],
        settled: true, // the demo waited until the lake had caught up
        held: Some(held.ok_or("the agent does not say what its outbox holds")?),
        ..Options::default()
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    let report = runtime.block_on(verify(&options)).map_err(|e| e.to_string())?;
    let balanced = stored.is_some() && stored == add(add(acked, given_up), held);

    let shown = |count: Option<i64>| count.map_or("?".to_owned(), |count| count.to_string());
    let mut text = format!(
        "\nBooks of the outbox: stored {} {} acknowledged {} + given up {} + held {}\n{report}\n",
        shown(stored),
        if balanced { "=" } else { "≠" },
        shown(acked),
        shown(given_up),
        shown(held),
    );
    match stack.run(Name::CloudIngester, &["query", GOLD]) {
        Ok(output) if output.status.success() => {
            text += &format!("Ten rows of gold.metric_1m:\n{}\n", String::from_utf8_lossy(&output.stdout).trim_end());
        }
        Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => return Err(error.to_string()),
    }
    text += &how_to_open(stack);
    // A closed terminal hears nothing; the exit status tells all the same.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(report.holds && balanced)
}

fn how_to_open(stack: &Stack) -> String {
    let lake = stack.layout.lake();
    let lake = lake.display();
    let config = stack.layout.config("ingest");
    let config = config.display();
    format!(
        "\nThe tables lie in {lake}/{{bronze,silver,gold}}/…, as Delta Lake. To open them:
  cargo run -p tests -- --as cloud-ingester --config {config} query \"SELECT * FROM gold.device_latest LIMIT 5\"
  duckdb -c \"INSTALL delta; LOAD delta; SELECT * FROM delta_scan('{lake}/silver/readings') LIMIT 5\"
  python3 -c \"import deltalake; print(deltalake.DeltaTable('{lake}/gold/metric_1m').to_pandas())\"\n"
    )
}

fn add(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a?.checked_add(b?)
}
