//! The proof: the lake against itself, and against what was sent.
//!
//! ```text
//! bronze.messages -------> numbers without repeats and holes
//! ledgers --> expected --+
//! silver.readings -------+--> values one to one
//! silver.quarantine -----+--> ids without repeats --+
//! silver.gaps ------------------------------------- +--> proof per gateway and epoch --> gold.gateway_health says the same
//! commit metadata of readings --> books balance
//! ```
//!
//! Reads with the deltalake crate and nothing of the ingester's; never writes.

pub mod intervals; // a set of seqs

pub mod proof; // one epoch

pub mod expected; // the ledgers' side

pub mod streams; // bronze's own numbers

pub mod report; // the answer

pub mod lake; // a table, as any reader sees it

mod bronze; // messages

mod silver; // readings, quarantine, gaps

mod books; // running totals, and gold's word against silver's

mod lag; // what one table has not read of another yet

pub mod cli; // `simulator verify`

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use deltalake::DeltaTableError;

use self::expected::Expected;
use self::lake::Lake;
use self::proof::{EpochProof, Epochs};
use self::report::{Problems, Report};
use self::silver::{Direct, Silver};
use self::streams::Streams;
use crate::fleet::ledger::{self, LedgerError};

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directory or URL of the lake: what holds bronze, silver and gold.
    pub lake: String,
    /// What its storage wants to know (account, key, endpoint).
    pub storage: HashMap<String, String>,
    /// Ledgers of what was sent.
    pub ledgers: Vec<PathBuf>,
    /// How many rows the outboxes hold; then exactly so many must be outstanding.
    pub held: Option<i64>,
    /// Everything that was sent has had time to arrive: then a table that has not read all of its source, or does not
    /// exist, breaks the proof.
    pub settled: bool,
    /// How long to wait for a running ingester to be between two hops.
    pub patience: Duration,
}

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The lake cannot be named.
    #[error("read the lake {lake}: {why}")]
    Place {
        /// As given.
        lake: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no silver.readings.
    #[error(
        "verify {lake}: it has no table silver/readings; run the ingester first, or name the directory that holds bronze, silver and gold"
    )]
    Empty {
        /// As given.
        lake: String,
    },
    /// A table's log cannot be read.
    #[error("{act} {table}: {source}")]
    Delta {
        /// What failed.
        act: &'static str,
        /// Which table.
        table: &'static str,
        /// Why.
        source: Box<DeltaTableError>,
    },
    /// A table's rows cannot be read.
    #[error("scan {table}: {source}")]
    Scan {
        /// Which table.
        table: &'static str,
        /// Why.
        source: Box<datafusion::error::DataFusionError>,
    },
    /// A ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Proves the lake, and holds the ledgers against it.
///
/// # Errors
/// It cannot be read. What is broken is no error, but in the report.
pub async fn verify(options: &Options) -> Result<Report, VerifyError> {
    let lake = Lake::at(&options.lake, options.storage.clone())?;
    let mut problems = Problems::default();
    let mut notes = Vec::new();
    let mut expected = Expected::default();
    for path in &options.ledgers {
        expected.next_ledger();
        ledger::read(path, |line| expected.line(line))?;
    }

    let silver = Silver::settled(&lake, options).await?;
    if let Some(torn) = &silver.torn {
        problems.add("hop-interrupted", || torn.clone());
    }
    let mut epochs = Epochs::default();
    let mut direct = Direct::default();
    let rows = silver.readings(&mut epochs, &mut direct, &mut expected, &mut problems).await?;
    let refused = silver.quarantine(&mut epochs, &mut direct, &mut expected, &mut problems).await?;
    let mut streams = Streams::default();
    let given_up = silver.gaps(&mut epochs, &mut streams, &mut problems, &mut notes).await?;
    silver.highs(&mut epochs).await?;
    let proof = epochs.prove(&mut problems);
    let books = books::balance(&silver.readings, (rows, refused), &proof, &mut problems).await?;
    let gold = books::gold(&lake, &silver, &proof, &mut problems).await?;
    let lags = lag::lags(&lake, &silver).await?;
    let silver_behind = lags.iter().any(|lag| lag.kind == lag::SILVER);
    let mut bronze = None;
    if let Some(table) = &silver.bronze {
        bronze::numbers(table, &mut streams, &mut problems).await?;
        bronze = Some(streams.check(silver_behind, &mut problems));
    }
    for lag in lags {
        match options.settled {
            true => problems.add(lag.kind, || lag.text),
            false => notes.push(lag.text),
        }
    }

    let sum = |of: fn(&EpochProof) -> i64| proof.iter().map(of).sum::<i64>();
    let (outstanding, missing) = (sum(|e| e.outstanding), sum(|e| e.missing));
    let ledger = (!options.ledgers.is_empty()).then(|| {
        let gone = u64::try_from(sum(|e| e.given_up) - sum(|e| e.gap_arrived)).unwrap_or(0);
        expected.settle(&given_up, gone, &mut problems)
    });
    if ledger.as_ref().is_some_and(|books| books.not_in_lake != 0) {
        notes.push(match outstanding {
            0 => "values are not in the lake though no seq is outstanding: the gateway may still hold rows above its last Envelope; wait, or stop it, and verify again".into(),
            some => format!("{some} seqs are outstanding: the gateway still holds rows; let it run (or stop it, which drains) and verify again"),
        });
    }
    if let Some(held) = options.held
        && held != outstanding
    {
        problems.add("held-differs", || format!("{outstanding} seqs are outstanding, and the outbox holds {held}"));
    }
    Ok(Report {
        holds: problems.is_empty(),
        lake: options.lake.clone(),
        epochs: proof,
        direct_rows: direct.rows,
        bronze,
        books,
        gold,
        ledger,
        outstanding,
        missing,
        held: options.held,
        problems,
        notes,
    })
}
