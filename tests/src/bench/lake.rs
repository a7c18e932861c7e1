//! `tests bench lake`: bronze that is already written -> silver (deduplicated) -> gold by the minute; ours, Spark's, and
//! the limit.
//!
//! ```text
//! bronze (made once per shape) ── hard links ──> cloud-ingester hop | spark_medallion.py
//!                              ── bodies ──────> lake_limit.py
//! ```
//!
//! All read the same Delta files on the same machine in the same run. Spark makes silver and one table of gold; so ours
//! stands there with the same two, and once more with all of gold. Spark's session is started and warmed up by two
//! whole runs over a small bronze before its clock runs; ours is a process that starts anew each time, and its clock
//! runs from its start to its end.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::table::{mebibytes, median, percent, whole};
use super::{BenchError, bronze, machine, say};
use crate::program::{Launcher, Name};

const SPARK: &str = include_str!("spark_medallion.py");
const LIMIT: &str = include_str!("lake_limit.py");
/// How often the memory of a process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Arguments of `bench lake`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Readings in each bronze
    #[arg(long, default_value_t = 2_000_000)]
    readings: u64,
    /// Readings per message: one bronze each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 40])]
    per_message: Vec<u64>,
    /// Runs of each; medians are of so many
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// A Python with pyspark, deltalake and pyarrow (tests/e2e/readers.requirements.txt). Otherwise READERS_PYTHON;
    /// without both only ours is measured
    #[arg(long)]
    python: Option<PathBuf>,
    /// On the disk to be measured: a folder in it holds what is written, and is deleted afterwards
    #[arg(long, default_value = ".")]
    directory: PathBuf,
}

/// One run of a program over a bronze.
#[derive(Debug, Clone, Copy)]
struct Run {
    readings: f64,
    seconds: f64,
    peak_bytes: u64,
}

/// Measures and prints a table in Markdown.
///
/// # Errors
/// Something does not start, or fails.
pub(super) fn run(args: &Args) -> Result<(), BenchError> {
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.directory).map_err(BenchError::Disk)?;
    let root = std::path::absolute(folder.path()).map_err(BenchError::Disk)?;
    let rounds = args.rounds.max(1);
    say(&format!(
        "bench lake: {}, load average {:.1} at the start, medians of {rounds}, {} readings in bronze, {} build\n",
        machine::describe(),
        machine::load(),
        whole(args.readings as f64),
        if cfg!(debug_assertions) { "DEV" } else { "release" },
    ));
    say("| readings per message | program | readings/s | of the limit | × Spark | resident at most |");
    say("|--:|:--|--:|--:|--:|--:|");
    let small = root.join("small");
    make(&small, 20_000.min(args.readings), 40)?;
    for per_message in &args.per_message {
        let at = root.join(format!("by-{per_message}"));
        let lake = at.join("made");
        make(&lake, args.readings, *per_message)?;
        let same = (0..rounds).map(|round| ours(&at, &lake, round, &SAME)).collect::<Result<Vec<_>, _>>()?;
        let all = (0..rounds).map(|round| ours(&at, &lake, rounds + round, &[])).collect::<Result<Vec<_>, _>>()?;
        let (mut spark, mut limit) = (vec![], vec![]);
        let python = args.python.clone().or_else(|| std::env::var_os("READERS_PYTHON").map(PathBuf::from));
        if let Some(python) = &python {
            spark = self::spark(python, &at, &small, &lake, rounds)?;
            limit = self::limit(python, &at, &lake, rounds)?;
        }
        let rate = |runs: &[Run]| median(runs.iter().map(|run| run.readings / run.seconds));
        let (by_spark, at_most) = (rate(&spark), rate(&limit));
        let ours = [("cloud-ingester", &same), ("cloud-ingester, all of gold", &all)];
        for (name, runs) in ours.into_iter().chain([("Spark", &spark), ("limit", &limit)]) {
            if runs.is_empty() {
                continue;
            }
            let share = |of: f64, text: String| if of == 0.0 { "-".to_owned() } else { text };
            let peak = runs.iter().map(|run| run.peak_bytes).max().unwrap_or(0);
            say(&format!(
                "| {per_message} | {name} | {} | {} | {} | {} |",
                whole(rate(runs)),
                share(at_most, percent(rate(runs) / at_most)),
                share(by_spark, format!("{:.1}", rate(runs) / by_spark)),
                share(peak as f64, mebibytes(peak)),
            ));
        }
    }
    say(&format!("\nload average {:.1} at the end", machine::load()));
    Ok(())
}

fn make(lake: &Path, readings: u64, per_message: u64) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(BenchError::Disk)?;
    runtime.block_on(bronze::make(lake, readings, per_message)).map_err(BenchError::Disk)
}

/// What Spark is asked for: silver and this.
const SAME: [&str; 1] = ["gold.metric_1m"];

/// `cloud-ingester hop` over a lake with this bronze and nothing else; `tables`: of gold, nothing: all.
fn ours(at: &Path, made: &Path, round: u32, tables: &[&str]) -> Result<Run, BenchError> {
    let lake = at.join(format!("ours-{round}"));
    link_all(&made.join("bronze"), &lake.join("bronze")).map_err(BenchError::Disk)?;
    let config = at.join(format!("ours-{round}.toml"));
    fs::write(&config, format!("[lake]\nurl = \"{}\"\n", lake.display())).map_err(BenchError::Disk)?;
    let failed = |source| BenchError::Start { name: "cloud-ingester", source };
    let launcher = Launcher::current().map_err(failed)?;
    let log = at.join("ours.log");
    let config_path = config.display().to_string();
    let mut args = vec!["--config", &config_path, "hop"];
    args.extend(tables);
    let begun = Instant::now();
    let mut program = launcher.start(Name::CloudIngester, &args, &[], &log).map_err(failed)?;
    let mut peak = 0;
    let ended = loop {
        peak = machine::resident(program.id()).map_or(peak, |(all, _)| all.max(peak));
        match program.ended() {
            Some(status) => break status,
            None => std::thread::sleep(LOOK),
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    if !ended.success() {
        return Err(BenchError::Ended { name: "cloud-ingester", last: crate::program::last_lines(&log, 20) });
    }
    let readings = count(&launcher, &config, "silver.readings")?;
    Ok(Run { readings, seconds, peak_bytes: peak })
}

fn count(launcher: &Launcher, config: &Path, table: &str) -> Result<f64, BenchError> {
    let sql = format!("SELECT count(*) AS n FROM {table}");
    let args = ["--config", &config.display().to_string(), "query", &sql, "--format", "json"];
    let output = launcher.run(Name::CloudIngester, &args).map_err(BenchError::Disk)?;
    let row: Json = serde_json::from_slice(&output.stdout).map_err(|_| BenchError::Order)?;
    row["n"].as_f64().ok_or(BenchError::Order)
}

fn spark(python: &Path, at: &Path, small: &Path, made: &Path, rounds: u32) -> Result<Vec<Run>, BenchError> {
    let bronze = |lake: &Path| lake.join("bronze/messages").display().to_string();
    let mut args = vec![at.join("spark").display().to_string(), bronze(small)];
    args.extend((0..rounds).map(|_| bronze(made)));
    script("Spark", python, SPARK, at, &args)
}

fn limit(python: &Path, at: &Path, made: &Path, rounds: u32) -> Result<Vec<Run>, BenchError> {
    let bronze = made.join("bronze/messages").display().to_string();
    script("the limit", python, LIMIT, at, &[bronze, rounds.to_string()])
}

/// Runs a script that prints one object a run.
fn script(name: &'static str, python: &Path, text: &str, at: &Path, args: &[String]) -> Result<Vec<Run>, BenchError> {
    let failed = |source| BenchError::Start { name, source };
    let log = at.join(format!("{name}.log"));
    let errors = fs::File::create(&log).map_err(failed)?;
    let mut command = Command::new(python);
    command.arg("-c").arg(text).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().map_err(failed)?;
    let output = child.stdout.take().expect("stdout was asked for");
    let mut runs = vec![];
    for line in BufReader::new(output).lines() {
        let Ok(told) = serde_json::from_str::<Json>(&line.map_err(failed)?) else { continue };
        let number = |field: &str| told[field].as_f64();
        if let (Some(readings), Some(seconds)) = (number("readings"), number("seconds")) {
            runs.push(Run { readings, seconds, peak_bytes: told["peak_bytes"].as_u64().unwrap_or(0) });
        }
    }
    match child.wait().map_err(failed)?.success() {
        true => Ok(runs),
        false => Err(BenchError::Ended { name, last: crate::program::last_lines(&log, 20) }),
    }
}

/// The same files in another folder.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => link_all(&entry.path(), &target)?,
            false => fs::hard_link(entry.path(), target)?,
        }
    }
    Ok(())
}
