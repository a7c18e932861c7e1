//! `simulator replay FILE`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use shared::cli::{Exit, fail};
use tokio_util::sync::CancellationToken;

use super::{Config, Outcome, ReplayError, Speed};
use crate::fleet::FleetError;
use crate::fleet::broker;
use crate::fleet::cli::{BrokerArgs, exit, outcome};
use crate::fleet::counters::Counters;
use crate::fleet::progress::{self, Face, Scale};

/// Arguments of `replay`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The recording (CSV with a header line)
    file: PathBuf,
    #[command(flatten)]
    broker: BrokerArgs,
    /// The device it is sent as
    #[arg(long)]
    device: Option<String>,
    /// Columns of the time, joined by a blank; without it found by their names
    #[arg(long, value_name = "COLUMN[,COLUMN]", value_delimiter = ',')]
    time: Option<Vec<String>>,
    /// Columns to send; without it all that hold numbers
    #[arg(long, value_name = "COLUMN[,COLUMN]", value_delimiter = ',')]
    values: Option<Vec<String>>,
    /// Unit (UCUM) of a column, such as T=Cel
    #[arg(long = "unit", value_name = "COLUMN=UNIT", value_parser = pair)]
    units: Vec<(String, String)>,
    /// `max`, or how many times faster than recorded
    #[arg(long, value_name = "FACTOR")]
    speed: Option<Speed>,
    /// Move all times so that the recording ends now
    #[arg(long)]
    shift_to_now: bool,
    /// Where to note what is sent; the same file again goes on with it
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Progress and outcome as lines of JSON
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    // The last `=`: a column may hold one, a unit does not.
    let (column, unit) = text.rsplit_once('=').ok_or_else(|| format!("`{text}`: write COLUMN=UNIT, e.g. T=Cel"))?;
    Ok((column.to_owned(), unit.to_owned()))
}

/// Replays the file.
pub(crate) fn main(program: &str, args: Args, broker: broker::Config, mut config: Config) -> ExitCode {
    config.device = args.device.unwrap_or(config.device);
    config.time = args.time.unwrap_or(config.time);
    config.values = args.values.unwrap_or(config.values);
    config.units.extend(args.units);
    config.speed = args.speed.unwrap_or(config.speed);
    config.shift_to_now |= args.shift_to_now;
    config.ledger = args.ledger.or(config.ledger);
    let broker = args.broker.over(broker);
    let face = if args.json { Face::Json } else { Face::People };
    let checked = crate::cli::recheck(program, |mistakes| {
        mistakes.within("broker", |mistakes| broker.check(mistakes));
        mistakes.within("replay", |mistakes| config.check(mistakes));
    });
    if let Err(code) = checked {
        return code;
    }
    let table = match super::survey(&config, &args.file) {
        Ok(table) => table,
        Err(error) => return fail(program, &error, Exit::Usage),
    };
    let scale = Scale { devices: 1, sends: Some(table.rows) };
    let counters = Arc::new(Counters::default());
    let ran = crate::cli::block_on(async {
        let stop = CancellationToken::new();
        shared::shutdown::on_signals(stop.clone())?;
        let broker = match broker.open() {
            Ok(broker) => broker,
            Err(error) => return Ok(Err(ReplayError::from(FleetError::from(error)))),
        };
        Ok(tokio::select! {
            done = super::run(&config, &args.file, table, broker, Arc::clone(&counters), stop) => done,
            () = progress::show(&counters, scale, face) => unreachable!("progress is shown for ever"),
        })
    });
    match ran {
        Ok(Ok(done)) => {
            match face {
                Face::Json => progress::json(&done),
                Face::People => told(&done),
            }
            outcome(program, &done.progress)
        }
        Ok(Err(ReplayError::Fleet(error))) => fail(program, &error, exit(&error)),
        Ok(Err(error)) => fail(program, &error, Exit::Usage),
        Err(error) => fail(program, &error, Exit::Bug),
    }
}

fn told(done: &Outcome) {
    progress::say(&progress::total(&done.progress));
    let cells = &done.cells;
    if done.rows_before != 0 {
        progress::say(&format!(
            "went on behind row {}: what is before it stands in the ledger already",
            done.rows_before
        ));
    }
    let example =
        |first: &Option<String>| first.as_ref().map(|first| format!("; the first: {first}")).unwrap_or_default();
    if let Some(place) = &cells.unclosed_quote {
        let lines = cells.lines_swallowed;
        progress::say(&format!("{lines} lines were left out: the quote at {place} is never closed and swallows them"));
    }
    for (count, text) in [
        (cells.rows_without_time, format!("rows without a time were left out{}", example(&cells.first_without_time))),
        (cells.rows_without_value, "rows without a value were left out".to_owned()),
        (cells.cells_empty, "empty cells were not sent".to_owned()),
        (cells.cells_bad, format!("cells that are no number were not sent{}", example(&cells.first_bad))),
        (cells.cells_surplus, format!("cells behind the last column were not sent{}", example(&cells.first_surplus))),
        (cells.missing_values, "values that stand for \"no value\" were sent, to be refused".to_owned()),
        (done.left_out.len() as u64, format!("columns without a number were left out: {}", done.left_out.join(", "))),
    ] {
        if count != 0 {
            progress::say(&format!("{count} {text}"));
        }
    }
}
