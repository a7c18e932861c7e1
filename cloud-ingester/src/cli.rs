//! The command line.

mod export; // files for the services where the numbers are read

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use clap::{Parser, Subcommand, ValueEnum};
use shared::cli::Exit;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, Needs};
use crate::gold::models;
use crate::lake::session::query;
use crate::lake::{Lake, LakeError, Lease, Travel, lake_session_at};
use crate::run::{self, HopRequest, RunError};
use crate::status::Status;
use crate::{ask, status, tour};

mod backfill; // where a hub is begun; Events out of files

mod maintain; // merge, vacuum, cut the logs

mod progress; // how far long work is

mod quarantine; // ls, replay

mod trace; // from gold back to the hub

const PROGRAM: &str = "cloud-ingester";

/// DataFusion plans deeply nested queries by recursion.
const STACK_BYTES: usize = 8 << 20;

/// Reads the hub; writes bronze, silver and gold Delta tables exactly once; answers SQL
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version)]
struct Args {
    /// Settings (TOML); what it leaves out stays as in the embedded default
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read the hub and keep the lake up to it until SIGTERM
    Run,
    /// Report every mistake of the configuration, and try the lake and the hub
    Check,
    /// How far the tables are, from what is stored
    Status {
        /// For scripts
        #[arg(long)]
        json: bool,
    },
    /// Bring silver and gold up to bronze once; a running service is asked to do it
    Hop {
        /// Fill TABLE (silver.readings, gold.metric_1m, …) anew by the rules and models of now
        #[arg(long, value_name = "TABLE")]
        full_refresh: Option<String>,
        /// Only these tables (gold.metric_1m, …), and silver, which they are made of; all others at another time
        #[arg(value_name = "TABLE", conflicts_with = "full_refresh")]
        only: Vec<String>,
    },
    /// Where a hub is begun, and Events out of files; numbers bronze holds already are skipped
    Backfill {
        #[command(subcommand)]
        what: backfill::Backfill,
    },
    /// From a row of gold to the readings it was made of and the hub's sequence numbers they came with
    Trace(trace::Trace),
    /// Merge small files, remove what nobody needs any more, cut the logs; a running service is asked to do it
    Maintain(maintain::Args),
    /// What was refused, with its bytes and reasons, and how it is taken up again
    Quarantine(quarantine::Args),
    /// Answer one SELECT over bronze.messages, silver.readings, gold.metric_1m, …
    Query {
        /// The SELECT; names and functions as in Spark SQL
        sql: String,
        /// How the answer is written
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// All tables as they were at this time (RFC 3339)
        #[arg(long, value_name = "TIME")]
        as_of: Option<String>,
        /// One table at this version; may be given for several
        #[arg(long = "version-of", value_name = "TABLE=VERSION")]
        versions: Vec<String>,
    },
    /// Write what Synapse, Fabric, Power BI or Databricks need to read the lake
    Export(export::Args),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// With a header line
    Csv,
    /// One object a line
    Json,
}

/// Runs the program: `args` with its name first, as the system gives them.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    shared::tls::install_provider();
    let args: Args = match shared::cli::parse(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let needs = match args.command {
        Command::Run | Command::Check | Command::Backfill { what: backfill::Backfill::Start { .. } } => {
            Needs::LakeAndHub
        }
        Command::Status { .. }
        | Command::Hop { .. }
        | Command::Backfill { .. }
        | Command::Export(_)
        | Command::Maintain(_)
        | Command::Quarantine(_)
        | Command::Query { .. }
        | Command::Trace(_) => Needs::Lake,
    };
    let config = match config::load(needs, args.config.as_deref()) {
        Ok(config) => config,
        Err(mistakes) => return shared::cli::fail(PROGRAM, &mistakes, Exit::Usage),
    };
    if let Err(mistake) = shared::telemetry::init(&config.log) {
        return shared::cli::fail(PROGRAM, &std::io::Error::other(mistake), Exit::Usage);
    }
    crate::lake::hush_what_is_caught();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return shared::cli::fail(PROGRAM, &error, Exit::Retry),
    };
    // Work that a blocking thread still does must not hold an ended program.
    let done = runtime.block_on(async { tokio::spawn(command(args.command, config)).await });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match done {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => {
            let exit = error.blame().into();
            shared::cli::fail(PROGRAM, &error, exit)
        }
        Err(error) => shared::cli::fail(PROGRAM, &error, Exit::Bug),
    }
}

async fn command(command: Command, config: Config) -> Result<Exit, RunError> {
    match command {
        Command::Run => {
            let stop = CancellationToken::new();
            shared::shutdown::on_signals(stop.clone()).map_err(RunError::Signals)?;
            Box::pin(run::run(config, stop)).await?;
            Ok(Exit::Ok)
        }
        Command::Check => {
            let findings = Box::pin(tour::tour(&config)).await;
            let fine = findings.iter().all(|finding| finding.fine);
            for finding in findings {
                say(&format!("{:<4} {:<8} {}\n", if finding.fine { "ok" } else { "NO" }, finding.what, finding.detail));
            }
            Ok(if fine { Exit::Ok } else { Exit::No })
        }
        Command::Status { json } => {
            let lake = open(&config).await?;
            let mut status = status::read(&lake, status::Hub::NotAsked).await?;
            hear(&lake, &mut status).await?;
            let text = if json {
                serde_json::to_string_pretty(&status).expect("a status is plain data")
            } else {
                status.to_string()
            };
            say(&format!("{text}\n"));
            Ok(Exit::Ok)
        }
        Command::Hop { full_refresh, only } => {
            Box::pin(hop(config, HopRequest { full_refresh, only, ..HopRequest::default() })).await
        }
        Command::Maintain(args) => Box::pin(maintain::maintain(config, args)).await,
        Command::Backfill { what } => Box::pin(backfill::backfill(config, what)).await,
        Command::Quarantine(args) => Box::pin(quarantine::quarantine(config, args)).await,
        Command::Trace(asked) => Box::pin(trace::trace(&config, asked)).await,
        Command::Query { sql, format, as_of, versions } => {
            let lake = open(&config).await?;
            let session = lake_session_at(&lake, config.limits(), &travel(&lake, as_of, &versions)?).await?;
            let batches = Box::pin(query(&session, &sql)).await?;
            print(&batches, format)?;
            Ok(Exit::Ok)
        }
        Command::Export(args) => {
            export::run(args, &config).await?;
            Ok(Exit::Ok)
        }
    }
}

/// Which versions a query asks for.
fn travel(lake: &Lake, as_of: Option<String>, versions: &[String]) -> Result<Travel, RunError> {
    let mut travel = Travel::default();
    if let Some(text) = as_of {
        let time = shared::time::Timestamp::parse_rfc3339(&text);
        let time = time.ok_or_else(|| RunError::Asked(format!("--as-of `{text}`: write e.g. 2026-11-23T21:00:00Z")))?;
        travel.as_of = Some(time);
    }
    for text in versions {
        let read = text.split_once('=').and_then(|(table, version)| Some((table, version.parse().ok()?)));
        let read = read.filter(|(name, _)| lake.tables().iter().any(|table| table.full_name() == *name));
        let (table, version) = read.ok_or_else(|| {
            RunError::Asked(format!("--version-of `{text}`: write a table and a version, e.g. silver.readings=12"))
        })?;
        travel.versions.insert(table.to_owned(), version);
    }
    Ok(travel)
}

/// The lake with the tables of users' models.
async fn open(config: &Config) -> Result<Lake, LakeError> {
    Ok(models::open(config.location()?, config.gold.models.as_deref()).await?.0)
}

/// How long a running service may take to say how far the hub is.
const HEAR_WITHIN: Duration = Duration::from_secs(5);

/// The running service alone hears the hub: what it says of it becomes part of `status`. Where none of this lake
/// answers, `status` stays as it is.
async fn hear(lake: &Lake, status: &mut Status) -> Result<(), LakeError> {
    let Some(http) = Lease::holder(lake).await?.and_then(|holder| holder.http) else {
        return Ok(());
    };
    match tokio::time::timeout(HEAR_WITHIN, ask::get(&http, "/status")).await {
        Ok(Ok((200, body))) => status.hear(&body),
        answer => tracing::debug!(?answer, http, "the running service does not say how far the hub is"),
    }
    Ok(())
}

/// Runs the hops here, or hands the request to whoever holds the lease.
async fn hop(config: Config, request: HopRequest) -> Result<Exit, RunError> {
    // Before anybody is asked: who holds the lease changes nothing about a wrong name.
    let lake = open(&config).await?;
    request.target(&lake)?;
    request.only(&lake)?;
    drop(lake);
    let held = match Box::pin(run::take_over(&config, "cloud-ingester hop", None)).await {
        Ok((_, mut hops)) => {
            let mut progress = progress::Progress::spinner("hop");
            let what = request.full_refresh.as_ref().map_or("up to bronze".to_owned(), |table| format!("{table} anew"));
            let report = progress.until(&what, Box::pin(run::obey(&mut hops, &request))).await?;
            say(&format!("{}\n", run::tell(&report)));
            hops.into_lease().release().await;
            return Ok(Exit::Ok);
        }
        Err(RunError::Lake(error @ LakeError::LeaseHeld { .. })) => error,
        Err(error) => return Err(error),
    };
    hand_over(&config, &request, held).await
}

/// Hands a request to the holder of the lease; `held` where that one can't be reached.
async fn hand_over(config: &Config, request: &HopRequest, held: LakeError) -> Result<Exit, RunError> {
    let lake = Lake::open(config.location()?)?;
    let Some(http) = Lease::holder(&lake).await?.and_then(|holder| holder.http) else {
        return Err(held.into());
    };
    let body = serde_json::to_string(request).expect("a request is plain data");
    match ask::post(&http, "/hop", &body, config.token()?.as_ref()).await {
        Ok((200, told)) => {
            say(&told);
            Ok(Exit::Ok)
        }
        Ok((code, told)) => {
            let _ = write!(std::io::stderr(), "{PROGRAM}: the service at http://{http} answers {code}: {told}");
            Ok(if code == 409 { Exit::No } else { Exit::Retry })
        }
        Err(error) => {
            tracing::debug!(%error, http, "the holder does not answer");
            Err(held.into())
        }
    }
}

/// What a pipe's reader does not want is not missed.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn print(batches: &[RecordBatch], format: Format) -> Result<(), LakeError> {
    let failed =
        |error: arrow::error::ArrowError| LakeError::Query { act: "print the answer", source: Box::new(error.into()) };
    let mut out = vec![];
    match format {
        Format::Table => {
            let table = arrow::util::pretty::pretty_format_batches(batches).map_err(failed)?;
            out = format!("{table}\n").into_bytes();
        }
        Format::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            for batch in batches {
                writer.write(&shown(batch).map_err(failed)?).map_err(failed)?;
            }
        }
        Format::Json => {
            let mut writer = arrow::json::WriterBuilder::new()
                .with_explicit_nulls(true)
                .build::<_, arrow::json::writer::LineDelimited>(&mut out);
            for batch in batches {
                writer.write(batch).map_err(failed)?;
            }
            writer.finish().map_err(failed)?;
        }
    }
    let _ = std::io::stdout().write_all(&out);
    Ok(())
}

/// CSV has no lists, maps or bytes: those become text.
fn shown(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    let schema = batch.schema();
    let mut fields = vec![];
    let mut columns: Vec<ArrayRef> = vec![];
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let plain = !field.data_type().is_nested()
            && !matches!(field.data_type(), DataType::Binary | DataType::BinaryView | DataType::LargeBinary);
        if plain {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
            continue;
        }
        let options = FormatOptions::default();
        let formatter = ArrayFormatter::try_new(column, &options)?;
        let texts = (0..column.len()).map(|at| (!column.is_null(at)).then(|| formatter.value(at).to_string()));
        columns.push(std::sync::Arc::new(texts.collect::<StringArray>()));
        fields.push(Field::new(field.name(), DataType::Utf8, true));
    }
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)
}

#[cfg(test)]
mod tests;
