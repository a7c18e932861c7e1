//! Two more witnesses: the running totals that silver keeps as it goes, and what gold says of the proof.

use std::collections::HashMap;

use deltalake::arrow::datatypes::DataType;
use futures::StreamExt as _;

use super::VerifyError;
use super::lag;
use super::lake::{Columns, Lake, Table};
use super::proof::EpochProof;
use super::report::{Books, Gold, Problems};
use super::silver::Silver;

/// Where the commits of silver.readings keep the running totals.
const TOTALS: &str = "totals";

/// The books of silver: what was decoded is in a table, or was recognised as a repeat. `rows` are those of readings and
/// quarantine.
pub(super) async fn balance(
    table: &Table,
    rows: (i64, i64),
    proof: &[EpochProof],
    problems: &mut Problems,
) -> Result<Option<Books>, VerifyError> {
    let (readings, quarantined) = rows;
    let Some(totals) = table.newest_info(TOTALS).await? else {
        if readings + quarantined != 0 {
            problems.add("no-books", || format!("no commit of silver.readings holds running totals (`{TOTALS}`)"));
        }
        return Ok(None);
    };
    let number = |key: &str| totals.get(key).and_then(serde_json::Value::as_i64).unwrap_or(-1);
    let books = Books {
        readings,
        quarantined,
        events: number("events"),
        decoded: number("decoded"),
        duplicates: number("duplicates"),
        gap_arrived: number("gap_arrived"),
    };
    let sum = readings + quarantined + books.duplicates;
    if books.decoded != sum {
        problems.add("books", || {
            format!(
                "silver decoded {}, but has {readings} readings + {quarantined} quarantined + {} duplicates = {sum}",
                books.decoded, books.duplicates
            )
        });
    }
    let came: i64 = proof.iter().map(|epoch| epoch.gap_arrived).sum();
    if books.gap_arrived != came {
        problems.add("books", || {
            format!(
                "silver counted {} seqs that came though they were given up, its tables say {came}",
                books.gap_arrived
            )
        });
    }
    Ok(Some(books))
}

const COLUMNS: [&str; 8] =
    ["high", "last", "arrived", "quarantined", "given_up", "gap_arrived", "outstanding", "missing"];

/// Whether gold.gateway_health says what the proof says. Where it does not, and has not read all of silver yet, that is
/// no breach.
pub(super) async fn gold(
    lake: &Lake,
    silver: &Silver,
    proof: &[EpochProof],
    problems: &mut Problems,
) -> Result<Gold, VerifyError> {
    use DataType::{Int64, Utf8};
    let Some(table) = lake.open("gold/gateway_health").await? else { return Ok(Gold::Absent) };
    let mut columns = vec![("gateway_id", Utf8), ("epoch", Utf8), ("state", Utf8)];
    columns.extend(COLUMNS.iter().map(|name| (*name, Int64)));
    let mut said: HashMap<(String, String), (String, Vec<i64>)> = HashMap::new();
    let mut breaches = Vec::new();
    let mut stream = table.rows(&columns).await?;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| table.scan_failed(e))?;
        let at = Columns(&batch);
        for row in 0..batch.num_rows() {
            let text = |column| at.text(column, row).unwrap_or("").to_owned();
            let numbers = (3..3 + COLUMNS.len()).map(|column| at.int(column, row).unwrap_or(-1)).collect();
            if said.insert((text(0), text(1)), (text(2), numbers)).is_some() {
                breaches.push(format!("gold.gateway_health has {}/{} more than once", text(0), text(1)));
            }
        }
    }
    for e in proof {
        let numbers =
            vec![e.high, e.last, e.arrived, e.quarantined, e.given_up, e.gap_arrived, e.outstanding, e.missing];
        let wanted = (e.state.as_str().to_owned(), numbers);
        let found = said.remove(&(e.gateway.clone(), e.epoch.clone()));
        if found.as_ref() != Some(&wanted) {
            let (gateway, epoch) = (&e.gateway, &e.epoch);
            let names = COLUMNS.join(", ");
            breaches.push(match found {
                Some(found) => {
                    format!("gold.gateway_health {gateway}/{epoch}: {found:?}, silver: {wanted:?} ({names})")
                }
                None => format!("gold.gateway_health does not have {gateway}/{epoch}"),
            });
        }
    }
    breaches.extend(
        said.keys().map(|(gateway, epoch)| {
            format!("gold.gateway_health has {gateway}/{epoch}, of which silver knows nothing")
        }),
    );
    if breaches.is_empty() {
        return Ok(Gold::Same);
    }
    if lag::is_behind(&table, "gold.gateway_health", &silver.all()).await? {
        return Ok(Gold::Behind);
    }
    breaches.into_iter().for_each(|breach| problems.add("gold-differs", || breach));
    Ok(Gold::Differs)
}
