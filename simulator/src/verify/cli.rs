//! `simulator verify`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use shared::cli::{Exit, fail};

use super::{Options, VerifyError, verify};
use crate::fleet::ledger::LedgerError;
use crate::fleet::progress;

/// How long a running ingester may take to be between two hops.
const PATIENCE: Duration = Duration::from_secs(10);

/// The section `[verify]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// What the lake's storage wants to know: account, key, endpoint.
    pub storage: HashMap<String, String>,
}

/// Arguments of `verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Directory or URL that holds bronze, silver and gold
    #[arg(long, value_name = "DIR|URL")]
    lake: String,
    /// Ledger of what was sent; may be given several times
    #[arg(long = "ledger", value_name = "FILE")]
    ledgers: Vec<PathBuf>,
    /// Rows the outbox holds: then exactly so many must be outstanding
    #[arg(long, value_name = "N")]
    held: Option<i64>,
    /// Everything sent has had time to arrive: a table that has not read all of its source breaks the proof
    #[arg(long)]
    settled: bool,
    /// The report as one line of JSON
    #[arg(long)]
    json: bool,
}

/// Verifies and reports: 0 the proof holds, 1 it does not.
pub(crate) fn main(program: &str, args: Args, config: Config) -> ExitCode {
    let options = Options {
        lake: args.lake,
        storage: config.storage,
        ledgers: args.ledgers,
        held: args.held,
        settled: args.settled,
        patience: PATIENCE,
    };
    match crate::cli::block_on(async { Ok(verify(&options).await) }) {
        Ok(Ok(report)) => {
            match args.json {
                true => progress::json(&report),
                false => progress::say(report.to_string().trim_end()),
            }
            if report.holds { Exit::Ok.into() } else { Exit::No.into() }
        }
        Ok(Err(error)) => {
            let exit = match &error {
                VerifyError::Place { .. } | VerifyError::Ledger(LedgerError::Line { .. }) => Exit::Usage,
                VerifyError::Empty { .. } => Exit::No,
                _ => Exit::Retry,
            };
            fail(program, &error, exit)
        }
        Err(error) => fail(program, &error, Exit::Bug),
    }
}
