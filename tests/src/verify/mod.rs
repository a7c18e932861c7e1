//! `cargo verify`: prepares the machine, then runs what a change must pass, in order of speed.
//!
//! ```text
//! machine (packages, Python, Node) -> parts (fmt, clippy, dependencies, unit, integration) -> minutes per part, N passed
//! ```
//!
//! Every part runs, also after one has failed. What a plain run leaves out is printed; `--all` runs it.

mod dependencies; // cargo-deny, pinned
mod machine; // what must be installed
mod part; // a part of the run: its commands, its outcome
mod tally; // test results, read while they stream by

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use shared::cli::{self, Exit};

use self::part::{Outcome, Part, cargo};

/// Runs the tests and checks that a change must pass.
#[derive(Debug, clap::Parser)]
struct Args {
    /// Also runs what takes long: tests marked `ignore`, many more random cases, the build for the Raspberry Pi.
    #[arg(long)]
    all: bool,
}

/// What stops the run before its first part.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("find the cache folder: set HOME, or XDG_CACHE_HOME")]
    NoCache,
    #[error("find the workspace: run `cargo verify` inside a clone")]
    NoWorkspace,
    #[error("this machine lacks {0}; install it and run again")]
    Missing(String),
    #[error("run {what}: {source}")]
    Run { what: String, source: io::Error },
    #[error("run {what}: it ended with an error, see above")]
    Failed { what: String },
    #[error("write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// Runs the verification; the first argument is the name under which it was called.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match cli::parse::<Args>(args) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    match verify(&args) {
        Ok(true) => Exit::Ok.into(),
        Ok(false) => Exit::No.into(),
        Err(error @ VerifyError::Missing(_)) => cli::fail("verify", &error, Exit::Usage),
        Err(error) => cli::fail("verify", &error, Exit::Retry),
    }
}

fn verify(args: &Args) -> Result<bool, VerifyError> {
    let workspace = workspace()?;
    let cache = cache()?;
    say(&format!("verify: {} (what is installed lies in {})", workspace.display(), cache.display()));

    let begun = Instant::now();
    machine::install_packages(args.all)?;
    let installed = machine::install_libraries(&workspace, &cache)?;
    let mut outcomes = vec![Outcome::prepared(begun.elapsed())];

    for part in parts(args, &workspace, &installed) {
        outcomes.push(part.run(&workspace)?);
        if part.name == "clippy" {
            outcomes.push(dependencies::check(&workspace, &cache)?);
        }
    }
    Ok(report(&outcomes, args))
}

/// All but the dependency check, which has steps of its own.
fn parts(args: &Args, workspace: &std::path::Path, installed: &machine::Installed) -> Vec<Part> {
    let deny_warnings = ["--", "-D", "warnings"];
    // With what a plain build leaves out: the crate azure_iot_sdk.
    let features = ["--features", "tests/azure-iot-sdk"];
    let clippy = cargo(&["clippy", "--workspace", "--all-targets"]).args(features).args(deny_warnings);
    // The vocabulary alone, as an outside program would use it: without the feature `service`.
    let vocabulary = cargo(&["clippy", "--package", "shared", "--lib"]).args(deny_warnings);
    let mut unit = cargo(&["test", "--workspace", "--lib", "--no-fail-fast"]).args(features);
    let mut integration = cargo(&["test", "--workspace", "--test", "*", "--no-fail-fast"]).args(features);
    for (variable, path) in installed {
        integration = integration.env(variable, path.as_os_str());
    }
    if args.all {
        unit = unit.env("PROPTEST_CASES", "4096".as_ref()).args(["--", "--include-ignored"]);
        integration = integration.args(["--", "--include-ignored"]);
    }
    let hardened = ["security", "--offline=true", EXPOSURE_MAX];
    let hardened = |unit: &std::path::PathBuf| part::command("systemd-analyze").args(hardened).args([unit]);
    let mut parts = vec![
        Part::check("fmt", vec![cargo(&["fmt", "--all", "--check"])]),
        Part::check("hardening of the units", units(workspace).iter().map(hardened).collect()),
        Part::check("clippy", vec![clippy, vocabulary]),
        Part::tests("unit tests", vec![unit]),
        Part::tests("end-to-end tests", vec![integration]),
    ];
    if args.all {
        let script = |name: &str| part::command("bash").args([workspace.join(".ci").join(name)]);
        // Of the packages the card is made, which then has to take a reading, in an emulated machine, that reaches gold.
        parts.push(Part::check("packages for Raspberry Pis", packages(workspace, script)));
        parts.push(Part::check("image for Raspberry Pis", image(workspace, script)));
        // A build of its own, without optimisation: whether the image can be made, not what it weighs.
        let archive = std::env::temp_dir().join("cloud-ingester.oci.tar");
        let image = script("container").args(["".into(), archive.into_os_string()]).env("PROFILE", "dev".as_ref());
        parts.push(Part::check("container image", vec![image]));
        let clouds = cargo(&["check", "--package", "cloud-ingester", "--features", "s3,gcs"]);
        parts.push(Part::check("build with S3 and GCS", vec![clouds]));
    }
    parts
}

/// Where packages and image are made.
fn packages_folder() -> PathBuf {
    std::env::temp_dir().join("edge-packages")
}

/// The multi-call binary: this one.
fn programs(workspace: &std::path::Path) -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| workspace.join("target/debug/tests"))
}

/// Makes the packages, and lets readings through their programs.
fn packages(workspace: &std::path::Path, script: impl Fn(&str) -> part::Call) -> Vec<part::Call> {
    let made = script("package").args([packages_folder()]);
    vec![made, script("package-try").args([packages_folder(), programs(workspace)])]
}

/// Makes the SD card's image of the packages, and boots it.
fn image(workspace: &std::path::Path, script: impl Fn(&str) -> part::Call) -> Vec<part::Call> {
    let boot = ["-c", r#"exec "$0" "$(ls -t "$1"/*.img | head -n 1)" "$2""#].map(OsString::from);
    let places = [workspace.join(".ci/image-boot"), packages_folder(), programs(workspace)];
    let boot = part::command("bash").args(boot).args(places);
    vec![script("image").args([packages_folder()]).env("XZ", "none".as_ref()), boot]
}

/// How exposed a service may be, as systemd counts it: in tenths, of 100.
const EXPOSURE_MAX: &str = "--threshold=20";

/// The units of systemd in the repository.
fn units(workspace: &std::path::Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = entries(workspace.to_owned()).map(|member| member.join("systemd"));
    folders.flat_map(entries).filter(|path| path.extension().is_some_and(|kind| kind == "service")).collect()
}

/// Prints the table, what was left out, and the closing line. True if everything passed.
fn report(outcomes: &[Outcome], args: &Args) -> bool {
    say("\nverify: minutes per part");
    for outcome in outcomes {
        say(&format!("  {outcome}"));
    }
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    say(&format!("  {:>6.1}  all", seconds / 60.0));
    if !args.all {
        say("\nleft out; `cargo verify -- --all` runs it:");
        say(
            "  properties with sixteen times as many random cases (a plain run: 256 of most, 4096 of the parsers of AMQP and of the listener)",
        );
        say("  ten million mutated payloads of every format that the agent reads (a plain run: 20000 of each)");
        say("  edge-agent static and packaged for Raspberry Pis (arm64, armhf), readings through each under qemu");
        say("  the SD card's image made, booted under qemu, set up by its file, a reading through it to gold");
        say("  the container image of cloud-ingester");
        say("  cloud-ingester with the features s3 and gcs");
        outcomes.iter().flat_map(|outcome| &outcome.tally.ignored).for_each(|test| say(&format!("  {test}")));
    }
    let mut remarks: Vec<&str> = outcomes.iter().flat_map(|outcome| &outcome.remarks).map(String::as_str).collect();
    if std::env::var_os("REPLAY_DATA_DIR").is_none() {
        remarks.push("RECORDINGS: the replay tests have none; give their folder as REPLAY_DATA_DIR=FOLDER");
    }
    if !remarks.is_empty() {
        say("\nNOT CHECKED:");
        remarks.iter().for_each(|remark| say(&format!("  {remark}")));
    }
    let failures: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.tally.failures).collect();
    if !failures.is_empty() {
        say("\nfailed tests:");
        failures.iter().for_each(|test| say(&format!("  {test}")));
    }
    let passed: usize = outcomes.iter().map(Outcome::passed).sum();
    let failed: usize = outcomes.iter().map(Outcome::failed).sum();
    say(&format!("\n{passed} passed, {failed} failed"));
    failed == 0
}

/// The clone this binary was built from, or the folder above the current one that holds the workspace.
fn workspace() -> Result<PathBuf, VerifyError> {
    let is_workspace = |folder: &std::path::Path| folder.join("Cargo.lock").is_file() && folder.join("tests").is_dir();
    let here = std::env::current_dir().map_err(|_| VerifyError::NoWorkspace)?;
    let above = here.ancestors().find(|folder| is_workspace(folder)).map(PathBuf::from);
    above.ok_or(VerifyError::NoWorkspace)
}

/// Where installed things lie: outside the clone, kept between runs.
fn cache() -> Result<PathBuf, VerifyError> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.map(|cache| cache.join("iot-medallion")).ok_or(VerifyError::NoCache)
}

/// One line on stdout, at once.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush()); // a closed pipe hears nothing
}
